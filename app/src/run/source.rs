//! Where frames come from: files, cameras and the test picture.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::elements::make;
use super::stream::{Progress, assemble, impossible, pad};
use super::{Camera, Error, Input, Options, Output};
use crate::element::may_pass;

/// Frames of the test picture that go into a file when no number is asked for: ten seconds.
const TEST_FRAMES: u64 = 300;

/// Size and rate of the test picture.
pub(crate) fn test_caps() -> gst::Caps {
    gst_video::VideoCapsBuilder::new()
        .format(gst_video::VideoFormat::I420)
        .width(1280)
        .height(720)
        .framerate(gst::Fraction::new(30, 1))
        .build()
}

/// What happens to the tracks of a source.
#[derive(Clone)]
pub(super) struct Tracks {
    pub(super) pipeline: gst::glib::WeakRef<gst::Pipeline>,
    /// Where the first video track goes.
    pub(super) video: gst::Pad,
    /// Where sound goes, if it is kept.
    pub(super) muxer: Option<gst::Element>,
    pub(super) progress: Arc<Progress>,
    pub(super) ends: Arc<Mutex<Vec<gst::Pad>>>,
}

impl Tracks {
    /// Whether a track has to be decoded: pictures always, sound when the file cannot hold it as it is.
    fn decode(&self, caps: &gst::Caps) -> bool {
        let Some(kind) = caps.structure(0).map(|caps| caps.name()) else {
            return true;
        };
        match kind.split('/').next().unwrap_or_default() {
            "audio" => self
                .muxer
                .as_ref()
                .is_some_and(|muxer| !(is_bare(caps) && can_hold(muxer, caps))),
            "text" | "subpicture" | "subtitle" | "closedcaption" => false,
            _ => true,
        }
    }

    fn add(&self, pad: &gst::Pad) {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let kind = caps
            .structure(0)
            .map(|caps| caps.name().to_string())
            .unwrap_or_default();
        let linked = if kind.starts_with("video/x-raw") && !self.progress.video.swap(true, Ordering::AcqRel) {
            pad.link(&self.video)
                .map(|_| true)
                .map_err(|error| error.to_string())
        } else if let Some(muxer) = self.muxer.as_ref().filter(|_| kind.starts_with("audio/")) {
            self.keep(pad, muxer, kind == "audio/x-raw")
                .map(|()| true)
                .map_err(|error| error.to_string())
        } else {
            Ok(false)
        };
        match linked {
            Ok(true) => (),
            Ok(false) => {
                self.progress.tracks_dropped.fetch_add(1, Ordering::Relaxed);
                discard(pad);
            }
            Err(reason) => {
                self.progress.refuse(Error::Stream {
                    input: format!("track {kind}"),
                    reason,
                });
            }
        }
    }

    /// Puts a track of sound into the file, without the tags that travel with it.
    fn keep(&self, pad: &gst::Pad, muxer: &gst::Element, raw: bool) -> Result<(), Error> {
        let Some(pipeline) = self.pipeline.upgrade() else {
            return Ok(());
        };
        let first = make("queue")?;
        let encoder = if raw {
            vec![make("audioconvert")?, make("audioresample")?, make("opusenc")?]
        } else {
            Vec::new()
        };
        let chain: Vec<&gst::Element> = std::iter::once(&first).chain(&encoder).collect();
        assemble(&pipeline, &chain)?;
        let last = encoder.last().unwrap_or(&first);
        let way_in = muxer
            .request_pad_simple("audio_%u")
            .ok_or_else(|| impossible(muxer, "takes no more sound"))?;
        self::pad(last, "src")?
            .link(&way_in)
            .map_err(|error| impossible(last, &error.to_string()))?;
        for element in &chain {
            element
                .sync_state_with_parent()
                .map_err(|error| impossible(element, &error.to_string()))?;
        }
        let sink = self::pad(&first, "sink")?;
        sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
            match info.event() {
                Some(event) if !may_pass(event) => gst::PadProbeReturn::Handled,
                _ => gst::PadProbeReturn::Ok,
            }
        });
        pad.link(&sink)
            .map_err(|error| impossible(&first, &error.to_string()))?;
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(sink);
        Ok(())
    }
}

/// Takes what a track delivers, so that the source does not stop because nobody wants it.
fn discard(pad: &gst::Pad) {
    let data = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(data, |_, _| gst::PadProbeReturn::Handled);
}

