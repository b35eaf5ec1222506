//! Bilinear samples, many at a time: positions in, values out, in arrays that the compiler turns into vectors.

use crate::{Plane, Planes};

/// How many samples are worked on together.
pub(super) const LANES: usize = 32;

/// One value for each of the samples.
pub(super) type Lanes = [f32; LANES];

/// Which four neighbours each sample lies between, and where.
#[derive(Debug)]
pub(super) struct Taps {
    /// Where `p00` begins in the array.
    index: [u32; LANES],
    fx: Lanes,
    fy: Lanes,
}

impl Taps {
    /// The neighbours of positions in an array of `width` x `height` samples, where sample 0 lies at 0.0;
    /// positions outside are moved to the border. Elements are `size` apart and rows `stride`, all within `u32`.
    #[inline(always)]
    fn new(x: &Lanes, y: &Lanes, [width, height]: [usize; 2], size: usize, stride: usize) -> Self {
        let mut taps = Self {
            index: [0; LANES],
            fx: [0.0; LANES],
            fy: [0.0; LANES],
        };
        for lane in 0..LANES {
            let (column, fx) = split(x[lane], width);
            let (row, fy) = split(y[lane], height);
            taps.index[lane] = row * stride as u32 + column * size as u32;
            taps.fx[lane] = fx;
            taps.fy[lane] = fy;
        }
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

/// At 1.5 * 2^23 floats lie 1 apart: adding it rounds to the nearest integer, which the lowest bits then hold.
const INTEGERS: f32 = 12_582_912.0;

/// Whole and fractional part of a position moved into `0 ..= side - 1`. The whole part goes up to `side - 2`, so
/// the fraction may be 1; with a side of 1 both are 0.
#[inline(always)]
fn split(position: f32, side: usize) -> (u32, f32) {
    let last = (side - 1) as f32;
    let most = side.saturating_sub(2) as f32;
    let position = position.clamp(0.0, last);
    let near = (position - 0.5 + INTEGERS) - INTEGERS;
    // Not `min`, which takes care of NaN.
    let below = if near < most { near } else { most };
    (
        (below + INTEGERS).to_bits() - INTEGERS.to_bits(),
        position - below,
    )
}

/// The plane of a frame, `width` samples wide, to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [u8],
    stride: usize,
    width: usize,
}

impl<'a> View<'a> {
    pub(super) fn new(plane: &'a Plane<'_>, width: usize) -> Self {
        Self {
            data: plane.data,
            stride: plane.stride,
            width,
        }
    }

    /// Row `row`, `SIZE` bytes for each sample.
    pub(super) fn row<const SIZE: usize>(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.stride..][..self.width * SIZE]
    }

    /// `N` bytes from `index` on. In a plane with a side of 1 a sample lacks neighbours: they weigh nothing and
    /// read as 0.
    #[inline(always)]
    fn bytes<const N: usize>(&self, index: u32) -> [u8; N] {
        let index = index as usize;
        match self.data.get(index..index + N) {
            Some(bytes) => std::array::from_fn(|i| bytes[i]),
            None => std::array::from_fn(|i| self.data.get(index + i).copied().unwrap_or(0)),
        }
    }

    /// Adds samples of a plane with one channel.
    fn sample(&self, taps: &Taps, offset: f32, values: &mut Lanes) {
        let mut packed = [0; LANES];
        for (lane, packed) in packed.iter_mut().enumerate() {
            let index = taps.index[lane];
            let ([p00, p01], [p10, p11]) = (self.bytes(index), self.bytes(index + self.stride as u32));
            *packed = u32::from_le_bytes([p00, p01, p10, p11]);
        }
        for lane in 0..LANES {
            let packed = packed[lane];
            let p = [
                byte(packed, 0),
                byte(packed, 8),
                byte(packed, 16),
                byte(packed, 24),
            ];
            values[lane] += taps.mix(lane, p) - offset;
        }
    }

    /// Adds samples of a plane with two interleaved channels.
    fn sample_pairs(&self, taps: &Taps, offset: f32, u: &mut Lanes, v: &mut Lanes) {
        let mut packed = [[0; LANES]; 2];
        for lane in 0..LANES {
            let index = taps.index[lane];
            packed[0][lane] = u32::from_le_bytes(self.bytes(index));
            packed[1][lane] = u32::from_le_bytes(self.bytes(index + self.stride as u32));
        }
        for lane in 0..LANES {
            let [top, bottom] = [packed[0][lane], packed[1][lane]];
            let p = [byte(top, 0), byte(top, 16), byte(bottom, 0), byte(bottom, 16)];
            u[lane] += taps.mix(lane, p) - offset;
            let p = [byte(top, 8), byte(top, 24), byte(bottom, 8), byte(bottom, 24)];
            v[lane] += taps.mix(lane, p) - offset;
        }
    }
}

/// One byte of four as a number. Signed, because vectors of baseline x86-64 convert nothing else.
#[inline(always)]
fn byte(packed: u32, shift: u32) -> f32 {
    ((packed >> shift) & 0xFF) as i32 as f32
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
        let (Planes::I420 { y: luma, .. } | Planes::Nv12 { y: luma, .. }) = planes;
        let taps = Taps::new(x, y, [width, height], 1, luma.stride);
        View::new(luma, width).sample(&taps, black, &mut self.y);

        // A chroma sample shares its place with the left luma sample of its four, between the rows.
        let (mut half_x, mut half_y) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            half_x[lane] = 0.5 * x[lane];
            half_y[lane] = 0.5 * y[lane] - 0.25;
        }
        let (x, y) = (half_x, half_y);
        let (width, height) = (width.div_ceil(2), height.div_ceil(2));
        match planes {
            Planes::I420 { u, v, .. } => {
                for (plane, sum) in [(u, &mut self.u), (v, &mut self.v)] {
                    let taps = Taps::new(&x, &y, [width, height], 1, plane.stride);
                    View::new(plane, width).sample(&taps, 128.0, sum);
                }
            }
            Planes::Nv12 { uv, .. } => {
                let taps = Taps::new(&x, &y, [width, height], 2, uv.stride);
                View::new(uv, width).sample_pairs(&taps, 128.0, &mut self.u, &mut self.v);
            }
        }
    }
}

/// One pixel of a crop that is about to be blended: Y, U, V and the mask.
pub(super) type Texel = [f32; 4];

/// Adds bilinear samples of a square of texels.
pub(super) fn add_texels(texels: &[Texel], side: usize, x: &Lanes, y: &Lanes, sums: &mut [Texel; LANES]) {
    let taps = Taps::new(x, y, [side; 2], 1, side);
    let right = usize::from(side > 1);
    let down = side * right;
    for (lane, sums) in sums.iter_mut().enumerate() {
        let index = taps.index[lane] as usize;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_fall_between_neighbours_that_exist() {
        struct Case(f32, usize, f32);
        let cases = [
            Case(-7.0, 10, 0.0),
            Case(0.25, 10, 0.25),
            Case(3.0, 10, 3.0),
            Case(8.75, 10, 8.75),
            Case(9.0, 10, 9.0),
            Case(1e30, 10, 9.0),
            Case(f32::NEG_INFINITY, 10, 0.0),
            Case(0.7, 1, 0.0),
            Case(16_382.75, 16_384, 16_382.75),
        ];
        for Case(position, side, wanted) in cases {
            let (whole, fraction) = split(position, side);
            assert!((0.0..=1.0).contains(&fraction), "{position}: {fraction}");
            assert!(whole as usize + 2 <= side.max(2), "{position}: {whole}");
            assert_eq!(whole as f32 + fraction, wanted, "{position} in {side}");
        }
    }
}
