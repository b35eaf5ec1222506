//! A frame scaled to a network's input: area means where it shrinks, bilinear where it grows.

use super::sample::View;
use crate::color::Coefficients;
use crate::{Frame, Planes, Rect, Values};

/// The source samples of one result along one axis: the first weighs `head`, the last `tail`, those between
/// weigh 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tap {
    first: usize,
    /// 0 outside of the frame; with 1 only `head` counts.
    count: usize,
    head: f32,
    tail: f32,
}

impl Tap {
    fn weight(&self) -> f32 {
        match self.count {
            0 => 0.0,
            1 => self.head,
            count => self.head + (count - 2) as f32 + self.tail,
        }
    }
}

/// The taps of all results along one axis and what their sums are multiplied with.
#[derive(Debug, Default)]
struct Axis {
    taps: Vec<Tap>,
    scale: f32,
}

/// How positions along an axis of the frame become positions in a plane, where sample `i` is the cell
/// `[i, i + 1)`: `(position + shift) * zoom`.
#[derive(Debug, Clone, Copy)]
struct Cells {
    count: usize,
    shift: f64,
    zoom: f64,
}

impl Axis {
    /// The taps of `results` equal parts of `[start, start + length)` in frame pixels; `limit` is the frame's
    /// side and `cells` are the plane's samples.
    fn set(&mut self, start: f64, length: f64, results: usize, limit: usize, cells: Cells) {
        let step = length / results as f64;
        let shrinks = step * cells.zoom >= 1.0;
        let limit = limit as f64;
        let last = cells.count - 1;
        let place = |position: f64| (position.clamp(0.0, limit) + cells.shift) * cells.zoom;
        self.scale = if shrinks {
            (1.0 / (step * cells.zoom)) as f32
        } else {
            1.0
        };
        self.taps.clear();
        self.taps.extend((0..results).map(|i| {
            let (low, high) = (start + i as f64 * step, start + (i + 1) as f64 * step);
            if shrinks {
                area(place(low), place(high), last)
            } else {
                let middle = 0.5 * (low + high);
                if (0.0..limit).contains(&middle) {
                    between(place(middle) - 0.5, last)
                } else {
                    Tap::default()
                }
            }
        }));
    }
}

/// The part of each cell in `[low, high)`; what lies beyond the first or last cell counts for that cell.
fn area(low: f64, high: f64, last: usize) -> Tap {
    if high <= low {
        return Tap::default();
    }
    let first = (low as usize).min(last);
    let end = ((high.ceil() as usize).saturating_sub(1)).clamp(first, last);
    if first == end {
        return Tap {
            first,
            count: 1,
            head: (high - low) as f32,
            tail: 0.0,
        };
    }
    Tap {
        first,
        count: end - first + 1,
        head: ((first + 1) as f64 - low) as f32,
        tail: (high - end as f64) as f32,
    }
}

/// The two samples around a position, where sample `i` lies at `i`.
fn between(position: f64, last: usize) -> Tap {
    let position = position.clamp(0.0, last as f64);
    let first = (position as usize).min(last.saturating_sub(1));
    let tail = (position - first as f64) as f32;
    Tap {
        first,
        count: 2.min(last + 1),
        head: 1.0 - tail,
        tail,
    }
}

/// Memory that a call needs and the next one uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    luma: [Axis; 2],
    chroma: [Axis; 2],
    sums: Vec<f32>,
}

