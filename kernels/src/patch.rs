//! Which bytes a covered region owns: decided here for every place.

use std::ops::Range;

use crate::edges::Edges;
use crate::{Hull, Point, Region};

/// RGB of a frame that is covered as a whole: a dark slate.
pub(crate) const SLATE: [f32; 3] = [40.0, 40.0, 40.0];
/// RGB of a region without anything around it.
pub(crate) const GREY: [f32; 3] = [96.0, 96.0, 96.0];

/// Sides of a patch, in pixels: up to the first it is filled with one colour, from the second on the fill takes the whole
/// difference of the colours around it. A fill that changes over a dozen pixels looks like a face's own shading.
const FLAT: f32 = 32.0;
const SHADED: f32 = 96.0;

/// The furthest place of a region, in pixels: beyond it `f32` cannot say what lies inside.
const FURTHEST: f32 = 1e7;

/// A region that covers a part of the frame.
#[derive(Debug, Clone)]
pub(crate) struct Patch {
    hull: Hull,
    edges: Edges,
    /// Pixel columns and rows that may be covered, rounded outwards to whole chroma samples.
    pub(crate) columns: Range<usize>,
    pub(crate) rows: Range<usize>,
}

/// The hull to cover; `None` when only the whole frame is safe: a hull without area, a box that is not one and
/// places beyond measure say that there is a face and not where.
pub(crate) fn hull(region: &Region) -> Option<Hull> {
    let hull = match region {
        Region::Hull(hull) => hull.clone(),
        Region::Box(rect) => {
            let (right, bottom) = (rect.right(), rect.bottom());
            let corners = [
                (rect.x, rect.y),
                (right, rect.y),
                (right, bottom),
                (rect.x, bottom),
            ];
            Hull::of(&corners.map(|(x, y)| Point::new(x, y)))
        }
        Region::Frame => return None,
    };
    let near = |vertex: &Point| vertex.x.abs() < FURTHEST && vertex.y.abs() < FURTHEST;
    (!hull.is_empty() && hull.vertices().iter().all(near)).then_some(hull)
}

impl Patch {
    /// The part of a frame of `width` x `height` pixels that lies in the hull; `None` when no pixel does.
    pub(crate) fn of(hull: Hull, width: usize, height: usize) -> Option<Self> {
        let edges = Edges::of(&hull, width, height);
        let [left, top] = edges.origin;
        let [width, height] = edges.size;
        (width > 0 && height > 0).then(|| Self {
            hull,
            edges,
            columns: left..(left + width).next_multiple_of(2),
            rows: top..(top + height).next_multiple_of(2),
        })
    }

    /// How much of the difference between the colours around it the patch's fill may show, 0 to 1.
    pub(crate) fn contrast(&self) -> f32 {
        let side = self.columns.len().min(self.rows.len()) as f32;
        ((side - FLAT) / (SHADED - FLAT)).clamp(0.0, 1.0)
    }

    /// Whether the pixel lies in the patch's box.
    pub(crate) fn contains(&self, x: usize, y: usize) -> bool {
        self.columns.contains(&x) && self.rows.contains(&y)
    }

    /// How many rows of pixels there are.
    pub(crate) fn pixel_rows(&self) -> usize {
        self.edges.size[1]
    }

    /// The pixels of row `j` that lie in the hull, counted from the first column.
    pub(crate) fn pixels(&self, j: usize) -> Range<usize> {
        self.span(0.5, 1.0, j as f32 + 0.5, self.edges.size[0])
    }

    /// How many rows of chroma samples there are.
    pub(crate) fn chroma_rows(&self) -> usize {
        self.pixel_rows().div_ceil(2)
    }

    /// The chroma samples of row `j` that lie in the hull, counted from the first column's.
    pub(crate) fn chroma(&self, j: usize) -> Range<usize> {
        self.span(0.5, 2.0, 2.0 * j as f32 + 1.0, self.edges.size[0].div_ceil(2))
    }

    /// The positions `first + i * step` of a row that lie in the hull, `i` below `count`.
    fn span(&self, first: f32, step: f32, y: f32, count: usize) -> Range<usize> {
        let mut span = self.edges.row(y).span(first, step, count);
        let [left, top] = self.edges.origin;
        let inside = |i: usize| {
            self.hull
                .contains(Point::new(left as f32 + first + step * i as f32, top as f32 + y))
        };
        while !span.is_empty() && !inside(span.start) {
            span.start += 1;
        }
        while !span.is_empty() && !inside(span.end - 1) {
            span.end -= 1;
        }
        span
    }
}
