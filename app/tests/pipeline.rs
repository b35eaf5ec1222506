//! The pipeline on made-up frames: whatever happens, a face that the detector ever found does not get out unchanged.

mod scene;

use std::time::Duration;

use board::{Rung, View};
use kernels::Rect;
use persona::pipeline::{Policy, Reason, Rules, Scan, Settings, Snapshot, Verify, Zones};
use proptest::prelude::*;
use scene::{Fault, Faults, Picture, SURE, Switch, UNSEEN, UNSURE, pipeline, run};

const FACE: Rect = Rect::new(120.0, 50.0, 80.0, 80.0);

fn empty() -> Picture {
    Picture::new(320, 180)
}

fn settings() -> Settings {
    Settings {
        look_ahead: 0,
        ..Settings::default()
    }
}

/// Runs the pictures through a new pipeline.
fn anonymized(settings: &Settings, faults: &Faults, pictures: &[Picture]) -> (Vec<Picture>, Snapshot) {
    let mut pipeline = pipeline(settings, faults);
    let shown = run(&mut pipeline, 0, pictures);
    (shown, pipeline.stats().snapshot())
}

#[test]
fn a_face_is_replaced_and_nothing_else_changes() {
    let picture = empty().with_face(FACE, SURE);
    let (shown, stats) = anonymized(&settings(), &Faults::default(), std::slice::from_ref(&picture));
    assert!(shown[0].changed(&picture, &FACE) > 0.95);
    assert!(shown[0].differs_only_in(&picture, &FACE.scaled(1.1)));
    assert_eq!((stats.frames, stats.faces, stats.generated), (1, 1, 1), "{stats}");
}

#[test]
fn a_frame_without_faces_passes_unchanged() {
    let (shown, stats) = anonymized(&settings(), &Faults::default(), &[empty()]);
    assert_eq!((&shown[0], stats.faces, stats.frames_covered), (&empty(), 0, 0));
}

#[test]
fn more_faces_than_a_run_takes_are_all_replaced_once_verified() {
    let faces: Vec<_> = (0..10)
        .map(|i| {
            Rect::new(
                10.0 + 60.0 * (i % 5) as f32,
                20.0 + 80.0 * (i / 5) as f32,
                40.0,
                40.0,
            )
        })
        .collect();
    let picture = faces
        .iter()
        .fold(empty(), |picture, face| picture.with_face(*face, SURE));
    // Four are verified in each frame; the others are covered for so long.
    let (shown, stats) = anonymized(&settings(), &Faults::default(), &vec![picture.clone(); 3]);
    let counts = (stats.generated, stats.covered(Reason::Unverified));
    assert_eq!(counts, (4 + 8 + 10, 6 + 2), "{stats}");
    for (shown, face) in shown
        .iter()
        .flat_map(|shown| faces.iter().map(move |face| (shown, face)))
    {
        assert!(shown.changed(&picture, face) > 0.9, "{face:?}");
    }
}

#[test]
fn a_box_that_sheds_work_replaces_fewer_faces_and_covers_the_others() {
    let faces: Vec<_> = (0..4)
        .map(|i| Rect::new(10.0 + 75.0 * i as f32, 60.0, 50.0, 50.0))
        .collect();
    let picture = faces
        .iter()
        .fold(empty(), |picture, face| picture.with_face(*face, SURE));
    for (rung, generated) in [
        (Rung::Full, 4),
        (Rung::TwoFaces, 2),
        (Rung::OneFace, 1),
        (Rung::Cover, 0),
        (Rung::CoverSparsely, 0),
    ] {
        let mut pipeline = pipeline(&settings(), &Faults::default());
        pipeline.set_rung(rung);
        let shown = run(&mut pipeline, 0, std::slice::from_ref(&picture));
        let stats = pipeline.stats().snapshot();
        let counts = (stats.faces, stats.generated, stats.covered(Reason::Load));
        assert_eq!(counts, (4, generated, 4 - generated), "{rung}: {stats}");
        for face in &faces {
            assert!(shown[0].changed(&picture, face) > 0.9, "{rung}: {face:?}");
        }
    }
}