/// Links the first video track of a decoding bin, when it appears, and discards every other track.
pub(crate) fn link_video(decode: &gst::Element, to: gst::Pad) {
    decode.connect_pad_added(move |_, pad| {
        let caps = pad.current_caps().unwrap_or_else(|| pad.query_caps(None));
        let video = caps.structure(0).is_some_and(|caps| caps.name() == "video/x-raw");
        if !video || to.is_linked() || pad.link(&to).is_err() {
            discard(pad);
        }
    });
}

/// Whether a stream of sound is of a kind that holds nothing else. FLAC and Vorbis carry titles and cover pictures in
/// their own headers, Opus does where it has headers; of other kinds it is not known.
fn is_bare(caps: &gst::Caps) -> bool {
    caps.structure(0).is_some_and(|caps| match caps.name().as_str() {
        "audio/mpeg" | "audio/x-ac3" => true,
        "audio/x-opus" => !caps.has_field("streamheader"),
        _ => false,
    })
}

/// Whether the muxer takes this kind of stream as it is.
fn can_hold(muxer: &gst::Element, caps: &gst::Caps) -> bool {
    muxer.pad_template_list().iter().any(|template| {
        template.direction() == gst::PadDirection::Sink && template.caps().can_intersect(caps)
    })
}

/// Adds the source to the pipeline; its tracks are linked when they are known.
pub(super) fn source(
    pipeline: &gst::Pipeline,
    input: &Input,
    output: &Output,
    options: &Options,
    tracks: Tracks,
) -> Result<(), Error> {
    match input {
        Input::Test => {
            let source = make("videotestsrc")?;
            let caps = make("capsfilter")?;
            caps.set_property("caps", test_caps());
            match output {
                Output::Video { .. } => {
                    let frames = options.frames.unwrap_or(TEST_FRAMES);
                    source.set_property("num-buffers", i32::try_from(frames).unwrap_or(i32::MAX));
                }
                _ => source.set_property("is-live", true),
            }
            assemble(pipeline, &[&source, &caps])?;
            pad(&caps, "src")?
                .link(&tracks.video)
                .map_err(|error| impossible(&caps, &error.to_string()))?;
            tracks.progress.video.store(true, Ordering::Release);
            Ok(())
        }
        Input::Device(path) => {
            let (source, decode) = (make("v4l2src")?, make("decodebin")?);
            source.set_property("device", path.to_string_lossy().as_ref());
            match options.camera.size {
                Some(size) => {
                    let caps = make("capsfilter")?;
                    caps.set_property("caps", size.caps());
                    assemble(pipeline, &[&source, &caps, &decode])?;
                }
                None => assemble(pipeline, &[&source, &decode])?,
            }
            connect(&decode, tracks);
            Ok(())
        }
        Input::Video(path) | Input::Picture(path) | Input::Pictures(path) => {
            let absolute = std::path::absolute(path).map_err(|source| Error::File {
                path: path.clone(),
                action: "find the file",
                source,
            })?;
            let uri = gst::glib::filename_to_uri(&absolute, None).map_err(|error| Error::Stream {
                input: input.to_string(),
                reason: error.to_string(),
            })?;
            uri_source(pipeline, &uri, &options.camera, tracks)
        }
        Input::Rtsp(address) => uri_source(pipeline, address, &options.camera, tracks),
    }
}

fn uri_source(pipeline: &gst::Pipeline, uri: &str, camera: &Camera, tracks: Tracks) -> Result<(), Error> {
    let decode = make("uridecodebin")?;
    decode.set_property("uri", uri);
    let camera = camera.clone();
    decode.connect("source-setup", false, move |values| {
        let source: gst::Element = values.get(1)?.get().ok()?;
        if source.has_property("latency") && source.has_property("protocols") {
            source.set_property("latency", camera.latency);
            source.set_property("tcp-timeout", camera.timeout * 1_000_000);
            if !camera.udp {
                source.set_property_from_str("protocols", "tcp");
            }
        }
        None
    });
    assemble(pipeline, &[&decode])?;
    connect(&decode, tracks);
    Ok(())
}

/// Links the tracks of a decoding bin as they appear.
fn connect(decode: &gst::Element, tracks: Tracks) {
    let chosen = tracks.clone();
    decode.connect("autoplug-continue", false, move |values| {
        let caps: gst::Caps = values.get(2)?.get().ok()?;
        Some(chosen.decode(&caps).to_value())
    });
    let complete = tracks.progress.clone();
    decode.connect_no_more_pads(move |_| complete.complete.store(true, Ordering::Release));
    decode.connect_pad_added(move |_, pad| tracks.add(pad));
}
