//! Sex and age as a recogniser's descriptors tell them, read by a linear layer that trains along. A recogniser that
//! is led away from a person finds another sex farthest of all; this takes the reward away in its own terms.

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::optimizer::Adam;

const RATE: f64 = 1e-2;

/// The reader of one recogniser.
#[derive(Debug)]
pub struct Reader {
    weight: Tensor,
    bias: Tensor,
    adam: Adam,
}

impl Reader {
    /// Makes the reader's variables, for descriptors of `width` numbers and so many `labels`, under `path`. Untrained
    /// it reads zeros.
    pub fn new(path: &Path, width: i64, labels: i64, beta_1: f64, beta_2: f64) -> Self {
        let (weight, bias) = (
            path.zeros("weight", &[width, labels]),
            path.zeros("bias", &[labels]),
        );
        let name = path.components().collect::<Vec<_>>().join(".");
        let variables = vec![
            (format!("{name}.weight"), weight.shallow_clone()),
            (format!("{name}.bias"), bias.shallow_clone()),
        ];
        Self {
            adam: Adam::new(variables, beta_1, beta_2),
            weight,
            bias,
        }
    }

    /// How far descriptors `[n, d]` are from telling `labels` `[n, k]`: the mean square.
    pub fn error(&self, descriptors: &Tensor, labels: &Tensor) -> Tensor {
        let read = descriptors.matmul(&self.weight) + &self.bias;
        (read - labels).square().mean(Kind::Float)
    }

    /// Learns from descriptors of pictures and their labels. `step` counts from 1.
    ///
    /// # Errors
    /// When the descriptors have another width.
    pub fn learn(&mut self, descriptors: &Tensor, labels: &Tensor, step: u64) -> anyhow::Result<()> {
        let loss = self.error(&descriptors.detach(), labels);
        self.adam.descend(&loss, step, RATE)
    }

    /// The optimiser's moments, by name.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        self.adam.state("adam")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, nn::VarStore};

    #[test]
    fn it_learns_what_descriptors_tell() {
        let _turn = crate::take_turn();
        tch::manual_seed(2);
        let store = VarStore::new(Device::Cpu);
        let mut reader = Reader::new(&store.root(), 8, 2, 0.5, 0.99);
        let draw = || {
            let descriptors = Tensor::randn([16, 8], (Kind::Float, Device::Cpu));
            let labels = descriptors.narrow(1, 0, 2) * 0.5 + 0.25;
            (descriptors, labels)
        };
        let error = |reader: &Reader| {
            let (descriptors, labels) = draw();
            reader.error(&descriptors, &labels).double_value(&[])
        };
        let before = error(&reader);
        for step in 1..=300 {
            let (descriptors, labels) = draw();
            reader.learn(&descriptors, &labels, step).unwrap();
        }
        let after = error(&reader);
        assert!(before > 0.1 && after < 0.01, "{before} to {after}");
    }
}
