//! Pixels on an NVIDIA GPU, through the driver, which is opened at run time.
//!
//! ```no_run
//! use kernels::Kernels;
//! use kernels::cuda::{Cuda, Device};
//!
//! # fn main() -> kernels::Result<()> {
//! let device = Device::open(0)?;
//! let mut cuda = Cuda::new(&device)?;
//! let crops = cuda.tensor([4, 3, 128, 128])?;
//! # Ok(())
//! # }
//! ```
//!
//! A kernel only asks the device; it happens later, in the order of asking. [`Kernels::finish`] waits for all of it
//! and reports what went wrong, [`Kernels::checksum`] waits too, and so does [`Kernels::read`] of a tensor that was not
//! fetched before the latest wait. Each kernel costs the same few
//! calls of the driver whatever the number of faces: one copy of its parameters and one launch, [`Kernels::cover`]
//! two. Once warm nothing is allocated, neither here nor on the device.
//!
//! The device code stands in `kernels/cu`, its compiled form in `kernels/ptx`; `docs/adding-a-kernel.md` says how it
//! is built and how it is tested where there is no GPU.
//!
//! # Examined on real hardware?
//! Not yet. The same sources compiled for the processor agree with [`crate::cpu::Cpu`], and the calls of the driver
//! have been made against a driver that runs them; `persona check --gpu` does both on a real one.

pub mod agreement;
mod event;
mod frame;
mod layout;
mod memory;
mod module;
pub mod nvmm;
pub mod roofline;
mod tensor;

use std::sync::Arc;

use cudarc::driver::CudaStream;

pub use event::Order;
pub use frame::{Format, Frame, Picture, Rows};
pub use module::Device;
pub use tensor::{Precision, Tensor};

use crate::axis::{self, Axis};
use crate::color::{Coefficients, to_byte};
use crate::patch::{self, Patch};
use crate::{Error, Kernels, Placement, Rect, Region, Result, Similarity, Values, arguments, inside};
use event::Event;
use frame::Borrower;
use memory::{Buffer, Pinned, Staging};
use module::{Argument, BLOCK, Function, launch, refused};

/// Room for the parameters between two waits, at first: 64 faces blended and 16 covered.
const STAGING: usize = 1 << 18;

/// A GPU as a place for pixels: one stream of work on a [`Device`].
#[derive(Debug)]
pub struct Cuda {
    staging: Staging,
    total: Buffer,
    total_mirror: Pinned,
    luma: [Axis; 2],
    chroma: [Axis; 2],
    patches: Vec<Patch>,
    /// Counts the waits.
    wait: u64,
    launches: u64,
    done: Event,
    frames: Arc<Borrower>,
    stream: Arc<CudaStream>,
    device: Arc<Device>,
}

impl Cuda {
    /// A new stream of work. Two of them do not wait for each other: use one for each thread.
    ///
    /// # Errors
    /// [`Error::Device`] when memory is short.
    pub fn new(device: &Arc<Device>) -> Result<Self> {
        let stream = device
            .context()
            .new_stream()
            .map_err(refused("making a stream"))?;
        Ok(Self {
            done: Event::new(device)?,
            staging: Staging::new(device, &stream, STAGING)?,
            total: Buffer::new(device, &stream, size_of::<u64>())?,
            total_mirror: Pinned::new(device, size_of::<u64>())?,
            luma: Default::default(),
            chroma: Default::default(),
            patches: Vec::new(),
            wait: 1,
            launches: 0,
            frames: Arc::new(Borrower::new(&stream)),
            stream,
            device: device.clone(),
        })
    }

    /// Makes a zeroed tensor of any precision.
    ///
    /// # Errors
    /// As [`Kernels::tensor`].
    pub fn tensor_of(&mut self, precision: Precision, shape: [usize; 4]) -> Result<Tensor> {
        Tensor::new(&self.device, &self.stream, precision, shape)
    }

    /// The device.
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// How many kernels have been launched.
    pub fn launches(&self) -> u64 {
        self.launches
    }

    /// Waits, asleep, until the device has done everything.
    fn wait(&mut self) -> Result<()> {
        self.done.record(&self.stream)?;
        self.done.wait()?;
        self.wait += 1;
        self.staging.reset();
        self.frames.give_back();
        Ok(())
    }

