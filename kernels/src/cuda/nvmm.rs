//! Camera and decoder buffers of a Jetson (`memory:NVMM`) as frames, in place.
//!
//! GStreamer's mapped data of such a buffer *is* an `NvBufSurface` (JetPack 5 and later). The library that made it maps
//! it for EGL, and the driver takes the EGL image (JetPack 5, 6, and 7 on Orin); where the library offers it (Thor), it
//! maps it for CUDA at once. Both are kept, for a pool hands the same few buffers out again and again.
//!
//! A pitch buffer is worked on in place. A block-linear one, which is not addressable, is copied into rows and, once
//! changed, back: 2 times the frame's bytes.
//!
//! The layout of the structures is that of the public reference of Jetson Linux r35 to r39 (`nvbufsurface.h`,
//! `cudaEGL.h`). Only the first surface of a batch is touched, whose fields up to the EGL image are the same in all of
//! them. **None of this has run on a Jetson yet**: it has run against a library of the tests that keeps its surfaces in
//! ordinary memory (`cargo xtask kernels`).

use std::ffi::{c_int, c_void};
use std::mem::offset_of;
use std::sync::Arc;

use cudarc::driver::{CudaStream, sys};
use libloading::Library;

use super::Frame;
use super::frame::Plane;
use super::memory::Buffer;
use super::module::{Device, refused};
use crate::{Color, Error, Matrix, Range, Result};

/// Where the library lies: by its name for programs, and by that for the linker.
const LIBRARIES: [&str; 2] = ["libnvbufsurface.so.1.0.0", "libnvbufsurface.so"];

/// More mappings than any pool has buffers: the oldest makes room.
const MOST_MAPPINGS: usize = 64;

/// `NvBufSurface`.
#[repr(C)]
struct Surface {
    gpu_id: u32,
    batch_size: u32,
    num_filled: u32,
    is_contiguous: bool,
    mem_type: c_int,
    surface_list: *mut Params,
    reserved: [*mut c_void; 4],
}

/// The beginning of `NvBufSurfaceParams`. Its size differs between releases, so no second one is ever looked at.
#[repr(C)]
struct Params {
    width: u32,
    height: u32,
    pitch: u32,
    color_format: c_int,
    layout: c_int,
    buffer_desc: u64,
    data_size: u32,
    data_ptr: *mut c_void,
    planes: PlaneParams,
    mapped: [*mut c_void; 4],
    egl_image: *mut c_void,
}

/// `NvBufSurfacePlaneParams`.
#[repr(C)]
struct PlaneParams {
    num_planes: u32,
    width: [u32; 4],
    height: [u32; 4],
    pitch: [u32; 4],
    offset: [u32; 4],
    psize: [u32; 4],
    bytes_per_pix: [u32; 4],
    reserved: [*mut c_void; 16],
}

const _: () = {
    assert!(size_of::<Surface>() == 64 && offset_of!(Surface, surface_list) == 24);
    assert!(offset_of!(Surface, mem_type) == 16 && size_of::<PlaneParams>() == 232);
    assert!(offset_of!(Params, buffer_desc) == 24 && offset_of!(Params, data_ptr) == 40);
    assert!(offset_of!(Params, planes) == 48 && offset_of!(Params, egl_image) == 312);
    assert!(size_of::<EglFrame>() == 64);
};

/// `mappedAddr.cudaPtr` of the releases whose library maps for CUDA (r38 and later).
const CUDA_POINTER: usize = 328;

/// `NvBufSurfaceCudaBuffer`, its beginning.
#[repr(C)]
struct CudaBuffer {
    base: *mut c_void,
    data: *mut c_void,
}

/// `NVBUF_MEM_CUDA_DEVICE`: a graphics card's own memory.
const MEM_CUDA_DEVICE: c_int = 2;
/// `NVBUF_MEM_SURFACE_ARRAY`: a Jetson's.
const MEM_SURFACE_ARRAY: c_int = 4;
/// `CU_EGL_FRAME_TYPE_ARRAY` and `CU_EGL_FRAME_TYPE_PITCH`.
const EGL_FRAME_ARRAY: u32 = 0;
const EGL_FRAME_PITCH: u32 = 1;

/// `CUeglFrame`.
#[repr(C)]
#[derive(Clone, Copy)]
struct EglFrame {
    /// Arrays or addresses, by `frame_type`.
    planes: [u64; 3],
    width: u32,
    height: u32,
    depth: u32,
    pitch: u32,
    plane_count: u32,
    num_channels: u32,
    frame_type: u32,
    egl_color_format: u32,
    cu_format: u32,
}

