//! `/metrics`: what the box counts, for Prometheus. docs/telemetry.md explains each metric.
//!
//! Everything is read from the counters that the box keeps anyway, at the moment of the question; nothing is counted
//! twice.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use board::State;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::page::Visits;
use super::site::{Served, Site};
use super::status::{Count, Lost, Totals};
use crate::pipeline::{Distances, Reason, Snapshot, Stage};
use crate::run::usage;

/// A label's name and value.
type Label<'a> = (&'static str, &'a str);

/// The box as a source of metrics.
pub(super) struct Metrics {
    pub(super) site: Arc<Site>,
    pub(super) streams: Vec<Arc<Served>>,
    pub(super) visits: Arc<Visits>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// The metrics as text.
pub(super) fn text(site: &Arc<Site>, visits: &Arc<Visits>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("persona");
    registry.register_collector(Box::new(Metrics {
        site: site.clone(),
        streams: site.streams(),
        visits: visits.clone(),
    }));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// Writes families of metrics.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn family<'v, V: 'v, const N: usize>(
        &mut self,
        (name, help): (&str, &str),
        kind: MetricType,
        samples: impl IntoIterator<Item = ([Label<'v>; N], V)>,
        mut encode: impl FnMut(V, MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            encode(value, family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'v>; N], u64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Counter, samples, |value, encoder| {
            ConstCounter::new(value).encode(encoder)
        })
    }

    fn times<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'v>; N], f64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Counter, samples, |value, encoder| {
            ConstCounter::new(value).encode(encoder)
        })
    }

    fn gauges<'v, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'v>; N], f64)>,
    ) -> fmt::Result {
        self.family((name, help), MetricType::Gauge, samples, |value, encoder| {
            ConstGauge::new(value).encode(encoder)
        })
    }

    fn distances<'v>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (&'v str, Distances)>,
    ) -> fmt::Result {
        let samples = samples
            .into_iter()
            .map(|(stream, distances)| ([("stream", stream)], distances));
        self.family(
            (name, help),
            MetricType::Histogram,
            samples,
            |value, mut encoder| {
                let begins = value.bins().map(|(begin, _)| begin);
                let ends = begins.skip(1).chain([f64::MAX]);
                let buckets: Vec<_> = ends.zip(value.bins().map(|(_, count)| count)).collect();
                let sum = value
                    .bins()
                    .map(|(begin, count)| (begin + Distances::STEP / 2.0) * count as f64)
                    .sum();
                encoder.encode_histogram::<NoLabelSet>(sum, value.count(), &buckets, None)
            },
        )
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        match value {
            Some(value) => {
                let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(encoder)
            }
            None => Ok(()),
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

impl Collector for Metrics {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut writer = Writer(encoder);
        let now = Instant::now();
        self.machine(&mut writer, now)?;
        self.visits(&mut writer)?;
        self.streams(&mut writer, now)?;
        self.faces(&mut writer)?;
        self.stages(&mut writer)
    }
}

impl Metrics {
    fn machine(&self, writer: &mut Writer<'_>, now: Instant) -> fmt::Result {
        let site = &self.site;
        let (cpu, peak) = usage(Path::new("/proc"));
        let process = Process::read(Path::new("/proc"));
        let readings = site.readings();
        let version = [([("version", env!("CARGO_PKG_VERSION"))], 1.0)];
        writer.gauges("build", "1, with the version of the program", version)?;
        let uptime = site.uptime(now).as_secs_f64();
        writer.gauge("uptime_seconds", "Since the program started", Some(uptime))?;
        let alive = flag(site.is_alive(now));
        writer.gauge("healthy", "1 while the main loop turns", Some(alive))?;
        writer.gauge(
            "streams",
            "Streams in the configuration",
            Some(self.streams.len() as f64),
        )?;
        let viewers = f64::from(site.server.viewers());
        writer.gauge("viewers", "RTSP sessions at this moment", Some(viewers))?;
        let state = site.state();
        let states = [
            ("covering", state == State::Covering),
            ("anonymizing", state == State::Anonymizing),
            ("covering_on_request", state == State::CoveringOnRequest),
            ("shuttered", matches!(state, State::Shuttered { .. })),
            ("bypass", matches!(state, State::Bypass { .. })),
            ("fault", state == State::Fault),
        ];
        let states = states.map(|(name, now)| ([("state", name)], flag(now)));
        writer.gauges(
            "privacy_state",
            "1 for the privacy state of the box, else 0",
            states,
        )?;
        let kept = flag(!site.report_stopped());
        writer.gauge(
            "report_up",
            "1 while the daily privacy report is kept, 0 when it cannot be written",
            Some(kept),
        )?;
        let [taken, refused] = site.reloads();
        writer.counters(
            "reloads",
            "Times that the configuration was read anew",
            [([("result", "taken")], taken), ([("result", "refused")], refused)],
        )?;
        let noted = site.events.noted();
        writer.counter("events", "Events, as the page lists them", noted)?;
        let seconds = [([], cpu.as_secs_f64())];
        writer.times("process_cpu_seconds", "Processor time of all threads", seconds)?;
        writer.gauge(
            "process_peak_resident_bytes",
            "Most memory that was ever resident",
            Some(peak as f64),
        )?;
        writer.gauge(
            "process_resident_bytes",
            "Memory that is resident",
            process.resident,
        )?;
        writer.gauge("process_threads", "Threads", process.threads)?;
        writer.gauge("process_open_files", "Open files and sockets", process.files)?;
        writer.gauge(
            "machine_load1",
            "Load of the machine, mean over one minute",
            process.load,
        )?;
        let free = readings.memory_available.map(|bytes| bytes as f64);
        writer.gauge(
            "machine_memory_available_bytes",
            "Memory that programs can still get",
            free,
        )?;
        let zones = readings
            .temperatures
            .iter()
            .map(|(zone, value)| ([("zone", zone.as_str())], f64::from(*value) / 1e3));
        writer.gauges("temperature_celsius", "Temperature of each thermal zone", zones)?;
        let load = readings.gpu_load.map(|load| f64::from(load) / 1e3);
        writer.gauge("gpu_load_ratio", "Load of the GPU, 0 to 1", load)?;
        writer.gauge(
            "gpu_clock_hertz",
            "Clock of the GPU",
            readings.gpu_clock.map(|clock| clock as f64),
        )?;
        let throttled = flag(readings.throttled);
        writer.gauge(
            "throttled",
            "1 while the machine slows down because it is hot",
            Some(throttled),
        )
    }

    fn visits(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let visits = self.visits.counts();
        writer.counter(
            "page_requests",
            "Requests to the page and the telemetry",
            visits.requests,
        )?;
        writer.counter(
            "page_refused",
            "Requests refused for their origin, host or token",
            visits.refused,
        )?;
        let logins = [
            ([("result", "right")], visits.logins),
            ([("result", "wrong")], visits.wrong),
            ([("result", "limited")], visits.limited),
        ];
        writer.counter(
            "page_turned_away",
            "Connections closed at once because there were as many as there may be",
            visits.turned_away,
        )?;
        writer.counters("page_logins", "Logins to the page", logins)
    }

    /// A counter of every stream.
    fn count(
        &self,
        writer: &mut Writer<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Served) -> u64,
    ) -> fmt::Result {
        let samples = self
            .streams
            .iter()
            .map(|stream| ([("stream", stream.health.name())], value(stream)));
        writer.counters(name, help, samples)
    }

    /// A number of every stream that has it.
    fn number(
        &self,
        writer: &mut Writer<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Served) -> Option<f64>,
    ) -> fmt::Result {
        let streams = self.streams.iter();
        let samples = streams.filter_map(|stream| Some(([("stream", stream.health.name())], value(stream)?)));
        writer.gauges(name, help, samples)
    }

    fn streams(&self, writer: &mut Writer<'_>, now: Instant) -> fmt::Result {
        let size =
            |part: fn((u32, u32)) -> u32| move |stream: &Served| Some(f64::from(part(stream.health.size())));
        self.number(
            writer,
            "stream_up",
            "1 while the camera gives a picture",
            |stream| Some(flag(stream.health.camera().0.is_none())),
        )?;
        let lost = self.streams.iter().flat_map(|stream| {
            let reason = stream.health.camera().0;
            Lost::ALL.map(|lost| {
                let labels = [("stream", stream.health.name()), ("reason", lost.label())];
                (labels, flag(reason.as_ref() == Some(&lost)))
            })
        });
        writer.gauges(
            "stream_lost",
            "1 for the reason why there is no picture, else 0",
            lost,
        )?;
        self.number(
            writer,
            "stream_silence_seconds",
            "Since the latest anonymized frame",
            |stream| stream.health.silence(now).map(|time| time.as_secs_f64()),
        )?;
        self.number(
            writer,
            "stream_width_pixels",
            "Width of the stream",
            size(|(width, _)| width),
        )?;
        self.number(
            writer,
            "stream_height_pixels",
            "Height of the stream",
            size(|(_, height)| height),
        )?;
        let count = |what: Count| move |stream: &Served| stream.health.counted(what);
        for (name, help, what) in [
            ("frames_decoded", "Frames that the decoder gave", Count::Decoded),
            (
                "frames_sent",
                "Anonymized frames that went to the encoder",
                Count::Sent,
            ),
            ("slates", "Slates in place of a picture", Count::Slates),
            (
                "connections",
                "Connections to the camera that were tried",
                Count::Attempts,
            ),
            ("losses", "Times that the picture was lost", Count::Losses),
            (
                "encoders",
                "Times that the encoder was made, the first included",
                Count::Encoders,
            ),
            ("encoder_faults", "Faults of the encoder", Count::EncoderFaults),
            (
                "pipeline_faults",
                "Panics of a stage; the connection is then made anew",
                Count::PipelineFaults,
            ),
        ] {
            self.count(writer, name, help, count(what))?;
        }
        let late = self.streams.iter().flat_map(|stream| {
            [("element", Count::LateBefore), ("encoder", Count::LateAfter)].map(|(place, what)| {
                (
                    [("stream", stream.health.name()), ("before", place)],
                    stream.health.counted(what),
                )
            })
        });
        writer.counters(
            "frames_late",
            "Frames left out because the next step was behind",
            late,
        )?;
        self.count(writer, "encoded_bytes", "Bytes of encoded video", |stream| {
            stream.feed.bytes()
        })?;
        self.number(
            writer,
            "recording_up",
            "1 while the stream is recorded, 0 when it should be",
            |stream| stream.recorded.then(|| flag(!stream.health.recording_stopped())),
        )?;
        self.count(writer, "recording_files", "Files begun", count(Count::Files))?;
        self.count(
            writer,
            "recording_faults",
            "Faults of the recording",
            count(Count::RecordingFaults),
        )
    }

    fn faces(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let totals: Vec<(&str, Totals)> = self
            .streams
            .iter()
            .map(|stream| (stream.health.name(), stream.health.totals()))
            .collect();
        let mut count = |name: &str, help: &str, value: fn(&Totals) -> u64| {
            let samples = totals
                .iter()
                .map(|(stream, totals)| ([("stream", *stream)], value(totals)));
            writer.counters(name, help, samples)
        };
        count(
            "frames_anonymized",
            "Frames that the pipeline finished",
            |totals| totals.frames,
        )?;
        count("frames_covered", "Frames covered whole", |totals| {
            totals.frames_covered
        })?;
        count("frames_dropped", "Frames that the pipeline dropped", |totals| {
            totals.dropped
        })?;
        count("faces_generated", "Faces replaced, once per frame", |totals| {
            totals.generated
        })?;
        let covered = totals.iter().flat_map(|(stream, totals)| {
            Reason::ALL.map(|reason| {
                (
                    [("stream", *stream), ("reason", label(reason))],
                    totals.covered[reason as usize],
                )
            })
        });
        writer.counters(
            "faces_covered",
            "Faces covered, once per frame, by reason",
            covered,
        )?;
        let mut count = |name: &str, help: &str, value: fn(&Totals) -> u64| {
            let samples = totals
                .iter()
                .map(|(stream, totals)| ([("stream", *stream)], value(totals)));
            writer.counters(name, help, samples)
        };
        count(
            "faces_similar",
            "Faces that were covered because their output resembled the person, once each",
            |totals| totals.similar,
        )?;
        count(
            "verifications_failed",
            "Verifications that could not be done; the faces were covered",
            |totals| totals.unverifiable,
        )?;
        writer.distances(
            "verification_distance",
            "How far verified outputs were from the persons, in distances of embeddings",
            totals.iter().map(|(stream, totals)| (*stream, totals.distances)),
        )?;
        let names: [String; Stage::ALL.len()] = Stage::ALL.map(|stage| stage.to_string());
        let runs = totals.iter().flat_map(|(stream, totals)| {
            let row = names.iter().zip(totals.stages);
            row.map(|(name, (count, _))| ([("stream", *stream), ("stage", name.as_str())], count))
        });
        writer.counters("stage_runs", "Frames in which a stage ran", runs)?;
        let seconds = totals.iter().flat_map(|(stream, totals)| {
            let row = names.iter().zip(totals.stages);
            row.map(|(name, (_, time))| {
                (
                    [("stream", *stream), ("stage", name.as_str())],
                    time.as_secs_f64(),
                )
            })
        });
        writer.times(
            "stage_seconds",
            "Time spent in a stage; total is from arrival to sink",
            seconds,
        )
    }

    /// Quantiles of the present connections: histograms of earlier ones cannot be added to them.
    fn stages(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let snapshots: Vec<(&str, Snapshot)> = self
            .streams
            .iter()
            .filter_map(|stream| Some((stream.health.name(), stream.health.snapshot()?)))
            .collect();
        let names: [String; Stage::ALL.len()] = Stage::ALL.map(|stage| stage.to_string());
        for (name, help, p99) in [
            (
                "stage_median_seconds",
                "Half of the frames took no longer, to 19 %, since the camera connected",
                false,
            ),
            (
                "stage_p99_seconds",
                "All but 1 in 100 frames took no longer, to 19 %, since the camera connected",
                true,
            ),
        ] {
            let samples = snapshots.iter().flat_map(|(stream, snapshot)| {
                names
                    .iter()
                    .zip(&snapshot.stages)
                    .map(move |(stage, (_, times))| {
                        let time = if p99 { times.p99 } else { times.median };
                        (
                            [("stream", *stream), ("stage", stage.as_str())],
                            time.as_secs_f64(),
                        )
                    })
            });
            writer.gauges(name, help, samples)?;
        }
        Ok(())
    }
}

