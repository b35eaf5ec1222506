//! Pictures: one at a time, through the pipeline's synchronous form.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use engines::models::Store;
use gst_video::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use indicatif::{ProgressBar, ProgressStyle};
use kernels::cpu::Cpu;

use super::output::Partial;
use super::{Error, Faces, Report, input, report};
use crate::element::VideoBuffer;
use crate::frame::{Anonymized, RawFrame};
use crate::networks;
use crate::pipeline::Pipeline;

/// Full range, so that a picture's colours survive; the matrix is the one of JPEG.
const COLORIMETRY: &str = "1:4:7:1";
/// JPEG quality, 1 to 100.
const QUALITY: u8 = 92;

/// Anonymizes pictures one after the other; no face is followed from one to the next.
struct Pictures {
    pipeline: Pipeline<Cpu, VideoBuffer>,
    started: Instant,
    first: Option<Duration>,
    cpu: Duration,
}

impl Pictures {
    fn start(faces: &Faces) -> Result<Self, Error> {
        let cpu = report::usage(Path::new("/proc")).0;
        let started = Instant::now();
        let settings = faces.for_pictures();
        let store = Store::open(faces.models()).map_err(networks::Error::from)?;
        let (detect, anonymize) = networks::on_cpu(&store, faces.threads as usize, &settings)?;
        let pipeline = Pipeline::new(detect, anonymize, &settings).map_err(networks::Error::from)?;
        Ok(Self {
            pipeline,
            started,
            first: None,
            cpu,
        })
    }

    fn convert(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let picture = read(from)?;
        let (width, height) = picture.dimensions();
        let refuse = |path: &Path, reason: String| Error::Picture {
            path: path.to_owned(),
            reason,
        };
        let formats = Formats::of(width, height).map_err(|error| refuse(from, error.to_string()))?;
        let raw = formats
            .raw(picture)
            .map_err(|error| refuse(from, error.to_string()))?;
        self.pipeline.flush();
        let mut done = None;
        let mut sink = |frame| done = Some(frame);
        self.pipeline.submit(raw, &mut sink);
        self.pipeline.drain(&mut sink);
        let done = done.ok_or_else(|| refuse(from, "the picture could not be anonymized".into()))?;
        self.first.get_or_insert_with(|| self.started.elapsed());
        let picture = formats
            .picture(done)
            .map_err(|error| refuse(to, error.to_string()))?;
        write(&picture, to)
    }

    fn report(self, fault: Option<Error>) -> Report {
        let (cpu, peak_memory) = report::usage(Path::new("/proc"));
        Report {
            snapshot: self.pipeline.stats().snapshot(),
            elapsed: self.started.elapsed(),
            first_frame: self.first,
            cpu: cpu.saturating_sub(self.cpu),
            peak_memory,
            tracks_dropped: 0,
            fault,
        }
    }
}

/// Anonymizes one picture.
pub(super) fn one(from: &Path, to: &Path, faces: &Faces) -> Result<Report, Error> {
    // A picture that cannot be read is known before the networks are loaded.
    read(from)?;
    let mut pictures = Pictures::start(faces)?;
    pictures.convert(from, to)?;
    Ok(pictures.report(None))
}