#[test]
fn a_view_covers_whole_frames_over_the_policy_and_none_shows_a_raw_one() {
    let picture = empty().with_face(FACE, SURE);
    for (view, covered) in [
        (View::Raw, false),
        (View::Anonymized, false),
        (View::Covered, true),
        (View::Slate, true),
    ] {
        let mut pipeline = pipeline(&settings(), &Faults::default());
        pipeline.set_view(view);
        let shown = run(&mut pipeline, 0, std::slice::from_ref(&picture));
        let stats = pipeline.stats().snapshot();
        assert_eq!(stats.frames_covered, u64::from(covered), "{view}: {stats}");
        assert!(shown[0].changed(&picture, &FACE) > 0.9, "{view}");
    }
}

#[test]
fn each_reason_covers() {
    struct Case {
        reason: Reason,
        settings: Settings,
        faults: fn(&Faults),
        pictures: Vec<Picture>,
    }
    let with = |face: Rect, luma| empty().with_face(face, luma);
    let one = |reason, settings, faults| Case {
        reason,
        settings,
        faults,
        pictures: vec![with(FACE, SURE)],
    };
    let cases = [
        Case {
            pictures: vec![with(Rect::new(100.0, 60.0, 18.0, 18.0), SURE)],
            ..one(Reason::Small, settings(), |_| ())
        },
        one(Reason::Turned, settings(), |faults| {
            faults.landmarker.set(Fault::Turned)
        }),
        one(Reason::Landmarks, settings(), |faults| {
            faults.landmarker.set(Fault::Poor)
        }),
        Case {
            pictures: vec![with(FACE, UNSURE)],
            ..one(Reason::Tentative, settings(), |_| ())
        },
        Case {
            pictures: vec![with(FACE, SURE), with(FACE, UNSEEN)],
            ..one(Reason::Coasting, settings(), |_| ())
        },
        Case {
            pictures: vec![with(FACE, UNSEEN), with(FACE, SURE)],
            ..one(
                Reason::LookAhead,
                Settings {
                    look_ahead: 1,
                    ..settings()
                },
                |_| (),
            )
        },
        one(
            Reason::Late,
            Settings {
                deadline: Some(Duration::ZERO),
                ..settings()
            },
            |_| (),
        ),
        one(
            Reason::Late,
            Settings {
                deadline: Some(Duration::from_millis(25)),
                ..settings()
            },
            |faults| faults.embedder.set(Fault::Slow),
        ),
        one(Reason::Mask, settings(), |faults| {
            faults.generator.set(Fault::Poor)
        }),
        one(Reason::Similar, settings(), |faults| {
            faults.generator.set(Fault::Same)
        }),
        Case {
            pictures: vec![with(FACE, SURE).with_face(Rect::new(20.0, 60.0, 50.0, 50.0), SURE)],
            ..one(
                Reason::Unverified,
                Settings {
                    verify: Verify {
                        most: 1,
                        ..Verify::default()
                    },
                    ..settings()
                },
                |_| (),
            )
        },
        one(Reason::Network, settings(), |faults| {
            faults.generator.set(Fault::Error)
        }),
        one(
            Reason::Policy,
            Settings {
                policy: Policy::Cover,
                ..settings()
            },
            |_| (),
        ),
        one(
            Reason::Zone,
            Settings {
                zones: Zones {
                    covered: vec!["0.5,0.2 1,0.2 1,1".parse().unwrap()],
                    ..Zones::default()
                },
                ..settings()
            },
            |_| (),
        ),
        one(
            Reason::Frame,
            Settings {
                policy: Policy::Shutter,
                ..settings()
            },
            |_| (),
        ),
    ];
    let mut missing = Reason::ALL.to_vec();
    // Not a matter of settings: a box that sheds work has a test of its own.
    missing.retain(|reason| *reason != Reason::Load);
    for Case {
        reason,
        settings,
        faults,
        pictures,
    } in cases
    {
        let switches = Faults::default();
        faults(&switches);
        let (shown, stats) = anonymized(&settings, &switches, &pictures);
        assert_eq!(stats.covered(reason), 1, "{reason}:\n{stats}");
        assert_eq!(shown.len(), pictures.len(), "{reason}");
        for (shown, picture) in shown.iter().zip(&pictures) {
            let face = if reason == Reason::Small {
                Rect::new(100.0, 60.0, 18.0, 18.0)
            } else {
                FACE
            };
            assert!(shown.changed(picture, &face) > 0.95, "{reason}");
        }
        missing.retain(|other| *other != reason);
    }
    assert!(missing.is_empty(), "not tried: {missing:?}");
}

