//! Pixels in, pixels out: the bottom of Persona.
//!
//! A [`Kernels`] implementation is a *place* where pixels live: [`cpu::Cpu`] works on planes in
//! ordinary memory and is the specification; a CUDA place works on camera buffers and must agree with it.
//!
//! ```
//! use kernels::cpu::Cpu;
//! use kernels::{Color, Frame, Kernels, Matrix, Plane, Planes, Range, Rect, Region, Similarity, Values};
//!
//! # fn main() -> kernels::Result<()> {
//! let (mut y, mut uv) = (vec![80; 64 * 48], vec![128; 64 * 24]);
//! let planes = Planes::Nv12 {
//!     y: Plane { data: &mut y, stride: 64 },
//!     uv: Plane { data: &mut uv, stride: 64 },
//! };
//! let color = Color { matrix: Matrix::Bt709, range: Range::Limited };
//! let mut frame = Frame::new(64, 48, color, planes)?;
//!
//! let mut cpu = Cpu::new();
//! let mut crops = cpu.tensor([1, 3, 32, 32])?;
//! let face = Rect::new(10.0, 8.0, 24.0, 30.0);
//! if let Some(align) = Similarity::of_square(&face) {
//!     cpu.warp(&frame, &[align], Values::Signed, &mut crops)?;
//! }
//! cpu.cover(&mut frame, &[Region::Box(face)])?;
//! # Ok(())
//! # }
//! ```
//!
//! # Conventions
//! * Coordinates are continuous: pixel `i` covers `[i, i + 1)` and its centre lies at `i + 0.5`.
//! * A [`Similarity`] maps **frame pixels to the unit crop** `[0, 1] x [0, 1]`, whatever the crop's resolution.
//! * Tensors are NCHW, `f32`, RGB; [`Values`] says what range the numbers have.
//! * Frames stay in the camera's own format ([`Frame`]: I420 or NV12). Nothing here makes a full-frame copy.
//! * Chroma is sited left (H.264 and H.265 `chroma_sample_loc_type` 0, the default of MPEG-2 and of both):
//!   chroma sample `(j, k)` lies at `(2 j + 0.5, 2 k + 1)`, on the left luma sample, between two rows. Every
//!   kernel reads and writes it there.
//! * A sample lies in a hull or a box when its position does. That decides for each luma and each chroma
//!   sample by itself which bytes may change; no other byte, padding included, is ever written.
//!
//! # Arithmetic
//! Written so that another place can repeat it: `f32` throughout, in the order given, without fused
//! multiply-add. What depends only on transforms and hulls is worked out on the host in `f64`, rounded once, and
//! shared by all places (the modules `color`, `grid` and `edges`). Places agree within 1 code value.
//! * **Colour**: the matrices of ITU-R BT.601-7 and BT.709-6, limited or full range; RGB is cut off at 0 and 255
//!   and not rounded.
//! * **Bilinear**: `top + fy (bottom - top)` of `left + fx (right - left)`; positions outside move to the
//!   border.
//! * **Shrinking in warp and blend**: one sample for a result that spans up to 2 source samples; a wider one
//!   takes the mean of `n` x `n` evenly spaced samples, `n` half its width rounded up, at most 16. Means are
//!   taken in Y'CbCr, before the conversion.
//! * **Resize**: each axis of each plane by itself: exact area means where it shrinks, bilinear where it grows;
//!   outside of the frame everything is black.
//! * **Blend**: in Y'CbCr, which is the same as in RGB but keeps every byte with weight 0 as it is. The face is
//!   cut off at -1 and 1, the mask at 0 and 1. The weight is the mask times the distance to the hull's nearest
//!   edge in feathers, at most 1. A feather is 0.1 x 2 x area / perimeter of the hull: a tenth of a round
//!   hull's radius, about 8 pixels for a face of 256, and never more than a fifth of what fits into the hull.
//! * **Judge**: a crop's pixel lies in the hull when its centre does.
//! * **Bytes**: the nearest; of two equally near ones the even one.
//!
//! # When something is wrong
//! Every doubt ends covered. [`Kernels::blend`] refuses a hull without area and a transform without size before
//! it changes anything, so that the caller can cover; a face or mask value that is not finite becomes opaque
//! grey. [`Kernels::cover`] takes its colours only from pixels outside of all regions, and a region without a
//! place (an empty hull, a box with a side that is 0 or not a number, anything 10 million pixels away) covers
//! the whole frame.
//!
//! `docs/adding-a-kernel.md` says how to add a kernel or a place.

mod arguments;
mod axis;
mod color;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod edges;
mod error;
mod frame;
mod geometry;
mod grid;
mod inside;
mod patch;
mod pool;

pub use error::{Error, Result};
pub use frame::{Color, Frame, Matrix, Plane, Planes, Range};
pub use geometry::{
    FIVE_POINT_CHIP, Hull, LANDMARKS, Landmarks, MEAN_FACE, MEAN_FACE_5, Point, Rect, Similarity,
};
pub use pool::Pool;

/// The numeric range of an image tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// RGB from 0 to 255: what the detector, the landmark and the embedding networks take.
    Byte,
    /// RGB from -1 to 1: what the generator takes and gives.
    Signed,
}

/// A face to put back into its frame: where it came from and where it may change pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The transform with which the crop was warped out of the frame.
    pub align: Similarity,
    /// The only region of the frame that may change, in frame pixels.
    pub hull: Hull,
}

/// A region of a frame to make unrecognisable.
#[derive(Debug, Clone, PartialEq)]
// A box would be a heap allocation per covered face and frame.
#[allow(clippy::large_enum_variant)]
pub enum Region {
    /// The convex hull of a face's landmarks.
    Hull(Hull),
    /// An axis-aligned box: a face without trusted landmarks.
    Box(Rect),
    /// The whole frame.
    Frame,
}

