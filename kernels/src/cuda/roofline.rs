//! How long the kernels should take, and how long they do.
//!
//! The prediction is a roofline (Williams et al. 2009): the larger of what the memory and what the arithmetic need, plus
//! the driver's calls. docs/performance.md shows the arithmetic for each board.

use std::time::{Duration, Instant};

use super::{Cuda, Device, Format, Picture, Rows};
use crate::{
    Color, Hull, Kernels, MEAN_FACE, Matrix, Placement, Range, Rect, Region, Result, Similarity, Values,
};

/// The frame that is measured: 1080p in NV12.
const SIZE: [usize; 2] = [1920, 1080];
/// The detector's picture, width and height.
const INPUT: [usize; 2] = [416, 256];
/// Pixels of a face's crop in the frame, and of the crop.
const FACE: f32 = 256.0;
const CROP: usize = 128;

/// The share of a data sheet's bandwidth, and of its arithmetic, that kernels of this kind reach. Recalled, not measured.
const OF_BANDWIDTH: f64 = 0.65;
const OF_ARITHMETIC: f64 = 0.4;
/// A copy of parameters and a launch, in seconds. Recalled, not measured.
const CALLS: f64 = 10e-6;

/// What a GPU can do at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Bytes per second between memory and GPU.
    pub bandwidth: f64,
    /// Additions and multiplications of `f32` per second.
    pub arithmetic: f64,
}

/// A kernel and how much it moves and computes for a number of faces.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// The kernel.
    pub kernel: &'static str,
    /// Bytes read and written, each once.
    pub bytes: f64,
    /// Operations on `f32`.
    pub operations: f64,
    /// Copies of parameters with their launches.
    pub calls: f64,
}

impl Load {
    /// What the kernels do to a 1080p frame with this many faces of 256 pixels.
    pub fn of(faces: usize) -> [Self; 5] {
        let n = faces as f64;
        let [width, height] = SIZE.map(|side| side as f64);
        let frame = 1.5 * width * height;
        let input = (INPUT[0] * INPUT[1]) as f64;
        let crop = (CROP * CROP) as f64;
        let seen = f64::from(FACE * FACE);
        // The mean face's box is 0.731 x 0.671 of its crop.
        let boxed = seen * 0.731 * 0.671;
        [
            Self {
                kernel: "resize",
                bytes: frame + 12.0 * input,
                // An addition for each byte of the frame; 30 for each result.
                operations: frame + 30.0 * input,
                calls: 1.0,
            },
            Self {
                kernel: "warp",
                bytes: n * (1.5 * seen + 12.0 * crop),
                // Per sample and result: 3 times 30 for position, neighbours and mixing, 20 for the colour.
                operations: n * crop * 110.0,
                calls: 1.0,
            },
            Self {
                kernel: "judge",
                bytes: n * 16.0 * crop,
                // Per value a comparison; per pixel its place in the crop and in the hull.
                operations: n * crop * 14.0,
                calls: 1.0,
            },
            Self {
                kernel: "blend",
                bytes: n * (16.0 * crop + 2.0 * 1.5 * boxed),
                // Per pixel 4 texels of 20, 22 edges of 4, 40 for position and mixing; chroma for every fourth.
                operations: n * boxed * (1.25 * 208.0),
                calls: 1.0,
            },
            Self {
                kernel: "cover",
                bytes: n * 1.5 * boxed,
                operations: n * boxed * 30.0,
                calls: 2.0,
            },
        ]
    }

    /// How long it should take.
    pub fn predicted(&self, limits: Limits) -> Duration {
        let memory = self.bytes / (OF_BANDWIDTH * limits.bandwidth);
        let arithmetic = self.operations / (OF_ARITHMETIC * limits.arithmetic);
        Duration::from_secs_f64(self.calls * CALLS + memory.max(arithmetic))
    }
}

impl Limits {
    /// Of a module by its data sheet: gigabytes per second, multiprocessors, gigahertz, `f32` units of each.
    pub fn new(bandwidth: f64, multiprocessors: f64, clock: f64, units: f64) -> Self {
        Self {
            bandwidth: bandwidth * 1e9,
            arithmetic: multiprocessors * clock * 1e9 * units * 2.0,
        }
    }

    /// Of a device, by what the driver says about it; `None` when it says nothing. A Jetson's driver does not know the
    /// memory's clock, so the slowest module with as many multiprocessors counts.
    pub fn of(device: &Device) -> Option<Self> {
        let (multiprocessors, clock) = device.multiprocessors()?;
        let units = if device.compute_capability() < (8, 0) {
            64.0
        } else {
            128.0
        };
        let bandwidth = match (device.compute_capability(), multiprocessors) {
            ((7, 2), _) => 51.2,
            ((8, 7), 4) => 34.0,
            ((8, 7), 8) => 68.0,
            ((8, 7), _) => 204.8,
            ((10, 1) | (11, 0), _) => 273.0,
            _ => device.bandwidth()?,
        };
        Some(Self::new(bandwidth, f64::from(multiprocessors), clock, units))
    }
}

