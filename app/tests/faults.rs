//! Fault injection over the whole pipeline, with ground truth: whatever fails, whenever, no face that was there gets out.
//!
//! Episodes of a made-up camera whose faces are known run through pipelines in which something fails all the time: a
//! network (error, not a number, wrong shape, panic, stall, plausible nonsense), the frame's memory, its time, its size,
//! the queue, the operator, the configuration. Every frame that comes out is compared with the one that went in, face
//! by face. What ends a process happens to a process of its own: it runs out of memory, or is killed; what it has given
//! out until then is judged in the same way.
//!
//! Every run injects 2,000 faults; `PERSONA_FAULTS=100000` asks for more (`cargo xtask test --long`). The seed is
//! printed, and `PERSONA_SEED` repeats a run.

mod scene;

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use board::{Rung, View};
use kernels::Rect;
use persona::frame::RawFrame;
use persona::pipeline::{Policy, Settings};
use persona::serve::config::Config;
use scene::{Fault, Faults, Picture, SURE, Switch, UNSURE};

/// Frames of an episode.
const FRAMES: usize = 40;
/// Faults in every run.
const FAULTS: u64 = 2000;
/// Least share of a face's middle that has to differ from the camera's picture.
const CHANGED: f32 = 0.9;
/// Of how many faults one ends a process.
const DEADLY: u64 = 50;
/// After this time a process that gives nothing out is ended.
const STUCK: Duration = Duration::from_secs(60);
/// Sizes between which the camera changes.
const SIZES: [(usize, usize); 3] = [(320, 180), (192, 144), (240, 240)];

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

/// Faces that wander over the picture and never touch each other.
struct World {
    size: (usize, usize),
    /// Column of each face, whether the detector is sure of it, and its side.
    faces: Vec<(usize, bool, f32)>,
    step: usize,
}

impl World {
    fn new(random: &mut fastrand::Rng, step: usize) -> Self {
        let size = SIZES[random.usize(..SIZES.len())];
        let mut faces = Vec::new();
        for column in 0..3 {
            if random.f32() < 0.7 {
                faces.push((column, random.f32() < 0.8, 28.0 + 20.0 * random.f32()));
            }
        }
        Self { size, faces, step }
    }

    fn boxes(&self) -> impl Iterator<Item = (Rect, bool)> {
        let (width, height) = self.size;
        let step = self.step as f32;
        self.faces.iter().map(move |&(column, sure, side)| {
            let room = width as f32 / 3.0 - side - 8.0;
            let x =
                width as f32 / 3.0 * column as f32 + 4.0 + room.max(0.0) * (0.5 + 0.5 * (step * 0.07).sin());
            let y = 8.0 + (height as f32 - side - 16.0) * (0.5 + 0.5 * (step * 0.05 + column as f32).cos());
            (Rect::new(x.round(), y.round(), side.round(), side.round()), sure)
        })
    }

    fn picture(&self) -> Picture {
        self.boxes()
            .fold(Picture::new(self.size.0, self.size.1), |picture, (face, sure)| {
                picture.with_face(face, if sure { SURE } else { UNSURE })
            })
    }
}

/// What went in, by its presentation time, which is unique within an episode.
type Truth = HashMap<Duration, (Picture, Vec<Rect>)>;

/// What was seen over all episodes.
#[derive(Default)]
struct Record {
    faults: BTreeMap<String, u64>,
    frames: u64,
    faces: u64,
    exposed: Vec<String>,
}

impl Record {
    fn fault(&mut self, what: impl Into<String>) {
        *self.faults.entry(what.into()).or_default() += 1;
    }

    fn total(&self) -> u64 {
        self.faults.values().sum()
    }

    /// Judges a frame that came out.
    fn judge(&mut self, truth: &Truth, time: Duration, shown: &Picture, episode: &str) {
        let (before, faces) = truth.get(&time).expect("nothing comes out that did not go in");
        self.frames += 1;
        for face in faces {
            self.faces += 1;
            let changed = shown.changed(before, face);
            if changed < CHANGED {
                self.exposed.push(format!(
                    "{episode}: {changed:.2} of {face:?} at {time:?} is changed"
                ));
            }
        }
    }
}

