//! Pixels in ordinary memory: the specification that every other place must agree with.

mod blend;
mod cover;
mod resize;
mod rows;
// One index walks several arrays of lanes together.
#[allow(clippy::needless_range_loop)]
mod sample;
mod tensor;
#[allow(clippy::needless_range_loop)]
mod warp;

pub use tensor::Tensor;

use crate::{Error, Frame, Kernels, Placement, Rect, Region, Result, Similarity, Values, grid};

/// The CPU as a place for pixels.
///
/// It keeps the memory that its operations need; after the first calls at a size none of them allocates.
#[derive(Debug, Default)]
pub struct Cpu {
    texels: Vec<sample::Texel>,
    patches: Vec<cover::Patch>,
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

    fn resize(
        &mut self,
        frame: &Frame<'_>,
        region: Rect,
        values: Values,
        to: &mut Tensor,
        entry: usize,
    ) -> Result<()> {
        frame.check()?;
        let [entries, channels, height, width] = to.shape();
        if channels != 3 || entry >= entries {
            return Err(Error::Shape {
                operation: "resize",
                got: to.shape(),
                wanted: format!("an entry {entry} of 3 channels"),
            });
        }
        let Rect { x, y, .. } = region;
        let sound = |start: f32, length: f32| start.abs() < 1e9 && length > 0.0 && length < 1e9;
        if !sound(x, region.width) || !sound(y, region.height) {
            return Err(Error::Region {
                operation: "resize",
                region,
            });
        }
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
        let [entries, channels, height, width] = crops.shape();
        if channels != 3 || height != width || entries < to.len() {
            return Err(Error::Shape {
                operation: "warp",
                got: crops.shape(),
                wanted: format!("at least {} square entries of 3 channels", to.len()),
            });
        }
        check_transforms("warp", to.iter())?;
        for (entry, align) in to.iter().enumerate() {
            warp::warp(frame, align, values, width, crops.entry_mut(entry));
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
        let [entries, channels, height, side] = faces.shape();
        if channels != 3 || height != side || entries < placements.len() {
            return Err(Error::Shape {
                operation: "blend",
                got: faces.shape(),
                wanted: format!(
                    "faces: at least {} square entries of 3 channels",
                    placements.len()
                ),
            });
        }
        if masks.shape()[0] < placements.len() || masks.shape()[1..] != [1, side, side] {
            return Err(Error::Shape {
                operation: "blend",
                got: masks.shape(),
                wanted: format!(
                    "masks: at least {} entries of [1, {side}, {side}]",
                    placements.len()
                ),
            });
        }
        check_transforms("blend", placements.iter().map(|placement| &placement.align))?;
        if let Some(entry) = placements.iter().position(|placement| placement.hull.is_empty()) {
            return Err(Error::Placement {
                operation: "blend",
                entry,
                reason: "has a hull without area",
            });
        }
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
}

/// Refuses transforms whose positions would not be numbers.
fn check_transforms<'s>(
    operation: &'static str,
    mut transforms: impl Iterator<Item = &'s Similarity>,
) -> Result<()> {
    match transforms.position(|align| !grid::is_sound(align)) {
        Some(entry) => Err(Error::Placement {
            operation,
            entry,
            reason: "has a transform that is not finite or without size",
        }),
        None => Ok(()),
    }
}
