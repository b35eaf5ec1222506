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
        let extent = |plane: &Plane<'_>| Extent {
            stride: plane.stride,
            bytes: plane.data.len(),
        };
        match &self.planes {
            Planes::I420 { y, u, v } => check(self.width, self.height, &[y, u, v].map(extent)),
            Planes::Nv12 { y, uv } => check(self.width, self.height, &[y, uv].map(extent)),
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

/// How much memory a plane has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    /// Bytes from one row to the next.
    pub(crate) stride: usize,
    /// Bytes in all.
    pub(crate) bytes: usize,
}

/// Whether planes fit a frame's size, wherever they lie: two of NV12, or three of I420.
pub(crate) fn check(width: usize, height: usize, planes: &[Extent]) -> Result<()> {
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
    let chroma = if planes.len() == 2 {
        [("UV", 2 * half_width); 2]
    } else {
        [("U", half_width), ("V", half_width)]
    };
    let rows = [
        ("Y", width, height),
        (chroma[0].0, chroma[0].1, half_height),
        (chroma[1].0, chroma[1].1, half_height),
    ];
    for ((name, row, rows), plane) in rows.into_iter().zip(planes) {
        let Extent { stride, bytes } = *plane;
        let needed = stride.saturating_mul(rows - 1).saturating_add(row);
        if stride < row {
            return Err(wrong(format!(
                "plane {name} has stride {stride}, a row needs {row} bytes"
            )));
        }
        if needed.max(stride) > MOST_BYTES {
            return Err(wrong(format!(
                "plane {name} with stride {stride} is longer than {MOST_BYTES} bytes"
            )));
        }
        if bytes < needed {
            return Err(wrong(format!(
                "plane {name} has {bytes} bytes, {rows} rows of stride {stride} need more"
            )));
        }
    }
    Ok(())
}
