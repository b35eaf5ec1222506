//! Bilinear samples, many at a time: positions in, values out, in arrays that the compiler turns into vectors.

use crate::{Plane, Planes};

/// How many samples are worked on together.
pub(super) const LANES: usize = 32;

/// One value for each of the samples.
pub(super) type Lanes = [f32; LANES];

/// Which four neighbours each sample lies between, and where.
#[derive(Debug)]
pub(super) struct Taps {
    column: [u32; LANES],
    row: [u32; LANES],
    fx: Lanes,
    fy: Lanes,
}

impl Taps {
    /// The neighbours of positions in an array of `width` x `height` samples, where sample 0 lies at 0.0;
    /// positions outside are moved to the border. The second neighbour exists wherever the side is at least 2.
    pub(super) fn new(x: &Lanes, y: &Lanes, width: usize, height: usize) -> Self {
        let mut taps = Self {
            column: [0; LANES],
            row: [0; LANES],
            fx: [0.0; LANES],
            fy: [0.0; LANES],
        };
        split(x, width, &mut taps.column, &mut taps.fx);
        split(y, height, &mut taps.row, &mut taps.fy);
        taps
    }

    /// `top + fy * (bottom - top)` with `top = p00 + fx * (p01 - p00)`, `bottom = p10 + fx * (p11 - p10)`.
    #[inline(always)]
    fn mix(&self, lane: usize, [p00, p01, p10, p11]: [f32; 4]) -> f32 {
        let (fx, fy) = (self.fx[lane], self.fy[lane]);
        let top = p00 + fx * (p01 - p00);
        let bottom = p10 + fx * (p11 - p10);
        top + fy * (bottom - top)
    }
}

/// Whole and fractional part of positions moved into `0 ..= side - 1`, with whole parts up to `side - 2`.
fn split(positions: &Lanes, side: usize, whole: &mut [u32; LANES], fraction: &mut Lanes) {
    let last = (side - 1) as f32;
    let most = side.saturating_sub(2) as f32;
    for lane in 0..LANES {
        let position = positions[lane].clamp(0.0, last);
        let floor = (position as i32 as f32).min(most);
        whole[lane] = floor as i32 as u32;
        fraction[lane] = position - floor;
    }
}

/// The plane of a frame with its size in samples, to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [u8],
    stride: usize,
    width: usize,
    height: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(plane: &'a Plane<'_>, width: usize, height: usize) -> Self {
        Self {
            data: plane.data,
            stride: plane.stride,
            width,
            height,
        }
    }

    /// Row `row`, `SIZE` bytes for each sample.
    pub(super) fn row<const SIZE: usize>(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.stride..][..self.width * SIZE]
    }

    /// The neighbours of each sample: `SIZE` bytes each of `p00`, `p01`, `p10`, `p11`.
    fn gather<const SIZE: usize>(&self, taps: &Taps, bytes: &mut [[[u8; SIZE]; 4]; LANES]) {
        let right = if self.width > 1 { SIZE } else { 0 };
        let down = if self.height > 1 { self.stride } else { 0 };
        let at = |index: usize| -> [u8; SIZE] {
            let mut sample = [0; SIZE];
            sample.copy_from_slice(&self.data[index..index + SIZE]);
            sample
        };
        for (lane, bytes) in bytes.iter_mut().enumerate() {
            let index = taps.row[lane] as usize * self.stride + taps.column[lane] as usize * SIZE;
            *bytes = [
                at(index),
                at(index + right),
                at(index + down),
                at(index + down + right),
            ];
        }
    }

    fn sample(&self, taps: &Taps, offset: f32, values: &mut Lanes) {
        let mut bytes = [[[0; 1]; 4]; LANES];
        self.gather(taps, &mut bytes);
        for lane in 0..LANES {
            values[lane] += taps.mix(lane, bytes[lane].map(|[b]| f32::from(b))) - offset;
        }
    }

    fn sample_pairs(&self, taps: &Taps, offset: f32, u: &mut Lanes, v: &mut Lanes) {
        let mut bytes = [[[0; 2]; 4]; LANES];
        self.gather(taps, &mut bytes);
        for lane in 0..LANES {
            u[lane] += taps.mix(lane, bytes[lane].map(|[b, _]| f32::from(b))) - offset;
            v[lane] += taps.mix(lane, bytes[lane].map(|[_, b]| f32::from(b))) - offset;
        }
    }
}

/// Y, U and V of samples, as sums.
#[derive(Debug)]
pub(super) struct Sum {
    pub(super) y: Lanes,
    pub(super) u: Lanes,
    pub(super) v: Lanes,
}

impl Sum {
    pub(super) fn zero() -> Self {
        Self {
            y: [0.0; LANES],
            u: [0.0; LANES],
            v: [0.0; LANES],
        }
    }

    /// Adds what the frame shows at these luma positions: luma above `black`, chroma about zero.
    pub(super) fn add(
        &mut self,
        planes: &Planes<'_>,
        [width, height]: [usize; 2],
        black: f32,
        x: &Lanes,
        y: &Lanes,
    ) {
        let taps = Taps::new(x, y, width, height);
        let (Planes::I420 { y: luma, .. } | Planes::Nv12 { y: luma, .. }) = planes;
        View::new(luma, width, height).sample(&taps, black, &mut self.y);

        // A chroma sample shares its place with the left luma sample of its four, between the rows.
        let (width, height) = (width.div_ceil(2), height.div_ceil(2));
        let taps = Taps::new(&x.map(|x| 0.5 * x), &y.map(|y| 0.5 * y - 0.25), width, height);
        match planes {
            Planes::I420 { u, v, .. } => {
                View::new(u, width, height).sample(&taps, 128.0, &mut self.u);
                View::new(v, width, height).sample(&taps, 128.0, &mut self.v);
            }
            Planes::Nv12 { uv, .. } => {
                View::new(uv, width, height).sample_pairs(&taps, 128.0, &mut self.u, &mut self.v);
            }
        }
    }
}

/// One pixel of a crop that is about to be blended: Y, U, V and the mask.
pub(super) type Texel = [f32; 4];

/// Adds bilinear samples of a square of texels.
pub(super) fn add_texels(texels: &[Texel], side: usize, x: &Lanes, y: &Lanes, sums: &mut [Texel; LANES]) {
    let taps = Taps::new(x, y, side, side);
    let right = usize::from(side > 1);
    let down = side * right;
    for (lane, sums) in sums.iter_mut().enumerate() {
        let index = taps.row[lane] as usize * side + taps.column[lane] as usize;
        let p = [
            texels[index],
            texels[index + right],
            texels[index + down],
            texels[index + down + right],
        ];
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum += taps.mix(lane, p.map(|texel| texel[i]));
        }
    }
}
