//! Pixels in ordinary memory: the specification that every other place must agree with.

mod blend;
mod checksum;
mod cover;
mod judge;
mod resize;
mod rows;
// One index walks several arrays of lanes together.
#[allow(clippy::needless_range_loop)]
mod sample;
mod tensor;
#[allow(clippy::needless_range_loop)]
mod warp;

pub use tensor::Tensor;

use crate::{Frame, Kernels, Placement, Rect, Region, Result, Similarity, Values, arguments};

/// The CPU as a place for pixels.
///
/// It keeps the memory that its operations need; after the first calls at a size none of them allocates.
#[derive(Debug, Default)]
pub struct Cpu {
    texels: Vec<sample::Texel>,
    patches: Vec<cover::Shaded>,
    scaling: resize::Scratch,
}

impl Cpu {
    /// The CPU, without memory yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Kernels for Cpu {
    type Frame<'a> = Frame<'a>;
    type Tensor = Tensor;

    fn tensor(&mut self, shape: [usize; 4]) -> Result<Tensor> {
        Tensor::new(shape)
    }

    fn resize_batch(&mut self, tensor: &mut Tensor, entries: usize) -> Result<()> {
        tensor.resize_batch(entries)
    }

    fn write(&mut self, tensor: &mut Tensor, entry: usize, values: &[f32]) -> Result<()> {
        tensor.write(entry, values)
    }

    fn read<'t>(&mut self, tensor: &'t mut Tensor) -> Result<&'t [f32]> {
        Ok(tensor.data())
    }

    fn fetch(&mut self, _: &mut Tensor) -> Result<()> {
        Ok(())
    }

    fn resize(
        &mut self,
        frame: &Frame<'_>,
        region: Rect,
        values: Values,
        to: &mut Tensor,
        entry: usize,
    ) -> Result<()> {
        frame.check()?;
        arguments::resize(to.shape(), region, entry)?;
        let [_, _, height, width] = to.shape();
        resize::resize(
            frame,
            region,
            values,
            [height, width],
            to.entry_mut(entry),
            &mut self.scaling,
        );
        Ok(())
    }

    fn warp(
        &mut self,
        frame: &Frame<'_>,
        to: &[Similarity],
        values: Values,
        crops: &mut Tensor,
    ) -> Result<()> {
        frame.check()?;
        arguments::warp(crops.shape(), to)?;
        let side = crops.shape()[3];
        for (entry, align) in to.iter().enumerate() {
            warp::warp(frame, align, values, side, crops.entry_mut(entry));
        }
        Ok(())
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
        let side = faces.shape()[3];
        for (entry, placement) in placements.iter().enumerate() {
            let (face, mask) = (faces.entry(entry), masks.entry_mut(entry));
            shares.data_mut()[entry] = judge::judge(placement, floor, side, face, mask);
        }
        Ok(())
    }

    fn blend(
        &mut self,
        frame: &mut Frame<'_>,
        placements: &[Placement],
        faces: &Tensor,
        masks: &Tensor,
    ) -> Result<()> {
        frame.check()?;
        arguments::blend(faces.shape(), masks.shape(), placements)?;
        let side = faces.shape()[3];
        self.texels.resize(side * side, [0.0; 4]);
        for (entry, placement) in placements.iter().enumerate() {
            let (face, mask) = (faces.entry(entry), masks.entry(entry));
            blend::blend(frame, placement, side, face, mask, &mut self.texels);
        }
        Ok(())
    }

    fn cover(&mut self, frame: &mut Frame<'_>, regions: &[Region]) -> Result<()> {
        frame.check()?;
        cover::cover(frame, regions, &mut self.patches);
        Ok(())
    }

    fn checksum(&mut self, frame: &Frame<'_>) -> Result<u64> {
        frame.check()?;
        Ok(checksum::checksum(frame))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
