//! `persona sheet`: frames of a video above the same frames of another one.

use std::path::{Path, PathBuf};

use clap::Args;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;
use image::{RgbImage, imageops};

use crate::run::{self, Error, make};

/// What `persona sheet` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Video whose frames go on top. Its faces will be in the sheet!
    #[arg(long, value_name = "VIDEO")]
    pub input: PathBuf,

    /// Video whose frames go below
    #[arg(long, value_name = "VIDEO")]
    pub output: PathBuf,

    /// PNG or JPEG to write
    #[arg(long, alias = "sheet", value_name = "FILE")]
    pub to: PathBuf,

    /// How many frames, evenly spaced
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub frames: u32,

    /// Width of each frame in the sheet, in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 320, value_parser = clap::value_parser!(u32).range(16..=4096))]
    pub width: u32,
}

/// How long a frame may take to come after a seek.
const PATIENCE: gst::ClockTime = gst::ClockTime::from_seconds(20);
/// Pixels between frames.
const GAP: u32 = 4;

/// Writes the sheet.
///
/// # Errors
/// When a video cannot be read or the sheet not be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let rows = [&options.input, &options.output].map(|path| {
        let video = Video::open(path)?;
        let frames = video.frames(options.frames)?;
        frames
            .map(|frame| Ok(scaled(&frame?, options.width)))
            .collect::<Result<Vec<_>, Error>>()
    });
    let [above, below] = rows;
    let sheet = arrange(&[above?, below?]);
    sheet.save(&options.to).map_err(|error| Error::Picture {
        path: options.to.clone(),
        reason: format!("cannot be written: {error}"),
    })
}

fn scaled(picture: &RgbImage, width: u32) -> RgbImage {
    let height = (picture.height() * width).div_ceil(picture.width().max(1)).max(1);
    imageops::resize(picture, width, height, imageops::FilterType::Triangle)
}

/// Rows of pictures on white.
fn arrange(rows: &[Vec<RgbImage>]) -> RgbImage {
    let width = |row: &[RgbImage]| {
        row.iter()
            .map(|picture| picture.width() + GAP)
            .sum::<u32>()
            .saturating_sub(GAP)
    };
    let height = |row: &[RgbImage]| row.iter().map(RgbImage::height).max().unwrap_or(0);
    let total_height = rows
        .iter()
        .map(|row| height(row) + GAP)
        .sum::<u32>()
        .saturating_sub(GAP);
    let total_width = rows.iter().map(|row| width(row)).max().unwrap_or(0);
    let mut sheet = RgbImage::from_pixel(total_width, total_height, image::Rgb([255; 3]));
    let mut y = 0;
    for row in rows {
        let mut x = 0;
        for picture in row {
            imageops::replace(&mut sheet, picture, x.into(), y.into());
            x += picture.width() + GAP;
        }
        y += height(row) + GAP;
    }
    sheet
}

/// A video whose frames can be asked for by time.
pub(crate) struct Video {
    path: PathBuf,
    pipeline: gst::Pipeline,
    sink: gst_app::AppSink,
}

impl Video {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let cannot = |reason: String| Error::Picture {
            path: path.to_owned(),
            reason,
        };
        if !path.exists() {
            return Err(Error::NotFound(path.to_owned()));
        }
        let absolute = std::path::absolute(path).map_err(|error| cannot(error.to_string()))?;
        let uri = gst::glib::filename_to_uri(&absolute, None).map_err(|error| cannot(error.to_string()))?;
        let decode = make("uridecodebin")?;
        decode.set_property("uri", uri.as_str());
        let (convert, upright) = (make("videoconvert")?, make("videoflip")?);
        upright.set_property_from_str("video-direction", "auto");
        let caps = gst_video::VideoCapsBuilder::new()
            .format(gst_video::VideoFormat::Rgb)
            .build();
        let sink = gst_app::AppSink::builder().caps(&caps).sync(false).build();
        let pipeline = gst::Pipeline::new();
        let chain = [&convert, &upright, sink.upcast_ref()];
        pipeline
            .add(&decode)
            .and_then(|()| pipeline.add_many(chain))
            .and_then(|()| gst::Element::link_many(chain))
            .map_err(|error| cannot(error.to_string()))?;
        let entry = convert
            .static_pad("sink")
            .ok_or_else(|| cannot("no way in".into()))?;
        run::link_video(&decode, entry);
        let video = Self {
            path: path.to_owned(),
            pipeline,
            sink,
        };
        video.wait(gst::State::Paused)?;
        Ok(video)
    }

    fn cannot(&self, reason: &str) -> Error {
        Error::Picture {
            path: self.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn wait(&self, state: gst::State) -> Result<(), Error> {
        let reached = self
            .pipeline
            .set_state(state)
            .and_then(|_| self.pipeline.state(PATIENCE).0);
        reached
            .map(drop)
            .map_err(|_| self.cannot("this is no video that can be decoded"))
    }

    /// `count` frames at the middles of equal parts of the video.
    pub(crate) fn frames(
        &self,
        count: u32,
    ) -> Result<impl Iterator<Item = Result<RgbImage, Error>> + use<'_>, Error> {
        let duration = self
            .pipeline
            .query_duration::<gst::ClockTime>()
            .ok_or_else(|| self.cannot("its length is not known"))?;
        Ok((0..count).map(move |index| {
            let time = duration * u64::from(2 * index + 1) / u64::from(2 * count);
            self.pipeline
                .seek_simple(gst::SeekFlags::FLUSH | gst::SeekFlags::ACCURATE, time)
                .map_err(|_| self.cannot("it cannot be sought in"))?;
            let sample = self
                .sink
                .try_pull_preroll(PATIENCE)
                .ok_or_else(|| self.cannot("a frame is missing"))?;
            picture(&sample).ok_or_else(|| self.cannot("a frame cannot be read"))
        }))
    }
}

impl Drop for Video {
    fn drop(&mut self) {
        // Stopping cannot fail in a way that matters to anybody.
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

fn picture(sample: &gst::Sample) -> Option<RgbImage> {
    let info = gst_video::VideoInfo::from_caps(sample.caps()?).ok()?;
    run::rgb(sample.buffer()?, &info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_above_each_other() {
        let picture = |width, height, value| RgbImage::from_pixel(width, height, image::Rgb([value; 3]));
        let sheet = arrange(&[
            vec![picture(10, 6, 1), picture(10, 6, 2)],
            vec![picture(10, 8, 3), picture(10, 8, 4)],
        ]);
        assert_eq!(sheet.dimensions(), (20 + GAP, 14 + GAP));
        let at = |x, y| sheet.get_pixel(x, y).0[0];
        assert_eq!(
            [at(0, 0), at(23, 5), at(0, 10), at(23, 17), at(11, 0), at(0, 7)],
            [1, 2, 3, 4, 255, 255]
        );
    }
}