#[test]
fn a_stricter_policy_covers_more() {
    // Box of the detector, box of the face from hair line to chin, box of the head, everything.
    let cases = [
        (Policy::Cover, FACE, FACE.scaled(1.7)),
        (Policy::Head, FACE.scaled(1.6), FACE.scaled(2.3)),
    ];
    for (policy, within, around) in cases {
        // Hair, so to speak: a pattern all around that no detector takes for a face.
        let picture = empty().with_face(FACE.scaled(2.2), UNSEEN).with_face(FACE, SURE);
        let settings = Settings { policy, ..settings() };
        let (shown, _) = anonymized(&settings, &Faults::default(), std::slice::from_ref(&picture));
        assert!(
            shown[0].changed(&picture, &within.scaled(1.0 / 0.6)) > 0.95,
            "{policy:?}"
        );
        assert!(shown[0].differs_only_in(&picture, &around), "{policy:?}");
    }
}

#[test]
fn an_output_is_verified_at_once_and_then_at_intervals() {
    let picture = empty().with_face(FACE, SURE);
    let every = Duration::from_millis(500);
    let settings = Settings {
        verify: Verify {
            every,
            ..Verify::default()
        },
        ..settings()
    };
    // At 30 frames per second: frames 0, 15, 30, 45.
    let (_, stats) = anonymized(&settings, &Faults::default(), &vec![picture; 46]);
    assert_eq!((stats.generated, stats.distances.count()), (46, 4), "{stats}");
    assert_eq!((stats.similar, stats.unverifiable), (0, 0), "{stats}");
}

#[test]
fn one_verified_face_a_frame_is_verified_again_and_none_is_forgotten() {
    let picture = (0..3)
        .map(|i| Rect::new(10.0 + 100.0 * i as f32, 60.0, 50.0, 50.0))
        .fold(empty(), |picture, face| picture.with_face(face, SURE));
    // 3 in the first frame, then one each in the frames 30, 31, 32 and 60, 61, 62.
    for (frames, wanted) in [(30, 3), (31, 4), (33, 6), (60, 6), (63, 9)] {
        let (_, stats) = anonymized(&settings(), &Faults::default(), &vec![picture.clone(); frames]);
        assert_eq!(
            (stats.distances.count(), stats.generated),
            (wanted, 3 * frames as u64)
        );
    }
}

#[test]
fn a_face_whose_output_resembles_the_person_is_covered_for_as_long_as_it_is_followed() {
    let picture = empty().with_face(FACE, SURE);
    let faults = Faults::default();
    let mut pipeline = pipeline(&settings(), &faults);
    // 29 frames of another face; then the generator gives the person back, and is found out in frame 30.
    run(&mut pipeline, 0, &vec![picture.clone(); 30]);
    faults.generator.set(Fault::Same);
    let found_out = run(&mut pipeline, 30, std::slice::from_ref(&picture));
    assert!(found_out[0].changed(&picture, &FACE) > 0.95);
    faults.generator.set(Fault::None);
    for shown in run(&mut pipeline, 31, &vec![picture.clone(); 60]) {
        assert!(shown.changed(&picture, &FACE) > 0.95);
    }
    let stats = pipeline.stats().snapshot();
    assert_eq!(
        (stats.generated, stats.covered(Reason::Similar)),
        (30, 61),
        "{stats}"
    );
    assert_eq!((stats.similar, stats.distances.0[0]), (1, 1), "{stats}");
    // Another face is another matter.
    pipeline.flush();
    run(&mut pipeline, 100, std::slice::from_ref(&picture));
    assert_eq!(pipeline.stats().snapshot().generated, 31);
}

