//! Requests of several pipelines in memory of their own, so that they go through a network in one run.

use kernels::Kernels;

use crate::shared::Batch;
use crate::{Engine, Port, Result, Shared, Signature};

/// How entries get from the tensors of pipelines into memory that they share, and back.
pub(crate) trait Gather<K: Kernels>: Send {
    /// The place of the shared memory.
    fn place(&mut self) -> &mut K;
    /// The shape in use.
    fn shape(tensor: &K::Tensor) -> [usize; 4];
    /// Copies all entries of `from` to `to`, tensor by tensor, to the entries from `first` on.
    ///
    /// # Errors
    /// The place's own.
    fn put(&self, from: &[&K::Tensor], first: usize, to: &mut [K::Tensor]) -> Result<()>;
    /// Asks for `work` on tensors of the shared memory, of which `of` is one, after everything that was copied before and
    /// before everything that is copied later.
    ///
    /// # Errors
    /// The place's own; those of `work`.
    fn in_order(&self, of: &K::Tensor, work: impl FnOnce() -> Result<()>) -> Result<()>;
    /// Copies the entries of `from` from `first` on to `to`, as many as that has.
    ///
    /// # Errors
    /// The place's own.
    fn take(&self, from: &[K::Tensor], first: usize, to: &mut [K::Tensor]) -> Result<()>;
}

/// Room for requests.
struct Together<K: Kernels, G> {
    // Dropped first: what it has asked for works in the tensors.
    gather: G,
    inputs: Vec<K::Tensor>,
    outputs: Vec<K::Tensor>,
    /// Most entries.
    most: usize,
    /// Entries that were put in.
    used: usize,
}

impl<K: Kernels, G: Gather<K>> Together<K, G> {
    /// Room for `most` entries of a network whose tensors have sizes of their own but for the number of entries.
    fn new(mut gather: G, signature: &Signature, most: usize) -> Result<Self> {
        let mut tensors = |ports: &[Port]| {
            let shape = |port: &Port| {
                let mut shape = [1; 4];
                for (size, dim) in shape.iter_mut().zip(&port.dims) {
                    *size = dim.unwrap_or(most);
                }
                shape
            };
            ports
                .iter()
                .map(|port| gather.place().tensor(shape(port)))
                .collect::<kernels::Result<Vec<_>>>()
        };
        let (inputs, outputs) = (tensors(&signature.inputs)?, tensors(&signature.outputs)?);
        Ok(Self {
            gather,
            inputs,
            outputs,
            most,
            used: 0,
        })
    }
}

impl<K, G> Batch<K> for Together<K, G>
where
    K: Kernels,
    K::Tensor: Send,
    G: Gather<K>,
{
    fn entries(&self, inputs: &[&K::Tensor], outputs: &[K::Tensor]) -> Option<usize> {
        let entries = G::shape(inputs.first()?)[0];
        let fits = |own: &K::Tensor, other: &K::Tensor| {
            let (own, other) = (G::shape(own), G::shape(other));
            other[0] == entries && other[1..] == own[1..]
        };
        let fits = (self.inputs.len(), self.outputs.len()) == (inputs.len(), outputs.len())
            && self
                .inputs
                .iter()
                .zip(inputs)
                .all(|(own, other)| fits(own, other))
            && self
                .outputs
                .iter()
                .zip(outputs)
                .all(|(own, other)| fits(own, other));
        (fits && entries > 0).then_some(entries)
    }

    fn capacity(&self) -> usize {
        self.most
    }

    fn put(&mut self, first: usize, inputs: &[&K::Tensor]) -> Result<()> {
        self.used = first + inputs.first().map_or(0, |input| G::shape(input)[0]);
        for own in &mut self.inputs {
            self.gather.place().resize_batch(own, self.used)?;
        }
        self.gather.put(inputs, first, &mut self.inputs)
    }

    fn run(&mut self, engine: &mut dyn Engine<K>) -> Result<()> {
        for output in &mut self.outputs {
            self.gather.place().resize_batch(output, self.used)?;
        }
        let Self {
            gather,
            inputs,
            outputs,
            ..
        } = self;
        match inputs.as_slice() {
            [] => engine.run(&[], outputs),
            [one] => gather.in_order(one, || engine.run(&[one], outputs)),
            [one, two] => gather.in_order(one, || engine.run(&[one, two], outputs)),
            // No network here has more; a list would be memory for every run.
            [one, ..] => gather.in_order(one, || engine.run(&inputs.iter().collect::<Vec<_>>(), outputs)),
        }
    }

    fn take(&self, first: usize, outputs: &mut [K::Tensor]) -> Result<()> {
        self.gather.take(&self.outputs, first, outputs)
    }
}

impl<K> Shared<K>
where
    K: Kernels + 'static,
    K::Tensor: Send,
{
    /// Shares a network whose requests are put together up to `most` entries in a run: in one of the two while the other
    /// one's run.
    ///
    /// # Errors
    /// [`crate::Error::Kernels`] when memory is short or `most` is 0.
    pub(crate) fn gathering<G: Gather<K> + 'static>(
        engine: Box<dyn Engine<K>>,
        signature: &Signature,
        most: usize,
        groups: [G; 2],
    ) -> Result<Self> {
        let batch = |gather| {
            let batch = Together::new(gather, signature, most)?;
            Ok(Box::new(batch) as Box<dyn Batch<K>>)
        };
        let batches: Result<_> = groups.into_iter().map(batch).collect();
        Ok(Self::with(&signature.network, engine, batches?))
    }
}
