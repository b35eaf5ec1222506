//! Generated faces back into their frame.

use std::ops::Range;

use super::rows::{change_chroma, luma};
use super::sample::{LANES, Texel, add_texels};
use crate::color::{Coefficients, to_byte};
use crate::edges::Edges;
use crate::grid::Grid;
use crate::{Frame, Placement, Point, Similarity};

/// The pixels of a crop that some sample inside the hull looks at: columns and rows.
fn reach(placement: &Placement, side: usize) -> [Range<usize>; 2] {
    // In f64, where no product of finite numbers overflows.
    let Similarity { a, b, tx, ty } = placement.align;
    let [a, b, tx, ty] = [a, b, tx, ty].map(|value| f64::from(value) * side as f64);
    // A chroma cell is 2 frame pixels wide and may begin at the hull; a bilinear tap looks one pixel further.
    let margin = 2.0 + 2.0 * a.hypot(b);
    let mut low = [f64::INFINITY; 2];
    let mut high = [f64::NEG_INFINITY; 2];
    for vertex in placement.hull.vertices() {
        let (x, y) = (f64::from(vertex.x), f64::from(vertex.y));
        for (i, position) in [a * x - b * y + tx, b * x + a * y + ty].into_iter().enumerate() {
            low[i] = low[i].min(position - margin);
            high[i] = high[i].max(position + margin);
        }
    }
    // Positions outside of the crop repeat its border, so at least one pixel is always looked at.
    [0, 1].map(|i| {
        let first = (low[i].max(0.0) as usize).min(side - 1);
        first..(high[i].max(0.0).ceil() as usize).clamp(first + 1, side)
    })
}

/// Fills the texels at `columns` and `rows` with Y, U, V and mask of a face (3 x side x side, -1 to 1) and its
/// mask (side x side).
///
/// Colours are cut off at -1 and 1, the mask at 0 and 1. A pixel with a number that is not finite becomes
/// opaque grey: what the network did not say must not let the person show through.
fn convert(
    face: &[f32],
    mask: &[f32],
    side: usize,
    [columns, rows]: [Range<usize>; 2],
    color: &Coefficients,
    texels: &mut [Texel],
) {
    let [grey_y, grey_u, grey_v] = color.yuv([127.5; 3]);
    let (red, rest) = face.split_at(mask.len());
    let (green, blue) = rest.split_at(mask.len());
    for row in rows {
        let part = row * side + columns.start..row * side + columns.end;
        let [red, green, blue, mask] = [red, green, blue, mask].map(|values| &values[part.clone()]);
        for ((((texel, r), g), b), m) in texels[part].iter_mut().zip(red).zip(green).zip(blue).zip(mask) {
            let sound = r.is_finite() & g.is_finite() & b.is_finite() & m.is_finite();
            let [y, u, v] = color.yuv([r, g, b].map(|c| (c.clamp(-1.0, 1.0) + 1.0) * 127.5));
            *texel = if sound {
                [y, u, v, m.clamp(0.0, 1.0)]
            } else {
                [grey_y, grey_u, grey_v, 1.0]
            };
        }
    }
}

/// The mean texels of `LANES` cells from cell `(i, j)` on.
fn sample(texels: &[Texel], side: usize, grid: &Grid, i: usize, j: usize, means: &mut [Texel; LANES]) {
    let samples = grid.samples;
    *means = [[0.0; 4]; LANES];
    for sample_j in 0..samples {
        for sample_i in 0..samples {
            let first = i * samples + sample_i;
            let [x, y] = grid.positions(first, samples, j * samples + sample_j);
            add_texels(texels, side, &x, &y, means);
        }
    }
    let share = 1.0 / (samples * samples) as f32;
    for value in means.as_flattened_mut() {
        *value *= share;
    }
}

/// Blends one face. `texels` is scratch of side x side.
pub(super) fn blend(
    frame: &mut Frame<'_>,
    placement: &Placement,
    side: usize,
    face: &[f32],
    mask: &[f32],
    texels: &mut [Texel],
) {
    let color = Coefficients::of(frame.color());
    convert(face, mask, side, reach(placement, side), &color, texels);
    let edges = Edges::of(&placement.hull, frame.width(), frame.height());
    let [left, top] = edges.origin;
    let [width, height] = edges.size;
    let corner = |dx: f32| Point::new(left as f32 + dx, top as f32);

    let mut means = [[0.0; 4]; LANES];
    let grid = Grid::of_frame(&placement.align, side, corner(0.0), 1.0);
    for j in 0..height {
        let row = edges.row(j as f32 + 0.5);
        let span = row.span(0.5, 1.0, width);
        for i in span.clone().step_by(LANES) {
            let count = LANES.min(span.end - i);
            sample(texels, side, &grid, i, j, &mut means);
            let mut weights = [0.0; LANES];
            row.weights(i as f32 + 0.5, 1.0, &mut weights);
            let pixels = luma(frame.planes_mut(), top + j, left + i, count);
            for (lane, pixel) in pixels.iter_mut().enumerate() {
                let [y, _, _, mask] = means[lane];
                *pixel = mix(*pixel, y, mask * weights[lane]);
            }
        }
    }

    // Chroma samples lie on every other pixel, between two rows.
    let grid = Grid::of_frame(&placement.align, side, corner(-0.5), 2.0);
    for j in 0..height.div_ceil(2) {
        let row = edges.row(2.0 * j as f32 + 1.0);
        let span = row.span(0.5, 2.0, width.div_ceil(2));
        for i in span.clone().step_by(LANES) {
            let count = LANES.min(span.end - i);
            sample(texels, side, &grid, i, j, &mut means);
            let mut weights = [0.0; LANES];
            row.weights(2.0 * i as f32 + 0.5, 2.0, &mut weights);
            let (row, first) = (top / 2 + j, left / 2 + i);
            change_chroma(frame.planes_mut(), row, first, count, |lane, [u, v]| {
                let [_, to_u, to_v, mask] = means[lane];
                let weight = mask * weights[lane];
                [mix(u, to_u, weight), mix(v, to_v, weight)]
            });
        }
    }
}

/// `from + weight * (to - from)`, rounded to the nearest byte.
#[inline(always)]
fn mix(from: u8, to: f32, weight: f32) -> u8 {
    let from = f32::from(from);
    to_byte(from + weight * (to - from))
}
