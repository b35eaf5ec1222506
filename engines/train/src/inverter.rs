//! An attacker that trains along: a linear layer that leads a recogniser's descriptors of outputs back to those of
//! their originals. What it still finds, the generator is told to hide (`train attack` trains a stronger one).

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::losses;
use crate::optimizer::Adam;

const RATE: f64 = 1e-3;

/// The inverter of one recogniser.
#[derive(Debug)]
pub struct Inverter {
    weight: Tensor,
    adam: Adam,
}

impl Inverter {
    /// Makes the inverter's variable, for descriptors of `width` numbers, under `path`. Untrained it changes nothing.
    pub fn new(path: &Path, width: i64, beta_1: f64, beta_2: f64) -> Self {
        let identity = Tensor::eye(width, (Kind::Float, path.device()));
        let weight = path.var_copy("weight", &identity);
        let name = path.components().collect::<Vec<_>>().join(".");
        Self {
            adam: Adam::new(vec![(name, weight.shallow_clone())], beta_1, beta_2),
            weight,
        }
    }

    /// What it knows of the originals, in nats: descriptors `[n, d]` of both.
    pub fn knows(&self, outputs: &Tensor, originals: &Tensor) -> Tensor {
        losses::matched(&outputs.matmul(&self.weight), originals)
    }

    /// Learns from outputs and their originals. `step` counts from 1.
    ///
    /// # Errors
    /// When the descriptors have another width.
    pub fn learn(&mut self, outputs: &Tensor, originals: &Tensor, step: u64) -> anyhow::Result<()> {
        let loss = -self.knows(&outputs.detach(), &originals.detach());
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
    fn it_learns_to_undo_a_rotation() {
        let _turn = crate::take_turn();
        tch::manual_seed(2);
        let store = VarStore::new(Device::Cpu);
        let mut inverter = Inverter::new(&store.root(), 8, 0.9, 0.99);
        let draw = || {
            let originals = Tensor::randn([32, 8], (Kind::Float, Device::Cpu));
            (originals.roll([3], [1]), originals)
        };
        let (outputs, originals) = draw();
        let before = inverter.knows(&outputs, &originals).double_value(&[]);
        for step in 1..=600 {
            let (outputs, originals) = draw();
            inverter.learn(&outputs, &originals, step).unwrap();
        }
        let after = inverter.knows(&outputs, &originals).double_value(&[]);
        assert!(before < 0.5 && after > 2.5, "{before} to {after}");
    }
}
