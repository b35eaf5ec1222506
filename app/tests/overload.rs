//! More streams than one set of networks can serve: who gets how much, and what becomes of what is too late.

mod scene;

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use kernels::Rect;
use persona::frame::RawFrame;
use persona::pipeline::{Reason, Settings, Snapshot, Stage, Threads};
use scene::{Fault, Faults, Networks, Picture, SURE, TOGETHER, time};

const FACE: Rect = Rect::new(120.0, 50.0, 80.0, 80.0);
/// What the generator takes for a face ([`Fault::Slow`]); it is all that takes time here.
const RUN: Duration = Duration::from_millis(30);
/// Of the streams that want too much.
const DEADLINE: Duration = Duration::from_millis(250);
/// For how long the streams run.
const TEST: Duration = Duration::from_secs(4);

fn picture() -> Picture {
    Picture::new(320, 180).with_face(FACE, SURE)
}

/// One stream: its pictures come `every` so often, whatever becomes of them.
struct Stream {
    every: Duration,
    deadline: Duration,
}

/// What became of a stream.
struct Outcome {
    sent: u64,
    /// Frames that the camera's thread could not hand over in time: they are left out before the pipeline, as `serve` does.
    left_out: u64,
    snapshot: Snapshot,
    /// Least share of a face that was changed in any frame that came out.
    changed: f32,
}

impl Stream {
    fn run(&self, networks: &Networks) -> Outcome {
        let settings = Settings {
            look_ahead: 0,
            deadline: Some(self.deadline),
            ..Settings::default()
        };
        let (detect, anonymize) = networks.halves(&settings);
        let (sink, shown) = channel();
        let threads = Threads::start(detect, anonymize, &settings, move |frame| {
            // The receiver lives until the threads have ended.
            let _ = sink.send(frame.into_buffer());
        });
        let threads = threads.unwrap();
        let (start, mut sent, mut left_out) = (Instant::now(), 0, 0);
        while start.elapsed() < TEST {
            threads
                .submit(RawFrame::new(picture(), time(sent as usize)))
                .unwrap();
            sent += 1;
            let mut next = start + self.every * (sent + left_out) as u32;
            while next < Instant::now() {
                left_out += 1;
                next += self.every;
            }
            std::thread::sleep(next - Instant::now().min(next));
        }
        threads.drain().unwrap();
        let snapshot = threads.stats().snapshot();
        drop(threads);
        let before = picture();
        let changed = shown
            .iter()
            .map(|picture: Picture| picture.changed(&before, &FACE));
        Outcome {
            sent,
            left_out,
            snapshot,
            changed: changed.fold(1.0, f32::min),
        }
    }
}

/// Four cameras want three times what there is; a fifth wants little and gets it.
#[test]
fn who_wants_too_much_is_covered_and_who_wants_little_keeps_the_rate() {
    let faults = Faults::default();
    faults.generator.set(Fault::Slow);
    let networks = Networks::new(&faults);
    let greedy = Stream {
        every: Duration::from_millis(40),
        deadline: DEADLINE,
    };
    let modest = Stream {
        every: Duration::from_millis(400),
        deadline: Duration::from_millis(400),
    };
    let (greedy, modest) = std::thread::scope(|scope| {
        let others: Vec<_> = (0..4).map(|_| scope.spawn(|| greedy.run(&networks))).collect();
        let modest = modest.run(&networks);
        let others: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
        (others, modest)
    });
    for outcome in greedy.iter().chain([&modest]) {
        let Outcome {
            sent,
            left_out,
            snapshot,
            changed,
        } = outcome;
        println!(
            "{sent} sent, {left_out} left out, {} out, {} dropped, {} replaced, {} late, p99 {:?}",
            snapshot.frames,
            snapshot.dropped,
            snapshot.generated,
            snapshot.covered(Reason::Late),
            snapshot.times(Stage::Total).p99
        );
        assert!(*changed > 0.9, "a face was shown");
        assert_eq!(snapshot.frames + snapshot.dropped, *sent);
    }
    // Faces of several streams went through the generator together, within its bounds.
    let largest = faults.generator.largest_run();
    assert!((2..=TOGETHER).contains(&largest), "{largest} faces in one run");
    // Who wants little keeps all frames, and nearly all of them have a new face.
    assert_eq!((modest.left_out, modest.snapshot.dropped), (0, 0));
    assert!(modest.snapshot.generated * 10 >= modest.snapshot.frames * 8);
    // The four share the rest evenly ...
    let replaced: Vec<_> = greedy.iter().map(|outcome| outcome.snapshot.generated).collect();
    let (least, most) = (replaced.iter().min().unwrap(), replaced.iter().max().unwrap());
    assert!(*least > 0 && most - least <= 4 + most / 4, "{replaced:?}");
    for outcome in &greedy {
        // ... and what they miss is covered or left out: a frame that came out is no later than its deadline and the
        // turns of the others, which it may have waited for when its time was up.
        let too_late = outcome.snapshot.covered(Reason::Late) + outcome.snapshot.dropped + outcome.left_out;
        assert!(too_late > 0, "there was too much to do");
        let latest = outcome.snapshot.times(Stage::Total).p99;
        assert!(
            latest < DEADLINE + 5 * RUN + Duration::from_millis(500),
            "{latest:?}"
        );
    }
}
