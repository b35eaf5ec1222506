//! Synthetic clips, and what is in a clip.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use engines::models::{Store, default_dir};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

/// Starts GStreamer, and fails in one sentence where the networks are not fetched.
pub fn init() {
    gst::init().expect("GStreamer starts");
    let store = Store::open(default_dir()).expect("the manifest is well formed");
    let missing = store.verify().into_iter().find_map(|status| status.state.err());
    if let Some(error) = missing {
        panic!("this test needs the networks (`cargo xtask test` fetches them first): {error}");
    }
    // Each test registers; the second time GStreamer says that it has the plugin already.
    persona::element::register().expect("GStreamer takes the element");
}

/// Runs a pipeline in gst-launch syntax to its end.
pub fn launch(description: &str) {
    let pipeline = gst::parse::launch(description).expect(description);
    let bus = pipeline.bus().expect("a pipeline has a bus");
    pipeline.set_state(gst::State::Playing).expect(description);
    let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
    let message = bus.timed_pop_filtered(gst::ClockTime::from_seconds(60), &kinds);
    let ended = matches!(
        message.as_ref().map(|message| message.view()),
        Some(gst::MessageView::Eos(_))
    );
    pipeline
        .set_state(gst::State::Null)
        .expect("a pipeline can be stopped");
    assert!(ended, "{description}: {message:?}");
}

/// H.264 in MP4, `frames` frames of `size` at 25 per second.
pub fn mp4(path: &Path, frames: u32, (width, height): (u32, u32)) {
    launch(&format!(
        "videotestsrc num-buffers={frames} pattern=ball ! video/x-raw,format=I420,width={width},height={height},\
         framerate=25/1 ! x264enc speed-preset=ultrafast bframes=0 key-int-max=10 ! mp4mux ! filesink location={}",
        path.display()
    ));
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub size: (u32, u32),
    pub time: gst::ClockTime,
    /// Mean of the luma, 0 to 255.
    pub luma: f64,
    /// Mean absolute deviation of the luma from its mean.
    pub contrast: f64,
}

/// What a clip holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub frames: Vec<Frame>,
    pub audio_buffers: usize,
    /// Tags other than codec and bit rates, as text.
    pub tags: Vec<String>,
}

/// Decodes a clip from beginning to end.
pub fn decode(path: &Path) -> Contents {
    let uri = gst::glib::filename_to_uri(path, None).expect("a path of the test is a URI");
    let pipeline = gst::parse::launch(&format!(
        "uridecodebin name=decode uri={uri} decode. ! videoconvert ! video/x-raw,format=I420 ! appsink name=video sync=false"
    ))
    .expect("the pipeline is well formed")
    .downcast::<gst::Pipeline>()
    .expect("it is a pipeline");
    let sink = pipeline
        .by_name("video")
        .and_downcast::<gst_app::AppSink>()
        .expect("there is a sink");
    let audio = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = audio.clone();
    let bin = pipeline.downgrade();
    pipeline
        .by_name("decode")
        .expect("there is a decoder")
        .connect_pad_added(move |_, pad| {
            let caps = pad.current_caps().expect("a decoded pad has caps");
            let (Some(bin), true) = (
                bin.upgrade(),
                caps.structure(0).is_some_and(|caps| caps.name() == "audio/x-raw"),
            ) else {
                return;
            };
            let sink = gst::ElementFactory::make("fakesink")
                .property("async", false)
                .build()
                .expect("fakesink exists");
            bin.add(&sink).expect("the pipeline takes it");
            sink.sync_state_with_parent().expect("it starts");
            let entry = sink.static_pad("sink").expect("it has a pad");
            let count = count.clone();
            entry.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                gst::PadProbeReturn::Ok
            });
            pad.link(&entry).expect("it links");
        });
    pipeline
        .set_state(gst::State::Playing)
        .expect("the clip can be opened");
    let mut contents = Contents::default();
    while let Some(sample) = sink.try_pull_sample(gst::ClockTime::from_seconds(20)) {
        contents.frames.push(frame(&sample));
    }
    let bus = pipeline.bus().expect("a pipeline has a bus");
    while let Some(message) = bus.pop() {
        match message.view() {
            gst::MessageView::Tag(tags) => contents.tags.push(tags.tags().to_string()),
            gst::MessageView::Error(error) => panic!("{}: {}", path.display(), error.error()),
            _ => (),
        }
    }
    assert!(
        sink.is_eos(),
        "{}: the clip does not come to its end",
        path.display()
    );
    contents.audio_buffers = audio.load(std::sync::atomic::Ordering::Relaxed);
    pipeline
        .set_state(gst::State::Null)
        .expect("a pipeline can be stopped");
    contents
}

