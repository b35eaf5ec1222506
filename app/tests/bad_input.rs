//! Input that is broken, unusual or goes away: a clear sentence or a recovery, a playable file, no raw frame.

mod clip;

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;

use clip::{
    Background, assert_done, assert_refused, decode, free_port, launch, mp4, persona, run, verdict, wait_for,
};

#[test]
fn files_that_are_no_video_are_refused() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    let noise: Vec<u8> = (0..50_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let whole = dir.path().join("whole.mp4");
    mp4(&whole, 50, (160, 120));
    let whole = std::fs::read(&whole).unwrap();
    let cases: [(&str, &[u8], &str); 4] = [
        ("empty.mp4", b"", "empty"),
        ("noise.mp4", &noise, "noise.mp4"),
        (
            "text.mkv",
            b"this is no video at all, only words, and more of them",
            "text.mkv",
        ),
        // The table of contents of an MP4 is at its end: without it nothing can be played.
        ("cut.mp4", &whole[..whole.len() / 2], "cut.mp4"),
    ];
    for (name, bytes, words) in cases {
        let from = dir.path().join(name);
        std::fs::write(&from, bytes).unwrap();
        assert_refused(&run(&from, &to, &[]), &to, &[words]);
    }
}

#[test]
fn a_truncated_file_is_anonymized_up_to_the_fault() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (whole, from, to) = (
        dir.path().join("whole.mp4"),
        dir.path().join("in.mp4"),
        dir.path().join("out.mp4"),
    );
    launch(&format!(
        "videotestsrc num-buffers=250 ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! \
         x264enc speed-preset=ultrafast key-int-max=25 ! mp4mux faststart=true ! filesink location={}",
        whole.display()
    ));
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&from, &bytes[..bytes.len() / 2]).unwrap();
    let (status, sentence) = verdict(&run(&from, &to, &[]));
    assert_eq!(status, 1, "{sentence}");
    assert!(sentence.contains("in.mp4"), "{sentence}");
    let frames = decode(&to).frames.len();
    assert!((60..=200).contains(&frames), "{frames} frames");
}

#[test]
fn damaged_bytes_in_the_middle_do_not_stop_the_rest() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (whole, from, to) = (
        dir.path().join("whole.mkv"),
        dir.path().join("in.mkv"),
        dir.path().join("out.mkv"),
    );
    launch(&format!(
        "videotestsrc num-buffers=100 ! video/x-raw,format=I420,width=320,height=240,framerate=25/1 ! \
         x264enc speed-preset=ultrafast key-int-max=10 bframes=0 ! matroskamux ! filesink location={}",
        whole.display()
    ));
    let mut bytes = std::fs::read(&whole).unwrap();
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..middle + 200] {
        *byte ^= 0x5a;
    }
    std::fs::write(&from, &bytes).unwrap();
    let (status, sentence) = verdict(&run(&from, &to, &[]));
    assert!(status == 0 || status == 1, "{status}: {sentence}");
    let frames = decode(&to).frames.len();
    assert!((40..=100).contains(&frames), "{frames} frames: {sentence}");
}

#[test]
fn sound_without_pictures_is_refused() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    for (encoder, name) in [("opusenc ! matroskamux", "in.mkv"), ("wavenc", "in.wav")] {
        let from = dir.path().join(name);
        launch(&format!(
            "audiotestsrc num-buffers=50 ! {encoder} ! filesink location={}",
            from.display()
        ));
        assert_refused(&run(&from, &to, &[]), &to, &[name, "no video track"]);
        assert_refused(
            &run(&from, &to, &["--keep-audio"]),
            &to,
            &[name, "no video track"],
        );
    }
}

#[test]
fn a_missing_decoder_is_named_with_its_package() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mp4"), dir.path().join("out.mp4"));
    mp4(&from, 5, (64, 64));
    let decoders: Vec<_> =
        gst::ElementFactory::factories_with_type(gst::ElementFactoryType::DECODER, gst::Rank::MARGINAL)
            .iter()
            .filter(|factory| factory.can_sink_any_caps(&gst::Caps::new_empty_simple("video/x-h264")))
            .map(|factory| format!("{}:NONE", factory.name()))
            .collect();
    let refused = Command::new(env!("CARGO_BIN_EXE_persona"))
        .args([
            "run",
            "--input",
            from.to_str().unwrap(),
            "--output",
            to.to_str().unwrap(),
        ])
        .env("GST_PLUGIN_FEATURE_RANK", decoders.join(","))
        .output()
        .unwrap();
    assert_refused(&refused, &to, &["H.264", "apt-get install gstreamer1.0-libav"]);
}

