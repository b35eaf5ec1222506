//! The edges of a hull as linear functions: where its rows begin and end and how far a pixel lies inside.

use crate::{Hull, LANDMARKS};

/// Width of the soft edge as a share of `2 * area / perimeter`, which for a circle is its radius and for no
/// convex shape more than twice the largest inscribed circle's. So the middle of every hull is fully mixed.
const FEATHER: f64 = 0.1;

/// One edge: `nx * x + (ny * y + c)` is the distance to it in feathers, positive inside.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Edge {
    pub(crate) nx: f32,
    pub(crate) ny: f32,
    pub(crate) c: f32,
}

/// The edges of a hull, with positions relative to `origin`: small numbers keep their precision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edges {
    pub(crate) edges: [Edge; LANDMARKS],
    pub(crate) count: usize,
    /// Corner of the hull's pixels, even in x and y.
    pub(crate) origin: [usize; 2],
    /// Pixels from the origin to the last one that may lie inside the hull and the frame.
    pub(crate) size: [usize; 2],
}

/// The part of a row, relative to the origin, that may lie inside, and the edges whose soft part reaches it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    near: [(f32, f32); LANDMARKS],
    count: usize,
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl Edges {
    /// The edges of a hull in a frame of `width` x `height` pixels.
    pub(crate) fn of(hull: &Hull, width: usize, height: usize) -> Self {
        let bounds = hull.bounds();
        // Saturating casts: parts outside of the frame fall onto its border.
        let start = |low: f32| (low.floor() as usize) & !1;
        let origin = [start(bounds.x).min(width), start(bounds.y).min(height)];
        let end = |high: f32, limit: usize| (high.ceil() as usize).min(limit);
        let size = [
            end(bounds.right(), width).saturating_sub(origin[0]),
            end(bounds.bottom(), height).saturating_sub(origin[1]),
        ];
        let vertices = hull.vertices();
        let corner = |i: usize| {
            let vertex = vertices[i % vertices.len()];
            [
                f64::from(vertex.x) - origin[0] as f64,
                f64::from(vertex.y) - origin[1] as f64,
            ]
        };
        let (mut area, mut perimeter) = (0.0, 0.0);
        for i in 0..vertices.len() {
            let ([px, py], [qx, qy]) = (corner(i), corner(i + 1));
            area += 0.5 * (px * qy - qx * py);
            perimeter += (qx - px).hypot(qy - py);
        }
        let per_pixel = 1.0 / (FEATHER * 2.0 * area / perimeter).max(f64::MIN_POSITIVE);
        let mut edges = [Edge::default(); LANDMARKS];
        for (i, edge) in edges.iter_mut().enumerate().take(vertices.len()) {
            let ([px, py], [qx, qy]) = (corner(i), corner(i + 1));
            let length = (qx - px).hypot(qy - py);
            let (nx, ny) = ((py - qy) / length, (qx - px) / length);
            *edge = Edge {
                nx: (nx * per_pixel) as f32,
                ny: (ny * per_pixel) as f32,
                c: (-(nx * px + ny * py) * per_pixel) as f32,
            };
        }
        Self {
            edges,
            count: vertices.len(),
            origin,
            size,
        }
    }

    /// What the edges say about the positions with this `y`.
    pub(crate) fn row(&self, y: f32) -> Row {
        let mut row = Row {
            near: [(0.0, 0.0); LANDMARKS],
            count: 0,
            low: 0.0,
            high: self.size[0] as f32,
        };
        for edge in &self.edges[..self.count] {
            let k = edge.ny * y + edge.c;
            let crossing = -k / edge.nx;
            if edge.nx > 0.0 {
                row.low = row.low.max(crossing);
            } else if edge.nx < 0.0 {
                row.high = row.high.min(crossing);
            } else if k < 0.0 {
                row.high = -1.0;
            }
        }
        for edge in &self.edges[..self.count] {
            let k = edge.ny * y + edge.c;
            if (edge.nx * row.low + k).min(edge.nx * row.high + k) < 1.0 {
                row.near[row.count] = (edge.nx, k);
                row.count += 1;
            }
        }
        row
    }
}

impl Row {
    /// The numbers of the positions `first + i * step` (`step` 1 or 2) that may lie inside.
    pub(crate) fn span(&self, first: f32, step: f32, count: usize) -> std::ops::Range<usize> {
        // One position more on each side: there the weight is 0.
        let start = ((self.low - first) / step).floor().max(0.0) as usize;
        let end = (((self.high - first) / step).ceil() + 1.0).max(0.0) as usize;
        let end = end.min(count);
        start.min(end)..end
    }

    /// Weights of the soft edge at the positions `x + i * step`: 0 on and outside of the hull, rising with the
    /// distance to 1 one feather inside.
    pub(crate) fn weights(&self, x: f32, step: f32, weights: &mut [f32]) {
        weights.fill(1.0);
        let last = x + step * (weights.len() - 1) as f32;
        for &(nx, k) in &self.near[..self.count] {
            // A linear function is smallest at an end.
            if (nx * x + k).min(nx * last + k) < 1.0 {
                for (i, weight) in weights.iter_mut().enumerate() {
                    let distance = (nx * (x + step * i as f32) + k).max(0.0);
                    *weight = if distance < *weight { distance } else { *weight };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Point;

    fn square(low: f32, high: f32) -> Hull {
        Hull::of(&[(low, low), (high, low), (high, high), (low, high)].map(|(x, y)| Point::new(x, y)))
    }

    #[test]
    fn the_weight_rises_over_one_feather() {
        // 2 * area / perimeter of a square of 200 pixels is 100, so a feather is 10 pixels.
        let edges = Edges::of(&square(20.0, 220.0), 1000, 1000);
        assert_eq!((edges.origin, edges.size), ([20, 20], [200, 200]));
        let mut weights = [0.0; 200];
        edges.row(100.5).weights(0.5, 1.0, &mut weights);
        assert!(
            (weights[0] - 0.05).abs() < 1e-6 && (weights[4] - 0.45).abs() < 1e-6,
            "{weights:?}"
        );
        assert!(weights[10..190].iter().all(|w| *w == 1.0));
        assert!((weights[199] - 0.05).abs() < 1e-6);
        edges.row(0.5).weights(0.5, 1.0, &mut weights);
        assert!(weights.iter().all(|w| *w <= 0.05 + 1e-6));
    }

    #[test]
    fn hulls_outside_of_the_frame_have_no_pixels() {
        for (low, high) in [(-300.0, -10.0), (2000.0, 3000.0), (1e30, 2e30)] {
            let edges = Edges::of(&square(low, high), 100, 80);
            assert!(edges.size.contains(&0), "{low} {high}: {:?}", edges.size);
        }
    }
}