    /// Makes room for parameters; waits, or takes more memory, only when a frame needs uncommonly many.
    fn reserve(&mut self, bytes: usize) -> Result<()> {
        self.device.bind()?;
        if self.staging.fits(bytes) {
            return Ok(());
        }
        self.wait()?;
        if !self.staging.fits(bytes) {
            let capacity = bytes.max(2 * self.staging.capacity());
            self.staging = Staging::new(&self.device, &self.stream, capacity)?;
        }
        Ok(())
    }

    /// Launches one thread for each of `size`, in as many layers as given.
    ///
    /// # Safety
    /// As [`launch`].
    #[allow(unsafe_code)]
    unsafe fn over(
        &mut self,
        function: impl Fn(&Device) -> &Function,
        [width, height]: [usize; 2],
        layers: usize,
        arguments: &[Argument<'_>],
    ) -> Result<()> {
        let [x, y] = BLOCK.map(|side| side as usize);
        let grid = [width.div_ceil(x), height.div_ceil(y), layers];
        self.launches += 1;
        // SAFETY: the caller's promise.
        unsafe {
            launch(
                function(&self.device),
                self.stream.cu_stream(),
                grid,
                BLOCK,
                arguments,
            )
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let _ = self.stream.synchronize();
    }
}

fn same_precision(operation: &'static str, faces: &Tensor, masks: &Tensor) -> Result<()> {
    if faces.precision() == masks.precision() {
        return Ok(());
    }
    Err(Error::Shape {
        operation,
        got: masks.shape(),
        wanted: format!("masks in the faces' precision, {:?}", faces.precision()),
    })
}

/// Chroma samples of a frame: one thread works on each, and on its four pixels.
fn cells(size: [usize; 2]) -> [usize; 2] {
    size.map(|side| side.div_ceil(2))
}

impl Kernels for Cuda {
    type Frame<'a> = Frame<'a>;
    type Tensor = Tensor;

    fn tensor(&mut self, shape: [usize; 4]) -> Result<Tensor> {
        self.tensor_of(Precision::F32, shape)
    }

    fn resize_batch(&mut self, tensor: &mut Tensor, entries: usize) -> Result<()> {
        tensor.resize_batch(entries)
    }

    fn write(&mut self, tensor: &mut Tensor, entry: usize, values: &[f32]) -> Result<()> {
        tensor.is_of(&self.stream)?;
        self.device.bind()?;
        if tensor.written(entry) == self.wait || tensor.fetched() == Some(self.wait) {
            // The same entry twice between two waits, or after it was fetched: the first copy may still be on its way.
            self.wait()?;
        }
        tensor.write(entry, values, self.wait)
    }

    fn read<'t>(&mut self, tensor: &'t mut Tensor) -> Result<&'t [f32]> {
        tensor.is_of(&self.stream)?;
        self.device.bind()?;
        if tensor.fetched().is_none() {
            tensor.fetch(self.wait)?;
        }
        if tensor.fetched() == Some(self.wait) {
            self.wait()?;
        }
        Ok(tensor.values())
    }

    fn fetch(&mut self, tensor: &mut Tensor) -> Result<()> {
        tensor.is_of(&self.stream)?;
        self.device.bind()?;
        tensor.fetch(self.wait)
    }

