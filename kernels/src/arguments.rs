//! What a kernel refuses before it changes anything, the same in every place.

use crate::{Error, Placement, Rect, Result, Similarity, grid};

/// For [`crate::Kernels::resize`] into a tensor of this shape.
pub(crate) fn resize(to: [usize; 4], region: Rect, entry: usize) -> Result<()> {
    let [entries, channels, ..] = to;
    if channels != 3 || entry >= entries {
        return Err(Error::Shape {
            operation: "resize",
            got: to,
            wanted: format!("an entry {entry} of 3 channels"),
        });
    }
    let sound = |start: f32, length: f32| start.abs() < 1e9 && length > 0.0 && length < 1e9;
    if !sound(region.x, region.width) || !sound(region.y, region.height) {
        return Err(Error::Region {
            operation: "resize",
            region,
        });
    }
    Ok(())
}

/// For [`crate::Kernels::warp`] into a tensor of this shape.
pub(crate) fn warp(crops: [usize; 4], to: &[Similarity]) -> Result<()> {
    let [entries, channels, height, width] = crops;
    if channels != 3 || height != width || entries < to.len() {
        return Err(Error::Shape {
            operation: "warp",
            got: crops,
            wanted: format!("at least {} square entries of 3 channels", to.len()),
        });
    }
    transforms("warp", to.iter())
}

/// For [`crate::Kernels::judge`] of tensors of these shapes.
pub(crate) fn judge(
    faces: [usize; 4],
    masks: [usize; 4],
    shares: [usize; 4],
    placements: &[Placement],
) -> Result<()> {
    placed("judge", faces, masks, placements)?;
    let count = placements.len();
    if shares[0] < count || shares[1..] != [1; 3] {
        return Err(Error::Shape {
            operation: "judge",
            got: shares,
            wanted: format!("shares: at least {count} entries of one value"),
        });
    }
    Ok(())
}

/// For [`crate::Kernels::blend`] from tensors of these shapes.
pub(crate) fn blend(faces: [usize; 4], masks: [usize; 4], placements: &[Placement]) -> Result<()> {
    placed("blend", faces, masks, placements)
}

fn placed(
    operation: &'static str,
    faces: [usize; 4],
    masks: [usize; 4],
    placements: &[Placement],
) -> Result<()> {
    let count = placements.len();
    let [entries, channels, height, side] = faces;
    if channels != 3 || height != side || entries < count {
        return Err(Error::Shape {
            operation,
            got: faces,
            wanted: format!("faces: at least {count} square entries of 3 channels"),
        });
    }
    if masks[0] < count || masks[1..] != [1, side, side] {
        return Err(Error::Shape {
            operation,
            got: masks,
            wanted: format!("masks: at least {count} entries of [1, {side}, {side}]"),
        });
    }
    transforms(operation, placements.iter().map(|placement| &placement.align))?;
    match placements.iter().position(|placement| placement.hull.is_empty()) {
        Some(entry) => Err(Error::Placement {
            operation,
            entry,
            reason: "has a hull without area",
        }),
        None => Ok(()),
    }
}

/// Refuses transforms whose positions would not be numbers.
fn transforms<'s>(
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