/// Mean absolute deviation of the luma from its mean, in the middle of the left and of the right half of a frame: what
/// there is to see in each.
pub fn halves(sample: &gst::Sample) -> [f64; 2] {
    let info =
        gst_video::VideoInfo::from_caps(sample.caps().expect("a sample has caps")).expect("video caps");
    let buffer = sample.buffer().expect("a sample has a buffer");
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).expect("readable");
    let (stride, width, height) = (
        info.stride()[0] as usize,
        info.width() as usize,
        info.height() as usize,
    );
    let luma = frame.plane_data(0).expect("there is luma");
    [width / 8, width * 5 / 8].map(|left| {
        let rows = luma.chunks(stride).take(height * 7 / 8).skip(height / 8);
        let part: Vec<_> = rows
            .flat_map(|row| &row[left..left + width / 4])
            .map(|value| f64::from(*value))
            .collect();
        let mean = part.iter().sum::<f64>() / part.len() as f64;
        part.iter().map(|value| (value - mean).abs()).sum::<f64>() / part.len() as f64
    })
}

/// A sample as a frame.
pub fn frame(sample: &gst::Sample) -> Frame {
    let info =
        gst_video::VideoInfo::from_caps(sample.caps().expect("a sample has caps")).expect("video caps");
    let buffer = sample.buffer().expect("a sample has a buffer");
    let frame = gst_video::VideoFrameRef::from_buffer_ref_readable(buffer, &info).expect("readable");
    let stride = info.stride()[0] as usize;
    let luma = || {
        let rows = frame
            .plane_data(0)
            .expect("there is luma")
            .chunks(stride)
            .take(info.height() as usize);
        rows.flat_map(|row| row.iter().take(info.width() as usize))
            .map(|value| f64::from(*value))
    };
    let count = f64::from(info.width() * info.height());
    let mean = luma().sum::<f64>() / count;
    Frame {
        size: (info.width(), info.height()),
        time: buffer.pts().expect("a frame has a time"),
        luma: mean,
        contrast: luma().map(|value| (value - mean).abs()).sum::<f64>() / count,
    }
}

/// Runs the program.
pub fn persona(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_persona"))
        .args(arguments)
        .output()
        .expect("the program can be started")
}

/// Runs `persona run` from one path to another, with more arguments.
pub fn run(from: &Path, to: &Path, more: &[&str]) -> Output {
    let [from, to] = [from, to].map(|path| path.to_str().expect("a path of the test is UTF-8"));
    persona(&[&["run", "--input", from, "--output", to], more].concat())
}

/// A run in the background, ended with the test.
pub struct Background(pub Child);

impl Background {
    /// Starts the program; its standard error goes to `errors`.
    pub fn start(arguments: &[&str], errors: Stdio) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_persona"));
        Self(
            command
                .args(arguments)
                .stdout(Stdio::null())
                .stderr(errors)
                .spawn()
                .expect("the program can be started"),
        )
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A free TCP port of this machine.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the machine has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

/// Waits until somebody listens.
pub fn wait_for(port: u16) {
    let until = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < until, "nobody listens at port {port}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Exit status and standard error of a run.
pub fn verdict(output: &Output) -> (i32, String) {
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Fails unless the run ended well.
pub fn assert_done(output: &Output) {
    let (status, sentence) = verdict(output);
    assert_eq!(status, 0, "{sentence}");
    assert!(
        !sentence.contains("CRITICAL") && !sentence.contains("panicked"),
        "{sentence}"
    );
}

/// Fails unless the run could not start, said why in one sentence with `words` in it, and wrote nothing.
pub fn assert_refused(output: &Output, to: &Path, words: &[&str]) {
    let (status, sentence) = verdict(output);
    assert_eq!(status, 2, "{sentence}");
    assert_eq!(sentence.trim_end().lines().count(), 1, "{sentence}");
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
    let part = format!("{}.part", to.display());
    assert!(
        !to.exists() && !Path::new(&part).exists(),
        "something was written to {}",
        to.display()
    );
}
