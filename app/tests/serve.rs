//! A box at work: cameras that come and go, viewers that stay.

mod boxed;
mod camera;
mod clip;

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use boxed::{Boxed, free_port, metric, password};
use camera::{Codec, TestCamera};
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

/// Mean luma above which a frame is the camera's test picture and below which it is a slate.
const BRIGHT: f64 = 60.0;

/// What a viewer saw: when, and whether it was the camera's picture.
type Seen = Arc<Mutex<Vec<(Instant, bool)>>>;

/// Somebody who watches a stream.
struct Viewer {
    pipeline: gst::Pipeline,
    seen: Seen,
    sizes: Arc<Mutex<Vec<(u32, u32)>>>,
    /// What there was to see in the left and right half of each frame.
    halves: Arc<Mutex<Vec<[f64; 2]>>>,
}

impl Viewer {
    fn watch(address: &str, login: &str) -> Self {
        let pipeline = gst::parse::launch(&format!(
            "rtspsrc location={address} latency=0 protocols=tcp tls-validation-flags=0 {login} ! rtph264depay ! avdec_h264 ! \
             videoconvert ! video/x-raw,format=I420 ! appsink name=sink sync=false"
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let (seen, sizes) = (Seen::default(), Arc::<Mutex<Vec<_>>>::default());
        let halves = Arc::<Mutex<Vec<_>>>::default();
        let notes = (seen.clone(), sizes.clone(), halves.clone());
        pipeline
            .by_name("sink")
            .and_downcast::<gst_app::AppSink>()
            .unwrap()
            .set_callbacks(
                gst_app::AppSinkCallbacks::builder()
                    .new_sample(move |sink| {
                        let sample = sink.pull_sample().unwrap();
                        let frame = clip::frame(&sample);
                        notes.2.lock().unwrap().push(clip::halves(&sample));
                        notes
                            .0
                            .lock()
                            .unwrap()
                            .push((Instant::now(), frame.luma > BRIGHT));
                        let mut sizes = notes.1.lock().unwrap();
                        if sizes.last() != Some(&frame.size) {
                            sizes.push(frame.size);
                        }
                        Ok(gst::FlowSuccess::Ok)
                    })
                    .build(),
            );
        pipeline.set_state(gst::State::Playing).unwrap();
        Self {
            pipeline,
            seen,
            sizes,
            halves,
        }
    }

    /// Waits for the camera's picture or for a slate after `since`, and says when it came.
    fn wait(&self, picture: bool, since: Instant, limit: Duration) -> Instant {
        let until = Instant::now() + limit;
        loop {
            let seen = self.seen.lock().unwrap();
            if let Some((when, _)) = seen
                .iter()
                .find(|(when, bright)| *when >= since && *bright == picture)
            {
                return *when;
            }
            drop(seen);
            if let Some(error) = self.fault() {
                panic!("the viewer was cut off: {error}");
            }
            let wanted = if picture { "picture" } else { "slate" };
            assert!(
                Instant::now() < until,
                "no {wanted} within {limit:?}; {} frames, sizes {:?}",
                self.seen.lock().unwrap().len(),
                self.sizes.lock().unwrap()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The longest time without a frame since `since`.
    fn longest_gap(&self, since: Instant) -> Duration {
        let seen = self.seen.lock().unwrap();
        let times: Vec<_> = seen
            .iter()
            .map(|(when, _)| *when)
            .filter(|when| *when >= since)
            .collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().expect("there are frames")
    }

    fn fault(&self) -> Option<String> {
        let bus = self.pipeline.bus()?;
        let message = bus.pop_filtered(&[gst::MessageType::Error, gst::MessageType::Eos])?;
        Some(format!("{message:?}"))
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}

#[test]
fn a_lost_camera_becomes_a_slate_and_comes_back_on_the_same_connection() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let camera = TestCamera::start(0, Codec::H264, None);
    let camera_port = camera.port();
    let port = free_port();
    let server = Boxed::start(
        dir.path(),
        port,
        &format!(
            "[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[page]\nlisten = \"127.0.0.1:{}\"\n\
             [[camera]]\nname = \"hall\"\nsource = \"rtsp://127.0.0.1:{camera_port}/camera\"\ntimeout = 2\n\
             [camera.faces]\nlook_ahead = 0\n[camera.recording]\nfolder = \"recordings\"\nsegment = 2\n\
             [[camera]]\nname = \"door\"\nsource = \"rtsp://127.0.0.1:{camera_port}/other\"\n",
            free_port()
        ),
    );
    // The door's camera does not exist: a slate from the beginning.
    let door = Viewer::watch(&server.address("door"), "");
    let hall = Viewer::watch(&server.address("hall"), "");
    let start = Instant::now();
    hall.wait(true, start, Duration::from_secs(20));
    door.wait(false, start, Duration::from_secs(20));
    assert!(door.seen.lock().unwrap().iter().all(|(_, picture)| !picture));
    std::thread::sleep(Duration::from_secs(2));

    // The camera dies.
    let killed = Instant::now();
    drop(camera);
    let slate = hall.wait(false, killed, Duration::from_secs(5)) - killed;
    assert!(slate <= Duration::from_secs(1), "the slate came after {slate:?}");
    std::thread::sleep(Duration::from_secs(1));

    // It comes back.
    let camera = TestCamera::start(camera_port, Codec::H264, None);
    let back = Instant::now();
    hall.wait(true, back, Duration::from_secs(20));

    // It stands still without a word.
    std::thread::sleep(Duration::from_secs(1));
    let muted = Instant::now();
    camera.set_silent(true);
    let slate = hall.wait(false, muted, Duration::from_secs(5)) - muted;
    assert!(
        slate <= Duration::from_millis(1500),
        "the slate came after {slate:?}"
    );
    camera.set_silent(false);
    hall.wait(
        true,
        Instant::now() + Duration::from_millis(500),
        Duration::from_secs(30),
    );

    // The other stream never noticed, and neither viewer had to connect anew.
    let gap = door.longest_gap(start + Duration::from_secs(1));
    assert!(
        gap < Duration::from_secs(1),
        "the other stream paused for {gap:?}"
    );
    assert!(hall.fault().is_none() && door.fault().is_none());
    assert_eq!(server.stop(), Some(0));

    let recordings: Vec<_> = std::fs::read_dir(dir.path().join("recordings"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(recordings.len() >= 2, "{recordings:?}");
    let contents: Vec<_> = recordings.iter().map(|path| clip::decode(path)).collect();
    let bright = |picture: bool| {
        contents
            .iter()
            .flat_map(|contents| &contents.frames)
            .filter(|frame| (frame.luma > BRIGHT) == picture)
            .count()
    };
    assert!(
        bright(true) > 20 && bright(false) > 3,
        "{} pictures, {} slates",
        bright(true),
        bright(false)
    );
    for contents in &contents {
        assert_eq!(contents.audio_buffers, 0);
        assert!(contents.frames.windows(2).all(|pair| pair[1].time > pair[0].time));
    }
}

#[test]
fn a_disk_that_takes_no_more_stops_the_recording_and_nothing_else() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let camera = TestCamera::start(0, Codec::H264, None);
    let (port, page) = (free_port(), free_port());
    // 32 KiB: a second or two of the test picture.
    let server = Boxed::start_with_small_files(
        64,
        dir.path(),
        port,
        &format!(
            "[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n\
             [[camera]]\nname = \"hall\"\nsource = \"rtsp://127.0.0.1:{}/camera\"\n\
             [camera.faces]\nlook_ahead = 0\n[camera.recording]\nfolder = \"recordings\"\n",
            camera.port()
        ),
    );
    let hall = Viewer::watch(&server.address("hall"), "");
    let start = Instant::now();
    hall.wait(true, start, Duration::from_secs(30));
    let until = Instant::now() + Duration::from_secs(60);
    // It is tried again, too: the disk may have been emptied.
    while metric(page, "persona_recording_faults_total", "hall") < 2.0 {
        assert!(Instant::now() < until, "the disk takes everything");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(metric(page, "persona_recording_up", "hall"), 0.0);
    let full = Instant::now();
    hall.wait(true, full, Duration::from_secs(10));
    std::thread::sleep(Duration::from_secs(2));
    let gap = hall.longest_gap(full);
    assert!(gap < Duration::from_secs(2), "the stream paused for {gap:?}");
    let seen = hall.seen.lock().unwrap();
    let slates = seen
        .iter()
        .filter(|(when, bright)| *when >= full && !*bright)
        .count();
    assert_eq!(slates, 0, "the viewers were shown slates");
    drop(seen);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn a_changed_configuration_is_taken_over_whole_or_not_at_all() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    // One for each: it answers 503 to two that come at one moment.
    let sources = ["hall", "door", "yard"].map(|name| (name, TestCamera::start(0, Codec::H264, None)));
    let (port, page) = (free_port(), free_port());
    let head = format!("[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n");
    let camera = |name: &str, more: &str| {
        let (_, source) = sources.iter().find(|source| source.0 == name).unwrap();
        let address = format!("rtsp://127.0.0.1:{}/camera", source.port());
        format!("[[camera]]\nname = \"{name}\"\nsource = \"{address}\"\n{more}")
    };
    let patient = "[camera.faces]\ndeadline = 10000\n";
    let (hall, door) = (camera("hall", patient), camera("door", ""));
    let server = Boxed::start(dir.path(), port, &format!("{head}{hall}{door}"));
    let reloads = |result: &str, count: f64| {
        let until = Instant::now() + Duration::from_secs(20);
        while metric(page, "persona_reloads_total", result) != count {
            assert!(Instant::now() < until, "not {count} times {result}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Instant::now()
    };
    let limit = Duration::from_secs(30);
    let until = Instant::now() + limit;
    while std::net::TcpStream::connect(("127.0.0.1", page)).is_err() {
        // The page opens a moment after the streams do.
        assert!(Instant::now() < until, "no page");
        std::thread::sleep(Duration::from_millis(50));
    }
    while metric(page, "persona_frames_sent_total", "hall").min(metric(
        page,
        "persona_frames_sent_total",
        "door",
    )) < 5.0
    {
        assert!(Instant::now() < until, "the cameras give no picture");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (seen_hall, seen_door) = (
        Viewer::watch(&server.address("hall"), ""),
        Viewer::watch(&server.address("door"), ""),
    );
    let start = Instant::now();
    seen_hall.wait(true, start, limit);
    seen_door.wait(true, start, limit);
    std::thread::sleep(Duration::from_secs(1));

    // Another policy: from one frame to the next, on the same connection, and no frame of before comes after.
    // A deadline that a busy machine keeps: what is dropped then is dropped for the change.
    let lost = || metric(page, "persona_frames_dropped_total", "stream=\"hall\"");
    let (before, changed) = (lost(), Instant::now());
    let shut = camera("hall", &format!("{patient}policy = \"shutter\"\n"));
    server.reload(&format!("{head}{shut}{door}"));
    let dark = seen_hall.wait(false, changed, Duration::from_secs(10));
    reloads("taken", 1.0);
    std::thread::sleep(Duration::from_secs(1));
    let after: Vec<_> = seen_hall
        .seen
        .lock()
        .unwrap()
        .iter()
        .filter(|(when, _)| *when >= dark)
        .map(|(_, bright)| *bright)
        .collect();
    assert!(after.len() > 5 && !after.contains(&true), "{after:?}");
    assert!(lost() <= before + 1.0, "{} frames lost", lost() - before);

    // Nonsense, and what needs a restart: nothing changes.
    server.reload(&format!("{head}{hall}polycy = \"cover\"\n{door}"));
    reloads("refused", 1.0);
    server.reload(&format!("site = \"Town hall\"\n{head}{hall}{door}"));
    reloads("refused", 2.0);
    let user = "[camera.user]\nname = \"a\"\npassword_file = \"none.password\"\n";
    server.reload(&format!("{head}{hall}{user}{door}"));
    let refused = reloads("refused", 3.0);
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        seen_hall
            .seen
            .lock()
            .unwrap()
            .iter()
            .all(|(when, bright)| *when < refused || !bright)
    );
    // The other stream has not been touched by any of it.
    let connections = |stream: &str| metric(page, "persona_connections_total", stream);
    assert_eq!((connections("hall"), connections("door")), (1.0, 1.0));
    assert!(seen_door.fault().is_none());

    // A stream that starts anew keeps its viewers; one goes, one comes.
    let bitrate = camera("hall", "[camera.encoding]\nbitrate = 900\n");
    let yard = camera("yard", "");
    let changed = Instant::now();
    server.reload(&format!("{head}{yard}{bitrate}"));
    seen_hall.wait(true, changed, limit);
    reloads("taken", 2.0);
    let until = Instant::now() + limit;
    while seen_door.fault().is_none() {
        assert!(Instant::now() < until, "the stream that was removed goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    Viewer::watch(&server.address("yard"), "").wait(true, changed, limit);
    assert_eq!((connections("hall"), connections("door")), (2.0, 0.0));
    assert_eq!(metric(page, "persona_streams", ""), 2.0);
    assert!(seen_hall.fault().is_none());
    assert_eq!(server.stop(), Some(0));
}

/// Contrast above which something of the checkered picture can be seen, and below which it is covered.
const PLAIN: f64 = 12.0;

#[test]
fn masks_move_between_two_frames_of_a_stream_that_is_watched() {
    const MOVES: usize = 6;
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let source = TestCamera::showing("checkers-8", 0, Codec::H264, None);
    let (port, page) = (free_port(), free_port());
    // A deadline that a busy machine keeps: what is dropped then is dropped for the change.
    let config = |mask: &str, zone: &str| {
        format!(
            "[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[page]\nlisten = \"127.0.0.1:{page}\"\n\
             [[camera]]\nname = \"hall\"\nsource = \"rtsp://127.0.0.1:{}/camera\"\n\
             [camera.faces]\ndeadline = 10000\n[camera.zones]\nmasked = [\"{mask}\"]\ncovered = [\"{zone}\"]\n",
            source.port()
        )
    };
    let sides = ["0,0 0.5,0 0.5,1 0,1", "0.5,0 1,0 1,1 0.5,1"];
    let server = Boxed::start(dir.path(), port, &config(sides[0], sides[1]));
    let counted = |name: &str| metric(page, name, "stream=\"hall\"");
    let until = Instant::now() + Duration::from_secs(30);
    while counted("persona_frames_sent_total") < 5.0 {
        assert!(Instant::now() < until, "the camera gives no picture");
        std::thread::sleep(Duration::from_millis(50));
    }
    let viewer = Viewer::watch(&server.address("hall"), "");
    // What can be seen of each half in the frames from `first` on.
    let shown = |first: usize| -> Vec<[bool; 2]> {
        let halves = viewer.halves.lock().unwrap();
        halves[first..]
            .iter()
            .map(|half| half.map(|contrast| contrast > PLAIN))
            .collect()
    };
    let wait_for = |wanted: [bool; 2], first: usize| {
        let until = Instant::now() + Duration::from_secs(20);
        while !shown(first).contains(&wanted) {
            assert!(
                Instant::now() < until,
                "{wanted:?} does not come: {:?}",
                viewer.halves.lock().unwrap().last()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait_for([false, true], 0);
    let (start, dropped) = (shown(0).len(), counted("persona_frames_dropped_total"));
    for number in 1..=MOVES {
        let first = shown(0).len();
        let (mask, zone) = (number % 2, (number + 1) % 2);
        server.reload(&config(sides[mask], sides[zone]));
        let after = [mask != 0, mask != 1];
        wait_for(after, first);
        // Once the new one holds, the old one is over.
        std::thread::sleep(Duration::from_millis(300));
        let frames = shown(first);
        let change = frames.iter().position(|frame| *frame == after).unwrap();
        assert!(frames[change..].iter().all(|frame| *frame == after), "{frames:?}");
    }
    let frames = shown(start);
    assert!(frames.len() > 4 * MOVES, "{} frames", frames.len());
    // The old mask or the new one, in every frame that was ever shown.
    assert!(!frames.contains(&[true, true]), "{frames:?}");
    let dropped = counted("persona_frames_dropped_total") - dropped;
    assert!(
        dropped <= MOVES as f64,
        "{dropped} frames dropped for {MOVES} changes"
    );
    assert_eq!(metric(page, "persona_reloads_total", "taken"), MOVES as f64);
    assert_eq!(counted("persona_connections_total"), 1.0);
    assert!(viewer.fault().is_none());
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn viewers_need_the_password_and_cameras_get_theirs() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let camera = TestCamera::start(0, Codec::H265, Some(("persona", "camera-secret")));
    let (port, page) = (free_port(), free_port());
    password(dir.path(), "hall.password", "camera-secret\n");
    password(dir.path(), "viewer.password", "viewer-secret\n");
    let config = format!(
        "[rtsp]\nlisten = \"127.0.0.1:{port}\"\n[[rtsp.user]]\nname = \"anna\"\npassword_file = \"viewer.password\"\n\
             [page]\nlisten = \"127.0.0.1:{}\"\n\
             [[camera]]\nname = \"hall\"\nsource = \"rtsp://127.0.0.1:{}/camera\"\ntransport = \"udp\"\nmount = \"/a/b\"\n\
             [camera.user]\nname = \"persona\"\npassword_file = \"hall.password\"\n",
        page,
        camera.port()
    );
    let server = Boxed::start(dir.path(), port, &config);
    let start = Instant::now();
    let known = Viewer::watch(&server.address("a/b"), "user-id=anna user-pw=viewer-secret");
    known.wait(true, start, Duration::from_secs(20));
    let end = |viewer: &Viewer| {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(fault) = viewer.fault() {
                break fault;
            }
            assert!(Instant::now() < until, "a viewer was not sent away");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let refuses = |login: &str| {
        let stranger = Viewer::watch(&server.address("a/b"), login);
        let refused = end(&stranger);
        assert!(stranger.seen.lock().unwrap().is_empty(), "{login:?} saw a frame");
        assert!(
            refused.contains("nauthorized") || refused.contains("not-authorized"),
            "{refused}"
        );
    };
    refuses("");
    refuses("user-id=anna user-pw=viewer-secre");
    refuses("user-id=bert user-pw=viewer-secret");
    // Another size than the slate's, and no interruption by the change.
    assert_eq!(known.sizes.lock().unwrap().last(), Some(&(320, 240)));
    assert!(known.fault().is_none());

    // Another password, and the same file of configuration: who watches has to come again, with the new one.
    password(dir.path(), "viewer.password", "another-secret\n");
    server.reload(&config);
    end(&known);
    refuses("user-id=anna user-pw=viewer-secret");
    let changed = Instant::now();
    let again = Viewer::watch(&server.address("a/b"), "user-id=anna user-pw=another-secret");
    again.wait(true, changed, Duration::from_secs(20));
    assert_eq!(metric(page, "persona_connections_total", "hall"), 1.0);
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn with_a_certificate_streams_are_served_over_tls_only() {
    clip::init();
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=box",
        ])
        .args(["-keyout", "box.key", "-out", "box.crt"])
        .current_dir(&dir)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    password(dir.path(), "viewer.password", "viewer-secret");
    let port = free_port();
    let server = Boxed::start(
        dir.path(),
        port,
        &format!(
            "[rtsp]\nlisten = \"127.0.0.1:{port}\"\nauthentication = \"basic\"\n\
             [rtsp.tls]\ncertificate = \"box.crt\"\nkey = \"box.key\"\n\
             [[rtsp.user]]\nname = \"anna\"\npassword_file = \"viewer.password\"\n\
             [page]\nlisten = \"127.0.0.1:{}\"\n[[camera]]\nname = \"hall\"\nsource = \"test\"\n",
            free_port()
        ),
    );
    let login = "user-id=anna user-pw=viewer-secret";
    let address = server.address("hall").replace("rtsp:", "rtsps:");
    let viewer = Viewer::watch(&address, login);
    let until = Instant::now() + Duration::from_secs(20);
    while viewer.seen.lock().unwrap().is_empty() {
        assert!(
            viewer.fault().is_none() && Instant::now() < until,
            "no frame over TLS"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // Without TLS the box does not even say no: it waits for a handshake that does not come.
    let plain = Viewer::watch(&server.address("hall"), login);
    let until = Instant::now() + Duration::from_secs(5);
    while plain.fault().is_none() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(plain.seen.lock().unwrap().is_empty());
}

#[test]
fn a_box_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let camera = "[[camera]]\nname = \"hall\"\nsource = \"test\"\n";
    password(dir.path(), "short.password", "short\n");
    let user = "[[rtsp.user]]\nname = \"a\"\npassword_file";
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let cases: [(String, &[&str]); 5] = [
        (
            format!("{camera}polycy = \"cover\"\n"),
            &["persona.toml:4: polycy: unknown key"],
        ),
        (
            format!("{camera}{user} = \"none.password\"\n"),
            &["none.password", "cannot read the password"],
        ),
        (
            format!("{camera}{user} = \"short.password\"\n"),
            &["short.password", "8 or more"],
        ),
        (
            format!("{camera}[rtsp]\nlisten = \"{taken}\"\n"),
            &["rtsp.listen", "port free"],
        ),
        (
            format!("{camera}[rtsp.tls]\ncertificate = \"a.crt\"\nkey = \"a.key\"\n"),
            &["a.crt", "certificate"],
        ),
    ];
    for (config, words) in cases {
        let path = dir.path().join("persona.toml");
        std::fs::write(&path, &config).unwrap();
        let output = clip::persona(&["serve", "--config", path.to_str().unwrap()]);
        clip::assert_refused(&output, &dir.path().join("nothing"), words);
    }
}
