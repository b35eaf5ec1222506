//! The command line: what goes in, what comes out, and what does not.

mod clip;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gstreamer as gst;

use clip::{Background, assert_done, assert_refused, decode, free_port, launch, mp4, run, verdict, wait_for};

/// What no output may hold; long enough to be nobody's accident.
const SECRET: &str = "AnnaMuellerBirthday2019";

#[test]
fn a_video_keeps_its_size_its_frames_and_their_times() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.mp4");
    mp4(&from, 30, (320, 240));
    let wanted: Vec<_> = decode(&from)
        .frames
        .iter()
        .map(|frame| (frame.size, frame.time))
        .collect();
    for name in ["out.mp4", "out.mov", "out.mkv", "out.webm"] {
        let to = dir.path().join(name);
        assert_done(&run(&from, &to, &[]));
        let frames = decode(&to).frames;
        assert_eq!(frames.len(), wanted.len(), "{name}");
        for (frame, (size, time)) in frames.iter().zip(&wanted) {
            assert_eq!(frame.size, *size, "{name}");
            // Matroska counts milliseconds.
            let difference = frame.time.nseconds().abs_diff(time.nseconds());
            assert!(
                difference <= 1_000_000,
                "{name}: {} instead of {time}",
                frame.time
            );
        }
    }
}

#[test]
fn a_variable_frame_rate_survives() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mkv"), dir.path().join("out.mp4"));
    // Every third and every seventh frame is missing.
    let pipeline = "videotestsrc num-buffers=60 ! video/x-raw,format=I420,width=160,height=120,framerate=30/1 ! \
                    identity drop-probability=0.4 ! x264enc bframes=0 speed-preset=ultrafast ! matroskamux ! filesink location=";
    launch(&format!("{pipeline}{}", from.display()));
    assert_done(&run(&from, &to, &[]));
    let times = |path: &Path| {
        decode(path)
            .frames
            .iter()
            .map(|frame| frame.time.mseconds())
            .collect::<Vec<_>>()
    };
    let (before, after) = (times(&from), times(&to));
    assert!(
        before.windows(2).any(|pair| pair[1] - pair[0] > 50),
        "the clip has gaps: {before:?}"
    );
    assert_eq!(before.len(), after.len());
    // The first frame's time is where the clip begins.
    for (before, after) in before
        .iter()
        .map(|time| time - before[0])
        .zip(after.iter().map(|time| time - after[0]))
    {
        assert!(before.abs_diff(after) <= 1, "{before} ms became {after} ms");
    }
}

#[test]
fn metadata_and_sound_stay_behind() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    // FLAC and Vorbis carry tags in their own headers too.
    for (muxer, sound, name) in [
        ("mp4mux", "opusenc", "in.mp4"),
        ("matroskamux", "opusenc", "in.mkv"),
        ("matroskamux", "flacenc", "flac.mkv"),
        ("matroskamux", "vorbisenc", "vorbis.mkv"),
    ] {
        let from = dir.path().join(name);
        launch(&format!(
            "{muxer} name=mux ! filesink location={} \
             videotestsrc num-buffers=50 ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
             taginject tags=\"title={SECRET},artist={SECRET},comment={SECRET},description={SECRET},\
             geo-location-name={SECRET},keywords={SECRET}\" ! x264enc speed-preset=ultrafast ! mux. \
             audiotestsrc num-buffers=80 ! taginject tags=\"title={SECRET},performer={SECRET}\" ! {sound} ! mux.",
            from.display()
        ));
        assert!(holds(&from, SECRET), "{name}: the input holds no secret");
        for (output, audio) in [
            ("a.mp4", false),
            ("b.mp4", true),
            ("c.mkv", true),
            ("d.webm", true),
        ] {
            let to = dir.path().join(format!("{name}-{output}"));
            let done = run(&from, &to, if audio { &["--keep-audio"] } else { &[] });
            assert_done(&done);
            assert!(
                !holds(&to, SECRET),
                "{name} -> {output}: the secret is in the output"
            );
            let contents = decode(&to);
            assert_eq!(contents.frames.len(), 50, "{name} -> {output}");
            assert_eq!(contents.audio_buffers > 0, audio, "{name} -> {output}");
            let printed = String::from_utf8_lossy(&done.stdout).into_owned();
            assert_eq!(
                printed.contains("a voice identifies a person"),
                !audio,
                "{printed}"
            );
        }
    }
}

