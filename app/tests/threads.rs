//! The pipeline's threads: order, waiting, stopping, and what happens when a stage dies.

mod scene;

use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::{Duration, Instant};

use kernels::Rect;
use persona::frame::{Anonymized, RawFrame};
use persona::pipeline::{Policy, Settings, Threads};
use scene::{Fault, Faults, Picture, SURE, UNSEEN, threads, time};

const FACE: Rect = Rect::new(120.0, 50.0, 80.0, 80.0);
const LONG: Duration = Duration::from_secs(30);

fn with_face() -> Picture {
    Picture::new(320, 180).with_face(FACE, SURE)
}

fn start(settings: &Settings, faults: &Faults) -> (Threads<Picture>, Receiver<Anonymized<Picture>>) {
    let (sink, shown) = channel();
    let threads = threads(settings, faults, move |frame| {
        let _ = sink.send(frame);
    });
    (threads, shown)
}

fn submit(threads: &Threads<Picture>, indices: std::ops::Range<usize>) {
    for index in indices {
        threads.submit(RawFrame::new(with_face(), time(index))).unwrap();
    }
}

#[test]
fn frames_leave_in_order_and_drain_waits_for_the_held_ones() {
    let (threads, shown) = start(&Settings::default(), &Faults::default());
    submit(&threads, 0..20);
    threads.drain().unwrap();
    let times: Vec<_> = shown.try_iter().map(|frame| frame.time()).collect();
    assert_eq!(times, (0..20).map(time).collect::<Vec<_>>());
    // The stream may go on after a drain.
    submit(&threads, 20..23);
    threads.drain().unwrap();
    assert!(
        shown
            .try_iter()
            .all(|frame| frame.buffer().changed(&with_face(), &FACE) > 0.95)
    );
    assert_eq!(threads.stats().snapshot().frames, 23);
}

#[test]
fn a_sink_that_waits_makes_the_source_wait() {
    let settings = Settings::default();
    let (open, gate) = sync_channel::<()>(0);
    let threads = threads(&settings, &Faults::default(), move |_| {
        let _ = gate.recv();
    });
    let most = 2 * settings.queue + settings.look_ahead + 2;
    let count = std::thread::scope(|scope| {
        let (sent, count) = channel();
        let threads = &threads;
        scope.spawn(move || {
            for index in 0..most + 5 {
                submit(threads, index..index + 1);
                let _ = sent.send(index);
            }
        });
        // As many as fit into the queues, and no more, while the sink does not take any.
        let mut count_now = 0;
        while count.recv_timeout(Duration::from_secs(1)).is_ok() {
            count_now += 1;
        }
        drop(open);
        count_now
    });
    assert!(
        (settings.queue..=most).contains(&count),
        "{count} frames were taken in, {most} fit"
    );
    threads.drain().unwrap();
    assert_eq!(threads.stats().snapshot().frames, most as u64 + 5);
}

#[test]
fn a_flush_drops_what_waits_and_the_stream_begins_anew() {
    let settings = Settings {
        look_ahead: 3,
        ..Settings::default()
    };
    let (threads, shown) = start(&settings, &Faults::default());
    submit(&threads, 0..10);
    threads.flush().unwrap();
    let before = shown.try_iter().count();
    assert!(before <= 7, "three are held at least, {before} came");
    // Earlier than before, as after a seek; and no face of before coasts in it.
    let empty = Picture::new(320, 180);
    threads.submit(RawFrame::new(empty.clone(), time(2))).unwrap();
    threads.drain().unwrap();
    let after: Vec<_> = shown.try_iter().collect();
    assert_eq!((after.len(), after[0].time()), (1, time(2)));
    assert!(*after[0].buffer() == empty);
    let stats = threads.stats().snapshot();
    assert_eq!(stats.frames + stats.dropped, 11, "{stats}");
}

#[test]
fn a_stage_that_panics_covers_everything_from_then_on() {
    for stage in ["detector", "landmarker", "embedder", "generator"] {
        let faults = Faults::default();
        let switch = match stage {
            "detector" => &faults.detector,
            "landmarker" => &faults.landmarker,
            "embedder" => &faults.embedder,
            _ => &faults.generator,
        };
        let (threads, shown) = start(&Settings::default(), &faults);
        switch.set(Fault::Panic);
        submit(&threads, 0..3);
        threads.drain().unwrap();
        switch.set(Fault::None);
        submit(&threads, 3..6);
        threads.drain().unwrap();
        let frames: Vec<_> = shown.try_iter().collect();
        assert!(threads.stats().is_faulty(), "{stage}");
        assert_eq!(frames.len(), 6, "{stage}: none is lost");
        assert!(frames.iter().all(|frame| frame.buffer().is_flat()), "{stage}");
    }
}

