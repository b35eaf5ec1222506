//! Pixels in, pixels out: the bottom of Persona.
//!
//! A [`Kernels`] implementation is a *place* where pixels live: [`cpu::Cpu`] works on planes in
//! ordinary memory and is the specification; a CUDA place works on camera buffers and must agree with it.
//!
//! # Conventions
//! * Coordinates are continuous: pixel `i` covers `[i, i + 1)` and its centre lies at `i + 0.5`.
//! * A [`Similarity`] maps **frame pixels to the unit crop** `[0, 1] x [0, 1]`, whatever the crop's resolution.
//! * Tensors are NCHW, `f32`, RGB; [`Values`] says what range the numbers have.
//! * Frames stay in the camera's own format ([`Frame`]: I420 or NV12). Nothing here makes a full-frame copy.

mod color;
pub mod cpu;
mod edges;
mod error;
mod frame;
mod geometry;
mod grid;

pub use error::{Error, Result};
pub use frame::{Color, Frame, Matrix, Plane, Planes, Range};
pub use geometry::{
    FIVE_POINT_CHIP, Hull, LANDMARKS, Landmarks, MEAN_FACE, MEAN_FACE_5, Point, Rect, Similarity,
};

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

    /// Scales `region` of the frame to fill entry `entry` of `to` (`[n, 3, h, w]`), averaging when it
    /// shrinks: the detector's input. Parts of `region` outside the frame read as black.
    ///
    /// # Errors
    /// [`Error::Shape`] when `to` is not an image tensor; [`Error::Frame`] for a malformed frame.
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
    /// [`Error::Shape`] when `crops` holds fewer entries than `to` or is not square.
    fn warp(
        &mut self,
        frame: &Self::Frame<'_>,
        to: &[Similarity],
        values: Values,
        crops: &mut Self::Tensor,
    ) -> Result<()>;

    /// Puts generated faces back: `frame = frame + m * (face - frame)` per pixel inside the hull, where
    /// `m` is the mask with a soft edge that reaches 0 at the hull (paper section 3, steps f to h).
    /// `faces` is `[n, 3, s, s]` in [`Values::Signed`], `masks` `[n, 1, s, s]` in 0 to 1. No byte
    /// outside the hulls changes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the tensors do not match `placements`; the frame is then unchanged.
    fn blend(
        &mut self,
        frame: &mut Self::Frame<'_>,
        placements: &[Placement],
        faces: &Self::Tensor,
        masks: &Self::Tensor,
    ) -> Result<()>;

    /// Fills the regions irreversibly with a flat, slowly varying colour taken from outside of them.
    ///
    /// # Errors
    /// [`Error::Frame`] for a malformed frame.
    fn cover(&mut self, frame: &mut Self::Frame<'_>, regions: &[Region]) -> Result<()>;
}
