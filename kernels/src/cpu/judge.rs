//! Masks that hide the person.

use crate::{Placement, inside};

/// Raises one face's mask inside the hull to `floor`; gives the share of the hull that it covered by itself.
pub(super) fn judge(placement: &Placement, floor: f32, side: usize, face: &[f32], mask: &mut [f32]) -> f32 {
    let is_sound = face.iter().chain(&*mask).all(|value| value.is_finite());
    let (mut inside, mut own) = (0_u32, 0_u32);
    for (values, span) in mask.chunks_exact_mut(side).zip(inside::rows(placement, side)) {
        inside += span.len() as u32;
        for value in &mut values[span] {
            // What is no number stays: `blend` makes it grey.
            if *value < floor {
                *value = floor;
            } else {
                own += 1;
            }
        }
    }
    match (is_sound, inside) {
        (false, _) => f32::NAN,
        (true, 0) => 0.0,
        (true, _) => own as f32 / inside as f32,
    }
}