/// Lets something fail for the next frame.
fn inject(random: &mut fastrand::Rng, faults: &Faults, record: &mut Record) {
    let networks = [
        ("detector", &faults.detector),
        ("landmarker", &faults.landmarker),
        ("embedder", &faults.embedder),
        ("generator", &faults.generator),
    ];
    networks.iter().for_each(|(_, switch)| switch.set(Fault::None));
    if random.f32() < 0.25 {
        return;
    }
    let (name, switch): (&str, &Switch) = networks[random.usize(..networks.len())];
    const FAILURES: [Fault; 5] = [
        Fault::Error,
        Fault::NotFinite,
        Fault::WrongShape,
        Fault::Panic,
        Fault::Slow,
    ];
    // A detector cannot answer badly without having missed a face, which nothing can notice.
    let nonsense: &[Fault] = match name {
        "landmarker" => &[Fault::Poor, Fault::Turned],
        "generator" => &[Fault::Poor],
        _ => &[],
    };
    let choice = random.usize(..FAILURES.len() + nonsense.len());
    // Panics end an episode's use, so they are the rarer ones.
    let mut kind = FAILURES
        .get(choice)
        .copied()
        .unwrap_or_else(|| nonsense[choice - FAILURES.len()]);
    if kind == Fault::Panic && random.f32() < 0.8 {
        kind = Fault::Error;
    }
    if kind == Fault::Slow && random.f32() < 0.8 {
        kind = Fault::NotFinite;
    }
    switch.set(kind);
    record.fault(format!("{name} {kind:?}"));
}

/// Settings of an episode: made up, or what is left of a configuration that was cut off while it was written. `None`
/// when nothing is left that a box would begin with.
fn settings(random: &mut fastrand::Rng, record: &mut Record) -> Option<Settings> {
    let settings = Settings {
        look_ahead: random.usize(..=3),
        max_faces: random.usize(1..=4),
        queue: random.usize(1..=2),
        deadline: (random.f32() < 0.3).then(|| Duration::from_millis(random.u64(5..60))),
        ..Settings::default()
    };
    if random.f32() < 0.5 {
        return Some(settings);
    }
    let policies = ["anonymize", "cover", "head", "shutter"];
    let mut text = format!(
        "site = \"box\"\n[[camera]]\nname = \"hall\"\nsource = \"test\"\n[camera.faces]\nlook_ahead = {}\npolicy = \"{}\"\n\
         threshold = 0.{}\nmin_face = {}\ncoast = 1.{}\ndeadline = {}\n",
        settings.look_ahead,
        policies[random.usize(..4)],
        random.u32(10..25),
        random.u32(10..40),
        random.u32(10..90),
        random.u32(20..500),
    );
    text.truncate(random.usize(..text.len()));
    let config = Config::parse(&text, Path::new("persona.toml"));
    record.fault(match config {
        Ok(_) => "torn configuration, taken",
        Err(_) => "torn configuration, refused",
    });
    let config = config.ok()?;
    let faces = &config.cameras().next()?.faces;
    let mut torn = settings;
    torn.policy = faces.policy.into();
    torn.look_ahead = faces.look_ahead as usize;
    torn.possible = faces.threshold;
    torn.trust.smallest_face = faces.min_face as f32;
    torn.track.coast = Duration::from_secs_f64(faces.coast);
    torn.deadline = Some(Duration::from_millis(faces.deadline.into()));
    Some(torn)
}

