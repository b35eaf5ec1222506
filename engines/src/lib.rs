//! Networks in, tensors out.

use kernels::Kernels;

/// One loaded network on one place.
pub trait Engine<K: Kernels>: Send {
    /// Runs the network once over the entries in use of `inputs`. The caller has set the shapes of `outputs`
    /// (same number of entries); the engine writes into them without allocating.
    ///
    /// # Errors
    /// When a shape is not the network's, or the runtime fails. The outputs are then undefined.
    fn run(
        &mut self,
        inputs: &[&K::Tensor],
        outputs: &mut [K::Tensor],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