type MapSurface = unsafe extern "C" fn(*mut Surface, c_int) -> c_int;
type RegisterImage = unsafe extern "C" fn(*mut sys::CUgraphicsResource, *mut c_void, u32) -> sys::CUresult;
type MappedFrame = unsafe extern "C" fn(*mut EglFrame, sys::CUgraphicsResource, u32, u32) -> sys::CUresult;

/// The functions that neither the program nor cudarc links.
#[derive(Debug)]
struct Calls {
    map_egl: MapSurface,
    unmap_egl: MapSurface,
    /// Of libraries from JetPack 7 on; not every board answers.
    map_cuda: Option<MapSurface>,
    unmap_cuda: Option<MapSurface>,
    register: RegisterImage,
    frame: MappedFrame,
    // They stay loaded as long as their functions.
    _surfaces: Library,
    _driver: Library,
}

/// What a surface says about its first picture. Copied, because the library changes the surface when it maps it.
#[derive(Debug, Clone, Copy)]
struct Description {
    size: [usize; 2],
    color: Color,
    is_linear: bool,
    /// The pixels themselves, in memory of a graphics card.
    data: u64,
    /// Of each plane: offset, stride and bytes.
    planes: [[usize; 3]; 2],
}

impl Description {
    /// The planes in memory that begins at `base`.
    fn planes_at(&self, base: u64) -> [Plane; 2] {
        self.planes.map(|[offset, stride, bytes]| Plane {
            address: base + offset as u64,
            stride,
            bytes,
        })
    }
}

/// How a surface was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Egl {
        image: *mut c_void,
        resource: sys::CUgraphicsResource,
    },
    Cuda {
        buffer: *mut c_void,
    },
}

/// What of a surface the device can reach.
#[derive(Debug, Clone, Copy)]
enum Pixels {
    Rows([Plane; 2]),
    Arrays([sys::CUarray; 2]),
}

#[derive(Debug)]
struct Mapping {
    surface: *mut Surface,
    by: By,
    pixels: Pixels,
}

/// The NVMM buffers of one stream, mapped.
#[derive(Debug)]
pub struct Nvmm {
    mappings: Vec<Mapping>,
    calls: Calls,
    /// Rows for frames without any.
    rows: Option<[Buffer; 2]>,
    stream: Arc<CudaStream>,
    device: Arc<Device>,
}

// SAFETY: the handles and surfaces may be used from any thread, one at a time, with the context current.
#[allow(unsafe_code)]
unsafe impl Send for Nvmm {}

fn wrong(operation: &'static str, reason: impl Into<String>) -> Error {
    Error::Device {
        operation,
        reason: reason.into(),
    }
}

impl Calls {
    #[allow(unsafe_code)]
    fn load() -> Result<Self> {
        let cannot = |error: libloading::Error| {
            wrong(
                "opening libnvbufsurface",
                format!(
                    "{error}; it belongs to JetPack (package nvidia-l4t-multimedia-utils or nvidia-l4t-nvbufsurface)"
                ),
            )
        };
        // SAFETY: NVIDIA's own libraries; loading them runs their initialisers and nothing else.
        let (first, driver) = unsafe { (Library::new(LIBRARIES[0]), Library::new("libcuda.so.1")) };
        // SAFETY: as above.
        let surfaces = first
            .or_else(|_| unsafe { Library::new(LIBRARIES[1]) })
            .map_err(cannot)?;
        let driver = driver.map_err(cannot)?;
        // SAFETY: the types are those of nvbufsurface.h and cudaEGL.h, and the libraries are kept beside the functions.
        unsafe {
            Ok(Self {
                map_egl: *surfaces.get(b"NvBufSurfaceMapEglImage\0").map_err(cannot)?,
                unmap_egl: *surfaces.get(b"NvBufSurfaceUnMapEglImage\0").map_err(cannot)?,
                map_cuda: surfaces.get(b"NvBufSurfaceMapCudaBuffer\0").ok().map(|f| *f),
                unmap_cuda: surfaces.get(b"NvBufSurfaceUnMapCudaBuffer\0").ok().map(|f| *f),
                register: *driver.get(b"cuGraphicsEGLRegisterImage\0").map_err(cannot)?,
                frame: *driver
                    .get(b"cuGraphicsResourceGetMappedEglFrame\0")
                    .map_err(cannot)?,
                _surfaces: surfaces,
                _driver: driver,
            })
        }
    }
}

