//! The pixels of a `gst::Buffer`, in place.

use gstreamer as gst;
use gstreamer_video as gst_video;
use kernels::cpu::Cpu;
use kernels::{Color, Frame, Matrix, Plane, Planes, Range};

use super::gpu::{FEATURE, Gpu, Lent};
use crate::frame::{Pixels, Unmappable};

/// Height from which a stream that does not name its matrix is taken for high definition (BT.709).
const HIGH_DEFINITION: u32 = 720;

/// Where the pixels of a stream's buffers lie, unless a buffer's own [`gst_video::VideoMeta`] says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    format: gst_video::VideoFormat,
    width: u32,
    height: u32,
    pub(super) color: Color,
    offsets: [usize; 3],
    strides: [usize; 3],
    /// Whether the buffers are NVMM, of which nothing above holds but size and format.
    is_nvmm: bool,
}

impl Layout {
    /// The layout that caps describe; `None` for a format other than I420 and NV12, and for memory of another kind.
    pub(super) fn of_caps(caps: &gst::CapsRef, info: &gst_video::VideoInfo) -> Option<Self> {
        let features = caps.features(0)?;
        let layout = Self::of(info)?;
        if FEATURE.is_some_and(|feature| features.contains(feature)) {
            let is_nvmm = true;
            return (layout.is_nv12()).then_some(Self { is_nvmm, ..layout });
        }
        let is_ordinary = features.is_equal(gst::CAPS_FEATURES_MEMORY_SYSTEM_MEMORY.as_ref());
        is_ordinary.then_some(layout)
    }

    /// The layout of ordinary memory; `None` for a format other than I420 and NV12.
    fn of(info: &gst_video::VideoInfo) -> Option<Self> {
        let (offsets, strides) = planes(info.format(), info.offset(), info.stride())?;
        let (width, height) = (info.width(), info.height());
        Some(Self {
            format: info.format(),
            width,
            height,
            color: color(info),
            offsets,
            strides,
            is_nvmm: false,
        })
    }

    /// Whether the pixels lie in memory that only a GPU reaches.
    pub(super) fn is_nvmm(&self) -> bool {
        self.is_nvmm
    }

    pub(super) fn is_nv12(&self) -> bool {
        self.format == gst_video::VideoFormat::Nv12
    }
}

/// Offsets and strides of the planes of a format that Persona works in. A negative stride (a picture upside down)
/// becomes one that no frame accepts.
fn planes(
    format: gst_video::VideoFormat,
    offsets: &[usize],
    strides: &[i32],
) -> Option<([usize; 3], [usize; 3])> {
    let count = match format {
        gst_video::VideoFormat::I420 => 3,
        gst_video::VideoFormat::Nv12 => 2,
        _ => return None,
    };
    let mut found = ([0; 3], [0; 3]);
    for plane in 0..count {
        found.0[plane] = *offsets.get(plane)?;
        found.1[plane] = usize::try_from(*strides.get(plane)?).unwrap_or(0);
    }
    Some(found)
}

/// What the bytes mean; what the stream does not say is guessed from its size, as players do.
fn color(info: &gst_video::VideoInfo) -> Color {
    let colorimetry = info.colorimetry();
    let matrix = match colorimetry.matrix() {
        gst_video::VideoColorMatrix::Bt709 => Matrix::Bt709,
        gst_video::VideoColorMatrix::Bt601 => Matrix::Bt601,
        _ if info.height() >= HIGH_DEFINITION => Matrix::Bt709,
        _ => Matrix::Bt601,
    };
    let range = match colorimetry.range() {
        gst_video::VideoColorRange::Range0_255 => Range::Full,
        _ => Range::Limited,
    };
    Color { matrix, range }
}

/// A buffer that nobody else holds, and where its pixels lie.
#[derive(Debug)]
pub struct VideoBuffer {
    /// How the GPU of the stream reaches the pixels. Ends before the buffer.
    #[cfg_attr(not(feature = "tensorrt"), expect(dead_code, reason = "there is never one"))]
    pub(super) lent: Option<Lent>,
    pub(super) buffer: gst::Buffer,
    pub(super) layout: Layout,
}

impl VideoBuffer {
    /// Takes a buffer for the place of its stream. [`Pixels::with_frame`] refuses it while somebody else holds it too.
    pub(super) fn new(buffer: gst::Buffer, layout: Layout, gpu: Option<Gpu>) -> Self {
        Self {
            lent: gpu.map(Lent::from),
            buffer,
            layout,
        }
    }