#[test]
fn a_face_that_cannot_be_verified_is_covered_until_it_can_be() {
    let picture = empty().with_face(FACE, SURE);
    for fault in [Fault::Error, Fault::NotFinite, Fault::WrongShape] {
        let faults = Faults::default();
        let mut pipeline = pipeline(&settings(), &faults);
        run(&mut pipeline, 0, std::slice::from_ref(&picture));
        faults.embedder.set(fault);
        run(&mut pipeline, 1, &vec![picture.clone(); 39]);
        let stats = pipeline.stats().snapshot();
        let case = format!("{fault:?}: {stats}");
        assert_eq!(
            (
                stats.generated,
                stats.covered(Reason::Unverified),
                stats.unverifiable
            ),
            (30, 10, 10),
            "{case}"
        );
        faults.embedder.set(Fault::None);
        run(&mut pipeline, 40, &vec![picture.clone(); 10]);
        assert_eq!(pipeline.stats().snapshot().generated, 40, "{case}");
    }
}

/// A picture that is a pattern all over, so that whatever covers it can be seen.
fn pattern() -> Picture {
    empty().with_face(Rect::new(0.0, 0.0, 320.0, 180.0), UNSEEN)
}

#[test]
fn a_mask_covers_its_part_of_every_frame_and_nothing_else() {
    // The left half, and a triangle below on the right.
    let zones = Zones {
        masked: vec![
            "0,0 0.5,0 0.5,1 0,1".parse().unwrap(),
            "1,0.5 1,1 0.5,1".parse().unwrap(),
        ],
        ..Zones::default()
    };
    let settings = Settings { zones, ..settings() };
    let picture = pattern();
    let faults = Faults::default();
    // Whatever the networks say: nothing found, or nothing at all.
    for fault in [Fault::None, Fault::Error] {
        faults.landmarker.set(fault);
        faults.generator.set(fault);
        let (shown, stats) = anonymized(&settings, &faults, &vec![picture.clone(); 3]);
        assert_eq!((stats.faces, stats.frames_covered), (0, 0), "{stats}");
        for shown in &shown {
            assert!(shown.changed(&picture, &Rect::new(0.0, 0.0, 160.0, 180.0).scaled(1.0 / 0.6)) > 0.9);
            assert!(shown.changed(&picture, &Rect::new(280.0, 150.0, 40.0, 30.0)) > 0.9);
            let open = Rect::new(161.0, 1.0, 158.0, 85.0);
            assert_eq!(shown.changed(&picture, &open), 0.0);
        }
    }
    // A face behind the mask is not replaced, one beside it is.
    let (behind, beside) = (
        Rect::new(40.0, 50.0, 60.0, 60.0),
        Rect::new(190.0, 10.0, 60.0, 60.0),
    );
    let picture = empty().with_face(behind, SURE).with_face(beside, SURE);
    let (shown, stats) = anonymized(&settings, &Faults::default(), std::slice::from_ref(&picture));
    assert_eq!((stats.generated, stats.covered(Reason::Zone)), (1, 1), "{stats}");
    for face in [behind, beside] {
        assert!(shown[0].changed(&picture, &face) > 0.95);
    }
}

