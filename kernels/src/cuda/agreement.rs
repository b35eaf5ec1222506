//! Whether a GPU does what the CPU does: random frames through both, compared byte by byte.
//!
//! The same cases for the same numbers, so that what is found on a box can be looked at elsewhere.

use std::ops::Range;

use half::f16;

use super::{Cuda, Format, Picture, Precision, Rows};
use crate::cpu::Cpu;
use crate::{
    Color, Error, Frame, Hull, Kernels, MEAN_FACE, Matrix, Placement, Plane, Planes, Point, Range as Levels,
    Rect, Region, Result, Similarity, Values,
};

/// What was compared, and the largest differences.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Agreement {
    /// Random frames, each with everything that the kernels do.
    pub cases: u64,
    /// Faces in them.
    pub faces: u64,
    /// Bytes of frames.
    pub bytes: u64,
    /// Bytes that differ, by 1 code value.
    pub different: u64,
    /// The largest difference between values of tensors, in 1/255 of their range.
    pub tensors: f32,
}

impl std::ops::AddAssign for Agreement {
    fn add_assign(&mut self, other: Self) {
        self.cases += other.cases;
        self.faces += other.faces;
        self.bytes += other.bytes;
        self.different += other.different;
        self.tensors = self.tensors.max(other.tensors);
    }
}

/// Runs the cases of these numbers on the GPU and on the CPU.
///
/// # Errors
/// [`Error::Device`] naming the case, when a byte or a tensor's value differs by more than 1 code value, when only one
/// of the two refuses, or when the GPU fails.
pub fn compare(cuda: &mut Cuda, cases: Range<u64>) -> Result<Agreement> {
    let mut agreement = Agreement::default();
    let mut cpu = Cpu::new();
    for number in cases {
        let outcome = Case::new(number).compare(cuda, &mut cpu, &mut agreement);
        outcome.map_err(|error| Error::Device {
            operation: "comparing with the CPU",
            reason: match error {
                Error::Device { operation, reason } => format!("case {number}, {operation}: {reason}"),
                other => format!("case {number}: {other}"),
            },
        })?;
        agreement.cases += 1;
    }
    Ok(agreement)
}

/// Numbers that look random, the same for the same start (splitmix64, Steele et al. 2014).
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    fn point(&mut self, [width, height]: [usize; 2]) -> Point {
        let (width, height) = (width as f32, height as f32);
        Point::new(
            self.between(-0.5 * width, 1.5 * width),
            self.between(-0.5 * height, 1.5 * height),
        )
    }
}

/// What a place answered: whether it did each kernel (resize, warp, blend, cover, judge), and the frame's checksums before and after.
#[derive(Debug, Default)]
struct Said {
    done: [bool; 5],
    sums: [u64; 2],
}

/// A frame and what is done to it.
#[derive(Debug)]
struct Case {
    size: [usize; 2],
    color: Color,
    /// Lengths of rows, how many of them, offsets and strides of the planes.
    planes: Vec<([usize; 2], Rows)>,
    bytes: Vec<u8>,
    placements: Vec<Placement>,
    regions: Vec<Region>,
    /// What is scaled, to this width and height.
    scaled: (Rect, [usize; 2]),
    values: Values,
    precision: Precision,
    side: usize,
    faces: Vec<f32>,
    masks: Vec<f32>,
    /// What masks are raised to.
    floor: f32,
    /// Whether checksums are compared too, which takes long where threads are played by fibers.
    summed: bool,
}

