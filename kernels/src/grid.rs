//! Where the samples of a warp lie: one straight-line map from sample numbers to positions in the source.

use crate::{Point, Similarity};

/// Positions of a regular grid of samples: sample `(i, j)` lies at `x = (x0 - b * j) + a * i`,
/// `y = (y0 + a * j) + b * i`. Worked out in `f64`, rounded once to `f32`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Grid {
    pub(crate) a: f32,
    pub(crate) b: f32,
    pub(crate) x0: f32,
    pub(crate) y0: f32,
    /// Samples averaged along each axis for one result: 1 unless the source shrinks by more than 2.
    pub(crate) samples: usize,
}

/// The most samples averaged along each axis.
const MOST_SAMPLES: f64 = 16.0;

/// A similarity in `f64`.
#[derive(Debug, Clone, Copy)]
struct Map {
    a: f64,
    b: f64,
    x: f64,
    y: f64,
}

impl Map {
    fn of(similarity: &Similarity) -> Self {
        let Similarity { a, b, tx, ty } = similarity;
        Self {
            a: f64::from(*a),
            b: f64::from(*b),
            x: f64::from(*tx),
            y: f64::from(*ty),
        }
    }

    fn inverse(self) -> Self {
        let square = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / square, -self.b / square);
        Self {
            a,
            b,
            x: b * self.y - a * self.x,
            y: -(b * self.x + a * self.y),
        }
    }

    /// The grid whose cell `(i, j)` covers `[x + i * cell, x + (i + 1) * cell)` and the same in y before the
    /// map; `zoom` units after the map are one source sample. A bilinear tap spans two source samples, so a
    /// cell that is wider takes one tap for every two.
    fn grid(self, first: [f64; 2], cell: f64, zoom: f64) -> Grid {
        let width = self.a.hypot(self.b) * cell * zoom;
        let samples = (width / 2.0).ceil().clamp(1.0, MOST_SAMPLES);
        let step = cell / samples;
        let (x, y) = (first[0] + 0.5 * step, first[1] + 0.5 * step);
        Grid {
            a: (self.a * step * zoom) as f32,
            b: (self.b * step * zoom) as f32,
            // Sample centres lie half a sample from the source's corner.
            x0: ((self.a * x - self.b * y + self.x) * zoom - 0.5) as f32,
            y0: ((self.b * x + self.a * y + self.y) * zoom - 0.5) as f32,
            samples: samples as usize,
        }
    }
}

impl Grid {
    /// Positions in luma samples (0 is the first one's centre) of the pixels of a crop of `side` pixels.
    pub(crate) fn of_crop(align: &Similarity, side: usize) -> Self {
        Map::of(align).inverse().grid([0.0; 2], 1.0 / side as f64, 1.0)
    }

    /// Positions in crop samples of the frame's cells of `cell` pixels, the first one with its corner at
    /// `corner`.
    pub(crate) fn of_frame(align: &Similarity, side: usize, corner: Point, cell: f64) -> Self {
        let corner = [f64::from(corner.x), f64::from(corner.y)];
        Map::of(align).grid(corner, cell, side as f64)
    }

    /// Positions of the samples `(first + k * step, j)`.
    #[inline(always)]
    pub(crate) fn positions<const N: usize>(&self, first: usize, step: usize, j: usize) -> [[f32; N]; 2] {
        let (first, step, j) = (first as f32, step as f32, j as f32);
        let (x0, y0) = (self.x0 - self.b * j, self.y0 + self.a * j);
        let (mut x, mut y) = ([0.0; N], [0.0; N]);
        for k in 0..N {
            // Sample numbers stay far below 2^24: this is exact.
            let i = first + step * k as i32 as f32;
            x[k] = x0 + self.a * i;
            y[k] = y0 + self.b * i;
        }
        [x, y]
    }
}

/// Whether positions worked out with this transform are finite for every frame and crop.
pub(crate) fn is_sound(align: &Similarity) -> bool {
    let scale = align.scale();
    scale > 1e-6 && scale < 1e6 && align.tx.abs() < 1e9 && align.ty.abs() < 1e9
}