/// One camera for [`FRAMES`] frames, through the pipeline's threads.
fn episode(seed: u64, record: &mut Record) {
    let mut random = fastrand::Rng::with_seed(seed);
    let name = format!("episode {seed}");
    let Some(settings) = settings(&mut random, record) else {
        // The box does not begin, so nothing comes out.
        return;
    };
    let faults = Faults::default();
    let (shown, frames) = channel();
    let stall = random.f32() < 0.1;
    let threads = scene::threads(&settings, &faults, move |frame| {
        if stall {
            // A sink that is too slow fills every queue before it.
            std::thread::sleep(Duration::from_millis(2));
        }
        let time = frame.time();
        // The receiver lives until the threads have ended.
        let _ = shown.send((time, frame.into_buffer()));
    });
    if stall {
        record.fault("full queue");
    }
    let (mut truth, mut time) = (Truth::new(), Duration::from_secs(1000));
    let mut world = World::new(&mut random, 0);
    for step in 0..FRAMES {
        world.step = step;
        match random.u32(..40) {
            0 => {
                world = World::new(&mut random, step);
                record.fault("camera resize or cut");
            }
            1 => {
                time += Duration::from_secs(random.u64(1..100_000));
                record.fault("clock jump ahead");
            }
            2 => {
                // Back to a time that was not used yet.
                time = time.saturating_sub(Duration::from_millis(random.u64(1..5000)))
                    + Duration::from_nanos(step as u64 + 1);
                record.fault("clock jump back");
            }
            3 => {
                threads.set_policy([Policy::Anonymize, Policy::Cover, Policy::Shutter][random.usize(..3)]);
                record.fault("policy change");
            }
            4 => {
                threads
                    .set_view([View::Anonymized, View::Covered, View::Slate, View::Raw][random.usize(..4)]);
                threads.set_rung(Rung::ALL[random.usize(..Rung::ALL.len())]);
                record.fault("panel");
            }
            5 => {
                threads.flush().expect("the threads live");
                record.fault("seek");
            }
            _ => (),
        }
        time += Duration::from_millis(33);
        while truth.contains_key(&time) {
            time += Duration::from_nanos(1);
        }
        inject(&mut random, &faults, record);
        let mut picture = world.picture();
        truth.insert(
            time,
            (picture.clone(), world.boxes().map(|(face, _)| face).collect()),
        );
        if random.u32(..40) == 0 {
            picture.is_mappable = false;
            record.fault("frame without memory");
        }
        threads
            .submit(RawFrame::new(picture, time))
            .expect("the threads live");
    }
    if random.f32() < 0.5 {
        threads.drain().expect("the threads live");
    } else {
        record.fault("stop in the middle");
    }
    drop(threads);
    for (time, picture) in frames {
        record.judge(&truth, time, &picture, &name);
    }
}

/// What the camera of a process that ends shows: the same for the same seed, here and there.
fn film(seed: u64) -> Vec<(Duration, Picture, Vec<Rect>)> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World {
        size: SIZES[0],
        faces: vec![(0, true, 44.0), (1, random.bool(), 36.0), (2, true, 30.0)],
        ..World::new(&mut random, 0)
    };
    (0..FRAMES)
        .map(|step| {
            world.step = step;
            let faces = world.boxes().map(|(face, _)| face).collect();
            (scene::time(step), world.picture(), faces)
        })
        .collect()
}

/// Leaves this process `room` bytes and no more (`setrlimit(2)`, RLIMIT_AS): what the allocator still has in reserve is
/// used up. It is the only one of this process (`MALLOC_ARENA_MAX`), so that the room is for all threads together.
fn limit_memory(room: usize) {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let room = vec![0_u8; room];
    // As little as the system ever gave: nothing is taken away, and nothing more is given.
    let limit = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::As, limit).expect("a limit may be lowered");
    for size in (4..24).rev().map(|power| 1_usize << power) {
        let mut part = Vec::<u8>::new();
        while part.try_reserve_exact(size).is_ok() {
            std::mem::forget(std::mem::take(&mut part));
        }
    }
    drop(room);
}

#[test]
#[ignore = "the process that another test lets end"]
fn a_process_that_ends() {
    let Ok(path) = std::env::var("PERSONA_FILM") else {
        return;
    };
    let seed = number("PERSONA_SEED", 1);
    let mut random = fastrand::Rng::with_seed(seed);
    // In which frame memory becomes short; at first, before there is a pipeline.
    let short = random.usize(..10);
    let most = 1 << random.u32(10..22);
    let room = random.usize(..most);
    let film = film(seed);
    let mut out = std::fs::File::create(path).expect("a file for what comes out");
    let limit = |step| {
        if short == step {
            limit_memory(room);
        }
    };
    limit(0);
    let threads = scene::threads(&Settings::default(), &Faults::default(), move |frame| {
        // As an encoder does, this takes no memory: what is anonymized gets out whatever happens to the rest.
        let time = u64::try_from(frame.time().as_nanos()).expect("a short film");
        out.write_all(&time.to_le_bytes()).expect("the disk has room");
        out.write_all(frame.into_buffer().luma())
            .expect("the disk has room");
    });
    for (step, (time, picture, _)) in film.into_iter().enumerate() {
        limit(step + 1);
        threads
            .submit(RawFrame::new(picture, time))
            .expect("the threads live");
    }
    threads.drain().expect("the threads live");
}

