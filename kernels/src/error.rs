use thiserror::Error;

/// What can go wrong with pixels.
#[derive(Debug, Error)]
pub enum Error {
    /// A tensor has another shape than the operation needs.
    #[error("{operation}: the tensor has shape {got:?}, wanted {wanted}")]
    Shape {
        /// The operation that refused.
        operation: &'static str,
        /// The shape that was passed.
        got: [usize; 4],
        /// What would have been right, in words.
        wanted: String,
    },
    /// A frame's planes do not fit its size.
    #[error("frame {width}x{height}: {reason}")]
    Frame {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// What does not fit.
        reason: String,
    },
    /// A face has no usable place in the frame: cover it instead.
    #[error("{operation}: face {entry} {reason}")]
    Placement {
        /// The operation that refused.
        operation: &'static str,
        /// Which face, counted from 0.
        entry: usize,
        /// What is wrong with its place.
        reason: &'static str,
    },
    /// A region to scale is not a box with an area.
    #[error("{operation}: the region {region:?} is not a box with an area")]
    Region {
        /// The operation that refused.
        operation: &'static str,
        /// The region that was passed.
        region: crate::Rect,
    },
    /// The GPU cannot be used, or did not do what it was asked for.
    #[error("CUDA, {operation}: {reason}")]
    Device {
        /// What was to be done.
        operation: &'static str,
        /// Why it could not be, and what to do about it where something can be done.
        reason: String,
    },
}

/// Result of this package.
pub type Result<T> = std::result::Result<T, Error>;