#[test]
fn rules_change_between_two_frames_and_no_frame_is_lost() {
    let picture = pattern().with_face(FACE, SURE);
    for look_ahead in [0, 2] {
        let settings = Settings {
            look_ahead,
            ..settings()
        };
        let mut pipeline = pipeline(&settings, &Faults::default());
        let mut shown = Vec::new();
        let mut submit = |pipeline: &mut scene::Running, index| {
            let frame = persona::frame::RawFrame::new(picture.clone(), scene::time(index));
            pipeline.submit(frame, &mut |frame| shown.push(frame.into_buffer()));
        };
        (0..10).for_each(|index| submit(&mut pipeline, index));
        pipeline.set_rules(Rules {
            zones: Zones {
                masked: vec!["0,0 0.3,0 0.3,1 0,1".parse().unwrap()],
                covered: vec!["0.3,0 1,0 1,1 0.3,1".parse().unwrap()],
            },
            ..Rules::from(&settings)
        });
        (10..20).for_each(|index| submit(&mut pipeline, index));
        pipeline.drain(&mut |frame| shown.push(frame.into_buffer()));
        assert_eq!(shown.len(), 20);
        let mask = Rect::new(0.0, 0.0, 96.0, 180.0).scaled(1.0 / 0.6);
        for (index, shown) in shown.iter().enumerate() {
            assert!(shown.changed(&picture, &FACE) > 0.9, "frame {index}");
            // Frames that were held when the rules changed obey the new ones.
            let is_masked = index + look_ahead >= 10;
            assert_eq!(shown.changed(&picture, &mask) > 0.9, is_masked, "frame {index}");
        }
        let stats = pipeline.stats().snapshot();
        assert_eq!(stats.dropped, 0);
        assert_eq!(stats.covered(Reason::Zone), 10 + look_ahead as u64, "{stats}");
    }
}

#[test]
fn a_network_that_fails_never_shows_a_face() {
    type OfNetwork = fn(&Faults) -> &Switch;
    let switches: [(&str, OfNetwork); 4] = [
        ("detector", |faults| &faults.detector),
        ("landmarker", |faults| &faults.landmarker),
        ("embedder", |faults| &faults.embedder),
        ("generator", |faults| &faults.generator),
    ];
    let picture = empty().with_face(FACE, SURE);
    for (name, switch) in switches {
        for fault in [Fault::Error, Fault::NotFinite, Fault::WrongShape, Fault::Panic] {
            for good_frames in [0, 3] {
                let faults = Faults::default();
                let mut pipeline = pipeline(&settings(), &faults);
                let mut shown = run(&mut pipeline, 0, &vec![picture.clone(); good_frames]);
                switch(&faults).set(fault);
                let bad = run(&mut pipeline, good_frames, &vec![picture.clone(); 3]);
                let was_new = good_frames == 0;
                shown.extend(bad);
                switch(&faults).set(Fault::None);
                shown.extend(run(
                    &mut pipeline,
                    good_frames + 3,
                    std::slice::from_ref(&picture),
                ));
                let stats = pipeline.stats().snapshot();
                let case = format!("{name} {fault:?} after {good_frames} frames:\n{stats}");
                assert_eq!(shown.len(), good_frames + 4, "{case}");
                for (index, shown) in shown.iter().enumerate() {
                    assert!(shown.changed(&picture, &FACE) > 0.95, "frame {index}, {case}");
                }
                assert_eq!(
                    stats.fault,
                    fault == Fault::Panic && (name != "embedder" || was_new),
                    "{case}"
                );
                if stats.fault {
                    assert!(shown.last().unwrap().is_flat(), "{case}");
                }
            }
        }
    }
}

#[test]
fn a_frame_that_cannot_be_mapped_is_dropped() {
    let mut broken = empty().with_face(FACE, SURE);
    broken.is_mappable = false;
    let good = empty().with_face(FACE, SURE);
    let (shown, stats) = anonymized(
        &settings(),
        &Faults::default(),
        &[good.clone(), broken, good.clone()],
    );
    assert_eq!((shown.len(), stats.frames, stats.dropped), (2, 2, 1));
    assert!(shown.iter().all(|shown| shown.changed(&good, &FACE) > 0.95));
}

#[test]
fn look_ahead_covers_before_the_first_detection() {
    for held in 1..=3 {
        let place = |i: usize| Rect::new(60.0 + 4.0 * i as f32, 50.0, 60.0, 60.0);
        let pictures: Vec<_> = (0..8)
            .map(|i| empty().with_face(place(i), if i < 4 { UNSEEN } else { SURE }))
            .collect();
        let settings = Settings {
            look_ahead: held,
            ..settings()
        };
        let (shown, stats) = anonymized(&settings, &Faults::default(), &pictures);
        assert_eq!(shown.len(), pictures.len(), "order and number stay");
        assert_eq!(stats.covered(Reason::LookAhead), held as u64, "{stats}");
        for (i, (shown, picture)) in shown.iter().zip(&pictures).enumerate() {
            let is_known = i + held >= 4;
            assert_eq!(
                shown.changed(picture, &place(i)) > 0.95,
                is_known,
                "held {held}, frame {i}"
            );
        }
    }
}