impl Nvmm {
    /// Opens the library of the buffers.
    ///
    /// # Errors
    /// [`Error::Device`] on a machine without it: anything but a Jetson.
    pub fn open(device: &Arc<Device>) -> Result<Self> {
        Ok(Self {
            mappings: Vec::with_capacity(MOST_MAPPINGS),
            calls: Calls::load()?,
            rows: None,
            stream: device
                .context()
                .new_stream()
                .map_err(refused("making a stream"))?,
            device: device.clone(),
        })
    }

    /// Lends the first picture of a surface as a frame, and waits for the device at the end.
    ///
    /// # Errors
    /// [`Error::Device`] when the surface is not NV12 or cannot be mapped, or when a changed block-linear picture cannot
    /// be brought back: then the buffer holds what it held before.
    ///
    /// # Safety
    /// `surface` is the `NvBufSurface` of a live buffer, such as the mapped data of a GStreamer buffer with the caps
    /// feature `memory:NVMM`. Nobody else touches the buffer meanwhile, and it is not freed before [`Nvmm::release`] or
    /// the end of this value.
    #[allow(unsafe_code)]
    pub unsafe fn with_frame<R>(
        &mut self,
        surface: *mut c_void,
        work: impl FnOnce(&mut Frame<'_>) -> R,
    ) -> Result<R> {
        self.device.bind()?;
        let surface = surface.cast::<Surface>();
        // SAFETY: the caller's promise.
        let picture = unsafe { describe(surface) }?;
        let (size, color) = (picture.size, picture.color);
        // SAFETY: the caller's promise, and the surface has a first picture.
        let pixels = unsafe { self.pixels(surface, &picture) }?;
        match pixels {
            Pixels::Rows(planes) => {
                // SAFETY: the planes are mapped as long as their mapping is kept, which is longer than this call.
                let mut frame = unsafe { Frame::new(size, color, &planes) }?;
                Ok(work(&mut frame))
            }
            Pixels::Arrays(arrays) => {
                let planes = self.rows(size)?;
                self.copy(&arrays, &planes, size, true)?;
                // SAFETY: the rows are this value's, large enough, and stay for longer than this call.
                let mut frame = unsafe { Frame::new(size, color, &planes) }?;
                let result = work(&mut frame);
                let changed = frame.is_changed();
                // Waits for whoever worked on it.
                drop(frame);
                if changed {
                    self.copy(&arrays, &planes, size, false)?;
                }
                Ok(result)
            }
        }
    }

    /// Lets go of every buffer: before their pool is freed, and when the stream's format changes.
    pub fn release(&mut self) {
        let _ = self.device.bind();
        while let Some(mapping) = self.mappings.pop() {
            self.unmap(&mapping);
        }
    }

    /// How the device reaches a surface, mapping it the first time.
    ///
    /// # Safety
    /// As [`Nvmm::with_frame`]; `picture` describes the surface.
    #[allow(unsafe_code)]
    unsafe fn pixels(&mut self, surface: *mut Surface, picture: &Description) -> Result<Pixels> {
        if picture.data != 0 {
            return Ok(Pixels::Rows(picture.planes_at(picture.data)));
        }
        if let Some(at) = self
            .mappings
            .iter()
            .position(|mapping| mapping.surface == surface)
        {
            let now = match self.mappings[at].by {
                // SAFETY: the caller's promise.
                By::Egl { .. } => unsafe { egl_image(surface) },
                // SAFETY: as above, and a surface that was mapped for CUDA has the field.
                By::Cuda { .. } => unsafe { cuda_pointer(surface) },
            };
            let (By::Egl { image: then, .. } | By::Cuda { buffer: then }) = self.mappings[at].by;
            if now == then {
                return Ok(self.mappings[at].pixels);
            }
            // Another buffer at the same address: the old one took its mapping along.
            let stale = self.mappings.swap_remove(at);
            self.unregister(&stale);
        }
        if self.mappings.len() == MOST_MAPPINGS {
            let oldest = self.mappings.remove(0);
            self.unmap(&oldest);
        }
        // SAFETY: the caller's promise.
        let mapping = unsafe { self.map(surface, picture) }?;
        let pixels = mapping.pixels;
        self.mappings.push(mapping);
        Ok(pixels)
    }

    /// Maps a surface.
    ///
    /// # Safety
    /// As [`Nvmm::pixels`].
    #[allow(unsafe_code)]
    unsafe fn map(&self, surface: *mut Surface, picture: &Description) -> Result<Mapping> {
        if let Some(map_cuda) = self.calls.map_cuda {
            // SAFETY: a live surface, and its first picture.
            if unsafe { map_cuda(surface, 0) } == 0 {
                // SAFETY: the call succeeded, so the library is one whose surfaces have the field.
                let buffer = unsafe { cuda_pointer(surface) };
                // SAFETY: the library has put a buffer there, or nothing.
                let data =
                    unsafe { buffer.cast::<CudaBuffer>().as_ref() }.map_or(0, |buffer| buffer.data as u64);
                let mapping = Mapping {
                    surface,
                    by: By::Cuda { buffer },
                    pixels: Pixels::Rows(picture.planes_at(data)),
                };
                if data == 0 || !picture.is_linear {
                    self.unmap(&mapping);
                } else {
                    return Ok(mapping);
                }
            }
        }
        // SAFETY: a live surface, and its first picture.
        if unsafe { (self.calls.map_egl)(surface, 0) } != 0 {
            return Err(wrong(
                "NvBufSurfaceMapEglImage",
                "the surface cannot be mapped; unset DISPLAY when it points at another machine",
            ));
        }
        // SAFETY: a live surface.
        let image = unsafe { egl_image(surface) };
        let mut resource = std::ptr::null_mut();
        // SAFETY: the image is live, and the context current.
        let registered = unsafe { (self.calls.register)(&mut resource, image, 0) }.result();
        let mut mapping = Mapping {
            surface,
            by: By::Egl { image, resource },
            pixels: Pixels::Arrays([std::ptr::null_mut(); 2]),
        };
        if let Err(error) = registered {
            // SAFETY: mapped above.
            unsafe { (self.calls.unmap_egl)(surface, 0) };
            return Err(refused("cuGraphicsEGLRegisterImage")(error));
        }
        let mut frame = EglFrame {
            planes: [0; 3],
            width: 0,
            height: 0,
            depth: 0,
            pitch: 0,
            plane_count: 0,
            num_channels: 0,
            frame_type: 0,
            egl_color_format: 0,
            cu_format: 0,
        };
        // SAFETY: the resource was registered above, and the frame is of the type's size.
        let asked = unsafe { (self.calls.frame)(&mut frame, resource, 0, 0) }.result();
        let pixels = asked
            .map_err(refused("cuGraphicsResourceGetMappedEglFrame"))
            .and_then(|()| egl_pixels(&frame, picture));
        match pixels {
            Ok(pixels) => {
                mapping.pixels = pixels;
                Ok(mapping)
            }
            Err(error) => {
                self.unmap(&mapping);
                Err(error)
            }
        }
    }

    /// Gives a mapping back, the driver's part first.
    #[allow(unsafe_code)]
    fn unmap(&self, mapping: &Mapping) {
        self.unregister(mapping);
        let unmap = match mapping.by {
            By::Egl { .. } => Some(self.calls.unmap_egl),
            By::Cuda { .. } => self.calls.unmap_cuda,
        };
        if let Some(unmap) = unmap {
            // SAFETY: the surface was mapped this way, and its owner promised to keep it until now.
            unsafe { unmap(mapping.surface, 0) };
        }
    }

    #[allow(unsafe_code)]
    fn unregister(&self, mapping: &Mapping) {
        if let By::Egl { resource, .. } = mapping.by {
            // SAFETY: registered once, and forgotten after this.
            let _ = unsafe { sys::cuGraphicsUnregisterResource(resource) };
        }
    }

    /// Rows for an NV12 picture of this size.
    fn rows(&mut self, size: [usize; 2]) -> Result<[Plane; 2]> {
        let wanted = rows_of(size).map(|[row, rows]| (row.next_multiple_of(256), rows));
        let fits = |buffers: &[Buffer; 2]| {
            buffers
                .iter()
                .zip(wanted)
                .all(|(buffer, (stride, rows))| buffer.bytes() >= stride * rows)
        };
        if !self.rows.as_ref().is_some_and(fits) {
            let buffer =
                |(stride, rows): (usize, usize)| Buffer::new(&self.device, &self.stream, stride * rows);
            self.rows = Some([buffer(wanted[0])?, buffer(wanted[1])?]);
        }
        let addresses = self
            .rows
            .as_ref()
            .map_or([0; 2], |buffers| buffers.each_ref().map(Buffer::address));
        Ok([0, 1].map(|plane| Plane {
            address: addresses[plane],
            stride: wanted[plane].0,
            bytes: wanted[plane].0 * wanted[plane].1,
        }))
    }

    /// Copies both planes, in or out.
    fn copy(
        &self,
        arrays: &[sys::CUarray; 2],
        planes: &[Plane; 2],
        size: [usize; 2],
        inwards: bool,
    ) -> Result<()> {
        let asked = [0, 1].map(|i| self.ask(arrays[i], planes[i], rows_of(size)[i], inwards));
        // Also when one of them was refused: the other may be on its way.
        let waited = self.stream.synchronize();
        asked.into_iter().collect::<Result<()>>()?;
        waited.map_err(refused("copying a block-linear plane"))
    }

    /// Asks for a copy of one plane. Array and plane must stay until the wait.
    #[allow(unsafe_code)]
    fn ask(&self, array: sys::CUarray, plane: Plane, [row, rows]: [usize; 2], inwards: bool) -> Result<()> {
        use sys::CUmemorytype::{CU_MEMORYTYPE_ARRAY as ARRAY, CU_MEMORYTYPE_DEVICE as DEVICE};
        let (from, to) = if inwards { (ARRAY, DEVICE) } else { (DEVICE, ARRAY) };
        let copy = sys::CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: from,
            srcHost: std::ptr::null(),
            srcDevice: plane.address,
            srcArray: array,
            srcPitch: plane.stride,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: to,
            dstHost: std::ptr::null_mut(),
            dstDevice: plane.address,
            dstArray: array,
            dstPitch: plane.stride,
            WidthInBytes: row,
            Height: rows,
        };
        // SAFETY: the array is mapped and of that size, the rows are this value's; `copy` waits before either can go.
        unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.stream.cu_stream()) }
            .result()
            .map_err(refused("copying a block-linear plane"))
    }
}

