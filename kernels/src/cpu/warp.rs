//! Crops out of a frame.

use super::sample::{LANES, Sum};
use crate::color::Coefficients;
use crate::grid::Grid;
use crate::{Frame, Similarity, Values};

/// Fills `crop` (3 x side x side) with what lies under the unit square of `align`.
pub(super) fn warp(frame: &Frame<'_>, align: &Similarity, values: Values, side: usize, crop: &mut [f32]) {
    let color = Coefficients::of(frame.color());
    let (scale, offset) = values.of_byte();
    let size = [frame.width(), frame.height()];
    let grid = Grid::of_crop(align, side);
    let samples = grid.samples;
    let share = 1.0 / (samples * samples) as f32;
    let (red, rest) = crop.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    for j in 0..side {
        for i in (0..side).step_by(LANES) {
            let mut sum = Sum::zero();
            for sample_j in 0..samples {
                for sample_i in 0..samples {
                    let first = i * samples + sample_i;
                    let [x, y] = grid.positions(first, samples, j * samples + sample_j);
                    sum.add(frame.planes(), size, color.black, &x, &y);
                }
            }
            let mut rgb = [[0.0; LANES]; 3];
            for lane in 0..LANES {
                let [r, g, b] = color.rgb(sum.y[lane] * share, sum.u[lane] * share, sum.v[lane] * share);
                rgb[0][lane] = r * scale + offset;
                rgb[1][lane] = g * scale + offset;
                rgb[2][lane] = b * scale + offset;
            }
            let count = LANES.min(side - i);
            for (channel, values) in [&mut *red, &mut *green, &mut *blue].into_iter().zip(&rgb) {
                channel[j * side + i..][..count].copy_from_slice(&values[..count]);
            }
        }
    }
}