#[test]
fn a_lost_face_stays_covered_for_the_set_time() {
    let settings = settings();
    let frames = (settings.track.coast.as_secs_f32() * 30.0) as usize;
    let mut pictures = vec![empty().with_face(FACE, SURE); 2];
    pictures.resize(frames, empty().with_face(FACE, UNSEEN));
    let (shown, stats) = anonymized(&settings, &Faults::default(), &pictures);
    assert_eq!(stats.covered(Reason::Coasting), frames as u64 - 2, "{stats}");
    for (i, (shown, picture)) in shown.iter().zip(&pictures).enumerate() {
        assert!(shown.changed(picture, &FACE) > 0.95, "frame {i}");
    }
}

#[test]
fn what_was_never_known_is_covered_below_a_replaced_face_and_a_known_one_above() {
    let near = FACE;
    let lost = Rect::new(170.0, 50.0, 40.0, 40.0);
    let before = |luma| empty().with_face(lost, luma);
    let now = empty().with_face(lost, UNSEEN).with_face(near, SURE);
    let shown = |pictures: &[Picture]| {
        let (mut shown, stats) = anonymized(&settings(), &Faults::default(), pictures);
        (shown.pop().unwrap(), stats)
    };
    let (alone, _) = shown(std::slice::from_ref(&now));
    let inside = Rect::new(172.0, 68.0, 10.0, 18.0);
    let outside = Rect::new(201.0, 52.0, 8.0, 36.0);
    for (luma, is_below) in [(UNSURE, true), (SURE, false)] {
        let (shown, stats) = shown(&[before(luma), now.clone()]);
        assert_eq!(stats.covered(Reason::Coasting), 1, "{stats}");
        // A twentieth of what lies below a face shows through.
        assert_eq!(shown.mean_difference(&alone, &inside) < 8.0, is_below, "{luma}");
        assert!(shown.mean_difference(&now, &inside) > 60.0, "{luma}");
        assert!(shown.mean_difference(&now, &outside) > 4.0, "{luma}");
    }
}

#[test]
fn a_frame_that_could_not_be_searched_ends_no_track() {
    let picture = empty().with_face(FACE, SURE);
    let gone = empty().with_face(FACE, UNSEEN);
    for fault in [Fault::Error, Fault::NotFinite, Fault::WrongShape] {
        let faults = Faults::default();
        let mut pipeline = pipeline(&settings(), &faults);
        run(&mut pipeline, 0, &vec![picture.clone(); 2]);
        faults.detector.set(fault);
        run(&mut pipeline, 2, std::slice::from_ref(&gone));
        faults.detector.set(Fault::None);
        let shown = run(&mut pipeline, 3, std::slice::from_ref(&gone));
        assert!(shown[0].changed(&gone, &FACE) > 0.95, "{fault:?}");
    }
}

#[test]
fn another_size_in_mid_stream_is_another_picture() {
    let big = Rect::new(200.0, 100.0, 150.0, 150.0);
    let small = Rect::new(20.0, 20.0, 30.0, 30.0);
    let pictures = [
        empty().with_face(FACE, SURE),
        Picture::new(641, 479).with_face(big, SURE),
        Picture::new(96, 64).with_face(small, SURE),
    ];
    for look_ahead in [0, 2] {
        let settings = Settings {
            look_ahead,
            ..settings()
        };
        let (shown, stats) = anonymized(&settings, &Faults::default(), &pictures);
        assert_eq!(stats.generated, 3, "{stats}");
        for ((shown, picture), face) in shown.iter().zip(&pictures).zip([FACE, big, small]) {
            assert!(shown.changed(picture, &face) > 0.9);
        }
    }
}

