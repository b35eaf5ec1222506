//! The element `persona` in pipelines of its own.

mod clip;

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

const SECOND: gst::ClockTime = gst::ClockTime::SECOND;

/// appsrc ! persona ! appsink
struct Bench {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    persona: gst::Element,
    sink: gst_app::AppSink,
}

impl Bench {
    fn new(properties: &str) -> Self {
        let bench = Self::stopped(properties);
        bench.pipeline.set_state(gst::State::Playing).unwrap();
        bench
    }

    fn stopped(properties: &str) -> Self {
        clip::init();
        let pipeline = gst::parse::launch(&format!(
            "appsrc name=source format=time block=true max-buffers=1 ! persona name=persona {properties} ! \
             appsink name=sink sync=false"
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        let by_name = |name| pipeline.by_name(name).unwrap();
        Self {
            source: by_name("source").downcast().unwrap(),
            persona: by_name("persona"),
            sink: by_name("sink").downcast().unwrap(),
            pipeline,
        }
    }

    fn set_caps(&self, format: gst_video::VideoFormat, width: u32, height: u32) -> gst_video::VideoInfo {
        let info = gst_video::VideoInfo::builder(format, width, height)
            .fps(gst::Fraction::new(25, 1))
            .build()
            .unwrap();
        self.source.set_caps(Some(&info.to_caps().unwrap()));
        info
    }

    fn pull(&self) -> gst::Sample {
        self.sink
            .try_pull_sample(20 * SECOND)
            .expect("a frame comes out within 20 s")
    }

    /// Every frame until the end of the stream.
    fn pull_all(&self) -> Vec<clip::Frame> {
        std::iter::from_fn(|| self.sink.try_pull_sample(20 * SECOND))
            .map(|sample| clip::frame(&sample))
            .collect()
    }

    fn pad(&self, name: &str) -> gst::Pad {
        self.persona.static_pad(name).unwrap()
    }

    /// Everything that leaves the element from now on.
    fn record(&self) -> Arc<Mutex<Vec<gst::Event>>> {
        let events: Arc<Mutex<Vec<gst::Event>>> = Arc::default();
        let seen = events.clone();
        self.pad("src")
            .add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
                seen.lock().unwrap().push(info.event().unwrap().clone());
                gst::PadProbeReturn::Ok
            });
        events
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.pipeline.set_state(gst::State::Null).unwrap();
    }
}

/// A frame with a pattern in its luma.
fn buffer(info: &gst_video::VideoInfo, time: gst::ClockTime) -> gst::Buffer {
    let bytes: Vec<u8> = (0..info.size()).map(|i| (i * 7 % 200) as u8 + 16).collect();
    let mut buffer = gst::Buffer::from_mut_slice(bytes);
    let writable = buffer.get_mut().unwrap();
    writable.set_pts(time);
    writable.set_duration(40 * gst::ClockTime::MSECOND);
    buffer
}

#[test]
fn frames_leave_in_order_with_their_own_times_in_every_size_and_format() {
    for format in [gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12] {
        for (width, height) in [(16, 16), (17, 33), (33, 16), (176, 144), (641, 361)] {
            let bench = Bench::new("");
            let info = bench.set_caps(format, width, height);
            // Variable frame rate: gaps of 1 to 90 ms.
            let times: Vec<_> = [0, 1, 40, 130, 131, 170, 260]
                .map(gst::ClockTime::from_mseconds)
                .into();
            for time in &times {
                bench.source.push_buffer(buffer(&info, *time)).unwrap();
            }
            bench.source.end_of_stream().unwrap();
            let frames = bench.pull_all();
            let came: Vec<_> = frames.iter().map(|frame| frame.time).collect();
            assert_eq!(came, times, "{format:?} {width}x{height}");
            assert!(frames.iter().all(|frame| frame.size == (width, height)));
        }
    }
}

#[test]
fn writable_frames_are_not_copied_and_shared_ones_are_left_alone() {
    let bench = Bench::new("policy=shutter look-ahead=0");
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    let address = |buffer: &gst::BufferRef| buffer.map_readable().unwrap().as_ptr() as usize;

    let own = buffer(&info, gst::ClockTime::ZERO);
    let before = address(&own);
    bench.source.push_buffer(own).unwrap();
    let kept = buffer(&info, SECOND);
    bench.source.push_buffer(kept.clone()).unwrap();
    bench.source.end_of_stream().unwrap();

    let sample = bench.pull();
    assert_eq!(address(sample.buffer().unwrap()), before, "the frame was copied");
    let copied = bench.pull();
    assert_ne!(address(copied.buffer().unwrap()), address(&kept));
    let same = buffer(&info, SECOND);
    assert_eq!(
        kept.map_readable().unwrap().as_slice(),
        same.map_readable().unwrap().as_slice()
    );
    assert!(clip::frame(&copied).contrast < 20.0, "the copy was not covered");
}