fn holds(path: &Path, text: &str) -> bool {
    std::fs::read(path)
        .unwrap()
        .windows(text.len())
        .any(|bytes| bytes == text.as_bytes())
}

#[test]
fn a_rotated_video_comes_out_upright() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in.mp4"), dir.path().join("out.mp4"));
    mp4(&from, 10, (320, 160));
    let mut bytes = std::fs::read(&from).unwrap();
    // The matrix of the track header (ISO/IEC 14496-12, 8.3.2) comes 44 bytes after the box's type: a quarter turn.
    let header = bytes.windows(4).position(|bytes| bytes == b"tkhd").unwrap() + 44;
    let quarter: [u32; 9] = [0, 0x1_0000, 0, 0xffff_0000, 0, 0, 160 << 16, 0, 0x4000_0000];
    for (place, value) in bytes[header..].chunks_mut(4).zip(quarter) {
        place.copy_from_slice(&value.to_be_bytes());
    }
    std::fs::write(&from, bytes).unwrap();
    assert_done(&run(&from, &to, &[]));
    let frames = decode(&to).frames;
    assert_eq!(frames.len(), 10);
    assert!(
        frames.iter().all(|frame| frame.size == (160, 320)),
        "{:?}",
        frames[0].size
    );
}

#[test]
fn pictures_keep_their_size_and_lose_everything_else() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&from).unwrap();
    let gradient = |width, height| {
        image::RgbImage::from_fn(width, height, |x, y| {
            image::Rgb([(x * 3) as u8, (y * 3) as u8, 90])
        })
    };
    for (name, width, height) in [("a.png", 17, 33), ("b.PNG", 16, 16), ("c.jpg", 64, 48)] {
        gradient(width, height).save(from.join(name)).unwrap();
    }
    std::fs::write(
        from.join("rotated.jpg"),
        with_orientation(&std::fs::read(from.join("c.jpg")).unwrap(), 6),
    )
    .unwrap();
    std::fs::write(from.join("notes.txt"), "no picture").unwrap();
    assert_done(&run(&from, &to, &[]));

    let mut names: Vec<_> = std::fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["a.png", "b.PNG", "c.jpg", "rotated.jpg"]);
    for (name, size) in [
        ("a.png", (17, 33)),
        ("b.PNG", (16, 16)),
        ("c.jpg", (64, 48)),
        ("rotated.jpg", (48, 64)),
    ] {
        let picture = image::open(to.join(name)).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), size, "{name}");
    }
    assert!(!holds(&to.join("rotated.jpg"), "Exif"), "the output holds EXIF");
    // Without a face nothing but the chroma's resolution may have changed.
    let (before, after) = (
        gradient(17, 33),
        image::open(to.join("a.png")).unwrap().into_rgb8(),
    );
    let worst = before
        .as_raw()
        .iter()
        .zip(after.as_raw())
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap();
    assert!(worst <= 12, "a value changed by {worst}");

    let again = run(&from, &to, &[]);
    assert_eq!(
        verdict(&again).0,
        2,
        "existing pictures are not overwritten unasked"
    );
    assert_done(&run(&from, &to, &["--overwrite"]));
    assert_done(&run(&from.join("a.png"), &dir.path().join("one.jpg"), &[]));
}

/// The JPEG with an EXIF segment that says how it is turned (EXIF 2.32, tag 0x0112).
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &exif, &jpeg[2..]].concat()
}

