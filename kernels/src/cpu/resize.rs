//! A frame scaled to a network's input: area means where it shrinks, bilinear where it grows.

use super::sample::View;
use crate::color::Coefficients;
use crate::{Frame, Planes, Rect, Values};

/// The source samples of one result along one axis: the first weighs `head`, the last `tail`, those between
/// weigh 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Tap {
    first: usize,
    last: usize,
    head: f32,
    /// 0 when the first is also the last.
    tail: f32,
    /// The sum of all weights: 0 outside of the frame.
    weight: f32,
}

impl Tap {
    /// Weights for the samples `first ..= last`.
    fn new(first: usize, last: usize, head: f64, tail: f64) -> Self {
        let between = (last - first).saturating_sub(1);
        Self {
            first,
            last,
            head: head as f32,
            tail: tail as f32,
            weight: (head + between as f64 + tail) as f32,
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
        return Tap::new(first, first, high - low, 0.0);
    }
    Tap::new(first, end, (first + 1) as f64 - low, high - end as f64)
}

/// The two samples around a position, where sample `i` lies at `i`.
fn between(position: f64, last: usize) -> Tap {
    let position = position.clamp(0.0, last as f64);
    let first = (position as usize).min(last.saturating_sub(1));
    let tail = position - first as f64;
    Tap::new(first, (first + 1).min(last), 1.0 - tail, tail)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_an_axis() {
        struct Case {
            start: f64,
            length: f64,
            results: usize,
            chroma: bool,
            wanted: [Tap; 2],
        }
        // A frame of 8 pixels; chroma cells begin half a pixel before the frame.
        let cases = [
            Case {
                start: 0.0,
                length: 8.0,
                results: 2,
                chroma: false,
                wanted: [Tap::new(0, 3, 1.0, 1.0), Tap::new(4, 7, 1.0, 1.0)],
            },
            Case {
                start: 1.25,
                length: 3.0,
                results: 2,
                chroma: false,
                wanted: [Tap::new(1, 2, 0.75, 0.75), Tap::new(2, 4, 0.25, 0.25)],
            },
            // Half of the first result lies outside.
            Case {
                start: -2.0,
                length: 8.0,
                results: 2,
                chroma: false,
                wanted: [Tap::new(0, 1, 1.0, 1.0), Tap::new(2, 5, 1.0, 1.0)],
            },
            // Growing: centres at 2.25 and 2.75, between the samples at 1.5 and 2.5, and 2.5 and 3.5.
            Case {
                start: 2.0,
                length: 1.0,
                results: 2,
                chroma: false,
                wanted: [Tap::new(1, 2, 0.25, 0.75), Tap::new(2, 3, 0.75, 0.25)],
            },
            // The last quarter of a cell lies beyond the last one and counts for it.
            Case {
                start: 0.0,
                length: 8.0,
                results: 2,
                chroma: true,
                wanted: [Tap::new(0, 2, 0.75, 0.25), Tap::new(2, 3, 0.75, 1.25)],
            },
        ];
        for case in cases {
            let cells = if case.chroma {
                Cells {
                    count: 4,
                    shift: 0.5,
                    zoom: 0.5,
                }
            } else {
                Cells {
                    count: 8,
                    shift: 0.0,
                    zoom: 1.0,
                }
            };
            let mut axis = Axis::default();
            axis.set(case.start, case.length, case.results, 8, cells);
            assert_eq!(axis.taps, case.wanted, "{} {}", case.start, case.length);
        }
    }
}
