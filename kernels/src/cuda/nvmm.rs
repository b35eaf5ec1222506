//! Camera and decoder buffers of a Jetson (`memory:NVMM`) as frames, in place.
//!
//! GStreamer's mapped data of such a buffer *is* an `NvBufSurface` (JetPack 5 and later). The library that made it maps
//! it for EGL, and the driver takes the EGL image (JetPack 5, 6, and 7 on Orin); where the library offers it (Thor), it
//! maps it for CUDA at once. A mapping of a buffer's own surface ends before the buffer does: its pool may be freed at any
//! time by whoever made it.
//!
//! Mapping takes long, so where the library can import memory (JetPack 5.1.1 and later) a surface of our own is made over
//! the same memory, mapped, and kept for the buffer's next use. It holds a descriptor of the memory (a dma-buf), so it
//! depends on nobody: while it is kept the kernel keeps the memory and does not give its device and inode number to another
//! one, by which it is found again, whatever becomes of pool, buffer, surface, pointer and descriptor number. The first
//! picture is looked at through both surfaces; a library whose import shows another one is not asked again. What was not
//! used for some time is given back, as everything is at the end.
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
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaStream, sys};
use libloading::Library;

use super::frame::Plane;
use super::memory::Buffer;
use super::module::{Device, refused};
use super::{Cuda, Frame};
use crate::{Color, Error, Kernels, Matrix, Range, Result};

/// Where the library lies: by its name for programs, and by that for the linker.
const LIBRARIES: [&str; 2] = ["libnvbufsurface.so.1.0.0", "libnvbufsurface.so"];

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

/// The beginning of `NvBufSurfaceMapParams`, and more room than any release's rest takes.
#[repr(C)]
struct MapParams {
    num_planes: u32,
    gpu_id: u32,
    fd: u64,
    rest: [u64; 254],
}

/// Descriptors of imported memory begin here: the library finds buffers by the number of their descriptor, and may still
/// know a low one from a buffer that is gone.
const LEAST_DESCRIPTOR: RawFd = 512;
/// Surfaces of our own that are kept at most; each holds two descriptors, of which a process has 1024 by default.
const MOST_KEPT: usize = 128;
/// One that was not used for so many uses of others is given back.
const OLDEST_KEPT: u64 = 1024;

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
type MapParamsOf = unsafe extern "C" fn(*const Surface, c_int, *mut MapParams) -> c_int;
type ImportSurface = unsafe extern "C" fn(*mut *mut Surface, *const MapParams) -> c_int;
type DestroySurface = unsafe extern "C" fn(*mut Surface) -> c_int;
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
    /// Of libraries from JetPack 5.1.1 on.
    import: Option<(MapParamsOf, ImportSurface, DestroySurface)>,
    register: RegisterImage,
    frame: MappedFrame,
    // They stay loaded as long as their functions.
    _surfaces: Library,
    _driver: Library,
}

/// What a surface says about its first picture. Copied, because the library changes the surface when it maps it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Description {
    size: [usize; 2],
    color: Color,
    is_linear: bool,
    /// The memory, as a dma-buf's descriptor.
    descriptor: RawFd,
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
    /// Not at all: a graphics card's memory is the device's own.
    Itself,
    Egl {
        resource: sys::CUgraphicsResource,
    },
    Cuda,
}

/// What of a surface the device can reach.
#[derive(Debug, Clone, Copy)]
enum Pixels {
    Rows([Plane; 2]),
    Arrays([sys::CUarray; 2]),
}

/// The library of NVMM buffers, opened.
#[derive(Debug, Clone)]
pub struct Nvmm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    calls: Calls,
    kept: Mutex<Kept>,
    /// Whether the library has imported something wrong, or refused to.
    distrusts_imports: AtomicBool,
    /// Rows for frames without any, between two uses.
    spare: Mutex<Vec<[Buffer; 2]>>,
    stream: Arc<CudaStream>,
    device: Arc<Device>,
}