/// Fills `image` (3 x height x width) with a region of the frame.
pub(super) fn resize(
    frame: &Frame<'_>,
    region: Rect,
    values: Values,
    [height, width]: [usize; 2],
    image: &mut [f32],
    scratch: &mut Scratch,
) {
    let color = Coefficients::of(frame.color());
    let Scratch { luma, chroma, sums } = scratch;
    let sides = [frame.width(), frame.height()];
    let starts = [region.x, region.y].map(f64::from);
    let lengths = [region.width, region.height].map(f64::from);
    // Chroma samples lie on every other pixel of a row, and between two rows.
    let shifts = [0.5, 0.0];
    for i in 0..2 {
        let results = [width, height][i];
        let full = Cells {
            count: sides[i],
            shift: 0.0,
            zoom: 1.0,
        };
        let half = Cells {
            count: sides[i].div_ceil(2),
            shift: shifts[i],
            zoom: 0.5,
        };
        luma[i].set(starts[i], lengths[i], results, sides[i], full);
        chroma[i].set(starts[i], lengths[i], results, sides[i], half);
    }

    let (y, rest) = image.split_at_mut(width * height);
    let (u, v) = rest.split_at_mut(width * height);
    let half = sides[0].div_ceil(2);
    match frame.planes() {
        Planes::I420 {
            y: plane,
            u: plane_u,
            v: plane_v,
        } => {
            scale::<1>(View::new(plane, sides[0]), luma, [color.black], sums, [y]);
            scale::<1>(View::new(plane_u, half), chroma, [128.0], sums, [u]);
            scale::<1>(View::new(plane_v, half), chroma, [128.0], sums, [v]);
        }
        Planes::Nv12 { y: plane, uv } => {
            scale::<1>(View::new(plane, sides[0]), luma, [color.black], sums, [y]);
            scale::<2>(View::new(uv, half), chroma, [128.0; 2], sums, [u, v]);
        }
    }

    let (scale, offset) = values.of_byte();
    let (y, rest) = image.split_at_mut(width * height);
    let (u, v) = rest.split_at_mut(width * height);
    for ((y, u), v) in y.iter_mut().zip(u).zip(v) {
        [*y, *u, *v] = color.rgb(*y, *u, *v).map(|value| value * scale + offset);
    }
}

/// Scales a plane of `SIZE` interleaved channels: rows first, into `sums`, then columns. Results are relative
/// to `offsets`, which is also what lies outside of the frame.
fn scale<const SIZE: usize>(
    plane: View<'_>,
    [across, down]: &[Axis; 2],
    offsets: [f32; SIZE],
    sums: &mut Vec<f32>,
    mut results: [&mut [f32]; SIZE],
) {
    let width = across.taps.len();
    let scale = across.scale * down.scale;
    for (j, tap) in down.taps.iter().enumerate() {
        sum_rows::<SIZE>(plane, tap, sums);
        let weight = tap.weight();
        for ((channel, result), offset) in results.iter_mut().enumerate().zip(offsets) {
            let row = &mut result[j * width..][..width];
            for (value, tap) in row.iter_mut().zip(&across.taps) {
                let sum = sum_columns::<SIZE>(sums, channel, tap);
                *value = sum * scale - offset * (tap.weight() * weight * scale);
            }
        }
    }
}

fn sum_rows<const SIZE: usize>(plane: View<'_>, tap: &Tap, sums: &mut Vec<f32>) {
    sums.clear();
    if tap.count == 0 {
        return;
    }
    sums.extend(
        plane
            .row::<SIZE>(tap.first)
            .iter()
            .map(|value| tap.head * f32::from(*value)),
    );
    for k in 1..tap.count {
        let weight = if k + 1 < tap.count { 1.0 } else { tap.tail };
        for (sum, value) in sums.iter_mut().zip(plane.row::<SIZE>(tap.first + k)) {
            *sum += weight * f32::from(*value);
        }
    }
}

fn sum_columns<const SIZE: usize>(sums: &[f32], channel: usize, tap: &Tap) -> f32 {
    if sums.is_empty() || tap.count == 0 {
        return 0.0;
    }
    let values = &sums[tap.first * SIZE..(tap.first + tap.count) * SIZE];
    let mut values = values.iter().skip(channel).step_by(SIZE);
    let mut sum = values.next().map_or(0.0, |value| tap.head * value);
    for (k, value) in values.enumerate() {
        sum += if k + 2 < tap.count {
            *value
        } else {
            tap.tail * value
        };
    }
    sum
}
