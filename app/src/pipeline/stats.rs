//! What the pipeline did and how long it took, counted without a lock.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Reason;

/// A step of the pipeline whose time is measured, once per frame in which it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Finding faces: the scan's passes, and tracking.
    Detect,
    /// 68 landmarks of every face, and whether they are trusted.
    Landmarks,
    /// Identity of the faces that need a new one.
    Embed,
    /// The new faces, and whether their masks are whole.
    Generate,
    /// Putting the new faces into the frame.
    Blend,
    /// Whether the outputs are still the persons, in frames in which that is asked.
    Verify,
    /// Covering what is not replaced.
    Cover,
    /// Waiting at the end of a frame until its place has done everything, and looking at what it says: on a GPU, which
    /// works after it was asked, most of the frame's work.
    Finish,
    /// From the frame's arrival to the sink, waiting included.
    Total,
}

impl Stage {
    /// Every stage, in the order of the way of a frame.
    pub const ALL: [Self; 9] = [
        Self::Detect,
        Self::Landmarks,
        Self::Embed,
        Self::Generate,
        Self::Blend,
        Self::Verify,
        Self::Cover,
        Self::Finish,
        Self::Total,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Detect => "detect",
            Self::Landmarks => "landmarks",
            Self::Embed => "embed",
            Self::Generate => "generate",
            Self::Blend => "blend",
            Self::Verify => "verify",
            Self::Cover => "cover",
            Self::Finish => "finish",
            Self::Total => "total",
        })
    }
}

/// Buckets per doubling of the time: a quantile is exact to 19 %.
const PER_OCTAVE: usize = 4;
/// From 1 microsecond to 16 seconds.
const BUCKETS: usize = 24 * PER_OCTAVE;

/// Times in buckets of equal ratio.
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Histogram {
    fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            nanoseconds: AtomicU64::new(0),
        }
    }

    fn record(&self, time: Duration) {
        let octaves = (time.as_secs_f64() * 1e6).max(1.0).log2();
        let bucket = ((octaves * PER_OCTAVE as f64) as usize).min(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn summary(&self) -> Times {
        let counts: [u64; BUCKETS] = std::array::from_fn(|i| self.buckets[i].load(Ordering::Relaxed));
        let count: u64 = counts.iter().sum();
        let quantile = |share: f64| {
            let rank = (share * count as f64).ceil() as u64;
            let mut seen = 0;
            let bucket = counts.iter().position(|n| {
                seen += n;
                seen >= rank
            });
            let octaves = (bucket.unwrap_or(0) as f64 + 0.5) / PER_OCTAVE as f64;
            Duration::from_secs_f64(octaves.exp2() * 1e-6)
        };
        if count == 0 {
            return Times::default();
        }
        let mean = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed) / count);
        Times {
            count,
            mean,
            median: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

/// How long a stage took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// In how many frames the stage ran.
    pub count: u64,
    /// Mean time.
    pub mean: Duration,
    /// Half of the frames took no longer, to 19 %.
    pub median: Duration,
    /// All but 1 in 100 took no longer, to 19 %.
    pub p99: Duration,
}

/// Counters of a running pipeline; shared between its threads and whoever asks.
pub struct Stats {
    frames: AtomicU64,
    dropped: AtomicU64,
    faces: AtomicU64,
    generated: AtomicU64,
    covered: [AtomicU64; Reason::ALL.len()],
    frames_covered: AtomicU64,
    distances: [AtomicU64; Distances::BINS],
    unverifiable: AtomicU64,
    similar: AtomicU64,
    stages: [Histogram; Stage::ALL.len()],
    fault: AtomicBool,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            frames: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            faces: AtomicU64::new(0),
            generated: AtomicU64::new(0),
            covered: [const { AtomicU64::new(0) }; Reason::ALL.len()],
            frames_covered: AtomicU64::new(0),
            distances: [const { AtomicU64::new(0) }; Distances::BINS],
            unverifiable: AtomicU64::new(0),
            similar: AtomicU64::new(0),
            stages: std::array::from_fn(|_| Histogram::new()),
            fault: AtomicBool::new(false),
        }
    }
}