impl Drop for Nvmm {
    fn drop(&mut self) {
        self.release();
    }
}

/// Bytes of a row and number of rows of both planes.
fn rows_of([width, height]: [usize; 2]) -> [[usize; 2]; 2] {
    [[width, height], [2 * width.div_ceil(2), height.div_ceil(2)]]
}

fn egl_pixels(frame: &EglFrame, picture: &Description) -> Result<Pixels> {
    let [first, second, _] = frame.planes;
    if frame.plane_count != 2 || first == 0 || second == 0 {
        return Err(wrong(
            "mapping a surface",
            format!("the driver shows {} planes of NV12's 2", frame.plane_count),
        ));
    }
    match frame.frame_type {
        EGL_FRAME_PITCH => {
            let mut planes = picture.planes_at(0);
            (planes[0].address, planes[1].address) = (first, second);
            Ok(Pixels::Rows(planes))
        }
        EGL_FRAME_ARRAY => Ok(Pixels::Arrays([first, second].map(|array| array as sys::CUarray))),
        other => Err(wrong(
            "mapping a surface",
            format!("the driver shows a frame of kind {other}"),
        )),
    }
}

/// `mappedAddr.eglImage` of the first picture.
///
/// # Safety
/// The surface is live and has a first picture.
#[allow(unsafe_code)]
unsafe fn egl_image(surface: *const Surface) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe { (*(*surface).surface_list).egl_image }
}

