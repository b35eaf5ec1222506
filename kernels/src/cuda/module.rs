//! The device, its context and the kernels in it.

use std::ffi::{CString, c_void};
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaContext, DriverError, result, sys};

use super::layout::Plain;
use crate::{Error, Result};

/// The oldest driver: CUDA 11.4, JetPack 5.1.
const OLDEST_DRIVER: i32 = 11_040;

/// The kernels as PTX with the compute capability that each text needs, newest first. The driver compiles it for
/// its own device, and keeps the result for the next start.
const PTX: [((i32, i32), &str); 2] = [
    ((8, 7), include_str!("../../ptx/compute_87.ptx")),
    ((7, 2), include_str!("../../ptx/compute_72.ptx")),
];

/// The error of an operation that the driver refused.
pub(super) fn refused(operation: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| Error::Device {
        operation,
        reason: match (error.error_name(), error.error_string()) {
            (Ok(name), Ok(text)) => format!("{}: {}", name.to_string_lossy(), text.to_string_lossy()),
            _ => format!("the driver's error {}", error.0 as u32),
        },
    }
}

/// One kernel: what to launch, and the sizes of its arguments as its PTX declares them.
#[derive(Debug)]
pub(super) struct Function {
    name: &'static str,
    handle: sys::CUfunction,
    arguments: Vec<usize>,
}

/// The kernels that [`super::Cuda`] launches; `[f32, f16]` where they exist for both.
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) resize: [Function; 2],
    pub(super) warp: [Function; 2],
    pub(super) judge: [Function; 2],
    pub(super) blend: [Function; 2],
    pub(super) cover_sides: Function,
    pub(super) cover_paint: Function,
    pub(super) cover_frame: Function,
    pub(super) checksum: Function,
}

/// A GPU with the kernels loaded, shared by all places on it.
#[derive(Debug)]
pub struct Device {
    pub(super) functions: Functions,
    module: sys::CUmodule,
    context: Arc<CudaContext>,
    name: String,
    capability: (i32, i32),
}

// SAFETY: the driver's handles may be used from any thread in which the context is current, which every use sees to.
#[allow(unsafe_code)]
unsafe impl Send for Device {}
// SAFETY: as above; nothing in it changes after it was opened.
#[allow(unsafe_code)]
unsafe impl Sync for Device {}

impl Device {
    /// Opens GPU number `ordinal`, counted from 0, and loads the kernels into it.
    ///
    /// # Errors
    /// [`Error::Device`] with the remedy when there is no driver, no such device, or one of them is too old.
    pub fn open(ordinal: usize) -> Result<Arc<Self>> {
        let cannot = |reason: String| Error::Device {
            operation: "opening the GPU",
            reason,
        };
        // cudarc panics where its library is missing, so it is asked for first.
        // SAFETY: libcuda is the driver's own library; loading it runs its initialisers and nothing else.
        #[allow(unsafe_code)]
        let present = unsafe { sys::is_culib_present() };
        if !present {
            return Err(cannot(
                "libcuda.so.1 is not on this machine: install NVIDIA's driver (on a Jetson the package \
                 nvidia-l4t-cuda, which JetPack brings)"
                    .into(),
            ));
        }
        let mut version = 0;
        // SAFETY: the pointer is valid; the function needs no initialised driver.
        #[allow(unsafe_code)]
        let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
        asked.result().map_err(refused("asking the driver's version"))?;
        if version < OLDEST_DRIVER {
            return Err(cannot(format!(
                "the driver speaks CUDA {}.{}, which is too old: 11.4 is needed (JetPack 5.1)",
                version / 1000,
                version % 1000 / 10
            )));
        }
        let count = CudaContext::device_count().map_err(refused("starting the driver"))?;
        if usize::try_from(count).unwrap_or(0) <= ordinal {
            return Err(cannot(format!(
                "there is no device {ordinal}: the driver knows {count}"
            )));
        }
        let context = CudaContext::new(ordinal).map_err(refused("opening the GPU"))?;
        let name = context.name().map_err(refused("asking the GPU's name"))?;
        let capability = context
            .compute_capability()
            .map_err(refused("asking the GPU's compute capability"))?;
        let Some((_, ptx)) = PTX.iter().find(|(needed, _)| capability >= *needed) else {
            let (major, minor) = capability;
            return Err(cannot(format!(
                "{name} has compute capability {major}.{minor}; 7.2 is needed (Xavier or newer)"
            )));
        };
        let image = CString::new(*ptx).map_err(|error| cannot(format!("the PTX is damaged: {error}")))?;
        // SAFETY: the context is current in this thread, and the image ends with a zero byte.
        #[allow(unsafe_code)]
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
            .map_err(refused("compiling the kernels for the GPU"))?;
        let functions = Functions::of(module, ptx);
        let functions = functions.inspect_err(|_| {
            // SAFETY: the module was loaded above, and nothing uses it.
            #[allow(unsafe_code)]
            let _ = unsafe { result::module::unload(module) };
        })?;
        Ok(Arc::new(Self {
            functions,
            module,
            context,
            name,
            capability,
        }))
    }