/// Anonymizes the PNG and JPEG files of a folder into another one, under the same names. One that cannot be read does
/// not stop the others; the first such error becomes the report's fault.
pub(super) fn folder(
    from: &Path,
    to: &Path,
    faces: &Faces,
    overwrite: bool,
    interrupted: &AtomicBool,
) -> Result<Report, Error> {
    let names = list(from)?;
    let existing = names
        .iter()
        .map(|name| to.join(name))
        .flat_map(|path| [Partial::new(&path).part().to_owned(), path])
        .find(|path| path.exists());
    if let Some(path) = existing.filter(|_| !overwrite) {
        return Err(Error::Exists(path));
    }
    let mut pictures = Pictures::start(faces)?;
    std::fs::create_dir_all(to).map_err(|source| Error::File {
        path: to.to_owned(),
        action: "make the folder",
        source,
    })?;
    let bar = ProgressBar::new(names.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} pictures") {
        bar.set_style(style);
    }
    let mut fault = None;
    for name in &names {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        if let Err(error) = pictures.convert(&from.join(name), &to.join(name)) {
            bar.suspend(|| log::warn!("{error}"));
            fault.get_or_insert(error);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(pictures.report(fault))
}

/// Names of the pictures in a folder, sorted.
fn list(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::File {
        path: folder.to_owned(),
        action: "read the folder",
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let name = PathBuf::from(entry.map_err(unreadable)?.file_name());
        if input::is_picture(&name) && folder.join(&name).is_file() {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Err(Error::NoPictures(folder.to_owned()));
    }
    names.sort();
    Ok(names)
}

/// The picture upright, without transparency (what lies under it is not shown, but would be in the file) and without
/// anything else that the file says.
pub(crate) fn read(path: &Path) -> Result<RgbImage, Error> {
    let refuse = |reason: String| Error::Picture {
        path: path.to_owned(),
        reason,
    };
    let reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|source| Error::File {
            path: path.to_owned(),
            action: "open the picture",
            source,
        })?;
    let damaged = |error| refuse(format!("not a PNG or JPEG that can be read: {error}"));
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let orientation = decoder.orientation().map_err(damaged)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

/// Writes PNG or JPEG by the name's extension, first under another name.
fn write(picture: &RgbImage, path: &Path) -> Result<(), Error> {
    let refuse = |error: image::ImageError| Error::Picture {
        path: path.to_owned(),
        reason: format!("cannot be written: {error}"),
    };
    let unwritable = |source| Error::File {
        path: path.to_owned(),
        action: "write the picture",
        source,
    };
    let format = image::ImageFormat::from_path(path).map_err(refuse)?;
    let partial = Partial::new(path);
    let mut file = std::io::BufWriter::new(std::fs::File::create(partial.part()).map_err(unwritable)?);
    let written = match format {
        image::ImageFormat::Jpeg => picture.write_with_encoder(
            image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, QUALITY),
        ),
        _ => picture.write_to(&mut file, format),
    };
    match written
        .map_err(refuse)
        .and_then(|()| file.into_inner().map_err(|error| unwritable(error.into_error())))
    {
        Ok(_) => partial.keep(),
        Err(error) => {
            partial.discard();
            Err(error)
        }
    }
}

/// A picture's RGB and the I420 that the pipeline works in.
struct Formats {
    rgb: gst_video::VideoInfo,
    i420: gst_video::VideoInfo,
}

impl Formats {
    fn of(width: u32, height: u32) -> Result<Self, gst::glib::BoolError> {
        let rgb = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, width, height).build()?;
        let colorimetry = COLORIMETRY.parse()?;
        let i420 = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height)
            .colorimetry(&colorimetry)
            .build()?;
        Ok(Self { rgb, i420 })
    }

    fn raw(&self, picture: RgbImage) -> Result<RawFrame<VideoBuffer>, gst::glib::BoolError> {
        Ok(RawFrame::new(self.pixels(&picture)?, Duration::ZERO))
    }

    fn pixels(&self, picture: &RgbImage) -> Result<VideoBuffer, gst::glib::BoolError> {
        let buffer = convert(&rows(picture, &self.rgb)?, &self.rgb, &self.i420)?;
        VideoBuffer::of(buffer, &self.i420).ok_or_else(|| gst::glib::bool_error!("the picture is not I420"))
    }

    fn picture(&self, frame: Anonymized<VideoBuffer>) -> Result<RgbImage, gst::glib::BoolError> {
        let buffer = convert(&frame.into_buffer().into_buffer(), &self.i420, &self.rgb)?;
        rgb(&buffer, &self.rgb).ok_or_else(|| gst::glib::bool_error!("the converted picture cannot be read"))
    }
}

/// The picture as the kernels take it: I420.
pub(crate) fn pixels(picture: &RgbImage) -> Result<VideoBuffer, gst::glib::BoolError> {
    Formats::of(picture.width(), picture.height())?.pixels(picture)
}

/// The picture in an RGB buffer, without the padding at the ends of its rows.
pub(crate) fn rgb(buffer: &gst::BufferRef, info: &gst_video::VideoInfo) -> Option<RgbImage> {
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, info).ok()?;
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let row = 3 * info.width() as usize;
    let rows = frame.plane_data(0).ok()?.chunks(stride);
    let bytes = rows.flat_map(|bytes| bytes.iter().take(row)).copied().collect();
    RgbImage::from_raw(info.width(), info.height(), bytes)
}

/// The picture with GStreamer's row length, which is a multiple of four bytes.
fn rows(picture: &RgbImage, info: &gst_video::VideoInfo) -> Result<gst::Buffer, gst::glib::BoolError> {
    let mut bytes = vec![0; info.size()];
    let row = 3 * picture.width() as usize;
    for (to, from) in bytes
        .chunks_mut(info.stride()[0] as usize)
        .zip(picture.as_raw().chunks(row))
    {
        to[..from.len()].copy_from_slice(from);
    }
    Ok(gst::Buffer::from_mut_slice(bytes))
}

fn convert(
    buffer: &gst::Buffer,
    from: &gst_video::VideoInfo,
    to: &gst_video::VideoInfo,
) -> Result<gst::Buffer, gst::glib::BoolError> {
    let converter = gst_video::VideoConverter::new(from, to, None)?;
    let mut converted = gst::Buffer::with_size(to.size())?;
    {
        let target = converted
            .get_mut()
            .ok_or_else(|| gst::glib::bool_error!("a new buffer is shared"))?;
        let source = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, from)?;
        let mut target = gst_video::VideoFrameRef::from_buffer_ref_writable(target, to)?;
        converter.frame_ref(&source, &mut target);
    }
    Ok(converted)
}