#[test]
fn nothing_is_destroyed_unasked() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, other) = (dir.path().join("in.mp4"), dir.path().join("other.mp4"));
    mp4(&from, 5, (64, 64));
    std::fs::write(&other, "precious").unwrap();
    let bytes = std::fs::read(&from).unwrap();

    let (status, sentence) = verdict(&run(&from, &from, &["--overwrite"]));
    assert!(
        status == 2 && sentence.contains("never overwritten"),
        "{sentence}"
    );
    assert_eq!(std::fs::read(&from).unwrap(), bytes);

    let (status, sentence) = verdict(&run(&from, &other, &[]));
    assert!(status == 2 && sentence.contains("--overwrite"), "{sentence}");
    // What a run writes until it ends is a file of its own.
    let part = dir.path().join("out.mp4.part");
    std::fs::copy(&from, &part).unwrap();
    let to = dir.path().join("out.mp4");
    let (status, sentence) = verdict(&run(&part, &to, &["--overwrite"]));
    assert!(
        status == 2 && sentence.contains("never overwritten"),
        "{sentence}"
    );
    let (status, sentence) = verdict(&run(&from, &to, &[]));
    assert!(
        status == 2 && sentence.contains("out.mp4.part") && sentence.contains("--overwrite"),
        "{sentence}"
    );
    assert_eq!(std::fs::read(&part).unwrap(), bytes);
    assert_done(&run(&from, &to, &["--overwrite"]));
    assert!(to.exists() && !part.exists());
    // A run that cannot start leaves the older file alone, even when it might have replaced it.
    let broken = dir.path().join("broken.mp4");
    std::fs::write(&broken, "no video").unwrap();
    assert_eq!(verdict(&run(&broken, &other, &["--overwrite"])).0, 2);
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
    assert_done(&run(&from, &other, &["--overwrite"]));
    assert_eq!(decode(&other).frames.len(), 5);
}

#[test]
fn what_cannot_start_says_why_and_writes_nothing() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (from, to, missing) = (
        dir.path().join("in.mp4"),
        dir.path().join("out.mp4"),
        dir.path().join("missing.mp4"),
    );
    mp4(&from, 5, (64, 64));
    assert_refused(&run(&missing, &to, &[]), &to, &["missing.mp4", "no such file"]);
    let avi = dir.path().join("out.avi");
    assert_refused(&run(&from, &avi, &[]), &avi, &["out.avi", ".mp4"]);
    let nowhere = dir.path().join("no/such/folder/out.mp4");
    assert_refused(&run(&from, &nowhere, &[]), &nowhere, &["out.mp4"]);
    let models = dir.path().join("empty");
    let arguments = ["--models", models.to_str().unwrap()];
    assert_refused(&run(&from, &to, &arguments), &to, &["persona models fetch"]);
    let picture = dir.path().join("in.png");
    image::RgbImage::new(32, 32).save(&picture).unwrap();
    let other = dir.path().join("out.png");
    assert_refused(
        &run(&picture, &other, &arguments),
        &other,
        &["persona models fetch"],
    );
}

#[test]
fn a_stream_is_served_and_fetched() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let address = format!("rtsp://127.0.0.1:{}/hall", free_port());
    let port = address
        .rsplit_once(':')
        .unwrap()
        .1
        .trim_end_matches("/hall")
        .parse()
        .unwrap();
    let _server = Background::start(&["run", "--input", "test", "--output", &address], Stdio::null());
    wait_for(port);
    let (to, stats) = (dir.path().join("out.mp4"), dir.path().join("stats.json"));
    let done = clip::persona(&[
        "run",
        "--input",
        &address,
        "--output",
        to.to_str().unwrap(),
        "--frames",
        "40",
        "--stats-json",
        stats.to_str().unwrap(),
        "--deadline",
        "0",
    ]);
    assert_done(&done);
    let frames = decode(&to).frames;
    assert!(frames.len() >= 30, "{} of 40 frames", frames.len());
    assert!(frames.iter().all(|frame| frame.size == (1280, 720)));
    assert!(
        frames.windows(2).all(|pair| pair[0].time < pair[1].time),
        "times rise"
    );
    let first = frames[0].time;
    assert!(
        first < gst::ClockTime::from_mseconds(100),
        "the file begins with its first frame, not at {first}"
    );
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(&stats).unwrap()).unwrap();
    assert_eq!(stats["frames"], 40);
    for number in ["fps", "cpu_s", "peak_memory_bytes", "first_frame_s"] {
        assert!(
            stats[number].as_f64().is_some_and(|value| value > 0.0),
            "{number}: {stats}"
        );
    }
    assert!(
        stats["error"].is_null() && stats["stages_ms"]["detect"]["mean"].as_f64().is_some(),
        "{stats}"
    );
}