#[test]
fn only_pictures_and_their_timing_pass() {
    let bench = Bench::new("look-ahead=0");
    let events = bench.record();
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    bench
        .source
        .push_buffer(buffer(&info, gst::ClockTime::ZERO))
        .unwrap();
    bench.pull();

    let sink = bench.pad("sink");
    let mut tags = gst::TagList::new();
    tags.make_mut()
        .add::<gst::tags::Title>(&"Anna's birthday", gst::TagMergeMode::Append);
    let toc = gst::Toc::new(gst::TocScope::Global);
    let custom = gst::Structure::builder("names").field("who", "Anna").build();
    for event in [
        gst::event::Tag::new(tags),
        gst::event::Toc::new(&toc, false),
        gst::event::CustomDownstream::new(custom.clone()),
        gst::event::CustomDownstreamOob::new(custom),
    ] {
        assert!(sink.send_event(event), "a dropped event is no error");
    }
    let mut marked = buffer(&info, SECOND);
    gst_video::VideoRegionOfInterestMeta::add(marked.get_mut().unwrap(), "Anna", (1, 2, 3, 4));
    gst::ReferenceTimestampMeta::add(
        marked.get_mut().unwrap(),
        &gst::Caps::new_empty_simple("timestamp/x-anna"),
        SECOND,
        None,
    );
    bench.source.push_buffer(marked).unwrap();
    let sample = bench.pull();
    assert_eq!(
        sample.buffer().unwrap().iter_meta::<gst::Meta>().count(),
        0,
        "{sample:?}"
    );

    let events = events.lock().unwrap();
    assert!(events.iter().any(|event| event.type_() == gst::EventType::Caps));
    for event in events.iter() {
        assert!(persona::element::may_pass(event), "{event:?}");
        if let gst::EventView::StreamStart(start) = event.view() {
            assert!(start.stream().is_none(), "a GstStream carries tags");
        }
    }
}

#[test]
fn gaps_and_requests_for_key_frames_leave_the_look_ahead_alone() {
    let bench = Bench::new("look-ahead=3");
    let events = bench.record();
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    let source_pad = bench.source.static_pad("src").unwrap();
    for number in 0..3 {
        bench.source.push_buffer(buffer(&info, number * SECOND)).unwrap();
        // Let the frame arrive, so that the events come after it.
        while bench.source.current_level_buffers() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let gap = gst::event::Gap::builder(number * SECOND + SECOND / 2).build();
        let key_frame = gst_video::DownstreamForceKeyUnitEvent::builder().build();
        assert!(source_pad.push_event(gap) && source_pad.push_event(key_frame));
    }
    assert!(
        bench.sink.try_pull_sample(SECOND / 2).is_none(),
        "look-ahead of 3 holds three frames"
    );
    {
        let events = events.lock().unwrap();
        let count = |wanted: fn(&gst::Event) -> bool| events.iter().filter(|event| wanted(event)).count();
        assert_eq!(count(|event| event.type_() == gst::EventType::Gap), 0);
        assert_eq!(count(|event| gst_video::ForceKeyUnitEvent::is(event)), 3);
    }
    bench.source.push_buffer(buffer(&info, 3 * SECOND)).unwrap();
    assert_eq!(bench.pull().buffer().unwrap().pts(), Some(gst::ClockTime::ZERO));
}

#[test]
fn held_frames_leave_before_new_caps_and_the_end() {
    let bench = Bench::new("look-ahead=3");
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    for number in 0..2 {
        bench.source.push_buffer(buffer(&info, number * SECOND)).unwrap();
    }
    let info = bench.set_caps(gst_video::VideoFormat::Nv12, 33, 17);
    bench.source.push_buffer(buffer(&info, 2 * SECOND)).unwrap();
    bench.source.end_of_stream().unwrap();
    let frames: Vec<_> = bench
        .pull_all()
        .iter()
        .map(|frame| (frame.size, frame.time))
        .collect();
    assert_eq!(
        frames,
        [
            ((64, 64), gst::ClockTime::ZERO),
            ((64, 64), SECOND),
            ((33, 17), 2 * SECOND)
        ]
    );
}