impl Case {
    fn new(number: u64) -> Self {
        let random = &mut Random(number);
        let largest = if random.one_in(64) { [700, 500] } else { [90, 70] };
        let size = largest.map(|side| 1 + random.below(side));
        let color = Color {
            matrix: [Matrix::Bt601, Matrix::Bt709][random.below(2)],
            range: [Levels::Limited, Levels::Full][random.below(2)],
        };
        let half = size.map(|side| side.div_ceil(2));
        let lengths = if random.one_in(2) {
            vec![size, [2 * half[0], half[1]]]
        } else {
            vec![size, half, half]
        };
        let mut length = 0;
        let planes: Vec<_> = lengths
            .into_iter()
            .map(|[row, rows]| {
                let stride = row + random.below(20);
                let offset = length;
                length += stride * (rows - 1) + row;
                ([row, rows], Rows { offset, stride })
            })
            .collect();
        let bytes = (0..length).map(|_| random.next() as u8).collect();
        let count = match random.below(64) {
            0 => random.below(65),
            _ => random.below(5),
        };
        let side = 1 + random.below(if count > 8 { 24 } else { 96 });
        let placements = (0..count).map(|_| placement(random, size)).collect();
        let regions = (0..random.below(4)).map(|_| region(random, size)).collect();
        let corner = random.point(size);
        let scaled = (
            Rect::new(
                corner.x,
                corner.y,
                random.between(0.1, 2.0) * size[0] as f32,
                random.between(0.1, 2.0) * size[1] as f32,
            ),
            [1 + random.below(64), 1 + random.below(64)],
        );
        let precision = [Precision::F32, Precision::F16][random.below(2)];
        // A network's numbers, some of them beyond their range or none at all.
        let odd = random.one_in(8);
        let mut values = |length: usize, low: f32| -> Vec<f32> {
            let mut value = || match (odd, random.below(20)) {
                (true, 0) => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][random.below(3)],
                (true, 1) => random.between(-9.0, 9.0),
                _ => random.between(low, 1.0),
            };
            // Both places are to have the same numbers.
            let round = |value: f32| match precision {
                Precision::F32 => value,
                Precision::F16 => f16::from_f32(value).to_f32(),
            };
            (0..length).map(|_| round(value())).collect()
        };
        let (faces, masks) = (
            values(3 * side * side * count.max(1), -1.0),
            values(side * side * count.max(1), 0.0),
        );
        Self {
            size,
            color,
            planes,
            bytes,
            placements,
            regions,
            scaled,
            values: [Values::Byte, Values::Signed][random.below(2)],
            floor: random.between(0.0, 1.0),
            precision,
            side,
            faces,
            masks,
            summed: number.is_multiple_of(8),
        }
    }

    fn compare(self, cuda: &mut Cuda, cpu: &mut Cpu, agreement: &mut Agreement) -> Result<()> {
        let mut here = self.tensors(|shape| cuda.tensor_of(self.precision, shape))?;
        let mut there = self.tensors(|shape| cpu.tensor(shape))?;
        let judged = [self.placements.len().max(1), 1, 1, 1];
        let (mut shares_here, mut shares_there) = (cuda.tensor(judged)?, cpu.tensor(judged)?);

        let mut memory = Picture::new(cuda.device(), self.bytes.len())?;
        memory.bytes_mut().copy_from_slice(&self.bytes);
        let rows = |plane: usize| self.planes[plane].1;
        let format = match self.planes.len() {
            2 => Format::Nv12 {
                y: rows(0),
                uv: rows(1),
            },
            _ => Format::I420 {
                y: rows(0),
                u: rows(1),
                v: rows(2),
            },
        };
        let said_here = memory.with_frame(self.size, self.color, format, |frame| {
            self.ask(cuda, frame, &mut here, &mut shares_here)
        })??;
        let mut bytes = self.bytes.clone();
        let said_there = self.ask(cpu, &mut self.frame(&mut bytes)?, &mut there, &mut shares_there)?;

        if said_here.done != said_there.done {
            let (here, there) = (said_here.done, said_there.done);
            return Err(wrong(
                "refusing",
                format!("{here:?} of resize, warp, blend, cover, judge; the CPU {there:?}"),
            ));
        }
        for (entry, kernel) in ["resize", "warp"].into_iter().enumerate() {
            if said_here.done[entry] {
                agreement.tensor(
                    kernel,
                    cuda.read(&mut here[entry])?,
                    there[entry].data(),
                    self.values,
                )?;
            }
        }
        // Masks as they were raised, and for each face what came of it.
        // The floor is rounded as the mask's numbers are.
        same("mask", cuda.read(&mut here[3])?, there[3].data(), 1e-3)?;
        same("share", cuda.read(&mut shares_here)?, shares_there.data(), 0.0)?;
        let before = agreement.different;
        agreement.frame(memory.bytes(), &bytes)?;
        let same = [true, agreement.different == before];
        for (i, same) in same.into_iter().enumerate() {
            let (here, there) = (said_here.sums[i], said_there.sums[i]);
            if self.summed && same != (here == there) {
                return Err(wrong("checksum", format!("{here}; the CPU {there}")));
            }
        }
        agreement.faces += self.placements.len() as u64;
        Ok(())
    }

    /// A place's tensors: the scaled picture, crops, faces and masks.
    fn tensors<T>(&self, tensor: impl FnMut([usize; 4]) -> Result<T>) -> Result<[T; 4]> {
        let (entries, side, [width, height]) = (self.placements.len().max(1), self.side, self.scaled.1);
        let shapes = [
            [1, 3, height, width],
            [entries, 3, side, side],
            [entries, 3, side, side],
            [entries, 1, side, side],
        ];
        let tensors = shapes.into_iter().map(tensor).collect::<Result<Vec<T>>>()?;
        tensors
            .try_into()
            .map_err(|_| wrong("making tensors", "there are four".into()))
    }

    /// Asks a place for everything.
    fn ask<K: Kernels>(
        &self,
        kernels: &mut K,
        frame: &mut K::Frame<'_>,
        [scaled, crops, faces, masks]: &mut [K::Tensor; 4],
        shares: &mut K::Tensor,
    ) -> Result<Said> {
        let square = self.side * self.side;
        for entry in 0..self.placements.len() {
            kernels.write(faces, entry, &self.faces[3 * square * entry..][..3 * square])?;
            kernels.write(masks, entry, &self.masks[square * entry..][..square])?;
        }
        let aligns: Vec<_> = self.placements.iter().map(|placement| placement.align).collect();
        let mut said = Said::default();
        if self.summed {
            said.sums[0] = kernels.checksum(frame)?;
        }
        said.done = [
            kernels.resize(frame, self.scaled.0, self.values, scaled, 0),
            kernels.warp(frame, &aligns, self.values, crops),
            kernels.blend(frame, &self.placements, faces, masks),
            kernels.cover(frame, &self.regions),
            // Last, so that the frame does not depend on it.
            kernels.judge(&self.placements, self.floor, faces, masks, shares),
        ]
        .map(|outcome| outcome.is_ok());
        if self.summed {
            said.sums[1] = kernels.checksum(frame)?;
        }
        kernels.finish()?;
        Ok(said)
    }

    /// The case's frame over these bytes.
    fn frame<'a>(&self, bytes: &'a mut [u8]) -> Result<Frame<'a>> {
        let mut rest = bytes;
        let mut taken = 0;
        let mut next = |plane: usize| {
            let ([row, rows], Rows { offset, stride }) = self.planes[plane];
            let (own, after) =
                std::mem::take(&mut rest).split_at_mut(offset - taken + stride * (rows - 1) + row);
            let data = &mut own[offset - taken..];
            taken = offset + data.len();
            rest = after;
            Plane { data, stride }
        };
        let planes = match self.planes.len() {
            2 => Planes::Nv12 {
                y: next(0),
                uv: next(1),
            },
            _ => Planes::I420 {
                y: next(0),
                u: next(1),
                v: next(2),
            },
        };
        Frame::new(self.size[0], self.size[1], self.color, planes)
    }
}