#[test]
fn an_address_that_is_taken_is_refused() {
    clip::init();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("rtsp://127.0.0.1:{}/hall", taken.local_addr().unwrap().port());
    let refused = clip::persona(&["run", "--input", "test", "--output", &address]);
    assert_refused(&refused, Path::new("hall"), &["cannot listen", &address]);
}

#[test]
fn check_tells_what_is_missing() {
    clip::init();
    let all = clip::persona(&["check"]);
    assert_done(&all);
    let empty = tempfile::tempdir().unwrap();
    let nothing = clip::persona(&["check", "--models", empty.path().to_str().unwrap()]);
    assert_eq!(nothing.status.code(), Some(1));
    let table = String::from_utf8_lossy(&nothing.stdout).into_owned();
    assert!(
        table.contains("MISSING") && table.contains("persona models fetch"),
        "{table}"
    );
    for row in ["CUDA", "TensorRT", "GPIO", "ONNX Runtime", "x264enc"] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

#[test]
fn a_sheet_shows_inputs_above_outputs() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let (a, b, to) = (
        dir.path().join("a.mp4"),
        dir.path().join("b.mp4"),
        dir.path().join("sheet.png"),
    );
    for (path, pattern) in [(&a, "white"), (&b, "black")] {
        launch(&format!(
            "videotestsrc num-buffers=25 pattern={pattern} ! video/x-raw,format=I420,width=160,height=120,framerate=25/1 ! \
             x264enc ! mp4mux ! filesink location={}",
            path.display()
        ));
    }
    let [a, b, to_name] = [&a, &b, &to].map(|path| path.to_str().unwrap());
    assert_done(&clip::persona(&[
        "sheet", "--input", a, "--output", b, "--to", to_name, "--frames", "4", "--width", "80",
    ]));
    let sheet = image::open(&to).unwrap().into_rgb8();
    assert_eq!(sheet.dimensions(), (4 * 80 + 3 * 4, 2 * 60 + 4));
    assert!(sheet.get_pixel(40, 30).0[0] > 230 && sheet.get_pixel(290, 94).0[0] < 25);
}

#[test]
fn a_crash_leaves_no_core_dump() {
    clip::init();
    let port = free_port();
    let address = format!("rtsp://127.0.0.1:{port}/hall");
    let run = Background::start(&["run", "--input", "test", "--output", &address], Stdio::null());
    wait_for(port);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", run.0.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size"));
    let words: Vec<_> = core.unwrap().split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{limits}");
}

#[test]
fn an_interrupt_closes_the_file() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("in.mp4");
    mp4(&from, 1500, (640, 360));
    let to = dir.path().join("out.mp4");
    let [from, output] = [&from, &to].map(|path| path.to_str().unwrap());
    let mut run = Background::start(&["run", "--input", from, "--output", output], Stdio::null());
    let part = dir.path().join("out.mp4.part");
    let until = Instant::now() + Duration::from_secs(30);
    while std::fs::metadata(&part).map_or(0, |metadata| metadata.len()) < 20_000 {
        assert!(Instant::now() < until, "nothing is written");
        std::thread::sleep(Duration::from_millis(20));
    }
    let killed = Command::new("kill")
        .args(["-INT", &run.0.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let status = run.0.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let frames = decode(&to).frames.len();
    assert!(frames > 0 && frames < 1500, "{frames} frames");
}