#[test]
fn a_flush_drops_held_frames_and_the_stream_goes_on() {
    let bench = Bench::new("look-ahead=3");
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    for number in 0..3 {
        bench.source.push_buffer(buffer(&info, number * SECOND)).unwrap();
    }
    // Let them arrive before the flush overtakes them.
    while bench.source.current_level_buffers() > 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(bench.source.send_event(gst::event::FlushStart::new()));
    assert!(bench.source.send_event(gst::event::FlushStop::new(true)));
    bench.source.push_buffer(buffer(&info, 10 * SECOND)).unwrap();
    bench.source.end_of_stream().unwrap();
    let times: Vec<_> = bench.pull_all().iter().map(|frame| frame.time).collect();
    assert_eq!(times, [10 * SECOND]);
}

#[test]
fn a_stricter_policy_covers_and_asks_for_a_key_frame() {
    let bench = Bench::new("look-ahead=0");
    let events = bench.record();
    let info = bench.set_caps(gst_video::VideoFormat::Nv12, 128, 96);
    bench
        .source
        .push_buffer(buffer(&info, gst::ClockTime::ZERO))
        .unwrap();
    assert!(clip::frame(&bench.pull()).contrast > 30.0, "the pattern is shown");
    let key_frames = || {
        events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| gst_video::ForceKeyUnitEvent::is(event))
            .count()
    };
    assert_eq!(key_frames(), 0);
    bench.persona.set_property_from_str("policy", "shutter");
    bench.source.push_buffer(buffer(&info, SECOND)).unwrap();
    assert!(
        clip::frame(&bench.pull()).contrast < 20.0,
        "the pattern is covered"
    );
    assert_eq!(key_frames(), 1);
    let stats: gst::Structure = bench.persona.property("stats");
    assert_eq!(
        (stats.get::<u64>("frames"), stats.get::<u64>("frames-covered")),
        (Ok(2), Ok(1))
    );
}

#[test]
fn a_policy_set_while_the_networks_load_holds() {
    let bench = Bench::stopped("look-ahead=0");
    let pipeline = bench.pipeline.clone();
    let start = std::thread::spawn(move || pipeline.set_state(gst::State::Playing).map(drop));
    // From here on the element is on its way to PAUSED, and loads.
    while bench.persona.pending_state() == gst::State::VoidPending && !start.is_finished() {
        std::thread::yield_now();
    }
    std::thread::sleep(std::time::Duration::from_millis(20));
    bench.persona.set_property_from_str("policy", "shutter");
    start.join().unwrap().unwrap();
    let info = bench.set_caps(gst_video::VideoFormat::Nv12, 128, 96);
    bench
        .source
        .push_buffer(buffer(&info, gst::ClockTime::ZERO))
        .unwrap();
    assert!(
        clip::frame(&bench.pull()).contrast < 20.0,
        "the pattern is covered"
    );
}

#[test]
fn a_shared_frame_that_cannot_be_copied_is_dropped() {
    let bench = Bench::new("look-ahead=0");
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    let short = gst::Buffer::with_size(info.size() / 2).unwrap();
    bench.source.push_buffer(short.clone()).unwrap();
    bench.source.push_buffer(buffer(&info, SECOND)).unwrap();
    assert_eq!(bench.pull().buffer().unwrap().pts(), Some(SECOND));
    let stats: gst::Structure = bench.persona.property("stats");
    assert_eq!(
        (stats.get::<u64>("frames"), stats.get::<u64>("dropped")),
        (Ok(1), Ok(1))
    );
}

#[test]
fn as_many_buffers_are_announced_as_downstream_and_the_element_hold() {
    let bench = Bench::new("look-ahead=3");
    let info = bench.set_caps(gst_video::VideoFormat::I420, 64, 64);
    let caps = info.to_caps().unwrap();
    let announced = || {
        let mut query = gst::query::Allocation::new(Some(&caps), true);
        assert!(bench.pad("sink").query(&mut query));
        query.allocation_pools().map(|(_, _, least, _)| least).next()
    };
    let own = announced().expect("a pool is offered");
    bench.sink.static_pad("sink").unwrap().add_probe(
        gst::PadProbeType::QUERY_DOWNSTREAM,
        |_, info| match info.query_mut().map(|query| query.view_mut()) {
            Some(gst::QueryViewMut::Allocation(query)) => {
                query.add_allocation_pool(None::<&gst::BufferPool>, 0, 7, 0);
                gst::PadProbeReturn::Handled
            }
            _ => gst::PadProbeReturn::Ok,
        },
    );
    assert_eq!(announced(), Some(own + 7));
}