/// Device and inode number of a dma-buf: no other one has them while it lives.
type Identity = (u64, u64);

/// A surface of our own over a buffer's memory, mapped.
#[derive(Debug)]
struct Import {
    identity: Identity,
    picture: Description,
    surface: *mut Surface,
    by: By,
    pixels: Pixels,
    /// When it was last used, by the number of the use.
    used: u64,
    /// Keeps the memory, and with it the identity. Given back last.
    _memory: OwnedFd,
}

// SAFETY: the handles and the surface may be used from any thread, one at a time, with the context current.
#[allow(unsafe_code)]
unsafe impl Send for Import {}

/// The imports that nobody uses at the moment.
#[derive(Debug, Default)]
struct Kept {
    imports: Vec<Import>,
    uses: u64,
}

/// What a mapping is of.
#[derive(Debug)]
enum Of {
    /// The buffer's own surface, until the mapping ends.
    Buffer(*mut Surface, By),
    /// Ours; `None` once it was given back.
    Import(Option<Import>),
}

/// A buffer of NVMM memory whose pixels the device can reach until this goes away.
#[derive(Debug)]
pub struct Mapped<O: AsRef<[u8]>> {
    of: Of,
    pixels: Pixels,
    size: [usize; 2],
    color: Color,
    /// Rows for a frame without any, and whether they hold what the buffer holds.
    rows: Option<[Buffer; 2]>,
    is_copied: bool,
    nvmm: Nvmm,
    // Given back last.
    owner: O,
}

