//! From the element into a file: encoders and muxers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use super::elements::make;
use super::stream::{Progress, assemble, link, pad};
use super::{Container, Encoding, Error, Preset};
use crate::element::Persona;

/// Length of a fragment of MP4 in milliseconds: what a loss of power can cost.
const FRAGMENT: u32 = 1000;
/// Bit rate in kbit/s that constant quality may take for a while.
const CEILING: u32 = 50_000;

/// Leaves out the last column and row of odd sizes, which H.264 in 4:2:0 cannot hold.
pub(super) fn even(persona: &Persona) -> Result<gst::Element, Error> {
    let crop = make("videocrop")?;
    let target = crop.downgrade();
    on_caps(persona, move |info| {
        if let Some(crop) = target.upgrade() {
            crop.set_property("right", (info.width() % 2) as i32);
            crop.set_property("bottom", (info.height() % 2) as i32);
        }
    })?;
    Ok(crop)
}

/// What a file's frames have in common from the first one on: a muxer takes no other size, shape of pixels or colours.
fn shape_of(info: &gst_video::VideoInfo, odd: bool) -> gst::Caps {
    let (width, height) = (info.width() as i32, info.height() as i32);
    let (width, height) = if odd {
        (width, height)
    } else {
        (width & !1, height & !1)
    };
    let shape = gst_video::VideoCapsBuilder::new()
        .width(width)
        .height(height)
        .pixel_aspect_ratio(info.par());
    match info.colorimetry().to_string() {
        colorimetry if colorimetry.is_empty() => shape.build(),
        colorimetry => shape.field("colorimetry", colorimetry).build(),
    }
}

/// Calls `work` with the shape of the frames to come, before the first of them.
fn on_caps(persona: &Persona, work: impl FnMut(&gst_video::VideoInfo) + Send + 'static) -> Result<(), Error> {
    let work = Mutex::new(work);
    pad(persona, "src")?.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(gst::EventView::Caps(caps)) = info.event().map(|event| event.view())
            && let Ok(info) = gst_video::VideoInfo::from_caps(caps.caps())
        {
            work.lock().unwrap_or_else(PoisonError::into_inner)(&info);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Encoder, muxer and file behind the element; gives the muxer.
pub(super) fn file(
    pipeline: &gst::Pipeline,
    persona: &Persona,
    container: Container,
    path: &Path,
    encoding: &Encoding,
    progress: &Arc<Progress>,
) -> Result<gst::Element, Error> {
    let (queue, scale, convert, shape) = (
        make("queue")?,
        make("videoscale")?,
        make("videoconvert")?,
        make("capsfilter")?,
    );
    let (muxer, sink) = (muxer(container)?, make("filesink")?);
    sink.set_property("location", path);
    // What is encoded is in the file at once, whatever happens next.
    sink.set_property_from_str("buffer-mode", "unbuffered");
    scale.set_property("add-borders", true);
    let odd = container == Container::WebM;
    let target = shape.downgrade();
    let progress = progress.clone();
    on_caps(persona, move |info| {
        // Caps may come twice before the first frame: what turns pictures upright learns late that it has to.
        if let Some(shape) = target.upgrade().filter(|_| progress.first_out.get().is_none()) {
            shape.set_property("caps", shape_of(info, odd));
        }
    })?;
    if odd {
        // VP8 takes I420 only.
        let (planar, encoder) = (make("videoconvert")?, vp8(encoding)?);
        assemble(
            pipeline,
            &[&queue, &scale, &convert, &shape, &planar, &encoder, &muxer, &sink],
        )?;
    } else {
        let (crop, encoder) = (even(persona)?, x264(encoding, false)?);
        assemble(
            pipeline,
            &[&queue, &crop, &scale, &convert, &shape, &encoder, &muxer, &sink],
        )?;
    }
    link(persona.upcast_ref(), &queue)?;
    Ok(muxer)
}

/// The muxer of a format.
pub(crate) fn muxer(container: Container) -> Result<gst::Element, Error> {
    match container {
        Container::Mp4 => {
            let muxer = make("mp4mux")?;
            muxer.set_property("fragment-duration", FRAGMENT);
            muxer.set_property_from_str("fragment-mode", "first-moov-then-finalise");
            Ok(muxer)
        }
        Container::Matroska => make("matroskamux"),
        Container::WebM => make("webmmux"),
    }
}

/// Lets the first frame be the beginning of the file, however long the source took to give it: without sound there is
/// nothing that it could be late for.
pub(crate) fn from_zero(muxer: &gst::Element) {
    if muxer.has_property("start-gap-threshold") {
        muxer.set_property("start-gap-threshold", gst::ClockTime::from_seconds(24 * 3600));
    } else {
        muxer.set_property("offset-to-zero", true);
    }
}

/// H.264 without B frames, so that frames keep their order; `live` encodes each frame at once.
pub(crate) fn x264(encoding: &Encoding, live: bool) -> Result<gst::Element, Error> {
    let encoder = make("x264enc")?;
    encoder.set_property_from_str(
        "speed-preset",
        match encoding.preset {
            Preset::Ultrafast => "ultrafast",
            Preset::Superfast => "superfast",
            Preset::Veryfast => "veryfast",
        },
    );
    if live {
        encoder.set_property_from_str("tune", "zerolatency");
    }
    encoder.set_property("bframes", 0_u32);
    encoder.set_property("key-int-max", 60_u32);
    match encoding.bitrate {
        Some(bitrate) => encoder.set_property("bitrate", bitrate),
        None => {
            encoder.set_property_from_str("pass", "qual");
            encoder.set_property("quantizer", encoding.quality);
            // x264enc holds constant quality, too, to its bit rate: 2,048 by default, too little for 1080p.
            encoder.set_property("bitrate", CEILING);
        }
    }
    Ok(encoder)
}

/// VP8 in real time; its quality goes to 63 where H.264's goes to 51.
fn vp8(encoding: &Encoding) -> Result<gst::Element, Error> {
    let encoder = make("vp8enc")?;
    encoder.set_property("deadline", 1_i64);
    encoder.set_property("cpu-used", 8_i32);
    encoder.set_property("threads", 2_i32);
    encoder.set_property("keyframe-max-dist", 60_i32);
    match encoding.bitrate {
        Some(bitrate) => encoder.set_property("target-bitrate", (bitrate * 1000) as i32),
        None => {
            encoder.set_property_from_str("end-usage", "cq");
            encoder.set_property("cq-level", (encoding.quality * 63 / 51) as i32);
            encoder.set_property("target-bitrate", (CEILING * 1000) as i32);
        }
    }
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_shape() {
        gst::init().unwrap();
        for ((width, height), odd, wanted) in [
            ((1280, 720), false, (1280, 720)),
            ((17, 33), false, (16, 32)),
            ((17, 33), true, (17, 33)),
        ] {
            let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Nv12, width, height)
                .par(gst::Fraction::new(12, 11))
                .build()
                .unwrap();
            let caps = shape_of(&info, odd);
            let shape = caps.structure(0).unwrap();
            assert_eq!(
                (shape.get("width"), shape.get("height")),
                (Ok(wanted.0), Ok(wanted.1))
            );
            assert_eq!(shape.get("pixel-aspect-ratio"), Ok(gst::Fraction::new(12, 11)));
            assert!(
                shape.get::<String>("format").is_err(),
                "both formats stay as they are"
            );
        }
    }
}