/// What a place can do with pixels. Leading dimension of every tensor: one entry per face.
pub trait Kernels {
    /// A frame of this place, borrowed from whoever owns the buffer.
    type Frame<'a>;
    /// A tensor of this place.
    type Tensor: Send;

    /// Makes a zeroed tensor. `shape[0]` is the largest number of faces it can ever hold.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty or overflowing shape; the place's own error when memory is short.
    fn tensor(&mut self, shape: [usize; 4]) -> Result<Self::Tensor>;

    /// Sets how many entries of the tensor are in use, without touching its memory.
    ///
    /// # Errors
    /// [`Error::Shape`] when `entries` is more than the tensor was made for.
    fn resize_batch(&mut self, tensor: &mut Self::Tensor, entries: usize) -> Result<()>;

    /// Copies `values` into entry `entry` of `tensor`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the entry is out of range or the length differs from one entry's.
    fn write(&mut self, tensor: &mut Self::Tensor, entry: usize, values: &[f32]) -> Result<()>;

    /// The tensor's used entries in host memory, waiting for the place to have written them.
    ///
    /// # Errors
    /// The place's own error when the copy fails.
    fn read<'t>(&mut self, tensor: &'t mut Self::Tensor) -> Result<&'t [f32]>;

    /// Begins to bring the tensor's used entries to host memory. Tensors that were fetched come together: the first
    /// [`Kernels::read`] or [`Kernels::finish`] after it waits for all of them, and reading the others takes no wait.
    /// Nothing may be written to the tensor until it has been read.
    ///
    /// # Errors
    /// The place's own error when the copy cannot be asked for.
    fn fetch(&mut self, tensor: &mut Self::Tensor) -> Result<()>;

    /// Scales `region` of the frame to fill entry `entry` of `to` (`[n, 3, h, w]`), averaging when it
    /// shrinks: the detector's input. Parts of `region` outside the frame read as black.
    ///
    /// # Errors
    /// [`Error::Shape`] when `to` is not an image tensor or `entry` not in use; [`Error::Region`] when `region`
    /// has no area; [`Error::Frame`] for a malformed frame.
    fn resize(
        &mut self,
        frame: &Self::Frame<'_>,
        region: Rect,
        values: Values,
        to: &mut Self::Tensor,
        entry: usize,
    ) -> Result<()>;

    /// Samples one aligned square crop per transform, bilinearly, into the first entries of `crops`
    /// (`[n, 3, s, s]`); pixels outside the frame repeat its edge.
    ///
    /// # Errors
    /// [`Error::Shape`] when `crops` holds fewer entries than `to` or is not square; [`Error::Placement`] when a
    /// transform is not finite or has no size.
    fn warp(
        &mut self,
        frame: &Self::Frame<'_>,
        to: &[Similarity],
        values: Values,
        crops: &mut Self::Tensor,
    ) -> Result<()>;

    /// Sees to it that generated faces hide the person: raises each mask to `floor` inside its face's hull, and writes
    /// into `shares` (`[n, 1, 1, 1]`) which share of the hull, 0 to 1, the mask covered with `floor` or more by itself:
    /// 0 when no pixel of the crop lies in the hull, NaN when a value of the face or of its mask is not finite.
    ///
    /// A mask of which much was raised is of a network that refuses to replace the face: what `blend` makes of it is a
    /// mixture with the person, and has to be covered. `faces` and `masks` are those that `blend` is given next.
    ///
    /// # Errors
    /// Those of [`Kernels::blend`], and [`Error::Shape`] when `shares` has not one value for each face.
    fn judge(
        &mut self,
        placements: &[Placement],
        floor: f32,
        faces: &Self::Tensor,
        masks: &mut Self::Tensor,
        shares: &mut Self::Tensor,
    ) -> Result<()>;

    /// Puts generated faces back: `frame = frame + m * (face - frame)` per pixel inside the hull, where
    /// `m` is the mask with a soft edge that reaches 0 at the hull (paper section 3, steps f to h).
    /// `faces` is `[n, 3, s, s]` in [`Values::Signed`], `masks` `[n, 1, s, s]` in 0 to 1. No byte
    /// outside the hulls changes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tensors do not match `placements`, [`Error::Placement`] when a hull is empty or a
    /// transform is not finite or has no size; the frame is then unchanged.
    fn blend(
        &mut self,
        frame: &mut Self::Frame<'_>,
        placements: &[Placement],
        faces: &Self::Tensor,
        masks: &Self::Tensor,
    ) -> Result<()>;

    /// Fills the regions irreversibly with a flat, slowly varying colour taken from outside of all of them; grey
    /// where nothing is outside. [`Region::Frame`], and a region that says nothing about where it is, makes the
    /// whole frame one dark grey.
    ///
    /// # Errors
    /// [`Error::Frame`] for a malformed frame.
    fn cover(&mut self, frame: &mut Self::Frame<'_>, regions: &[Region]) -> Result<()>;

    /// A number for the picture that the frame shows: the same in every format and place, whatever the padding;
    /// another one after any single sample has changed.
    ///
    /// # Errors
    /// [`Error::Frame`] for a malformed frame; the place's own error.
    fn checksum(&mut self, frame: &Self::Frame<'_>) -> Result<u64>;

    /// Waits until everything that was asked for has been done. Only after that may a changed frame be shown: a
    /// place that works beside the processor reports here what went wrong meanwhile.
    ///
    /// # Errors
    /// The place's own error; what was asked for since the last `finish` may not have been done.
    fn finish(&mut self) -> Result<()>;
}
