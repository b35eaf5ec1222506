//! Regions made unrecognisable.

use super::rows::{change_chroma, luma};
use crate::color::{Coefficients, to_byte};
use crate::patch::{GREY, Patch, SLATE, hull};
use crate::{Frame, Planes, Region};

/// Y, U and V.
type Yuv = [f32; 3];

/// A patch with the colours left, right, above and below of it.
#[derive(Debug)]
pub(super) struct Shaded {
    patch: Patch,
    sides: [Yuv; 4],
}

impl Shaded {
    /// The colour at a position: half of it changes from left to right, half from top to bottom.
    fn color(&self, x: f32, y: f32) -> Yuv {
        let Patch { columns, rows, .. } = &self.patch;
        let across = ((x - columns.start as f32) / columns.len() as f32).clamp(0.0, 1.0);
        let down = ((y - rows.start as f32) / rows.len() as f32).clamp(0.0, 1.0);
        let [left, right, above, below] = &self.sides;
        std::array::from_fn(|i| {
            0.5 * ((left[i] + across * (right[i] - left[i])) + (above[i] + down * (below[i] - above[i])))
        })
    }
}

/// Covers every region. `patches` is scratch.
pub(super) fn cover(frame: &mut Frame<'_>, regions: &[Region], patches: &mut Vec<Shaded>) {
    let color = Coefficients::of(frame.color());
    patches.clear();
    for region in regions {
        match hull(region) {
            Some(hull) => {
                let patch = Patch::of(hull, frame.width(), frame.height());
                patches.extend(patch.map(|patch| Shaded {
                    patch,
                    sides: [[0.0; 3]; 4],
                }));
            }
            None => return fill(frame, color.yuv(SLATE)),
        }
    }
    for i in 0..patches.len() {
        let mut sides = sides(frame, patches, i).unwrap_or([color.yuv(GREY); 4]);
        flatten(&mut sides, patches[i].patch.contrast());
        patches[i].sides = sides;
    }
    for patch in patches.iter() {
        paint(frame, patch);
    }
}

/// The colours around patch `i`: means over a lattice in a band on each side, without the pixels that lie in
/// any patch. A side without pixels takes the mean of the others; `None` when all are without.
fn sides(frame: &Frame<'_>, patches: &[Shaded], i: usize) -> Option<[Yuv; 4]> {
    const ALONG: usize = 16;
    const ACROSS: usize = 4;
    let Patch { columns, rows, .. } = &patches[i].patch;
    let band = (columns.len().max(rows.len()) / 8).max(2);
    let before = |side: &std::ops::Range<usize>| side.start.saturating_sub(band)..side.start;
    let after =
        |side: &std::ops::Range<usize>, limit: usize| side.end.min(limit)..(side.end + band).min(limit);
    let bands = [
        (before(columns), rows.clone(), ACROSS, ALONG),
        (after(columns, frame.width()), rows.clone(), ACROSS, ALONG),
        (columns.clone(), before(rows), ALONG, ACROSS),
        (columns.clone(), after(rows, frame.height()), ALONG, ACROSS),
    ];
    let mut sums = [[0.0; 3]; 4];
    let mut counts = [0.0; 4];
    for (((columns, rows, across, down), sum), count) in bands.into_iter().zip(&mut sums).zip(&mut counts) {
        for k in 0..down {
            let y = rows.start + (2 * k + 1) * rows.len() / (2 * down);
            for l in 0..across {
                let x = columns.start + (2 * l + 1) * columns.len() / (2 * across);
                let inside =
                    columns.contains(&x) && rows.contains(&y) && x < frame.width() && y < frame.height();
                if inside && !patches.iter().any(|other| other.patch.contains(x, y)) {
                    for (sum, value) in sum.iter_mut().zip(pixel(frame.planes(), x, y)) {
                        *sum += value;
                    }
                    *count += 1.0;
                }
            }
        }
    }
    let total: f32 = counts.iter().sum();
    let all: Yuv = std::array::from_fn(|c| sums.iter().map(|sum| sum[c]).sum::<f32>() / total);
    let mean = |side: usize| match counts[side] {
        0.0 => all,
        count => sums[side].map(|sum| sum / count),
    };
    (total > 0.0).then(|| std::array::from_fn(mean))
}

/// Brings the sides nearer to the colour in the middle, to `contrast` of their difference from it.
fn flatten(sides: &mut [Yuv; 4], contrast: f32) {
    for channel in 0..3 {
        let middle: f32 = sides.iter().map(|side| 0.25 * side[channel]).sum();
        for side in sides.iter_mut() {
            side[channel] = middle + contrast * (side[channel] - middle);
        }
    }
}

fn pixel(planes: &Planes<'_>, x: usize, y: usize) -> Yuv {
    let (column, row) = (x / 2, y / 2);
    let (luma, u, v) = match planes {
        Planes::I420 { y: luma, u, v } => (
            luma,
            u.data[row * u.stride + column],
            v.data[row * v.stride + column],
        ),
        Planes::Nv12 { y: luma, uv } => {
            let pair = &uv.data[row * uv.stride + 2 * column..];
            (luma, pair[0], pair[1])
        }
    };
    [luma.data[y * luma.stride + x], u, v].map(f32::from)
}

fn paint(frame: &mut Frame<'_>, shaded: &Shaded) {
    let patch = &shaded.patch;
    let (left, top) = (patch.columns.start, patch.rows.start);
    for j in 0..patch.pixel_rows() {
        let span = patch.pixels(j);
        let y = (top + j) as f32 + 0.5;
        let pixels = luma(frame.planes_mut(), top + j, left + span.start, span.len());
        for (i, pixel) in pixels.iter_mut().enumerate() {
            let x = (left + span.start + i) as f32 + 0.5;
            *pixel = to_byte(shaded.color(x, y)[0]);
        }
    }
    for j in 0..patch.chroma_rows() {
        let span = patch.chroma(j);
        let y = (top + 2 * j) as f32 + 1.0;
        let first = left / 2 + span.start;
        change_chroma(frame.planes_mut(), top / 2 + j, first, span.len(), |i, _| {
            let [_, u, v] = shaded.color(2.0 * (first + i) as f32 + 0.5, y);
            [to_byte(u), to_byte(v)]
        });
    }
}

/// Gives the whole frame one colour.
fn fill(frame: &mut Frame<'_>, color: Yuv) {
    let (width, height) = (frame.width(), frame.height());
    let [y, u, v] = color.map(to_byte);
    for row in 0..height {
        luma(frame.planes_mut(), row, 0, width).fill(y);
    }
    for row in 0..height.div_ceil(2) {
        change_chroma(frame.planes_mut(), row, 0, width.div_ceil(2), |_, _| [u, v]);
    }
}
