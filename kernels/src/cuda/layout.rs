//! What the kernels are given, byte for byte as `kernels/cu` declares it.

use crate::axis::Tap;
use crate::color::Coefficients;
use crate::edges::Edges;
use crate::{LANDMARKS, Placement, Point, Similarity, grid};

/// A type without padding that a kernel reads as it is.
pub(super) trait Plain: Copy + 'static {}

impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for f32 {}
impl Plain for Frame {}
impl Plain for Grid {}
impl Plain for Weights {}
impl Plain for Scaling {}
impl Plain for Placed {}
impl Plain for Span {}
impl Plain for Row {}
impl Plain for Patch {}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Color {
    black: f32,
    luma: f32,
    red_v: f32,
    green_u: f32,
    green_v: f32,
    blue_u: f32,
    y: [f32; 4],
    u: [f32; 4],
    v: [f32; 4],
}

impl From<Coefficients> for Color {
    fn from(c: Coefficients) -> Self {
        Self {
            black: c.black,
            luma: c.luma,
            red_v: c.red_v,
            green_u: c.green_u,
            green_v: c.green_v,
            blue_u: c.blue_u,
            y: c.y,
            u: c.u,
            v: c.v,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Frame {
    y: u64,
    u: u64,
    v: u64,
    width: u32,
    height: u32,
    y_stride: u32,
    u_stride: u32,
    v_stride: u32,
    chroma_step: u32,
    color: Color,
}

impl Frame {
    /// A frame whose planes have been checked: Y, U, V with their strides, samples of U and V `chroma_step` apart.
    pub(super) fn new(
        [width, height]: [usize; 2],
        [y, u, v]: [(u64, usize); 3],
        chroma_step: u32,
        color: crate::Color,
    ) -> Self {
        Self {
            y: y.0,
            u: u.0,
            v: v.0,
            width: width as u32,
            height: height as u32,
            y_stride: y.1 as u32,
            u_stride: u.1 as u32,
            v_stride: v.1 as u32,
            chroma_step,
            color: Coefficients::of(color).into(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Grid {
    a: f32,
    b: f32,
    x0: f32,
    y0: f32,
    samples: u32,
    share: f32,
}

impl Grid {
    pub(super) fn of_crop(align: &Similarity, side: usize) -> Self {
        grid::Grid::of_crop(align, side).into()
    }
}

impl From<grid::Grid> for Grid {
    fn from(grid: grid::Grid) -> Self {
        Self {
            a: grid.a,
            b: grid.b,
            x0: grid.x0,
            y0: grid.y0,
            samples: grid.samples as u32,
            share: 1.0 / (grid.samples * grid.samples) as f32,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Weights {
    first: u32,
    last: u32,
    head: f32,
    tail: f32,
    weight: f32,
}

impl From<Tap> for Weights {
    fn from(tap: Tap) -> Self {
        Self {
            first: tap.first as u32,
            last: tap.last as u32,
            head: tap.head,
            tail: tap.tail,
            weight: tap.weight,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Scaling {
    /// Where the taps of the columns lie, followed by those of the rows.
    pub(super) taps: u64,
    pub(super) scale: f32,
    pub(super) padding: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Edge {
    nx: f32,
    ny: f32,
    c: f32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Placed {
    luma: Grid,
    chroma: Grid,
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    edges: u32,
    edge: [Edge; LANDMARKS],
}

impl Placed {
    pub(super) fn new(placement: &Placement, side: usize, [width, height]: [usize; 2]) -> Self {
        let edges = Edges::of(&placement.hull, width, height);
        let [left, top] = edges.origin;
        let corner = |dx: f32| Point::new(left as f32 + dx, top as f32);
        let grid = |dx: f32, cell: f64| grid::Grid::of_frame(&placement.align, side, corner(dx), cell).into();
        Self {
            luma: grid(0.0, 1.0),
            // Chroma samples lie on every other pixel, between two rows.
            chroma: grid(-0.5, 2.0),
            left: left as u32,
            top: top as u32,
            width: edges.size[0] as u32,
            height: edges.size[1] as u32,
            edges: edges.count as u32,
            edge: edges.edges.map(|edge| Edge {
                nx: edge.nx,
                ny: edge.ny,
                c: edge.c,
            }),
        }
    }

    /// Width and height of its box in pixels.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.width as usize, self.height as usize]
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Span {
    start: u16,
    end: u16,
}

impl From<std::ops::Range<usize>> for Span {
    fn from(span: std::ops::Range<usize>) -> Self {
        // A frame's sides are at most 16384.
        Self {
            start: span.start as u16,
            end: span.end as u16,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Row {
    start: u32,
    end: u32,
}

impl From<std::ops::Range<usize>> for Row {
    fn from(row: std::ops::Range<usize>) -> Self {
        Self {
            start: row.start as u32,
            end: row.end as u32,
        }
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Patch {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    pixel_spans: u32,
    chroma_spans: u32,
    pixel_rows: u32,
    chroma_rows: u32,
    contrast: f32,
    sides: [[f32; 3]; 4],
}

impl Patch {
    /// A patch whose spans begin at number `spans`.
    pub(super) fn new(patch: &crate::patch::Patch, spans: usize) -> Self {
        Self {
            left: patch.columns.start as u32,
            top: patch.rows.start as u32,
            width: patch.columns.len() as u32,
            height: patch.rows.len() as u32,
            pixel_spans: spans as u32,
            chroma_spans: (spans + patch.pixel_rows()) as u32,
            pixel_rows: patch.pixel_rows() as u32,
            chroma_rows: patch.chroma_rows() as u32,
            contrast: patch.contrast(),
            sides: [[0.0; 3]; 4],
        }
    }
}

// The same numbers stand in kernels/cu.
const _: () = {
    assert!(size_of::<Color>() == 72 && size_of::<Frame>() == 120 && size_of::<Grid>() == 24);
    assert!(size_of::<Weights>() == 20 && size_of::<Scaling>() == 16 && size_of::<Placed>() == 884);
    assert!(size_of::<Span>() == 4 && size_of::<Row>() == 8 && size_of::<Patch>() == 84);
};