/// Compares what `judge` gave.
fn same(what: &str, here: &[f32], there: &[f32], most: f32) -> Result<()> {
    for (index, (a, b)) in here.iter().zip(there).enumerate() {
        let is_same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= most;
        if !is_same || here.len() != there.len() {
            return Err(wrong(
                "judge",
                format!("{what} {index} is {a}, the CPU gives {b}"),
            ));
        }
    }
    Ok(())
}

fn wrong(operation: &'static str, reason: String) -> Error {
    Error::Device { operation, reason }
}

/// A face in and around a frame, now and then far away, without area, or not a number.
fn placement(random: &mut Random, size: [usize; 2]) -> Placement {
    let mut center = random.point(size);
    if random.one_in(24) {
        center.x += random.between(-1e6, 1e6);
    }
    let pixels = random.between(2.0, 40.0) * random.between(0.5, 8.0);
    let (sin, cos) = random.between(-3.2, 3.2).sin_cos();
    let (a, b) = (cos / pixels, sin / pixels);
    let mut align = Similarity {
        a,
        b,
        tx: 0.5 - (a * center.x - b * center.y),
        ty: 0.5 - (b * center.x + a * center.y),
    };
    let back = align.inverse();
    let hull = match random.below(24) {
        0 => Hull::of(&[center; 4]),
        1..=12 => Hull::of(&MEAN_FACE.map(|point| back.apply(point))),
        _ => hull(random, size),
    };
    if random.one_in(200) {
        align.a = [f32::NAN, 0.0, f32::INFINITY][random.below(3)];
        align.b = 0.0;
    }
    Placement { align, hull }
}

fn hull(random: &mut Random, size: [usize; 2]) -> Hull {
    let mut points = [Point::default(); 12];
    let count = 3 + random.below(10);
    for point in &mut points[..count] {
        *point = random.point(size);
    }
    Hull::of(&points[..count])
}

fn region(random: &mut Random, size: [usize; 2]) -> Region {
    let corner = random.point(size);
    let sides = size.map(|side| side as f32);
    match random.below(32) {
        0 => Region::Frame,
        1 => Region::Box(Rect::new(corner.x, corner.y, f32::NAN, 4.0)),
        2 => Region::Hull(Hull::of(&[])),
        3..=16 => Region::Hull(hull(random, size)),
        _ => Region::Box(Rect::new(
            corner.x,
            corner.y,
            random.between(0.5, sides[0] + 1.0),
            random.between(0.5, sides[1] + 1.0),
        )),
    }
}

impl Agreement {
    fn tensor(&mut self, kernel: &'static str, here: &[f32], there: &[f32], values: Values) -> Result<()> {
        let (scale, _) = values.of_byte();
        if here.len() != there.len() {
            return Err(wrong(
                kernel,
                format!("{} values, the CPU {}", here.len(), there.len()),
            ));
        }
        for (index, (a, b)) in here.iter().zip(there).enumerate() {
            let apart = (a - b).abs() / scale;
            if apart > 1.0 || apart.is_nan() {
                return Err(wrong(kernel, format!("value {index} is {a}, the CPU gives {b}")));
            }
            self.tensors = self.tensors.max(apart);
        }
        Ok(())
    }

    fn frame(&mut self, here: &[u8], there: &[u8]) -> Result<()> {
        for (index, (a, b)) in here.iter().zip(there).enumerate() {
            if a.abs_diff(*b) > 1 {
                return Err(wrong("frame", format!("byte {index} is {a}, the CPU gives {b}")));
            }
            self.different += u64::from(a != b);
        }
        self.bytes += here.len() as u64;
        Ok(())
    }
}
