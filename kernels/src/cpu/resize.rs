//! A frame scaled to a network's input: area means where it shrinks, bilinear where it grows.

use super::sample::View;
use crate::axis::{self, Axis, Tap};
use crate::color::Coefficients;
use crate::{Frame, Planes, Rect, Values};

/// Memory that a call needs and the next one uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    luma: [Axis; 2],
    chroma: [Axis; 2],
    sums: Sums,
}

/// How many rows of results are worked on together.
const ROWS: usize = 4;

/// Sums over rows.
#[derive(Debug, Default)]
struct Sums {
    /// The rows that weigh 1, in integers: three times faster, and exact.
    whole: Vec<u16>,
    /// With the first and the last row, one vector for each result.
    rows: [Vec<f32>; ROWS],
    /// The same with the results side by side, so that summing columns works on all of them at once.
    columns: Vec<[f32; ROWS]>,
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
    axis::set(luma, chroma, region, [width, height], sides);

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

/// Scales a plane of `SIZE` interleaved channels: sums of rows first, then of their columns. Results are
/// relative to `offsets`, which is also what lies outside of the frame.
fn scale<const SIZE: usize>(
    plane: View<'_>,
    [across, down]: &[Axis; 2],
    offsets: [f32; SIZE],
    sums: &mut Sums,
    mut results: [&mut [f32]; SIZE],
) {
    let width = across.taps.len();
    let scale = across.scale * down.scale;
    for (group, taps) in down.taps.chunks(ROWS).enumerate() {
        let mut weights = [0.0; ROWS];
        for (k, row) in sums.rows.iter_mut().enumerate() {
            // The last group may be short: its last row is summed again, and not used.
            let tap = &taps[k.min(taps.len() - 1)];
            weights[k] = tap.weight * scale;
            sum_rows::<SIZE>(plane, tap, &mut sums.whole, row);
        }
        let [a, b, c, d] = &sums.rows;
        sums.columns.clear();
        sums.columns.extend(
            a.iter()
                .zip(b)
                .zip(c)
                .zip(d)
                .map(|(((a, b), c), d)| [*a, *b, *c, *d]),
        );
        for (i, tap) in across.taps.iter().enumerate() {
            for (channel, (result, offset)) in results.iter_mut().zip(offsets).enumerate() {
                let sum = sum_columns::<SIZE>(&sums.columns, channel, tap);
                for (k, (sum, weight)) in sum.iter().zip(weights).enumerate().take(taps.len()) {
                    let row = group * ROWS + k;
                    result[row * width + i] = sum * scale - offset * (tap.weight * weight);
                }
            }
        }
    }
}

/// `(head * first + rows between) + tail * last` for every byte of a row.
fn sum_rows<const SIZE: usize>(plane: View<'_>, tap: &Tap, whole: &mut Vec<u16>, sums: &mut Vec<f32>) {
    let (first, last) = (plane.row::<SIZE>(tap.first), plane.row::<SIZE>(tap.last));
    let Tap { head, tail, .. } = *tap;
    sums.clear();
    sums.extend(first.iter().map(|value| head * f32::from(*value)));
    let mut next = tap.first + 1;
    while next < tap.last {
        // 257 rows of 255 fit into 16 bits.
        let end = tap.last.min(next + 257);
        whole.clear();
        whole.resize(first.len(), 0);
        for row in next..end {
            for (sum, value) in whole.iter_mut().zip(plane.row::<SIZE>(row)) {
                *sum += u16::from(*value);
            }
        }
        for (sum, whole) in sums.iter_mut().zip(&*whole) {
            *sum += f32::from(*whole);
        }
        next = end;
    }
    for (sum, value) in sums.iter_mut().zip(last) {
        *sum += tail * f32::from(*value);
    }
}

/// The same for the columns of one channel.
#[inline(always)]
fn sum_columns<const SIZE: usize>(columns: &[[f32; ROWS]], channel: usize, tap: &Tap) -> [f32; ROWS] {
    let columns = &columns[tap.first * SIZE..(tap.last + 1) * SIZE];
    let mut sum = columns[channel].map(|value| tap.head * value);
    for column in columns.chunks_exact(SIZE).take(tap.last - tap.first).skip(1) {
        for (sum, value) in sum.iter_mut().zip(column[channel]) {
            *sum += value;
        }
    }
    let last = columns[columns.len() - SIZE + channel];
    for (sum, value) in sum.iter_mut().zip(last) {
        *sum += tap.tail * value;
    }
    sum
}