#[test]
fn a_sink_that_panics_is_a_fault_and_does_not_stop_the_stream() {
    let (sent, shown) = channel();
    let threads = threads(&Settings::default(), &Faults::default(), move |frame| {
        assert!(frame.time() != time(1), "as the test wants it");
        let _ = sent.send(frame);
    });
    submit(&threads, 0..5);
    threads.drain().unwrap();
    assert!(threads.stats().is_faulty());
    let frames: Vec<_> = shown.try_iter().collect();
    assert_eq!(frames.len(), 4);
    assert!(frames[1..].iter().all(|frame| frame.buffer().is_flat()));
}

#[test]
fn the_policy_can_change_while_frames_flow() {
    let settings = Settings {
        look_ahead: 0,
        ..Settings::default()
    };
    let (threads, shown) = start(&settings, &Faults::default());
    let mut index = 0;
    for policy in [Policy::Shutter, Policy::Cover, Policy::Anonymize] {
        threads.set_policy(policy);
        submit(&threads, index..index + 2);
        index += 2;
        threads.drain().unwrap();
        for frame in shown.try_iter() {
            assert!(
                frame.buffer().is_flat() || policy != Policy::Shutter,
                "{policy:?}"
            );
            assert!(frame.buffer().changed(&with_face(), &FACE) > 0.95, "{policy:?}");
        }
        let stats = threads.stats().snapshot();
        assert_eq!(
            stats.generated > 0,
            policy == Policy::Anonymize,
            "{policy:?}\n{stats}"
        );
    }
}

#[test]
fn stopping_never_waits_for_more_than_the_sink() {
    // With frames in every queue, with a failing and with a slow network.
    for fault in [Fault::None, Fault::Panic, Fault::Error, Fault::Slow] {
        for switch in 0..4 {
            let faults = Faults::default();
            [
                &faults.detector,
                &faults.landmarker,
                &faults.embedder,
                &faults.generator,
            ][switch]
                .set(fault);
            let (threads, _shown) = start(&Settings::default(), &faults);
            submit(&threads, 0..6);
            let start = Instant::now();
            drop(threads);
            assert!(start.elapsed() < LONG, "{fault:?} of network {switch}");
        }
    }
}

#[test]
fn a_held_face_is_covered_before_it_is_found() {
    let (threads, shown) = start(&Settings::default(), &Faults::default());
    let hidden = Picture::new(320, 180).with_face(FACE, UNSEEN);
    for index in 0..4 {
        let picture = if index < 2 { hidden.clone() } else { with_face() };
        threads.submit(RawFrame::new(picture, time(index))).unwrap();
    }
    threads.drain().unwrap();
    let frames: Vec<_> = shown.try_iter().collect();
    for frame in &frames[..2] {
        assert!(frame.buffer().changed(&hidden, &FACE) > 0.95);
    }
}

#[test]
fn a_frame_whose_time_is_up_before_it_is_looked_at_is_dropped() {
    let settings = Settings {
        look_ahead: 0,
        queue: 8,
        deadline: Some(Duration::from_millis(45)),
        ..Settings::default()
    };
    let faults = Faults::default();
    // 30 ms for each frame, and eight at once.
    faults.detector.set(Fault::Slow);
    let (threads, shown) = start(&settings, &faults);
    submit(&threads, 0..8);
    threads.drain().unwrap();
    let stats = threads.stats().snapshot();
    assert!(stats.dropped >= 4 && stats.frames >= 1, "{stats}");
    assert_eq!(stats.dropped + stats.frames, 8);
    // The next one comes in time again.
    submit(&threads, 8..9);
    threads.drain().unwrap();
    let frames: Vec<_> = shown.try_iter().collect();
    assert_eq!(frames.last().map(|frame| frame.time()), Some(time(8)));
    for frame in frames {
        assert!(frame.buffer().changed(&with_face(), &FACE) > 0.95);
    }
}