    /// The GPU's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compute capability: 7.2 Xavier, 8.7 Orin, 10.1 or 11.0 Thor.
    pub fn compute_capability(&self) -> (i32, i32) {
        self.capability
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Option<f64> {
        let value = self
            .context
            .attribute(attribute)
            .ok()
            .filter(|value| *value > 0)?;
        Some(f64::from(value))
    }

    /// How many multiprocessors there are, and their clock in gigahertz; `None` when the driver does not say.
    pub fn multiprocessors(&self) -> Option<(u32, f64)> {
        use sys::CUdevice_attribute as Attribute;
        let count = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let kilohertz = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
        Some((count as u32, kilohertz / 1e6))
    }

    /// Gigabytes per second between a graphics card and its memory; `None` when the driver does not say. A Jetson's says
    /// something else.
    pub fn bandwidth(&self) -> Option<f64> {
        use sys::CUdevice_attribute as Attribute;
        let kilohertz = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        // Two transfers a clock.
        Some(kilohertz * 1e3 * 2.0 * bits / 8.0 / 1e9)
    }

    pub(super) fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Makes the context current in this thread, as every call of the driver needs it.
    pub(super) fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(refused("entering the context"))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.bind().is_ok() {
            // SAFETY: the context is current, the module was loaded in it, and whoever used it held this device.
            #[allow(unsafe_code)]
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

impl Functions {
    fn of(module: sys::CUmodule, ptx: &str) -> Result<Self> {
        let function = |name: &'static str| {
            let arguments = argument_sizes(ptx, name).ok_or_else(|| Error::Device {
                operation: name,
                reason: "the PTX does not declare the kernel".into(),
            })?;
            let symbol = CString::new(name).map_err(|error| Error::Device {
                operation: name,
                reason: error.to_string(),
            })?;
            // SAFETY: the module is loaded and the context current.
            #[allow(unsafe_code)]
            let handle = unsafe { result::module::get_function(module, symbol) }.map_err(refused(name))?;
            Ok::<_, Error>(Function {
                name,
                handle,
                arguments,
            })
        };
        Ok(Self {
            resize: [function("resize_f32")?, function("resize_f16")?],
            warp: [function("warp_f32")?, function("warp_f16")?],
            judge: [function("judge_f32")?, function("judge_f16")?],
            blend: [function("blend_f32")?, function("blend_f16")?],
            cover_sides: function("cover_sides")?,
            cover_paint: function("cover_paint")?,
            cover_frame: function("cover_frame")?,
            checksum: function("checksum")?,
        })
    }
}

/// The sizes in bytes of a kernel's arguments, from its declaration in PTX; `None` when it is not there.
fn argument_sizes(ptx: &str, name: &str) -> Option<Vec<usize>> {
    let head = format!(".visible .entry {name}(");
    let (_, rest) = ptx.split_once(&head)?;
    let (list, _) = rest.split_once(')')?;
    list.split(',')
        .map(|argument| {
            let argument = argument.trim();
            // `.param .align 8 .b8 name[120]` or `.param .u64 name`
            if let Some((_, length)) = argument.split_once('[') {
                return length.trim_end_matches(']').parse().ok();
            }
            let bits: String = argument
                .split_whitespace()
                .nth(1)?
                .chars()
                .filter(char::is_ascii_digit)
                .collect();
            Some(bits.parse::<usize>().ok()? / 8)
        })
        .collect()
}

/// One argument of a launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Argument<'a> {
    pointer: *mut c_void,
    size: usize,
    value: PhantomData<&'a ()>,
}

impl<'a> Argument<'a> {
    pub(super) fn of<T: Plain>(value: &'a T) -> Self {
        Self {
            pointer: std::ptr::from_ref(value).cast_mut().cast(),
            size: size_of::<T>(),
            value: PhantomData,
        }
    }
}

/// The most arguments of a kernel.
const MOST_ARGUMENTS: usize = 8;

/// Threads of a block: 32 side by side read neighbouring bytes.
pub(super) const BLOCK: [u32; 2] = [32, 8];

/// Asks the stream for a launch of `grid` blocks.
///
/// # Safety
/// Every address among the arguments must stay valid for as much as the kernel reads or writes there until the
/// stream has done it.
#[allow(unsafe_code)]
pub(super) unsafe fn launch(
    function: &Function,
    stream: sys::CUstream,
    grid: [usize; 3],
    block: [u32; 2],
    arguments: &[Argument<'_>],
) -> Result<()> {
    let wrong = |reason: String| Error::Device {
        operation: function.name,
        reason,
    };
    if !arguments
        .iter()
        .map(|a| a.size)
        .eq(function.arguments.iter().copied())
        || arguments.len() > MOST_ARGUMENTS
    {
        return Err(wrong(format!(
            "the kernel takes arguments of {:?} bytes",
            function.arguments
        )));
    }
    let [x, y, z] = grid;
    if grid.contains(&0) || x > i32::MAX as usize || y > 65_535 || z > 65_535 {
        return Err(wrong(format!("no device launches {x}x{y}x{z} blocks")));
    }
    let mut pointers = [std::ptr::null_mut(); MOST_ARGUMENTS];
    for (pointer, argument) in pointers.iter_mut().zip(arguments) {
        *pointer = argument.pointer;
    }
    // SAFETY: number and sizes of the arguments are the kernel's own, which the driver copies before it returns; the
    // caller answers for the addresses among them.
    unsafe {
        result::launch_kernel(
            function.handle,
            (x as u32, y as u32, z as u32),
            (block[0], block[1], 1),
            0,
            stream,
            &mut pointers[..arguments.len()],
        )
    }
    .map_err(refused(function.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_ptx_declares_every_argument() {
        for (_, ptx) in PTX {
            let sizes = |name: &str| argument_sizes(ptx, name).unwrap();
            assert_eq!(sizes("warp_f32"), [120, 8, 4, 4, 4, 8]);
            assert_eq!(sizes("warp_f16"), [120, 8, 4, 4, 4, 8]);
            assert_eq!(sizes("resize_f16"), [120, 16, 16, 4, 4, 4, 4, 8]);
            assert_eq!(sizes("judge_f16"), [8, 4, 4, 8, 8, 8]);
            assert_eq!(sizes("blend_f32"), [120, 8, 4, 8, 8, 4]);
            assert_eq!(sizes("cover_sides"), [120, 8, 4, 4, 4, 4]);
            assert_eq!(sizes("checksum"), [120, 8]);
            assert_eq!(argument_sizes(ptx, "warp"), None);
        }
    }
}