#[test]
fn tiny_and_odd_sizes() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    for (width, height) in [(16, 16), (17, 33), (33, 17), (18, 16)] {
        let from = dir.path().join(format!("{width}x{height}.webm"));
        launch(&format!(
            "videotestsrc num-buffers=10 ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 ! \
             vp8enc ! webmmux ! filesink location={}",
            from.display()
        ));
        // H.264 in 4:2:0 has no odd sizes, VP8 has.
        for (name, size) in [("mp4", (width & !1, height & !1)), ("webm", (width, height))] {
            let to = dir.path().join(format!("out-{width}x{height}.{name}"));
            assert_done(&run(&from, &to, &[]));
            let frames = decode(&to).frames;
            assert_eq!(frames.len(), 10, "{width}x{height} {name}");
            assert!(
                frames.iter().all(|frame| frame.size == size),
                "{width}x{height} {name}: {:?}",
                frames[0].size
            );
        }
    }
}

#[test]
fn ten_bits_and_other_chroma() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    for format in ["I420_10LE", "Y42B", "I422_10LE", "Y444"] {
        let (from, to) = (
            dir.path().join(format!("{format}.mkv")),
            dir.path().join(format!("{format}.mp4")),
        );
        launch(&format!(
            "videotestsrc num-buffers=10 pattern=white ! video/x-raw,format={format},width=320,height=240,framerate=25/1 ! \
             x264enc speed-preset=ultrafast ! matroskamux ! filesink location={}",
            from.display()
        ));
        assert_done(&run(&from, &to, &[]));
        let frames = decode(&to).frames;
        assert_eq!(frames.len(), 10, "{format}");
        assert!(
            frames.iter().all(|frame| frame.luma > 220.0),
            "{format}: white stays white, {}",
            frames[0].luma
        );
    }
}

#[test]
fn a_new_size_in_the_middle_of_a_stream() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.h264");
    let mut bytes = Vec::new();
    for (width, height) in [(320, 240), (176, 144), (640, 360)] {
        let part = dir.path().join("part.h264");
        launch(&format!(
            "videotestsrc num-buffers=20 ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 ! \
             x264enc speed-preset=ultrafast bframes=0 ! video/x-h264,stream-format=byte-stream ! filesink location={}",
            part.display()
        ));
        bytes.extend(std::fs::read(&part).unwrap());
    }
    std::fs::write(&from, bytes).unwrap();
    for name in ["out.mp4", "out.mkv", "out.webm"] {
        let to = dir.path().join(name);
        assert_done(&run(&from, &to, &[]));
        let frames = decode(&to).frames;
        assert_eq!(frames.len(), 60, "{name}");
        assert!(
            frames.iter().all(|frame| frame.size == (320, 240)),
            "{name}: a file keeps the size of its first frame"
        );
    }
}

#[test]
fn a_silent_camera_is_given_up() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    // Accepts and says nothing.
    let camera = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!(
        "rtsp://user:s3cret@127.0.0.1:{}/live",
        camera.local_addr().unwrap().port()
    );
    std::thread::spawn(move || {
        let mut connections: Vec<_> = camera.incoming().flatten().take(2).collect();
        let _ = connections[0].read(&mut [0; 1024]);
        std::thread::sleep(Duration::from_secs(30));
    });
    let started = Instant::now();
    let refused = persona(&[
        "run",
        "--input",
        &address,
        "--output",
        to.to_str().unwrap(),
        "--timeout",
        "2",
    ]);
    assert!(started.elapsed() < Duration::from_secs(20));
    assert_refused(&refused, &to, &["rtsp://127.0.0.1"]);
    assert!(
        !verdict(&refused).1.contains("s3cret"),
        "the password is in the message"
    );
}

#[test]
fn nobody_at_the_address() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("out.mp4");
    let port = free_port();
    let address = format!("rtsp://127.0.0.1:{port}/live");
    let refused = persona(&[
        "run",
        "--input",
        &address,
        "--output",
        to.to_str().unwrap(),
        "--timeout",
        "5",
    ]);
    assert_refused(&refused, &to, &[&address]);
}

#[test]
fn a_camera_that_disappears_leaves_a_playable_file() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let port = free_port();
    let address = format!("rtsp://127.0.0.1:{port}/hall");
    let camera = Background::start(&["run", "--input", "test", "--output", &address], Stdio::null());
    wait_for(port);
    let to = dir.path().join("out.mp4");
    let arguments = [
        "run",
        "--input",
        &address,
        "--output",
        to.to_str().unwrap(),
        "--timeout",
        "10",
    ];
    let mut recorder = Background::start(&arguments, Stdio::piped());
    let part = format!("{}.part", to.display());
    let until = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(Path::new(&part)).map_or(0, |metadata| metadata.len()) < 50_000 {
        assert!(recorder.0.try_wait().unwrap().is_none(), "the recorder has ended");
        assert!(Instant::now() < until, "nothing is recorded");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(camera);
    let mut sentence = String::new();
    let mut errors = recorder.0.stderr.take().unwrap();
    errors.read_to_string(&mut sentence).unwrap();
    assert_eq!(recorder.0.wait().unwrap().code(), Some(1), "{sentence}");
    assert!(sentence.contains(&address), "{sentence}");
    assert!(decode(&to).frames.len() > 5);
}