/// `mappedAddr.cudaPtr` of the first picture.
///
/// # Safety
/// As [`egl_image`], and the surface is of a library that has mapped it for CUDA.
#[allow(unsafe_code)]
unsafe fn cuda_pointer(surface: *const Surface) -> *mut c_void {
    // SAFETY: the caller's promise.
    unsafe {
        let first = (*surface).surface_list.cast::<u8>();
        first.add(CUDA_POINTER).cast::<*mut c_void>().read()
    }
}

/// The first picture of a surface, when it is NV12.
///
/// # Safety
/// `surface` is null or a live `NvBufSurface`.
#[allow(unsafe_code)]
unsafe fn describe(surface: *const Surface) -> Result<Description> {
    let refuse = |reason: String| Err(wrong("taking an NVMM buffer", reason));
    // SAFETY: the caller's promise; the reference ends with this function, in which nobody changes the surface.
    let Some(surface) = (unsafe { surface.as_ref() }) else {
        return refuse("there is no surface".into());
    };
    if surface.num_filled == 0 || surface.surface_list.is_null() {
        return refuse("the surface is empty".into());
    }
    // SAFETY: a filled surface has a first picture.
    let params = unsafe { &*surface.surface_list };
    let data = match surface.mem_type {
        MEM_CUDA_DEVICE if !params.data_ptr.is_null() => params.data_ptr as u64,
        MEM_SURFACE_ARRAY => 0,
        other => return refuse(format!("memory of kind {other} cannot be mapped")),
    };
    let (matrix, range) = match params.color_format {
        6 => (Matrix::Bt601, Range::Limited),
        7 => (Matrix::Bt601, Range::Full),
        33 => (Matrix::Bt709, Range::Limited),
        34 => (Matrix::Bt709, Range::Full),
        other => {
            return refuse(format!(
                "colour format {other} is not NV12: put `nvvidconv ! video/x-raw(memory:NVMM),format=NV12` before it"
            ));
        }
    };
    let planes = &params.planes;
    if planes.num_planes != 2 {
        return refuse(format!("NV12 with {} planes", planes.num_planes));
    }
    Ok(Description {
        size: [params.width, params.height].map(|side| side as usize),
        color: Color { matrix, range },
        is_linear: params.layout == 0,
        data,
        planes: [0, 1].map(|i| [planes.offset[i], planes.pitch[i], planes.psize[i]].map(|n| n as usize)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Cuda;
    use super::*;
    use crate::cpu::Cpu;
    use crate::{Hull, Kernels, MEAN_FACE, Placement, Planes, Region, Similarity, Values};

    /// The library of the tests, and a surface in it.
    #[allow(unsafe_code)]
    struct Given {
        at: unsafe extern "C" fn(*mut c_void, u32, u32, u32) -> *mut u8,
        destroy: unsafe extern "C" fn(*mut c_void),
        surface: *mut c_void,
        size: [usize; 2],
        library: Library,
    }

    #[allow(unsafe_code)]
    impl Given {
        fn new(size: [usize; 2], is_tiled: bool) -> Self {
            // SAFETY: the library's functions have these types (kernels/tests/cuda/libnvbufsurface.cpp).
            unsafe {
                let library = Library::new(LIBRARIES[0]).unwrap();
                let create: unsafe extern "C" fn(u32, u32, c_int, c_int) -> *mut c_void =
                    *library.get(b"test_surface_create").unwrap();
                Self {
                    at: *library.get(b"test_surface_at").unwrap(),
                    destroy: *library.get(b"test_surface_destroy").unwrap(),
                    surface: create(size[0] as u32, size[1] as u32, 33, c_int::from(is_tiled)),
                    size,
                    library,
                }
            }
        }

        fn count(&self, name: &str) -> c_int {
            // SAFETY: as above.
            unsafe {
                let count: unsafe extern "C" fn() -> c_int = *self.library.get(name.as_bytes()).unwrap();
                count()
            }
        }

        fn maps_for_cuda(&self, works: bool) {
            // SAFETY: as above.
            unsafe {
                let set: unsafe extern "C" fn(c_int) =
                    *self.library.get(b"test_surface_maps_for_cuda").unwrap();
                set(c_int::from(works));
            }
        }

        /// Its bytes without padding, changed by `change`.
        fn bytes(&self, mut change: impl FnMut(&mut u8)) -> [Vec<u8>; 2] {
            let rows = rows_of(self.size);
            [0, 1].map(|plane| {
                let [row, rows] = rows[plane];
                let places = (0..rows).flat_map(|y| (0..row).map(move |x| (x as u32, y as u32)));
                places
                    .map(|(x, y)| {
                        // SAFETY: the place lies in the plane, and nobody else looks at it.
                        let byte = unsafe { &mut *(self.at)(self.surface, plane as u32, x, y) };
                        change(byte);
                        *byte
                    })
                    .collect()
            })
        }
    }

    #[allow(unsafe_code)]
    impl Drop for Given {
        fn drop(&mut self) {
            // SAFETY: made by `create`, and destroyed once.
            unsafe { (self.destroy)(self.surface) }
        }
    }

    /// A face replaced and a box covered, by any place.
    fn anonymize<K: Kernels>(kernels: &mut K, frame: &mut K::Frame<'_>) {
        let align = Similarity {
            a: 1.0 / 60.0,
            b: 0.002,
            tx: -0.2,
            ty: -0.1,
        };
        let back = align.inverse();
        let hull = Hull::of(&MEAN_FACE.map(|point| back.apply(point)));
        let mut crops = kernels.tensor([1, 3, 48, 48]).unwrap();
        let mut masks = kernels.tensor([1, 1, 48, 48]).unwrap();
        kernels.write(&mut masks, 0, &[0.8; 48 * 48]).unwrap();
        let turned = Similarity { b: -0.01, ..align };
        kernels
            .warp(frame, &[turned], Values::Signed, &mut crops)
            .unwrap();
        kernels
            .blend(frame, &[Placement { align, hull }], &crops, &masks)
            .unwrap();
        let region = crate::Rect::new(70.0, 20.0, 25.0, 31.0);
        kernels.cover(frame, &[Region::Box(region)]).unwrap();
        kernels.finish().unwrap();
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    #[allow(unsafe_code)]
    fn surfaces_are_frames_in_place() {
        struct Case(bool, bool);
        let device = Device::open(0).unwrap();
        let mut cuda = Cuda::new(&device).unwrap();
        for Case(is_tiled, for_cuda) in [
            Case(false, false),
            Case(true, false),
            Case(false, true),
            Case(true, true),
        ] {
            let mut nvmm = Nvmm::open(&device).unwrap();
            let given = Given::new([117, 90], is_tiled);
            given.maps_for_cuda(for_cuda);
            let maps = given.count("test_surface_maps");
            let mut level = 0_u32;
            let mut planes = given.bytes(|byte| {
                level = level.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (level >> 24) as u8;
            });
            for round in 0..2 {
                // SAFETY: the surface lives until the end of the round, and nobody else touches it.
                unsafe { nvmm.with_frame(given.surface, |frame| anonymize(&mut cuda, frame)) }.unwrap();
                let [y, uv] = planes.each_mut().map(Vec::as_mut_slice);
                let rows = rows_of(given.size);
                let planes_there = Planes::Nv12 {
                    y: crate::Plane {
                        data: y,
                        stride: rows[0][0],
                    },
                    uv: crate::Plane {
                        data: uv,
                        stride: rows[1][0],
                    },
                };
                let color = Color {
                    matrix: Matrix::Bt709,
                    range: Range::Limited,
                };
                let mut frame = crate::Frame::new(117, 90, color, planes_there).unwrap();
                anonymize(&mut Cpu::new(), &mut frame);
                assert!(given.bytes(|_| {}) == planes, "{is_tiled} {for_cuda} {round}");
                // A tiled surface that was mapped for CUDA in vain is mapped for EGL instead, once.
                let wanted = 1 + c_int::from(is_tiled && for_cuda);
                assert_eq!(given.count("test_surface_maps") - maps, wanted, "mapped again");
            }
            // SAFETY: as above.
            let only_read = unsafe { nvmm.with_frame(given.surface, |frame| cuda.checksum(frame)) };
            assert!(only_read.unwrap().is_ok());
            assert!(given.bytes(|_| {}) == planes);
            nvmm.release();
            assert_eq!(given.count("test_surface_violations"), 0, "{is_tiled} {for_cuda}");
        }
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    #[allow(unsafe_code)]
    fn a_surface_that_is_not_nv12_is_refused() {
        let device = Device::open(0).unwrap();
        let mut nvmm = Nvmm::open(&device).unwrap();
        let given = Given::new([64, 64], false);
        // SAFETY: a live surface of the tests.
        let refusal = |nvmm: &mut Nvmm, surface: *mut c_void| unsafe {
            nvmm.with_frame(surface, |_| ()).unwrap_err().to_string()
        };
        assert!(refusal(&mut nvmm, std::ptr::null_mut()).contains("no surface"));
        let surface = given.surface.cast::<Surface>();
        // SAFETY: as above; the fields lie where the structures say.
        unsafe { (*(*surface).surface_list).color_format = 19 };
        assert!(refusal(&mut nvmm, given.surface).contains("colour format 19 is not NV12"));
        // SAFETY: as above.
        unsafe { (*surface).mem_type = 1 };
        assert!(refusal(&mut nvmm, given.surface).contains("memory of kind 1"));
        // SAFETY: as above.
        unsafe { (*surface).num_filled = 0 };
        assert!(refusal(&mut nvmm, given.surface).contains("empty"));
    }
}