    /// Takes a buffer whose pixels are as `info` describes them; `None` for a format other than I420 and NV12.
    pub fn of(buffer: gst::Buffer, info: &gst_video::VideoInfo) -> Option<Self> {
        Layout::of(info).map(|layout| Self::new(buffer, layout, None))
    }

    /// Makes the picture black (ITU-R BT.601 and BT.709 code values).
    pub(super) fn blacken(&mut self) -> Result<(), Unmappable> {
        Pixels::<Cpu>::with_frame(self, |frame| {
            let black = match frame.color().range {
                Range::Limited => 16,
                Range::Full => 0,
            };
            match frame.planes_mut() {
                Planes::I420 { y, u, v } => {
                    y.data.fill(black);
                    u.data.fill(128);
                    v.data.fill(128);
                }
                Planes::Nv12 { y, uv } => {
                    y.data.fill(black);
                    uv.data.fill(128);
                }
            }
        })
    }

    /// The buffer, to pass on.
    pub fn into_buffer(self) -> gst::Buffer {
        self.buffer
    }

    /// The buffer, if nobody else holds it.
    pub(super) fn own(&mut self) -> Result<&mut gst::BufferRef, Unmappable> {
        let own = self.buffer.get_mut();
        own.ok_or_else(|| Unmappable("somebody else holds it".into()))
    }

    /// Offsets and strides of the planes: those of the buffer's own description, else those of the caps.
    pub(super) fn planes(&self) -> Result<([usize; 3], [usize; 3]), Unmappable> {
        let unmappable = |reason: &str| Unmappable(reason.to_owned());
        let Layout {
            format,
            width,
            height,
            ..
        } = self.layout;
        let Some(meta) = self.buffer.meta::<gst_video::VideoMeta>() else {
            return Ok((self.layout.offsets, self.layout.strides));
        };
        if (meta.format(), meta.width(), meta.height()) != (format, width, height) {
            return Err(unmappable("its video meta contradicts the caps"));
        }
        planes(format, meta.offset(), meta.stride()).ok_or_else(|| unmappable("its video meta lacks a plane"))
    }
}

impl Pixels<Cpu> for VideoBuffer {
    fn size(&self) -> (usize, usize) {
        (self.layout.width as usize, self.layout.height as usize)
    }

    fn with_frame<R>(&mut self, work: impl FnOnce(&mut Frame<'_>) -> R) -> Result<R, Unmappable> {
        let unmappable = |reason: &str| Unmappable(reason.to_owned());
        let Layout {
            format,
            width,
            height,
            color,
            is_nvmm,
            ..
        } = self.layout;
        if is_nvmm {
            return Err(unmappable("only a GPU reaches NVMM memory"));
        }
        let (offsets, strides) = self.planes()?;
        let mut map = self
            .own()?
            .map_writable()
            .map_err(|_| unmappable("its memory is not writable"))?;
        let planes = match format {
            gst_video::VideoFormat::Nv12 => {
                let [y, uv] = split(&mut map, [offsets[0], offsets[1]], [strides[0], strides[1]])?;
                Planes::Nv12 { y, uv }
            }
            _ => {
                let [y, u, v] = split(&mut map, offsets, strides)?;
                Planes::I420 { y, u, v }
            }
        };
        let mut frame = Frame::new(width as usize, height as usize, color, planes)
            .map_err(|error| Unmappable(error.to_string()))?;
        Ok(work(&mut frame))
    }
}

/// Cuts a buffer's bytes at the planes' offsets; each plane ends where the next one begins.
fn split<const N: usize>(
    mut bytes: &mut [u8],
    offsets: [usize; N],
    strides: [usize; N],
) -> Result<[Plane<'_>; N], Unmappable> {
    let mut order: [usize; N] = std::array::from_fn(|plane| plane);
    // I420 may come with V before U.
    order.sort_unstable_by_key(|&plane| offsets[plane]);
    let mut planes = std::array::from_fn(|_| Plane {
        data: Default::default(),
        stride: 0,
    });
    for &plane in order.iter().rev() {
        let (before, own) = bytes.split_at_mut_checked(offsets[plane]).ok_or_else(|| {
            Unmappable(format!(
                "plane {plane} begins at byte {}, beyond the buffer's end",
                offsets[plane]
            ))
        })?;
        planes[plane] = Plane {
            data: own,
            stride: strides[plane],
        };
        bytes = before;
    }
    Ok(planes)
}

#[cfg(test)]
mod tests {
    use gst_video::prelude::*;

