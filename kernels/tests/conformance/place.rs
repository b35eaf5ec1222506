//! What the suite needs from a place under test.

use kernels::Kernels;
use kernels::cpu::Cpu;

use super::picture::Picture;

/// A place with its way to lend frames: one implementation per place, nothing else in the suite knows places.
pub trait Place {
    /// The kernels under test.
    type Kernels: Kernels;

    /// Fresh kernels.
    fn kernels() -> Self::Kernels;

    /// Lends `picture` as a frame of the place and brings what `work` did to it back, padding included.
    fn lend<R>(
        kernels: &mut Self::Kernels,
        picture: &mut Picture,
        work: impl FnOnce(&mut Self::Kernels, &mut <Self::Kernels as Kernels>::Frame<'_>) -> R,
    ) -> R;
}

impl Place for Cpu {
    type Kernels = Cpu;

    fn kernels() -> Cpu {
        Cpu::new()
    }

    fn lend<R>(
        kernels: &mut Cpu,
        picture: &mut Picture,
        work: impl FnOnce(&mut Cpu, &mut kernels::Frame<'_>) -> R,
    ) -> R {
        work(kernels, &mut picture.frame())
    }
}