#[test]
fn the_latency_answer_counts_look_ahead_and_processing() {
    clip::init();
    let frame = 40 * gst::ClockTime::MSECOND;
    for (properties, wanted) in [
        ("look-ahead=0", 2 * frame),
        ("look-ahead=3", 5 * frame),
        ("look-ahead=2 deadline=150", 150 * gst::ClockTime::MSECOND),
    ] {
        let pipeline = gst::parse::launch(&format!(
            "videotestsrc is-live=true ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! \
             persona name=persona {properties} ! fakesink name=sink sync=false"
        ))
        .unwrap()
        .downcast::<gst::Pipeline>()
        .unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        pipeline.state(20 * SECOND).0.unwrap();
        let persona = pipeline.by_name("persona").unwrap();
        let ask = |pad: &gst::Pad, peer: bool| {
            let mut query = gst::query::Latency::new();
            assert!(if peer {
                pad.peer_query(&mut query)
            } else {
                pad.query(&mut query)
            });
            query.result()
        };
        let before = ask(&persona.static_pad("sink").unwrap(), true);
        let after = ask(&persona.static_pad("src").unwrap(), false);
        assert!(before.0 && after.0, "live");
        assert_eq!(after.1, before.1 + wanted, "{properties}");
        assert!(
            after.2.is_none_or(|max| max >= after.1),
            "{properties}: {after:?}"
        );
        pipeline.set_state(gst::State::Null).unwrap();
    }
}

#[test]
fn without_networks_the_element_does_not_start_and_says_why() {
    clip::init();
    let empty = tempfile::tempdir().unwrap();
    let pipeline = gst::parse::launch(&format!(
        "videotestsrc ! video/x-raw,format=I420 ! persona models={} ! fakesink",
        empty.path().display()
    ))
    .unwrap();
    assert!(pipeline.set_state(gst::State::Playing).is_err());
    let message = pipeline
        .bus()
        .unwrap()
        .timed_pop_filtered(SECOND, &[gst::MessageType::Error])
        .unwrap();
    let gst::MessageView::Error(error) = message.view() else {
        unreachable!("only errors were asked for")
    };
    let sentence = error.error().message().to_owned();
    assert!(sentence.contains("persona models fetch"), "{sentence}");
    assert!(sentence.contains(&*empty.path().to_string_lossy()), "{sentence}");
    pipeline.set_state(gst::State::Null).unwrap();
}

#[test]
fn gst_launch_and_gst_inspect_load_the_plugin() {
    clip::init();
    let program = Path::new(env!("CARGO_BIN_EXE_persona"));
    // Cargo leaves the library that the tests were built with in `deps`, which GStreamer does not search.
    let folder = tempfile::tempdir().unwrap();
    let library = program.with_file_name("deps").join("libpersona.so");
    std::os::unix::fs::symlink(library, folder.path().join("libpersona.so")).unwrap();
    let gst = |name: &str, arguments: &[&str]| {
        let output = Command::new(name)
            .args(arguments)
            .env("GST_PLUGIN_PATH", folder.path())
            .env("GST_REGISTRY", folder.path().join("registry.bin"))
            .output()
            .unwrap_or_else(|error| panic!("{name}: {error}; sudo apt-get install gstreamer1.0-tools"));
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {text}");
        text
    };
    let described = gst("gst-inspect-1.0", &["persona"]);
    for property in [
        "models",
        "threads",
        "look-ahead",
        "scan",
        "threshold",
        "min-face",
        "coast",
        "verify",
        "masks",
        "covered-zones",
        "deadline",
        "policy",
        "stats",
    ] {
        assert!(
            described
                .lines()
                .any(|line| line.trim_start().starts_with(property)),
            "{property}: {described}"
        );
    }
    let line =
        "-q videotestsrc num-buffers=10 ! video/x-raw,format=NV12,width=320,height=240 ! persona ! fakesink";
    gst("gst-launch-1.0", &line.split_whitespace().collect::<Vec<_>>());
}