#[test]
fn a_small_new_face_in_a_large_frame_is_found_within_a_sweep() {
    let large = Rect::new(500.0, 250.0, 200.0, 200.0);
    let small = Rect::new(1130.0, 600.0, 26.0, 26.0);
    let before = Picture::new(1280, 720).with_face(large, SURE);
    let after = before.clone().with_face(small, SURE);
    let sweep = 4 * Scan::default().sweep_every as usize;
    let mut pictures = vec![before.clone(); 3];
    pictures.resize(3 + sweep + 3, after.clone());
    let (shown, _) = anonymized(&settings(), &Faults::default(), &pictures);
    let first = shown[3..]
        .iter()
        .position(|shown| shown.changed(&after, &small) > 0.9);
    assert!(first.is_some_and(|first| first <= sweep), "{first:?}");
    for shown in &shown[3 + first.unwrap()..] {
        assert!(shown.changed(&after, &small) > 0.9, "once found it stays found");
    }

    let thorough = Settings {
        scan: Scan::thorough(),
        ..settings()
    };
    let (shown, _) = anonymized(&thorough, &Faults::default(), &pictures[..5]);
    for shown in &shown[3..] {
        assert!(shown.changed(&after, &small) > 0.9, "thorough finds it at once");
    }
}

#[test]
fn a_box_that_sheds_work_looks_at_every_whole_frame() {
    let here = Rect::new(300.0, 200.0, 200.0, 200.0);
    let newcomer = Rect::new(900.0, 300.0, 120.0, 120.0);
    let small = Rect::new(1130.0, 600.0, 26.0, 26.0);
    let before = Picture::new(1280, 720).with_face(here, SURE);
    for rung in Rung::ALL {
        let sweep = (4 * Scan::default().sweep_every * rung.sweep_pause()) as usize;
        // In whichever frame between two close looks somebody comes, it is seen in that frame.
        for empty in 1..=sweep / 4 {
            let after = before.clone().with_face(newcomer, SURE);
            let mut pictures = vec![before.clone(); empty];
            pictures.push(after.clone());
            let mut pipeline = pipeline(&settings(), &Faults::default());
            pipeline.set_rung(rung);
            let shown = run(&mut pipeline, 0, &pictures);
            for face in [&here, &newcomer] {
                assert!(
                    shown[empty].changed(&after, face) > 0.9,
                    "{rung}: {face:?} after {empty} frames"
                );
            }
        }
        // What only the close look sees waits longer, but not for ever.
        let after = before.clone().with_face(small, SURE);
        let mut pictures = vec![before.clone()];
        pictures.resize(2 + sweep, after.clone());
        let mut pipeline = pipeline(&settings(), &Faults::default());
        pipeline.set_rung(rung);
        let shown = run(&mut pipeline, 0, &pictures);
        assert!(shown[1 + sweep].changed(&after, &small) > 0.9, "{rung}");
    }
}

#[test]
fn small_faces_of_the_first_frame_and_after_a_cut_are_found_at_once() {
    let small = Rect::new(900.0, 500.0, 26.0, 26.0);
    let first = Picture::new(1280, 720).with_face(small, SURE);
    // Another scene: a large bright thing that is no face, because it is not bright enough.
    let large = Rect::new(0.0, 0.0, 700.0, 720.0);
    let elsewhere = Rect::new(1100.0, 100.0, 26.0, 26.0);
    let second = Picture::new(1280, 720)
        .with_face(large, 120)
        .with_face(elsewhere, SURE);
    let blank = Picture::new(1280, 720);
    let settings = Settings {
        scan: Scan {
            sweep_every: 0,
            ..Scan::default()
        },
        ..settings()
    };
    let mut pictures = vec![blank.clone(); 3];
    pictures.push(second.clone());
    let (shown, _) = anonymized(&settings, &Faults::default(), &pictures);
    assert!(shown[3].changed(&second, &elsewhere) > 0.9, "after a cut");
    let (shown, _) = anonymized(&settings, &Faults::default(), std::slice::from_ref(&first));
    assert!(shown[0].changed(&first, &small) > 0.9, "first frame");
}