    fn resize(
        &mut self,
        frame: &Frame<'_>,
        region: Rect,
        values: Values,
        to: &mut Tensor,
        entry: usize,
    ) -> Result<()> {
        arguments::resize(to.shape(), region, entry)?;
        to.is_of(&self.stream)?;
        let [_, _, height, width] = to.shape();
        axis::set(
            &mut self.luma,
            &mut self.chroma,
            region,
            [width, height],
            frame.size(),
        );
        self.reserve(2 * Staging::room::<layout::Weights>(width + height))?;
        let mut scaling = |axes: &[Axis; 2]| {
            let taps = axes.iter().flat_map(|axis| &axis.taps);
            Ok::<_, Error>(layout::Scaling {
                taps: self.staging.push(taps.map(|tap| layout::Weights::from(*tap)))?,
                scale: axes[0].scale * axes[1].scale,
                padding: 0,
            })
        };
        let (luma, chroma) = (scaling(&self.luma)?, scaling(&self.chroma)?);
        self.staging.send()?;
        frame.lend_to(&self.frames)?;
        to.change();
        let (scale, offset) = values.of_byte();
        let precision = to.precision() as usize;
        // SAFETY: the frame's planes were checked when it was made and it waits for the stream at its end; the taps lie
        // inside of its planes; the entry is in use and has the kernel's precision; the parameters lie in the staging
        // memory, which is used again only after a wait.
        #[allow(unsafe_code)]
        unsafe {
            self.over(
                |device| &device.functions.resize[precision],
                [width, height],
                1,
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&luma),
                    Argument::of(&chroma),
                    Argument::of(&scale),
                    Argument::of(&offset),
                    Argument::of(&(width as u32)),
                    Argument::of(&(height as u32)),
                    Argument::of(&to.entry_address(entry)),
                ],
            )
        }
    }

    fn warp(
        &mut self,
        frame: &Frame<'_>,
        to: &[Similarity],
        values: Values,
        crops: &mut Tensor,
    ) -> Result<()> {
        arguments::warp(crops.shape(), to)?;
        crops.is_of(&self.stream)?;
        if to.is_empty() {
            return Ok(());
        }
        let side = crops.shape()[3];
        self.reserve(Staging::room::<layout::Grid>(to.len()))?;
        let grids = to.iter().map(|align| layout::Grid::of_crop(align, side));
        let grids = self.staging.push(grids)?;
        self.staging.send()?;
        frame.lend_to(&self.frames)?;
        crops.change();
        let (scale, offset) = values.of_byte();
        let precision = crops.precision() as usize;
        // SAFETY: the frame as in `resize`; samples lie inside of its planes wherever the transform points; the tensor
        // has an entry of side x side for every transform, and the kernel's precision.
        #[allow(unsafe_code)]
        unsafe {
            self.over(
                |device| &device.functions.warp[precision],
                [side, side],
                to.len(),
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&grids),
                    Argument::of(&scale),
                    Argument::of(&offset),
                    Argument::of(&(side as u32)),
                    Argument::of(&crops.address()),
                ],
            )
        }
    }

    fn judge(
        &mut self,
        placements: &[Placement],
        floor: f32,
        faces: &Tensor,
        masks: &mut Tensor,
        shares: &mut Tensor,
    ) -> Result<()> {
        arguments::judge(faces.shape(), masks.shape(), shares.shape(), placements)?;
        for tensor in [faces, masks, shares] {
            tensor.is_of(&self.stream)?;
        }
        same_precision("judge", faces, masks)?;
        if shares.precision() != Precision::F32 {
            return Err(Error::Shape {
                operation: "judge",
                got: shares.shape(),
                wanted: "shares of 32 bits".into(),
            });
        }
        if placements.is_empty() {
            return Ok(());
        }
        let (side, count) = (faces.shape()[3], placements.len());
        self.reserve(Staging::room::<layout::Row>(side * count))?;
        let rows = placements
            .iter()
            .flat_map(|placement| inside::rows(placement, side));
        let rows = self.staging.push(rows.map(layout::Row::from))?;
        self.staging.send()?;
        masks.change();
        shares.change();
        self.launches += 1;
        // SAFETY: the tensors have an entry of side x side, or of one value, for every placement, and the kernel's
        // precision; the parameters as in `resize`.
        #[allow(unsafe_code)]
        unsafe {
            launch(
                &self.device.functions.judge[faces.precision() as usize],
                self.stream.cu_stream(),
                [count, 1, 1],
                [BLOCK[0] * BLOCK[1], 1],
                &[
                    Argument::of(&rows),
                    Argument::of(&(side as u32)),
                    Argument::of(&floor),
                    Argument::of(&faces.address()),
                    Argument::of(&masks.address()),
                    Argument::of(&shares.address()),
                ],
            )
        }
    }

    fn blend(
        &mut self,
        frame: &mut Frame<'_>,
        placements: &[Placement],
        faces: &Tensor,
        masks: &Tensor,
    ) -> Result<()> {
        arguments::blend(faces.shape(), masks.shape(), placements)?;
        faces.is_of(&self.stream)?;
        masks.is_of(&self.stream)?;
        same_precision("blend", faces, masks)?;
        let (side, count) = (faces.shape()[3], placements.len());
        self.reserve(Staging::room::<layout::Placed>(count))?;
        let mut largest = [0; 2];
        let placed = placements.iter().map(|placement| {
            let placed = layout::Placed::new(placement, side, frame.size());
            let size = cells(placed.size());
            largest = [0, 1].map(|i| usize::max(largest[i], size[i]));
            placed
        });
        let placed = self.staging.push(placed)?;
        if largest.contains(&0) {
            // No pixel of the frame lies in any hull.
            return Ok(());
        }
        self.staging.send()?;
        frame.lend_to_change(&self.frames)?;
        let precision = faces.precision() as usize;
        // SAFETY: the frame as in `resize`, borrowed uniquely; boxes lie inside of it; the tensors have an entry of
        // side x side for every placement, and the kernel's precision.
        #[allow(unsafe_code)]
        unsafe {
            self.over(
                |device| &device.functions.blend[precision],
                largest,
                count,
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&placed),
                    Argument::of(&(count as u32)),
                    Argument::of(&faces.address()),
                    Argument::of(&masks.address()),
                    Argument::of(&(side as u32)),
                ],
            )
        }
    }

    fn cover(&mut self, frame: &mut Frame<'_>, regions: &[Region]) -> Result<()> {
        let [width, height] = frame.size();
        let color = Coefficients::of(frame.color());
        self.device.bind()?;
        self.patches.clear();
        for region in regions {
            let Some(hull) = patch::hull(region) else {
                return self.cover_frame(frame, color.yuv(patch::SLATE).map(to_byte));
            };
            self.patches.extend(Patch::of(hull, width, height));
        }
        if self.patches.is_empty() {
            return Ok(());
        }
        let count = self.patches.len();
        let rows: usize = self
            .patches
            .iter()
            .map(|patch| patch.pixel_rows() + patch.chroma_rows())
            .sum();
        self.reserve(Staging::room::<layout::Patch>(count) + Staging::room::<layout::Span>(rows))?;
        let (mut spans, mut largest) = (0, [0; 2]);
        let patches = self.patches.iter().map(|patch| {
            let size = cells([patch.columns.len(), patch.rows.len()]);
            largest = [0, 1].map(|i| usize::max(largest[i], size[i]));
            let first = spans;
            spans += patch.pixel_rows() + patch.chroma_rows();
            layout::Patch::new(patch, first)
        });
        let patches = self.staging.push(patches)?;
        let spans = self.patches.iter().flat_map(|patch| {
            let pixels = (0..patch.pixel_rows()).map(|j| patch.pixels(j));
            let chroma = (0..patch.chroma_rows()).map(|j| patch.chroma(j));
            pixels.chain(chroma).map(layout::Span::from)
        });
        let spans = self.staging.push(spans)?;
        self.staging.send()?;
        frame.lend_to_change(&self.frames)?;
        let [grey_y, grey_u, grey_v] = color.yuv(patch::GREY);
        // SAFETY: the frame as in `blend`; samples around a patch and its spans lie inside of it; both kernels know how
        // many patches there are, and run one after the other.
        #[allow(unsafe_code)]
        unsafe {
            self.launches += 1;
            launch(
                &self.device.functions.cover_sides,
                self.stream.cu_stream(),
                [count, 1, 1],
                [BLOCK[0] * BLOCK[1], 1],
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&patches),
                    Argument::of(&(count as u32)),
                    Argument::of(&grey_y),
                    Argument::of(&grey_u),
                    Argument::of(&grey_v),
                ],
            )?;
            self.over(
                |device| &device.functions.cover_paint,
                largest,
                count,
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&patches),
                    Argument::of(&(count as u32)),
                    Argument::of(&spans),
                ],
            )
        }
    }

    fn checksum(&mut self, frame: &Frame<'_>) -> Result<u64> {
        self.device.bind()?;
        self.total.clear()?;
        frame.lend_to(&self.frames)?;
        // SAFETY: the frame as in `resize`; the sum has the 8 bytes that the kernel adds to.
        #[allow(unsafe_code)]
        unsafe {
            self.over(
                |device| &device.functions.checksum,
                cells(frame.size()),
                1,
                &[Argument::of(frame.raw()), Argument::of(&self.total.address())],
            )?;
        }
        self.total.send(&mut self.total_mirror, size_of::<u64>())?;
        self.wait()?;
        let bytes = self.total_mirror.bytes();
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |total, byte| (total << 8) | u64::from(*byte)))
    }

    fn finish(&mut self) -> Result<()> {
        self.wait()
    }
}

impl Cuda {
    fn cover_frame(&mut self, frame: &mut Frame<'_>, yuv: [u8; 3]) -> Result<()> {
        frame.lend_to_change(&self.frames)?;
        let [y, u, v] = yuv.map(u32::from);
        // SAFETY: the frame as in `blend`; the kernel writes its samples and nothing else.
        #[allow(unsafe_code)]
        unsafe {
            self.over(
                |device| &device.functions.cover_frame,
                cells(frame.size()),
                1,
                &[
                    Argument::of(frame.raw()),
                    Argument::of(&y),
                    Argument::of(&u),
                    Argument::of(&v),
                ],
            )
        }
    }
}