// SAFETY: the handles and the surface may be used from any thread, one at a time, with the context current.
#[allow(unsafe_code)]
unsafe impl<O: AsRef<[u8]> + Send> Send for Mapped<O> {}

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
                import: surfaces
                    .get(b"NvBufSurfaceGetMapParams\0")
                    .ok()
                    .zip(surfaces.get(b"NvBufSurfaceImport\0").ok())
                    .zip(surfaces.get(b"NvBufSurfaceDestroy\0").ok())
                    .map(|((params, import), destroy)| (*params, *import, *destroy)),
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
        Ok(Self(Arc::new(Inner {
            calls: Calls::load()?,
            kept: Mutex::default(),
            distrusts_imports: AtomicBool::new(false),
            spare: Mutex::default(),
            stream: device
                .context()
                .new_stream()
                .map_err(refused("making a stream"))?,
            device: device.clone(),
        })))
    }

    /// Maps the first picture of a buffer. `owner` holds the buffer, and gives the bytes that mapping it gave.
    ///
    /// # What is taken on trust
    /// That the bytes are a live `NvBufSurface` of this process's libnvbufsurface. Nothing could check that; the caps
    /// feature `memory:NVMM` of the buffer's stream says it, and NVIDIA's own elements rely on the same. Call it with
    /// nothing else.
    ///
    /// # Errors
    /// [`Error::Device`] when the surface is not NV12 or cannot be mapped.
    pub fn map<O: AsRef<[u8]>>(&self, owner: O) -> Result<Mapped<O>> {
        self.0.device.bind()?;
        let bytes = owner.as_ref();
        let surface = bytes.as_ptr().cast::<Surface>().cast_mut();
        if bytes.len() < size_of::<Surface>() || !surface.is_aligned() {
            return Err(wrong(
                "taking an NVMM buffer",
                format!("{} bytes at {surface:?} are no surface", bytes.len()),
            ));
        }
        // SAFETY: large enough and aligned; the rest is the trust above.
        #[allow(unsafe_code)]
        let picture = unsafe { describe(surface) }?;
        if picture.data != 0 {
            let pixels = Pixels::Rows(picture.planes_at(picture.data));
            return Ok(self.mapped(Of::Buffer(surface, By::Itself), pixels, &picture, owner));
        }
        let identity = identity(picture.descriptor);
        if let Some(import) = identity.and_then(|identity| self.0.kept(identity, &picture)) {
            let pixels = import.pixels;
            return Ok(self.mapped(Of::Import(Some(import)), pixels, &picture, owner));
        }
        // SAFETY: as above, and the surface has a first picture.
        #[allow(unsafe_code)]
        let (by, pixels) = unsafe { self.map_surface(surface, &picture) }?;
        let mut mapped = self.mapped(Of::Buffer(surface, by), pixels, &picture, owner);
        // From the next use on.
        if let Some(identity) = identity
            && !self.0.distrusts_imports.load(Ordering::Acquire)
            && let Some(import) = self.import(surface, &picture, identity)
        {
            let pixels = import.pixels;
            let mut ours = self.mapped(Of::Import(Some(import)), pixels, &picture, []);
            let same = mapped.shows_the_same(&mut ours);
            if !matches!(same, Ok(true)) {
                self.0.distrusts_imports.store(true, Ordering::Release);
                ours.give_back_at_once();
            }
            same?;
        }
        Ok(mapped)
    }

    fn mapped<O: AsRef<[u8]>>(&self, of: Of, pixels: Pixels, picture: &Description, owner: O) -> Mapped<O> {
        Mapped {
            of,
            pixels,
            size: picture.size,
            color: picture.color,
            rows: None,
            is_copied: false,
            nvmm: self.clone(),
            owner,
        }
    }

    /// Makes a surface of our own over the memory of `surface`, whose first picture is `picture`, and maps it; `None` when
    /// that is not possible.
    #[allow(unsafe_code)]
    fn import(&self, surface: *const Surface, picture: &Description, identity: Identity) -> Option<Import> {
        let (params_of, import, destroy) = self.0.calls.import?;
        // SAFETY: the descriptor is the live surface's.
        let theirs = unsafe { BorrowedFd::borrow_raw(picture.descriptor) };
        let memory = rustix::io::fcntl_dupfd_cloexec(theirs, LEAST_DESCRIPTOR).ok()?;
        let given = rustix::io::fcntl_dupfd_cloexec(&memory, LEAST_DESCRIPTOR).ok()?;
        let mut params = MapParams {
            num_planes: 0,
            gpu_id: 0,
            fd: 0,
            rest: [0; 254],
        };
        let mut ours = std::ptr::null_mut::<Surface>();
        // SAFETY: a live surface with a first picture, and room for what the library writes.
        let described = unsafe { params_of(surface, 0, &mut params) } == 0;
        // From here on the descriptor is the library's, unless it refuses.
        params.fd = given.into_raw_fd() as u64;
        // SAFETY: the parameters are the library's own, for a descriptor of the same memory.
        if !described || unsafe { import(&mut ours, &params) } != 0 || ours.is_null() {
            self.0.distrusts_imports.store(true, Ordering::Release);
            // SAFETY: the library did not take it.
            drop(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(params.fd as RawFd) });
            return None;
        }
        // SAFETY: the library has made it; nobody else knows it.
        unsafe { (*ours).num_filled = 1 };
        // SAFETY: as above.
        let is_same = unsafe { describe(ours) }.is_ok_and(|ours| {
            let descriptor = picture.descriptor;
            self::identity(ours.descriptor) == Some(identity)
                && Description { descriptor, ..ours } == *picture
        });
        // SAFETY: as above.
        let mapped = unsafe { self.map_surface(ours, picture) };
        match mapped {
            Ok((by, pixels)) if is_same => Some(Import {
                identity,
                picture: *picture,
                surface: ours,
                by,
                pixels,
                used: 0,
                _memory: memory,
            }),
            mapped => {
                self.0.distrusts_imports.store(true, Ordering::Release);
                // SAFETY: made above, and mapped this way if it was.
                unsafe {
                    if let Ok((by, _)) = mapped {
                        self.0.unmap(ours, by);
                    }
                    destroy(ours);
                }
                None
            }
        }
    }

    /// Maps a surface.
    ///
    /// # Safety
    /// A live surface that `picture` describes.
    #[allow(unsafe_code)]
    unsafe fn map_surface(&self, surface: *mut Surface, picture: &Description) -> Result<(By, Pixels)> {
        let calls = &self.0.calls;
        if let Some(map_cuda) = calls.map_cuda {
            // SAFETY: a live surface, and its first picture.
            if unsafe { map_cuda(surface, 0) } == 0 {
                // SAFETY: the call succeeded, so the library is one whose surfaces have the field.
                let buffer = unsafe { cuda_pointer(surface) };
                // SAFETY: the library has put a buffer there, or nothing.
                let data =
                    unsafe { buffer.cast::<CudaBuffer>().as_ref() }.map_or(0, |buffer| buffer.data as u64);
                if data == 0 || !picture.is_linear {
                    // SAFETY: mapped this way above.
                    unsafe { self.0.unmap(surface, By::Cuda) };
                } else {
                    return Ok((By::Cuda, Pixels::Rows(picture.planes_at(data))));
                }
            }
        }
        // SAFETY: a live surface, and its first picture.
        if unsafe { (calls.map_egl)(surface, 0) } != 0 {
            return Err(wrong(
                "NvBufSurfaceMapEglImage",
                "the surface cannot be mapped; unset DISPLAY when it points at another machine",
            ));
        }
        // SAFETY: a live surface.
        let image = unsafe { egl_image(surface) };
        let mut resource = std::ptr::null_mut();
        // SAFETY: the image is live, and the context current.
        let registered = unsafe { (calls.register)(&mut resource, image, 0) }.result();
        if let Err(error) = registered {
            // SAFETY: mapped above.
            unsafe { (calls.unmap_egl)(surface, 0) };
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
        let by = By::Egl { resource };
        // SAFETY: the resource was registered above, and the frame is of the type's size.
        let asked = unsafe { (calls.frame)(&mut frame, resource, 0, 0) }.result();
        let pixels = asked
            .map_err(refused("cuGraphicsResourceGetMappedEglFrame"))
            .and_then(|()| egl_pixels(&frame, picture));
        match pixels {
            Ok(pixels) => Ok((by, pixels)),
            Err(error) => {
                // SAFETY: mapped this way above.
                unsafe { self.0.unmap(surface, by) };
                Err(error)
            }
        }
    }

    /// Rows for an NV12 picture of this size: spare ones, or new ones.
    fn rows(&self, size: [usize; 2]) -> Result<[Buffer; 2]> {
        let wanted = strides_of(size).map(|[stride, rows]| stride * rows);
        let mut spare = self.spare();
        let fits = |buffers: &[Buffer; 2]| [0, 1].map(|plane| buffers[plane].bytes()) == wanted;
        if let Some(at) = spare.iter().position(fits) {
            return Ok(spare.swap_remove(at));
        }
        // Those are of a size that is no more.
        spare.clear();
        let Inner { device, stream, .. } = &*self.0;
        Ok([
            Buffer::new(device, stream, wanted[0])?,
            Buffer::new(device, stream, wanted[1])?,
        ])
    }

    fn spare(&self) -> MutexGuard<'_, Vec<[Buffer; 2]>> {
        self.0.spare.lock().unwrap_or_else(PoisonError::into_inner)
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
        let waited = self.0.stream.synchronize();
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
        // SAFETY: the array is mapped and of that size, the rows are large enough; `copy` waits before either can go.
        unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.0.stream.cu_stream()) }
            .result()
            .map_err(refused("copying a block-linear plane"))
    }
}