#[test]
fn overlapping_faces_are_treated_alike_every_time() {
    let pair = [
        Rect::new(80.0, 40.0, 90.0, 90.0),
        Rect::new(150.0, 80.0, 50.0, 50.0),
    ];
    let picture = pair
        .iter()
        .fold(empty(), |picture, face| picture.with_face(*face, SURE));
    let results: Vec<_> = (0..2)
        .map(|_| anonymized(&settings(), &Faults::default(), std::slice::from_ref(&picture)).0)
        .collect();
    assert_eq!(results[0], results[1]);
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let cases: [(&str, Settings); 5] = [
        (
            "look_ahead",
            Settings {
                look_ahead: 4,
                ..settings()
            },
        ),
        (
            "max_faces",
            Settings {
                max_faces: 0,
                ..settings()
            },
        ),
        (
            "possible",
            Settings {
                possible: 0.9,
                ..settings()
            },
        ),
        (
            "mask_floor",
            Settings {
                mask_floor: f32::NAN,
                ..settings()
            },
        ),
        (
            "scan.smallest",
            Settings {
                scan: Scan {
                    smallest: 0.0,
                    ..Scan::default()
                },
                ..settings()
            },
        ),
    ];
    for (name, settings) in cases {
        let error = settings.check().unwrap_err().to_string();
        assert!(error.contains(name), "{name}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A face that walks slowly, is seen or not at random, beside another one that comes and goes.
    #[test]
    fn a_face_once_found_never_gets_out_while_its_track_lives(
        seen in proptest::collection::vec(0u8..4, 4..30),
        start in (10.0f32..120.0, 10.0f32..60.0),
        step in (-2.0f32..2.0, -0.8f32..0.8),
        side in 26.0f32..70.0,
        look_ahead in 0usize..=3,
        faulty in proptest::option::of(0u8..5),
    ) {
        let place = |i: usize| {
            let i = i as f32;
            Rect::new(
                (start.0 + step.0 * i).clamp(0.0, 240.0).round(),
                (start.1 + step.1 * i).clamp(0.0, 100.0).round(),
                side.round(),
                side.round(),
            )
        };
        let other = Rect::new(250.0, 110.0, 40.0, 40.0);
        let pictures: Vec<_> = seen
            .iter()
            .enumerate()
            .map(|(i, seen)| {
                let picture = empty().with_face(place(i), [UNSEEN, UNSURE, SURE, SURE][usize::from(*seen)]);
                if i % 3 == 0 { picture.with_face(other, SURE) } else { picture }
            })
            .collect();
        let faults = Faults::default();
        match faulty {
            Some(0) => faults.landmarker.set(Fault::Error),
            Some(1) => faults.landmarker.set(Fault::NotFinite),
            Some(2) => faults.embedder.set(Fault::Error),
            Some(3) => faults.generator.set(Fault::NotFinite),
            Some(4) => faults.generator.set(Fault::Poor),
            _ => (),
        }
        let settings = Settings { look_ahead, ..settings() };
        let (shown, stats) = anonymized(&settings, &faults, &pictures);
        prop_assert_eq!(shown.len(), pictures.len());
        prop_assert_eq!(stats.frames_covered, 0);
        // Frames in which the track must live: from `look_ahead` before a detection to its patience after it.
        let mut patience = 0;
        for i in 0..seen.len() {
            let known = (i..seen.len().min(i + look_ahead + 1)).any(|j| seen[j] > 0);
            patience = match seen[i] {
                2.. => (settings.track.coast.as_secs_f32() * 30.0) as usize,
                1 => patience.saturating_sub(1).max((settings.track.coast_tentative.as_secs_f32() * 30.0) as usize),
                _ => usize::saturating_sub(patience, 1),
            };
            if known || patience > 0 {
                let changed = shown[i].changed(&pictures[i], &place(i));
                prop_assert!(changed > 0.9, "frame {i} of {seen:?}: {changed}\n{stats}");
            }
        }
    }
}