impl Stats {
    pub(crate) fn frame(&self) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn generated(&self) {
        self.faces.fetch_add(1, Ordering::Relaxed);
        self.generated.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn covered(&self, reason: Reason) {
        self.faces.fetch_add(1, Ordering::Relaxed);
        self.covered[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn frame_covered(&self) {
        self.frames_covered.fetch_add(1, Ordering::Relaxed);
    }

    /// A replaced face was verified; without a distance that could not be done.
    pub(crate) fn verified(&self, distance: Option<f32>) {
        let counter = distance.map_or(&self.unverifiable, |distance| {
            &self.distances[Distances::bin(distance)]
        });
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// A track is covered from now on, because its output resembled the person.
    pub(crate) fn similar(&self) {
        self.similar.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn took(&self, stage: Stage, time: Duration) {
        self.stages[stage as usize].record(time);
    }

    pub(crate) fn set_fault(&self) {
        self.fault.store(true, Ordering::Release);
    }

    /// Whether a stage has panicked or the place of the pixels is lost: every frame since then is covered whole, until the pipeline is made anew.
    pub fn is_faulty(&self) -> bool {
        self.fault.load(Ordering::Acquire)
    }

    /// The few numbers that say whether all is well, cheaper than [`Stats::snapshot`].
    pub fn vitals(&self) -> Vitals {
        Vitals {
            frames: self.frames.load(Ordering::Relaxed),
            faces: self.faces.load(Ordering::Relaxed),
            late: self.covered[Reason::Late as usize].load(Ordering::Relaxed),
            faulty: self.is_faulty(),
        }
    }

    /// The numbers as they are now. Counters of a frame in work may be ahead of each other.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            frames: load(&self.frames),
            dropped: load(&self.dropped),
            frames_covered: load(&self.frames_covered),
            faces: load(&self.faces),
            generated: load(&self.generated),
            covered: std::array::from_fn(|i| (Reason::ALL[i], load(&self.covered[i]))),
            distances: Distances(std::array::from_fn(|i| load(&self.distances[i]))),
            unverifiable: load(&self.unverifiable),
            similar: load(&self.similar),
            stages: std::array::from_fn(|i| (Stage::ALL[i], self.stages[i].summary())),
            fault: self.is_faulty(),
        }
    }
}

/// What tells whether all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vitals {
    /// Frames given to the sink.
    pub frames: u64,
    /// Faces in those frames.
    pub faces: u64,
    /// Faces that were covered because the frame's time was up.
    pub late: u64,
    /// Whether a stage has panicked.
    pub faulty: bool,
}

/// How often verified outputs were how far from the persons, in distances of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Distances(pub [u64; Self::BINS]);

impl Distances {
    /// Number of bins; the last one has no end.
    pub const BINS: usize = 24;
    /// Width of a bin.
    pub const STEP: f64 = 0.05;
    /// Bins for a distance of 1.
    const PER_UNIT: f32 = 20.0;

    /// Where a distance is counted: one that is no number where the nearest are.
    fn bin(distance: f32) -> usize {
        ((distance * Self::PER_UNIT) as usize).min(Self::BINS - 1)
    }

    /// The bins in order: where each begins, and how many it holds.
    pub fn bins(&self) -> impl Iterator<Item = (f64, u64)> {
        let begin = |bin: usize| bin as f64 / f64::from(Self::PER_UNIT);
        self.0
            .iter()
            .enumerate()
            .map(move |(bin, count)| (begin(bin), *count))
    }

    /// Verifications.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// [`Stats`] at one moment. Displays as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Frames given to the sink.
    pub frames: u64,
    /// Frames withheld from the sink: their buffers could not be mapped, or they were flushed.
    pub dropped: u64,
    /// Frames covered whole, out of `frames`.
    pub frames_covered: u64,
    /// Faces in those frames, each counted once per frame: `generated` and the sum of `covered`.
    pub faces: u64,
    /// Faces replaced by generated ones.
    pub generated: u64,
    /// Faces covered, by reason.
    pub covered: [(Reason, u64); Reason::ALL.len()],
    /// How far verified outputs were from the persons.
    pub distances: Distances,
    /// Verifications that could not be done; the faces were covered.
    pub unverifiable: u64,
    /// Faces, each counted once for as long as it was followed, that were covered because their output resembled the
    /// person.
    pub similar: u64,
    /// Time per stage.
    pub stages: [(Stage, Times); Stage::ALL.len()],
    /// Whether a stage has panicked.
    pub fault: bool,
}

impl Snapshot {
    /// Faces covered for this reason.
    pub fn covered(&self, reason: Reason) -> u64 {
        self.covered[reason as usize].1
    }

    /// Time of this stage.
    pub fn times(&self, stage: Stage) -> Times {
        self.stages[stage as usize].1
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            ("frames", self.frames),
            ("  covered whole", self.frames_covered),
            ("  dropped", self.dropped),
            ("faces", self.faces),
            ("  generated", self.generated),
            ("  covered", self.faces.saturating_sub(self.generated)),
            ("verified outputs", self.distances.count()),
            ("  that resembled the person", self.similar),
            ("  not possible", self.unverifiable),
        ];
        for (name, count) in rows {
            writeln!(f, "{name:<42}{count:>10}")?;
        }
        for (reason, count) in self.covered.iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "    {:<38}{count:>10}", reason.to_string())?;
        }
        if self.fault {
            writeln!(
                f,
                "fault: a stage has panicked; every frame since then is covered whole"
            )?;
        }
        writeln!(
            f,
            "{:<12}{:>10}{:>10}{:>10}{:>10}",
            "stage", "frames", "mean ms", "p50 ms", "p99 ms"
        )?;
        for (stage, times) in &self.stages {
            let [mean, median, p99] =
                [times.mean, times.median, times.p99].map(|time| time.as_secs_f64() * 1e3);
            writeln!(
                f,
                "{stage:<12}{:>10}{mean:>10.2}{median:>10.2}{p99:>10.2}",
                times.count
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_exact_to_a_bucket() {
        let stats = Stats::default();
        for ms in 1..=1000 {
            stats.took(Stage::Generate, Duration::from_millis(ms));
        }
        let times = stats.snapshot().times(Stage::Generate);
        assert_eq!(times.count, 1000);
        assert_eq!(times.mean, Duration::from_micros(500_500));
        let near = |time: Duration, ms: f64| (time.as_secs_f64() * 1e3 / ms).ln().abs() < 0.19;
        assert!(near(times.median, 500.0) && near(times.p99, 990.0), "{times:?}");
    }

    #[test]
    fn times_beyond_the_buckets_are_kept() {
        let stats = Stats::default();
        for time in [Duration::ZERO, Duration::MAX] {
            stats.took(Stage::Total, time);
        }
        assert_eq!(stats.snapshot().times(Stage::Total).count, 2);
    }

    #[test]
    fn every_face_is_in_one_counter_and_the_table_says_why() {
        let stats = Stats::default();
        stats.generated();
        for reason in Reason::ALL {
            stats.covered(reason);
        }
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.faces, 1 + Reason::ALL.len() as u64);
        let table = snapshot.to_string();
        for reason in Reason::ALL {
            assert_eq!(snapshot.covered(reason), 1);
            assert!(table.contains(&reason.to_string()), "{table}");
        }
    }
}
