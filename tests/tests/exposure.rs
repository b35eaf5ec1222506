//! From end to end: the element changes every face of a real clip, and the exposure tool would say so if it did not.

use std::path::{Path, PathBuf};

use gstreamer::{self as gst, prelude::*};
use tests::check::{Options, Report, check};

/// The smaller one of the demo's clips: a talking head, 120 frames.
fn clip() -> PathBuf {
    let clip = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/carphone.mp4");
    assert!(
        clip.exists(),
        "{} is missing: `cargo xtask clips` makes it",
        clip.display()
    );
    clip
}

/// Sends the clip through `elements` and an encoder into `output`.
fn transcode(elements: &str, output: &Path) {
    let pipeline = gst::parse::launch(&format!(
        "filesrc location={} ! decodebin ! {elements} \
         x264enc speed-preset=ultrafast quantizer=26 pass=qual ! h264parse ! mp4mux ! filesink location={}",
        clip().display(),
        output.display()
    ))
    .expect("all elements are installed");
    pipeline
        .set_state(gst::State::Playing)
        .expect("the pipeline starts");
    let bus = pipeline.bus().expect("a pipeline has a bus");
    let end = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(120),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("the pipeline ends in time");
    if let gst::MessageView::Error(error) = end.view() {
        panic!("{} ({:?})", error.error(), error.debug());
    }
    pipeline.set_state(gst::State::Null).expect("the pipeline stops");
}

fn judged(name: &str, elements: &str) -> Report {
    gst::init().expect("GStreamer starts");
    persona::element::register().expect("the element registers");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join(name);
    transcode(elements, &output);
    let report = check(&clip(), &output, &Options::default(), |_| {}).expect("the clips can be compared");
    assert_eq!(report.frames, 120);
    assert!(
        report.faces.len() >= report.frames,
        "{} faces",
        report.faces.len()
    );
    report
}

#[test]
fn a_copy_is_exposed_in_every_frame() {
    let report = judged("copy.mp4", "");
    assert_eq!(report.exposed().count(), report.faces.len());
}

#[test]
fn the_element_changes_every_face() {
    let report = judged("anonymized.mp4", "persona !");
    let exposed: Vec<_> = report.exposed().collect();
    assert!(exposed.is_empty(), "{exposed:#?}");
}