/// Lets a process run out of memory, or kills it, and judges what it has given out.
fn ended(seed: u64, record: &mut Record) {
    let mut random = fastrand::Rng::with_seed(seed);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("out");
    let mut process = Command::new(std::env::current_exe().expect("this program has a file"))
        .args(["--ignored", "--exact", "a_process_that_ends"])
        .env("PERSONA_FILM", &path)
        .env("PERSONA_SEED", seed.to_string())
        .env("MALLOC_ARENA_MAX", "1")
        // Without memory Rust's own report of where it ended waits for itself for ever; the box's service asks for none.
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a process can be started");
    let is_killed = random.f32() < 0.3;
    if is_killed {
        std::thread::sleep(Duration::from_millis(random.u64(..400)));
        // It may have ended by itself.
        let _ = process.kill();
    }
    let until = Instant::now() + STUCK;
    let status = loop {
        match process.try_wait().expect("it is a child of this one") {
            Some(status) => break Some(status),
            None if Instant::now() > until => break None,
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.is_none() {
        process.kill().and_then(|()| process.wait()).expect("it ends now");
    }
    record.fault(match status {
        _ if is_killed => "killed",
        Some(status) if status.success() => "memory short, enough",
        Some(_) => "out of memory",
        // As the watchdog would: it gives nothing out, but does not end either.
        None => "out of memory, stuck",
    });
    let film = film(seed);
    let truth: Truth = film
        .iter()
        .map(|(time, picture, faces)| (*time, (picture.clone(), faces.clone())))
        .collect();
    let out = std::fs::read(&path).unwrap_or_default();
    let pixels = SIZES[0].0 * SIZES[0].1;
    // A frame that was cut off is judged as far as it goes: the rest counts as changed only if it was sent.
    for sent in out.chunks(8 + pixels).filter(|sent| sent.len() > 8) {
        let (time, luma) = sent.split_at(8);
        let time = Duration::from_nanos(u64::from_le_bytes(time.try_into().expect("8 bytes")));
        let mut shown = Picture::new(SIZES[0].0, SIZES[0].1);
        shown.set_luma(luma);
        record.judge(&truth, time, &shown, &format!("process {seed}"));
    }
}

#[test]
fn a_face_that_got_out_would_be_seen() {
    let mut random = fastrand::Rng::with_seed(7);
    let world = World {
        faces: vec![(1, true, 40.0)],
        ..World::new(&mut random, 0)
    };
    let raw = world.picture();
    let faces: Vec<_> = world.boxes().map(|(face, _)| face).collect();
    let truth = Truth::from([(Duration::ZERO, (raw.clone(), faces.clone()))]);
    let mut record = Record::default();
    record.judge(&truth, Duration::ZERO, &raw, "raw");
    assert_eq!((record.faces, record.exposed.len()), (1, 1));
    // Half of a face is a face too.
    let half = Rect {
        width: faces[0].width / 2.0,
        ..faces[0]
    };
    record.judge(&truth, Duration::ZERO, &raw.with_face(half, 90), "half");
    assert_eq!((record.faces, record.exposed.len()), (2, 2));
}

#[test]
fn no_face_gets_out_whatever_fails() {
    let wanted = number("PERSONA_FAULTS", FAULTS);
    let seed = number("PERSONA_SEED", 1);
    // Panics are part of the test; their backtraces are not.
    std::panic::set_hook(Box::new(|_| ()));
    let (mut record, started) = (Record::default(), Instant::now());
    let (mut episodes, mut ended_processes) = (0, 0);
    let mut frames_of_processes = 0;
    while record.total() < wanted {
        episode(seed + episodes, &mut record);
        while (ended_processes + 1) * DEADLY <= record.total() {
            let before = record.frames;
            ended(seed + ended_processes, &mut record);
            frames_of_processes += record.frames - before;
            ended_processes += 1;
        }
        episodes += 1;
    }
    let _ = std::panic::take_hook();
    println!(
        "seed {seed}: {} faults in {episodes} episodes and {ended_processes} processes, {} frames out ({frames_of_processes} of the processes) with {} faces, {} exposed, {:.0} s",
        record.total(),
        record.frames,
        record.faces,
        record.exposed.len(),
        started.elapsed().as_secs_f64()
    );
    for (what, count) in &record.faults {
        println!("{count:>8}  {what}");
    }
    assert!(
        record.exposed.is_empty(),
        "{:#?}",
        &record.exposed[..record.exposed.len().min(10)]
    );
    assert!(
        record.total() >= wanted && record.faces > record.total() / 4 && frames_of_processes > 0,
        "the camera had faces to show"
    );
    assert!(
        record.faults.len() >= 34,
        "every kind of fault was there: {:?}",
        record.faults
    );
}
