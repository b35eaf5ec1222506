//! Which source samples a result of a scaled frame is made of, along one axis: area means where it shrinks,
//! bilinear where it grows. Worked out in `f64`, rounded once.

use crate::Rect;

/// The source samples of one result along one axis: the first weighs `head`, the last `tail`, those between
/// weigh 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Tap {
    pub(crate) first: usize,
    pub(crate) last: usize,
    pub(crate) head: f32,
    /// 0 when the first is also the last.
    pub(crate) tail: f32,
    /// The sum of all weights: 0 outside of the frame.
    pub(crate) weight: f32,
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
pub(crate) struct Axis {
    pub(crate) taps: Vec<Tap>,
    pub(crate) scale: f32,
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

/// The taps of `results` in a frame of `sides` that `region` is scaled to, both x then y, for luma and for chroma.
pub(crate) fn set(
    luma: &mut [Axis; 2],
    chroma: &mut [Axis; 2],
    region: Rect,
    results: [usize; 2],
    sides: [usize; 2],
) {
    let starts = [region.x, region.y].map(f64::from);
    let lengths = [region.width, region.height].map(f64::from);
    // Chroma samples lie on every other pixel of a row, and between two rows.
    let shifts = [0.5, 0.0];
    for i in 0..2 {
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
        luma[i].set(starts[i], lengths[i], results[i], sides[i], full);
        chroma[i].set(starts[i], lengths[i], results[i], sides[i], half);
    }
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