/// How long each kernel takes for this many faces, with the wait for it: the median of `rounds`, in the order of
/// [`Load::of`]. `now` is the clock.
///
/// # Errors
/// [`crate::Error::Device`] when the GPU fails or memory is short.
pub fn measure(
    cuda: &mut Cuda,
    faces: usize,
    rounds: usize,
    mut now: impl FnMut() -> Instant,
) -> Result<[Duration; 5]> {
    let [width, height] = SIZE;
    let mut memory = Picture::new(cuda.device(), width * height * 3 / 2)?;
    for (byte, level) in memory.bytes_mut().iter_mut().zip((16..=235).cycle()) {
        *byte = level;
    }
    let color = Color {
        matrix: Matrix::Bt709,
        range: Range::Limited,
    };
    let rows = |offset: usize| Rows {
        offset,
        stride: width,
    };
    let format = Format::Nv12 {
        y: rows(0),
        uv: rows(width * height),
    };
    let mut input = cuda.tensor([1, 3, INPUT[1], INPUT[0]])?;
    let mut crops = cuda.tensor([faces.max(1), 3, CROP, CROP])?;
    let mut masks = cuda.tensor([faces.max(1), 1, CROP, CROP])?;
    let mut shares = cuda.tensor([faces.max(1), 1, 1, 1])?;
    let placements: Vec<_> = (0..faces)
        .map(|face| {
            let (sin, cos) = 0.1_f32.sin_cos();
            // In rows of 6, apart from each other.
            let [x, y] = [face % 6, face / 6 % 4].map(|place| 20.0 + place as f32 * FACE);
            let (a, b) = (cos / FACE, sin / FACE);
            let align = Similarity {
                a,
                b,
                tx: -(a * x - b * y),
                ty: -(b * x + a * y),
            };
            let back = align.inverse();
            let hull = Hull::of(&MEAN_FACE.map(|point| back.apply(point)));
            Placement { align, hull }
        })
        .collect();
    let aligns: Vec<_> = placements.iter().map(|placement| placement.align).collect();
    let regions: Vec<_> = placements
        .iter()
        .map(|placement| Region::Hull(placement.hull.clone()))
        .collect();
    let whole = Rect::new(0.0, 0.0, width as f32, height as f32);
    let mut took: [Vec<Duration>; 5] = Default::default();
    memory.with_frame(SIZE, color, format, |frame| {
        // The first round warms up.
        for round in 0..=rounds {
            for (kernel, took) in took.iter_mut().enumerate() {
                let begin = now();
                match kernel {
                    0 => cuda.resize(frame, whole, Values::Byte, &mut input, 0)?,
                    1 => cuda.warp(frame, &aligns, Values::Signed, &mut crops)?,
                    2 => cuda.judge(&placements, 0.9, &crops, &mut masks, &mut shares)?,
                    3 => cuda.blend(frame, &placements, &crops, &masks)?,
                    _ => cuda.cover(frame, &regions)?,
                }
                cuda.finish()?;
                if round > 0 {
                    took.push(now() - begin);
                }
            }
        }
        Ok::<_, crate::Error>(())
    })??;
    Ok(took.map(|mut took| {
        took.sort_unstable();
        took.get(took.len() / 2).copied().unwrap_or_default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_of_an_orin_nano() {
        // Orin Nano 8 GB Super: 102 GB/s, 8 multiprocessors at 1.02 GHz.
        let nano = Limits::new(102.0, 8.0, 1.02, 128.0);
        let micros = |faces: usize| Load::of(faces).map(|load| load.predicted(nano).as_secs_f64() * 1e6);
        let [resize, warp, judge, blend, cover] = micros(1);
        // 4.39 MB at 66.3 GB/s; 295 kB; 262 kB; 32.1 kpixels of 260 operations at 0.84 TFLOP/s; 48 kB.
        for (got, wanted) in [
            (resize, 10.0 + 66.2),
            (warp, 10.0 + 4.4),
            (judge, 10.0 + 4.0),
            (blend, 10.0 + 10.0),
            (cover, 20.0 + 1.2),
        ] {
            assert!((got - wanted).abs() < 0.6, "{got} {wanted}");
        }
        assert!(micros(16)[3] < 10.0 + 16.0 * 10.1);
    }
}
