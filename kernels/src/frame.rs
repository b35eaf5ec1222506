use crate::{Error, Result};

/// The longest side of a frame: below it, positions in `f32` are exact to a thousandth of a pixel.
const MOST_PIXELS: usize = 1 << 14;
/// The most bytes of a plane: positions in it are `u32`.
const MOST_BYTES: usize = 1 << 31;

/// One plane of a frame: rows of `stride` bytes, of which the first ones are picture.
#[derive(Debug)]
pub struct Plane<'a> {
    /// The plane's bytes; the last row may end after its picture bytes.
    pub data: &'a mut [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// The planes of the two formats that Persona works in.
#[derive(Debug)]
pub enum Planes<'a> {
    /// Three planes: Y at full size, U and V at half size, rounded up.
    I420 {
        /// Luma.
        y: Plane<'a>,
        /// Blue difference.
        u: Plane<'a>,
        /// Red difference.
        v: Plane<'a>,
    },
    /// Two planes: Y at full size, U and V interleaved at half size, rounded up.
    Nv12 {
        /// Luma.
        y: Plane<'a>,
        /// Blue and red difference, alternating.
        uv: Plane<'a>,
    },
}

/// YCbCr matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matrix {
    /// ITU-R BT.601: standard definition and most web cameras.
    Bt601,
    /// ITU-R BT.709: high definition.
    Bt709,
}

/// YCbCr range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Y 16 to 235, chroma 16 to 240.
    Limited,
    /// 0 to 255.
    Full,
}

/// How a frame's bytes mean colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Color {
    /// Which matrix.
    pub matrix: Matrix,
    /// Which range.
    pub range: Range,
}

/// A frame in ordinary memory, borrowed from its buffer.
#[derive(Debug)]
pub struct Frame<'a> {
    width: usize,
    height: usize,
    color: Color,
    planes: Planes<'a>,
}

impl<'a> Frame<'a> {
    /// Checks the planes against the size and takes them.
    ///
    /// # Errors
    /// [`Error::Frame`] when a side is zero or above 16384 pixels, a stride is shorter than a row, or a plane is too short.
    pub fn new(width: usize, height: usize, color: Color, planes: Planes<'a>) -> Result<Self> {
        let frame = Self {
            width,
            height,
            color,
            planes,
        };
        frame.check()?;
        Ok(frame)
    }

    /// Whether the planes still fit the size: [`Self::planes_mut`] can replace them.
    pub(crate) fn check(&self) -> Result<()> {
        let (width, height) = (self.width, self.height);
        let wrong = |reason: String| Error::Frame {
            width,
            height,
            reason,
        };
        if width == 0 || height == 0 {
            return Err(wrong("a frame needs at least one pixel".into()));
        }
        if width > MOST_PIXELS || height > MOST_PIXELS {
            return Err(wrong(format!("a side may have at most {MOST_PIXELS} pixels")));
        }
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let check = |name: &str, plane: &Plane<'_>, row: usize, rows: usize| {
            let needed = plane.stride.saturating_mul(rows - 1).saturating_add(row);
            if plane.stride < row {
                Err(wrong(format!(
                    "plane {name} has stride {}, a row needs {row} bytes",
                    plane.stride
                )))
            } else if needed.max(plane.stride) > MOST_BYTES {
                Err(wrong(format!(
                    "plane {name} with stride {} is longer than {MOST_BYTES} bytes",
                    plane.stride
                )))
            } else if plane.data.len() < needed {
                let got = plane.data.len();
                Err(wrong(format!(
                    "plane {name} has {got} bytes, {rows} rows of stride {} need more",
                    plane.stride
                )))
            } else {
                Ok(())
            }
        };
        match &self.planes {
            Planes::I420 { y, u, v } => {
                check("Y", y, width, height)?;
                check("U", u, half_width, half_height)?;
                check("V", v, half_width, half_height)
            }
            Planes::Nv12 { y, uv } => {
                check("Y", y, width, height)?;
                check("UV", uv, 2 * half_width, half_height)
            }
        }
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// What the bytes mean.
    pub fn color(&self) -> Color {
        self.color
    }

    /// The planes, to read.
    pub fn planes(&self) -> &Planes<'a> {
        &self.planes
    }

    /// The planes, to change.
    pub fn planes_mut(&mut self) -> &mut Planes<'a> {
        &mut self.planes
    }
}
