//! Reading a clip frame by frame.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use gstreamer::{self as gst, prelude::*};
use gstreamer_app::AppSink;
use gstreamer_video::{VideoColorMatrix, VideoColorRange, VideoFrameRef, VideoInfo};
use kernels::{Color, Frame, Matrix, Plane, Planes, Range};

use crate::exposure::Luma;

/// How long to wait for a frame before looking for a fault.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// A decoded frame, I420 without padding.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Presentation time, counted from the clip's first frame: containers begin at different times.
    pub time: Duration,
    width: usize,
    height: usize,
    color: Color,
    planes: [Vec<u8>; 3],
}

impl Picture {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// The luma plane.
    pub fn luma(&self) -> Luma<'_> {
        Luma {
            data: &self.planes[0],
            stride: self.width,
            width: self.width,
            height: self.height,
        }
    }

    /// The picture as the kernels see it.
    ///
    /// # Errors
    /// When the planes do not fit the size.
    pub fn frame(&mut self) -> kernels::Result<Frame<'_>> {
        let half = self.width.div_ceil(2);
        let [y, u, v] = &mut self.planes;
        let plane = |data, stride| Plane { data, stride };
        let planes = Planes::I420 {
            y: plane(y, self.width),
            u: plane(u, half),
            v: plane(v, half),
        };
        Frame::new(self.width, self.height, self.color, planes)
    }
}

/// The frames of a video or picture file, in the order of presentation.
pub struct Clip {
    pipeline: gst::Pipeline,
    sink: AppSink,
    /// Running time of the first frame.
    begin: Option<gst::ClockTime>,
}

impl Clip {
    /// Opens a file.
    ///
    /// # Errors
    /// When it cannot be opened or GStreamer lacks an element.
    pub fn open(path: &Path) -> Result<Self> {
        std::fs::File::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
        gst::init()?;
        let pipeline = gst::parse::launch(
            "filesrc name=source ! decodebin ! videoconvert ! video/x-raw,format=I420 \
             ! appsink name=sink sync=false max-buffers=4",
        )?
        .downcast::<gst::Pipeline>()
        .map_err(|_| gst::glib::bool_error!("not a pipeline"))?;
        let source = pipeline.by_name("source").context("the pipeline has a source")?;
        source.set_property("location", path);
        let sink = pipeline
            .by_name("sink")
            .and_then(|sink| sink.downcast().ok())
            .context("the pipeline has a sink")?;
        pipeline.set_state(gst::State::Playing)?;
        Ok(Self {
            pipeline,
            sink,
            begin: None,
        })
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// When the file is damaged or in a format that GStreamer cannot decode.
    pub fn next_picture(&mut self) -> Result<Option<Picture>> {
        let sample = loop {
            if let Some(sample) = self.sink.try_pull_sample(PATIENCE) {
                break sample;
            }
            // A fault upstream does not always end the stream, so the sink alone would wait for ever.
            self.fault()?;
            if self.sink.is_eos() {
                return Ok(None);
            }
        };
        let buffer = sample.buffer().context("a sample without a buffer")?;
        let info = VideoInfo::from_caps(sample.caps().context("a sample without caps")?)?;
        let frame = VideoFrameRef::from_buffer_ref_readable(buffer, &info)?;
        let time = sample
            .segment()
            .and_then(|segment| segment.downcast_ref::<gst::ClockTime>())
            .and_then(|segment| segment.to_running_time(buffer.pts()))
            .map_or(Duration::ZERO, |time| {
                let begin = *self.begin.get_or_insert(time);
                time.saturating_sub(begin).into()
            });
        let (width, height) = (info.width() as usize, info.height() as usize);
        let plane = |index: u32, width: usize, height: usize| -> Result<Vec<u8>> {
            let stride = usize::try_from(info.stride()[index as usize])?;
            let data = frame.plane_data(index)?;
            Ok(data
                .chunks(stride)
                .take(height)
                .flat_map(|row| row[..width].iter().copied())
                .collect())
        };
        let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
        let colorimetry = info.colorimetry();
        Ok(Some(Picture {
            time,
            width,
            height,
            color: Color {
                matrix: if colorimetry.matrix() == VideoColorMatrix::Bt709 {
                    Matrix::Bt709
                } else {
                    Matrix::Bt601
                },
                range: if colorimetry.range() == VideoColorRange::Range0_255 {
                    Range::Full
                } else {
                    Range::Limited
                },
            },
            planes: [
                plane(0, width, height)?,
                plane(1, half_width, half_height)?,
                plane(2, half_width, half_height)?,
            ],
        }))
    }

    /// The error that ended the stream, if one did.
    fn fault(&self) -> Result<()> {
        let bus = self.pipeline.bus().context("a pipeline has a bus")?;
        if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
            && let gst::MessageView::Error(error) = message.view()
        {
            bail!("{}", error.error());
        }
        Ok(())
    }
}

impl Iterator for Clip {
    type Item = Result<Picture>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_picture().transpose()
    }
}

impl Drop for Clip {
    fn drop(&mut self) {
        // Nothing can be done about a pipeline that does not stop.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
