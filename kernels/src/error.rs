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
}

/// Result of this package.
pub type Result<T> = std::result::Result<T, Error>;
