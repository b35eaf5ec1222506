//! Frames to test with: bytes, sizes and strides that own their memory.

use kernels::{Color, Frame, Matrix, Plane, Planes, Range};

/// The two formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    I420,
    Nv12,
}

/// One plane: rows of `row` bytes, `stride` apart, the last row without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes {
    pub data: Vec<u8>,
    pub row: usize,
    pub stride: usize,
}

/// A frame's bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    pub color: Color,
    pub format: Format,
    /// Y, U, V or Y, UV.
    pub planes: Vec<Bytes>,
}

pub const SD: Color = Color {
    matrix: Matrix::Bt601,
    range: Range::Limited,
};

pub const HD: Color = Color {
    matrix: Matrix::Bt709,
    range: Range::Limited,
};

impl Picture {
    /// A picture of what `at(x, y)` gives as Y, U and V at the places of its samples, with `padding` bytes
    /// of 0xA5 after each row.
    pub fn new(
        (width, height): (usize, usize),
        color: Color,
        format: Format,
        padding: usize,
        at: impl Fn(f32, f32) -> [f32; 3],
    ) -> Self {
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let byte = |value: f32| value.round().clamp(0.0, 255.0) as u8;
        let plane = |row: usize, rows: usize, value: &dyn Fn(usize, usize) -> u8| {
            let stride = row + padding;
            let mut data = vec![0xA5; stride * (rows - 1) + row];
            for y in 0..rows {
                for x in 0..row {
                    data[y * stride + x] = value(x, y);
                }
            }
            Bytes { data, row, stride }
        };
        let luma = |x: usize, y: usize| byte(at(x as f32 + 0.5, y as f32 + 0.5)[0]);
        let chroma = |channel: usize, x: usize, y: usize| {
            byte(at(2.0 * x as f32 + 0.5, 2.0 * y as f32 + 1.0)[channel])
        };
        let y = plane(width, height, &luma);
        let planes = match format {
            Format::I420 => vec![
                y,
                plane(half_width, half_height, &|x, y| chroma(1, x, y)),
                plane(half_width, half_height, &|x, y| chroma(2, x, y)),
            ],
            Format::Nv12 => vec![
                y,
                plane(2 * half_width, half_height, &|x, y| chroma(1 + x % 2, x / 2, y)),
            ],
        };
        Self {
            width,
            height,
            color,
            format,
            planes,
        }
    }

    /// A picture of noise in the limited range, the same for the same seed.
    pub fn noise(size: (usize, usize), color: Color, format: Format, padding: usize, seed: u32) -> Self {
        Self::new(size, color, format, padding, |x, y| {
            [0, 1, 2].map(|channel| {
                let mut hash = seed ^ (x.to_bits().rotate_left(11)) ^ y.to_bits().rotate_left(23) ^ channel;
                for _ in 0..3 {
                    hash = (hash ^ (hash >> 15)).wrapping_mul(0x2C1B_3C6D);
                }
                16.0 + ((hash >> 8) % 220) as f32
            })
        })
    }

    /// The view that the kernels take.
    pub fn frame(&mut self) -> Frame<'_> {
        let mut planes = self.planes.iter_mut().map(|plane| Plane {
            data: &mut plane.data,
            stride: plane.stride,
        });
        let mut next = || planes.next().expect("a picture has all its planes");
        let planes = match self.format {
            Format::I420 => Planes::I420 {
                y: next(),
                u: next(),
                v: next(),
            },
            Format::Nv12 => Planes::Nv12 {
                y: next(),
                uv: next(),
            },
        };
        Frame::new(self.width, self.height, self.color, planes).expect("a picture is a sound frame")
    }

    /// Where the sample that byte `column` of row `row` of plane `plane` belongs to lies in the frame;
    /// `None` for padding.
    pub fn position(&self, plane: usize, index: usize) -> Option<kernels::Point> {
        let Bytes {
            row: length, stride, ..
        } = self.planes[plane];
        let (column, row) = (index % stride, index / stride);
        if column >= length {
            return None;
        }
        Some(if plane == 0 {
            kernels::Point::new(column as f32 + 0.5, row as f32 + 0.5)
        } else {
            let size = if self.format == Format::Nv12 { 2 } else { 1 };
            kernels::Point::new(2.0 * (column / size) as f32 + 0.5, 2.0 * row as f32 + 1.0)
        })
    }
}