/// A reason as a label.
pub(super) fn label(reason: Reason) -> &'static str {
    match reason {
        Reason::Small => "small",
        Reason::Turned => "turned",
        Reason::Landmarks => "landmarks",
        Reason::Tentative => "tentative",
        Reason::Coasting => "coasting",
        Reason::LookAhead => "look_ahead",
        Reason::Late => "late",
        Reason::Load => "load",
        Reason::Mask => "mask",
        Reason::Similar => "similar",
        Reason::Unverified => "unverified",
        Reason::Network => "network",
        Reason::Policy => "policy",
        Reason::Zone => "zone",
        Reason::Frame => "frame",
    }
}

/// What procfs says of this process and its machine (proc(5)).
struct Process {
    resident: Option<f64>,
    threads: Option<f64>,
    files: Option<f64>,
    load: Option<f64>,
}

impl Process {
    fn read(procfs: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(procfs.join(name)).unwrap_or_default();
        let status = read("self/status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse::<f64>().ok()
        };
        Self {
            resident: field("VmRSS:").map(|kilobytes| kilobytes * 1024.0),
            threads: field("Threads:"),
            files: std::fs::read_dir(procfs.join("self/fd"))
                .ok()
                .map(|files| files.count() as f64),
            load: read("loadavg")
                .split_ascii_whitespace()
                .next()
                .and_then(|load| load.parse().ok()),
        }
    }
}