    use super::*;

    fn info(format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
        gst_video::VideoInfo::builder(format, width, height)
            .build()
            .unwrap()
    }

    fn with<R>(
        buffer: gst::Buffer,
        info: &gst_video::VideoInfo,
        work: impl FnOnce(&mut Frame<'_>) -> R,
    ) -> Result<R, Unmappable> {
        Pixels::<Cpu>::with_frame(&mut VideoBuffer::of(buffer, info).unwrap(), work)
    }

    #[test]
    fn planes_lie_where_gstreamer_puts_them() {
        gst::init().unwrap();
        for format in [gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12] {
            for (width, height) in [(16, 16), (17, 33), (640, 480)] {
                let info = info(format, width, height);
                let mut buffer = gst::Buffer::with_size(info.size()).unwrap();
                {
                    let buffer = buffer.get_mut().unwrap();
                    let mut frame =
                        gst_video::VideoFrameRef::from_buffer_ref_writable(buffer, &info).unwrap();
                    for plane in 0..frame.n_planes() {
                        frame.plane_data_mut(plane).unwrap().fill(plane as u8 + 1);
                    }
                }
                let first = with(buffer, &info, |frame| match frame.planes() {
                    Planes::I420 { y, u, v } => vec![y.data[0], u.data[0], v.data[0]],
                    Planes::Nv12 { y, uv } => vec![y.data[0], uv.data[0]],
                });
                let wanted = if format == gst_video::VideoFormat::Nv12 {
                    vec![1, 2]
                } else {
                    vec![1, 2, 3]
                };
                assert_eq!(first.unwrap(), wanted, "{format:?} {width}x{height}");
            }
        }
    }

    #[test]
    fn a_buffer_that_is_too_short_is_refused() {
        gst::init().unwrap();
        let info = info(gst_video::VideoFormat::I420, 64, 64);
        for size in [0, 1, 64 * 64, info.size() - 1] {
            let buffer = gst::Buffer::with_size(size).unwrap();
            assert!(with(buffer, &info, |_| ()).is_err(), "{size} bytes");
        }
    }

    #[test]
    fn the_last_row_may_end_after_its_picture() {
        gst::init().unwrap();
        let info = info(gst_video::VideoFormat::Nv12, 30, 16);
        // Rows of 32 bytes, of which the last one has only its 30 picture bytes.
        let buffer = gst::Buffer::with_size(info.size() - 2).unwrap();
        with(buffer, &info, |frame| {
            assert_eq!((frame.width(), frame.height()), (30, 16))
        })
        .unwrap();
    }

    #[test]
    fn a_shared_buffer_is_refused() {
        gst::init().unwrap();
        let info = info(gst_video::VideoFormat::I420, 16, 16);
        let buffer = gst::Buffer::with_size(info.size()).unwrap();
        let other = buffer.clone();
        assert!(with(buffer, &info, |_| ()).is_err());
        drop(other);
    }

    #[test]
    fn other_formats_have_no_layout() {
        gst::init().unwrap();
        for format in [gst_video::VideoFormat::Rgb, gst_video::VideoFormat::I42010le] {
            assert_eq!(Layout::of(&info(format, 64, 64)), None);
        }
    }

    #[test]
    fn color_is_guessed_from_the_size_only_when_the_stream_is_silent() {
        gst::init().unwrap();
        let color_of = |height, colorimetry: &str| {
            let caps = gst_video::VideoCapsBuilder::new()
                .format(gst_video::VideoFormat::I420)
                .width(64)
                .height(height)
                .framerate(gst::Fraction::new(25, 1))
                .field("colorimetry", colorimetry)
                .build();
            color(&gst_video::VideoInfo::from_caps(&caps).unwrap())
        };
        for (height, colorimetry, matrix, range) in [
            (480, "bt709", Matrix::Bt709, Range::Limited),
            (1080, "bt601", Matrix::Bt601, Range::Limited),
            (480, "1:4:0:0", Matrix::Bt601, Range::Full),
            (480, "2:0:0:0", Matrix::Bt601, Range::Limited),
            (720, "2:0:0:0", Matrix::Bt709, Range::Limited),
        ] {
            assert_eq!(
                color_of(height, colorimetry),
                Color { matrix, range },
                "{height} {colorimetry}"
            );
        }
    }
}