impl Inner {
    /// Gives a mapping back, the driver's part first.
    ///
    /// # Safety
    /// A live surface that was mapped this way, once.
    #[allow(unsafe_code)]
    unsafe fn unmap(&self, surface: *mut Surface, by: By) {
        // The library's part is given back even when the device is lost.
        let _ = self.device.bind();
        let calls = &self.calls;
        match by {
            By::Itself => (),
            By::Egl { resource } => {
                // SAFETY: registered once, and forgotten after this; the caller's promise.
                unsafe {
                    let _ = sys::cuGraphicsUnregisterResource(resource);
                    (calls.unmap_egl)(surface, 0);
                }
            }
            By::Cuda => {
                if let Some(unmap) = calls.unmap_cuda {
                    // SAFETY: the caller's promise.
                    unsafe { unmap(surface, 0) };
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the import of this memory, if there is one for this picture.
    fn kept(&self, identity: Identity, picture: &Description) -> Option<Import> {
        let mut kept = self.lock();
        kept.uses += 1;
        let at = kept
            .imports
            .iter()
            .position(|import| import.identity == identity)?;
        let import = kept.imports.swap_remove(at);
        drop(kept);
        // The descriptor's number may be another one by now.
        let descriptor = import.picture.descriptor;
        if import.picture
            == (Description {
                descriptor,
                ..*picture
            })
        {
            return Some(import);
        }
        self.release(import);
        None
    }

    /// Keeps an import for the next use of its buffer, and gives back what was not used for long.
    fn keep(&self, mut import: Import) {
        let mut kept = self.lock();
        let uses = kept.uses;
        import.used = uses;
        let identity = import.identity;
        let old = |other: &mut Import| other.identity == identity || other.used + OLDEST_KEPT < uses;
        let mut gone: Vec<_> = kept.imports.extract_if(.., old).collect();
        if kept.imports.len() >= MOST_KEPT {
            let oldest = (0..kept.imports.len()).min_by_key(|at| kept.imports[*at].used);
            gone.extend(oldest.map(|oldest| kept.imports.swap_remove(oldest)));
        }
        kept.imports.push(import);
        drop(kept);
        gone.into_iter().for_each(|import| self.release(import));
    }

    /// Gives an import back: the mapping, the surface, then the memory.
    #[allow(unsafe_code)]
    fn release(&self, import: Import) {
        // SAFETY: an import's surface is live, mapped this way, and known to nobody else.
        unsafe {
            self.unmap(import.surface, import.by);
            if let Some((.., destroy)) = self.calls.import {
                destroy(import.surface);
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut *self.lock());
        kept.imports.into_iter().for_each(|import| self.release(import));
    }
}

impl<O: AsRef<[u8]>> Mapped<O> {
    /// Width and height in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// Whether another mapping shows the same picture.
    fn shows_the_same<P: AsRef<[u8]>>(&mut self, other: &mut Mapped<P>) -> Result<bool> {
        let mut cuda = Cuda::new(&self.nvmm.0.device)?;
        let here = self.with_frame(|frame| cuda.checksum(frame))??;
        let there = other.with_frame(|frame| cuda.checksum(frame))??;
        Ok(here == there)
    }

    /// Gives an import back instead of keeping it.
    fn give_back_at_once(mut self) {
        if let Of::Import(import) = &mut self.of
            && let Some(import) = import.take()
        {
            self.nvmm.0.release(import);
        }
    }

    /// Lends the picture as a frame, and waits for the device at the end.
    ///
    /// # Errors
    /// [`Error::Device`] when a block-linear picture cannot be copied, or, once changed, not be brought back: then the
    /// buffer holds what it held before.
    pub fn with_frame<R>(&mut self, work: impl FnOnce(&mut Frame<'_>) -> R) -> Result<R> {
        self.nvmm.0.device.bind()?;
        match self.pixels {
            Pixels::Rows(planes) => {
                // SAFETY: the planes are mapped as long as this value lives.
                #[allow(unsafe_code)]
                let mut frame = unsafe { Frame::new(self.size, self.color, &planes) }?;
                Ok(work(&mut frame))
            }
            Pixels::Arrays(arrays) => {
                let rows = match self.rows.take() {
                    Some(rows) => rows,
                    None => self.nvmm.rows(self.size)?,
                };
                let strides = strides_of(self.size);
                let planes = [0, 1].map(|plane| Plane {
                    address: rows[plane].address(),
                    stride: strides[plane][0],
                    bytes: rows[plane].bytes(),
                });
                self.rows = Some(rows);
                if !self.is_copied {
                    self.nvmm.copy(&arrays, &planes, self.size, true)?;
                }
                // Should the work fail half-way, what is in the rows is not what is in the buffer.
                self.is_copied = false;
                // SAFETY: the rows are this value's, large enough, and stay for longer than this call.
                #[allow(unsafe_code)]
                let mut frame = unsafe { Frame::new(self.size, self.color, &planes) }?;
                let result = work(&mut frame);
                let changed = frame.is_changed();
                // Waits for whoever worked on it.
                drop(frame);
                if changed {
                    self.nvmm.copy(&arrays, &planes, self.size, false)?;
                }
                self.is_copied = true;
                Ok(result)
            }
        }
    }
}

impl<O: AsRef<[u8]>> Drop for Mapped<O> {
    fn drop(&mut self) {
        self.nvmm.spare().extend(self.rows.take());
        match &mut self.of {
            Of::Import(import) => {
                if let Some(import) = import.take() {
                    self.nvmm.0.keep(import);
                }
            }
            // An owner whose bytes have moved holds no surface there any more.
            Of::Buffer(surface, by) if std::ptr::eq(self.owner.as_ref().as_ptr(), surface.cast()) => {
                // SAFETY: mapped this way in `Nvmm::map`, and the owner has kept the buffer.
                #[allow(unsafe_code)]
                unsafe {
                    self.nvmm.0.unmap(*surface, *by);
                }
            }
            Of::Buffer(..) => (),
        }
    }
}

/// Which memory a descriptor is of.
#[allow(unsafe_code)]
fn identity(descriptor: RawFd) -> Option<Identity> {
    if descriptor < 0 {
        return None;
    }
    // SAFETY: a live surface's descriptor, open until this returns; of another number the kernel says that it is none.
    let status = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(descriptor) }).ok()?;
    Some((status.st_dev, status.st_ino))
}

/// Bytes of a row and number of rows of both planes.
fn rows_of([width, height]: [usize; 2]) -> [[usize; 2]; 2] {
    [[width, height], [2 * width.div_ceil(2), height.div_ceil(2)]]
}

/// Bytes from row to row and number of rows of both planes, in memory of our own.
fn strides_of(size: [usize; 2]) -> [[usize; 2]; 2] {
    rows_of(size).map(|[row, rows]| [row.next_multiple_of(256), rows])
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
/// `surface` is a live `NvBufSurface`.
#[allow(unsafe_code)]
unsafe fn describe(surface: *const Surface) -> Result<Description> {
    let refuse = |reason: String| Err(wrong("taking an NVMM buffer", reason));
    // SAFETY: the caller's promise; the reference ends with this function, in which nobody changes the surface.
    let surface = unsafe { &*surface };
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
        descriptor: RawFd::try_from(params.buffer_desc).unwrap_or(-1),
        data,
        planes: [0, 1].map(|i| [planes.offset[i], planes.pitch[i], planes.psize[i]].map(|n| n as usize)),
    })
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::Cuda;
    use super::*;
    use crate::cpu::Cpu;
    use crate::{Hull, Kernels, MEAN_FACE, Placement, Planes, Region, Similarity, Values};

    /// What `NvBufSurfaceImport` of the tests does.
    const REFUSE: c_int = 0;
    const WORK: c_int = 1;
    const LIE: c_int = 2;

    /// The library counts for all tests.
    fn alone() -> MutexGuard<'static, ()> {
        static ALONE: Mutex<()> = Mutex::new(());
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library of the tests, and a surface in it.
    #[derive(Debug)]
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

        fn set(&self, name: &str, value: c_int) {
            // SAFETY: as above.
            unsafe {
                let set: unsafe extern "C" fn(c_int) = *self.library.get(name.as_bytes()).unwrap();
                set(value);
            }
        }

        fn descriptor(&self) -> c_int {
            // SAFETY: as above.
            unsafe {
                let of: unsafe extern "C" fn(*mut c_void) -> c_int =
                    *self.library.get(b"test_surface_descriptor").unwrap();
                of(self.surface)
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

    /// A buffer that is mapped: `NvBufSurface` is what GStreamer gives.
    #[derive(Clone, Debug)]
    struct Held(Rc<Given>);

    impl AsRef<[u8]> for Held {
        #[allow(unsafe_code)]
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the library's surface begins with the structure and lives as long as `Given`.
            unsafe { std::slice::from_raw_parts(self.0.surface.cast(), size_of::<Surface>()) }
        }
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    fn surfaces_are_frames_in_place() {
        let _alone = alone();
        struct Case(bool, bool);
        let device = Device::open(0).unwrap();
        let mut cuda = Cuda::new(&device).unwrap();
        let nvmm = Nvmm::open(&device).unwrap();
        for Case(is_tiled, for_cuda) in [
            Case(false, false),
            Case(true, false),
            Case(false, true),
            Case(true, true),
        ] {
            let given = Rc::new(Given::new([117, 90], is_tiled));
            given.set("test_surface_maps_for_cuda", c_int::from(for_cuda));
            given.set("test_surface_imports_how", REFUSE);
            let maps = given.count("test_surface_maps");
            let mut level = 0_u32;
            let mut planes = given.bytes(|byte| {
                level = level.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (level >> 24) as u8;
            });
            let mut mapped = nvmm.map(Held(given.clone())).unwrap();
            assert_eq!(mapped.size(), given.size);
            for round in 0..2 {
                mapped.with_frame(|frame| anonymize(&mut cuda, frame)).unwrap();
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
            assert!(mapped.with_frame(|frame| cuda.checksum(frame)).unwrap().is_ok());
            assert!(given.bytes(|_| {}) == planes);
            drop(mapped);
            // Given back, so it can be mapped anew.
            drop(nvmm.map(Held(given.clone())).unwrap());
            assert_eq!(given.count("test_surface_violations"), 0, "{is_tiled} {for_cuda}");
        }
    }

    /// Fills a surface, anonymizes it there and beside it, and compares.
    fn assert_in_place(nvmm: &Nvmm, cuda: &mut Cuda, given: &Rc<Given>, seed: u32) {
        let mut level = seed;
        let mut planes = given.bytes(|byte| {
            level = level.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (level >> 24) as u8;
        });
        let mut mapped = nvmm.map(Held(given.clone())).unwrap();
        mapped.with_frame(|frame| anonymize(cuda, frame)).unwrap();
        drop(mapped);
        let [width, height] = given.size;
        let [[y_row, _], [uv_row, _]] = rows_of(given.size);
        let [y, uv] = planes.each_mut().map(Vec::as_mut_slice);
        let [y, uv] = [(y, y_row), (uv, uv_row)].map(|(data, stride)| crate::Plane { data, stride });
        let color = Color {
            matrix: Matrix::Bt709,
            range: Range::Limited,
        };
        let mut frame = crate::Frame::new(width, height, color, Planes::Nv12 { y, uv }).unwrap();
        anonymize(&mut Cpu::new(), &mut frame);
        assert!(given.bytes(|_| {}) == planes, "seed {seed}");
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    fn a_buffer_is_mapped_once_and_never_taken_for_another() {
        let _alone = alone();
        let device = Device::open(0).unwrap();
        let mut cuda = Cuda::new(&device).unwrap();
        for (is_tiled, for_cuda) in [(false, false), (true, false), (false, true), (true, true)] {
            let nvmm = Nvmm::open(&device).unwrap();
            let make = || Rc::new(Given::new([117, 90], is_tiled));
            let (given, other) = (make(), make());
            given.set("test_surface_maps_for_cuda", c_int::from(for_cuda));
            given.set("test_surface_imports_how", WORK);
            for seed in 0..3 {
                assert_in_place(&nvmm, &mut cuda, &given, seed);
                assert_in_place(&nvmm, &mut cuda, &other, seed + 100);
            }
            assert_eq!(other.count("test_surface_imports"), 2);
            let maps = other.count("test_surface_maps");
            for seed in 3..6 {
                assert_in_place(&nvmm, &mut cuda, &given, seed);
            }
            assert_eq!(other.count("test_surface_maps"), maps, "mapped again");
            // The pool is freed and made anew: the same numbers stand for other memory.
            let descriptor = given.descriptor();
            drop(given);
            let anew = make();
            assert_eq!(anew.descriptor(), descriptor);
            for seed in 6..9 {
                assert_in_place(&nvmm, &mut cuda, &anew, seed);
                assert_in_place(&nvmm, &mut cuda, &other, seed + 100);
            }
            assert_eq!(other.count("test_surface_imports"), 3);
            // What is not used for long is given back.
            for _ in 0..OLDEST_KEPT + 4 {
                drop(nvmm.map(Held(other.clone())).unwrap());
            }
            assert_eq!(other.count("test_surface_imports"), 1);
            // Two uses at once do not share one, and leave one behind.
            drop(nvmm.map(Held(anew.clone())).unwrap());
            let twice = [(); 2].map(|()| nvmm.map(Held(anew.clone())).unwrap());
            drop(twice);
            assert_eq!(other.count("test_surface_imports"), 2);
            drop(nvmm);
            assert_eq!(other.count("test_surface_imports"), 0);
            drop(anew);
            assert_eq!(other.count("test_surface_violations"), 0, "{is_tiled} {for_cuda}");
        }
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    fn an_import_that_shows_something_else_is_not_used() {
        let _alone = alone();
        let device = Device::open(0).unwrap();
        let mut cuda = Cuda::new(&device).unwrap();
        let nvmm = Nvmm::open(&device).unwrap();
        let given = Rc::new(Given::new([117, 90], false));
        given.set("test_surface_maps_for_cuda", 0);
        given.set("test_surface_imports_how", LIE);
        for seed in 0..3 {
            assert_in_place(&nvmm, &mut cuda, &given, seed);
            assert_eq!(given.count("test_surface_imports"), 0);
        }
        given.set("test_surface_imports_how", WORK);
        assert_in_place(&nvmm, &mut cuda, &given, 3);
        assert_eq!(given.count("test_surface_imports"), 0, "trusted again");
        assert_eq!(given.count("test_surface_violations"), 0);
    }

    #[test]
    #[ignore = "needs the CUDA driver and the libnvbufsurface that `cargo xtask kernels` makes"]
    #[allow(unsafe_code)]
    fn a_surface_that_is_not_nv12_is_refused() {
        let _alone = alone();
        let device = Device::open(0).unwrap();
        let nvmm = Nvmm::open(&device).unwrap();
        let given = Rc::new(Given::new([64, 64], false));
        let refusal = || nvmm.map(Held(given.clone())).unwrap_err().to_string();
        assert!(
            nvmm.map(vec![0; 63])
                .unwrap_err()
                .to_string()
                .contains("no surface")
        );
        let surface = given.surface.cast::<Surface>();
        // SAFETY: as above; the fields lie where the structures say.
        unsafe { (*(*surface).surface_list).color_format = 19 };
        assert!(refusal().contains("colour format 19 is not NV12"));
        // SAFETY: as above.
        unsafe { (*surface).mem_type = 1 };
        assert!(refusal().contains("memory of kind 1"));
        // SAFETY: as above.
        unsafe { (*surface).num_filled = 0 };
        assert!(refusal().contains("empty"));
    }
}
