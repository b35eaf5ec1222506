//! The daily privacy report: what became of the faces of each day, as numbers.
//!
//! One JSON file a day (docs/telemetry.md has its schema), written every minute and when the box stops, so that a loss of
//! power costs a minute of counts. A box that starts again adds to the file of the day. It holds counts, names of streams
//! and reasons; no picture, no embedding, no time of any face.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::metrics::label;
use super::status::{Count, Health, Totals};
use crate::pipeline::{Distances, Reason, Verify};

/// Version of the file's form.
const SCHEMA: u32 = 1;
/// Time from one look at the counters to the next.
const LOOK: Duration = Duration::from_secs(5);
/// Time from one writing of the file to the next.
const WRITE: Duration = Duration::from_secs(60);

/// One day of a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Day {
    schema: u32,
    site: String,
    /// `YYYY-MM-DD`, in the time zone of the box.
    date: String,
    /// Starts of the program that counted into this day.
    starts: u64,
    streams: BTreeMap<String, Stream>,
}

/// One stream on one day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Stream {
    frames: Frames,
    /// Faces, each counted once per frame.
    face_frames: u64,
    generated: u64,
    covered: BTreeMap<String, u64>,
    /// Of `face_frames`, 0 to 1; worked out anew whenever it is written.
    covered_share: f64,
    verification: Verification,
    faults: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Frames {
    anonymized: u64,
    covered_whole: u64,
    dropped: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Verification {
    outputs: u64,
    similar: u64,
    failed: u64,
    /// The distance below which an output is taken for the person.
    limit: f32,
    /// Width of a step of `distances`.
    step: f64,
    /// How many outputs were how far from the person; the last step has no end.
    distances: Vec<u64>,
}

/// What a stream has counted since the program started.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    totals: Totals,
    faults: [u64; FAULTS.len()],
}

/// What counts as a fault, and its name in the report.
const FAULTS: [(Count, &str); 4] = [
    (Count::PipelineFaults, "pipeline"),
    (Count::Losses, "camera_lost"),
    (Count::EncoderFaults, "encoder"),
    (Count::RecordingFaults, "recording"),
];

impl Figures {
    pub(super) fn of(health: &Health) -> Self {
        Self {
            totals: health.totals(),
            faults: FAULTS.map(|(what, _)| health.counted(what)),
        }
    }
}

impl Stream {
    /// Adds what was counted since `before`. A counter that is lower than before has begun anew.
    fn add(&mut self, now: &Figures, before: &Figures) {
        let grow = |sum: &mut u64, now: u64, before: u64| {
            *sum += now.checked_sub(before).unwrap_or(now);
        };
        let (totals, earlier) = (&now.totals, &before.totals);
        grow(&mut self.frames.anonymized, totals.frames, earlier.frames);
        grow(
            &mut self.frames.covered_whole,
            totals.frames_covered,
            earlier.frames_covered,
        );
        grow(&mut self.frames.dropped, totals.dropped, earlier.dropped);
        grow(&mut self.generated, totals.generated, earlier.generated);
        for reason in Reason::ALL {
            let sum = self.covered.entry(label(reason).to_owned()).or_default();
            let index = reason as usize;
            grow(sum, totals.covered[index], earlier.covered[index]);
        }
        let covered: u64 = self.covered.values().sum();
        self.face_frames = self.generated + covered;
        self.covered_share = covered as f64 / self.face_frames.max(1) as f64;
        let verification = &mut self.verification;
        verification.limit = Verify::default().least_distance;
        verification.step = Distances::STEP;
        verification.distances.resize(Distances::BINS, 0);
        let bins = totals.distances.0.iter().zip(&earlier.distances.0);
        for (sum, (now, before)) in verification.distances.iter_mut().zip(bins) {
            grow(sum, *now, *before);
        }
        verification.outputs = verification.distances.iter().sum();
        grow(&mut verification.similar, totals.similar, earlier.similar);
        grow(
            &mut verification.failed,
            totals.unverifiable,
            earlier.unverifiable,
        );
        for ((_, name), (now, before)) in FAULTS.iter().zip(now.faults.iter().zip(before.faults)) {
            grow(self.faults.entry((*name).to_owned()).or_default(), *now, before);
        }
    }
}

/// Why a day cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub(super) struct Error {
    path: PathBuf,
    reason: String,
}

/// The report of the present day, and the files of those before.
pub(super) struct Report {
    folder: PathBuf,
    keep: usize,
    site: String,
    day: Option<Day>,
    /// What each stream had counted at the latest look.
    before: BTreeMap<String, Figures>,
    looked: Option<Instant>,
    written: Option<Instant>,
}

impl Report {
    /// A report that begins now; `keep` days are kept.
    pub(super) fn new(folder: PathBuf, keep: usize, site: &str) -> Self {
        Self {
            folder,
            keep,
            site: site.into(),
            day: None,
            before: BTreeMap::new(),
            looked: None,
            written: None,
        }
    }

    /// Keeps so many days from now on.
    pub(super) fn set_keep(&mut self, keep: usize) {
        self.keep = keep;
    }

    /// Whether it is time to look at the counters.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looked.is_none_or(|looked| now >= looked + LOOK)
    }

    /// Adds what the streams have counted to the day `date`, and writes it when it is time to.
    ///
    /// # Errors
    /// When a file cannot be written or read. The counts are kept, and it is tried again.
    pub(super) fn look<'a>(
        &mut self,
        now: Instant,
        date: &str,
        streams: impl IntoIterator<Item = (&'a str, Figures)>,
    ) -> Result<(), Error> {
        self.looked = Some(now);
        let mut result = Ok(());
        if self.day.as_ref().is_none_or(|day| day.date != date) {
            result = self.write();
            let (day, read) = self.begin(date);
            self.day = Some(day);
            self.written = None;
            result = result.and(read);
        }
        let Some(day) = &mut self.day else { return result };
        for (name, figures) in streams {
            let before = self.before.entry(name.to_owned()).or_default();
            let stream = day.streams.entry(name.to_owned()).or_default();
            stream.add(&figures, before);
            *before = figures;
        }
        if self.written.is_none_or(|written| now >= written + WRITE) {
            self.written = Some(now);
            return result.and(self.write());
        }
        result
    }

    /// The day as its file has it, or a new one. A file that cannot be understood is put aside, not written over.
    fn begin(&self, date: &str) -> (Day, Result<(), Error>) {
        let path = self.path(date);
        let new = || Day {
            schema: SCHEMA,
            site: self.site.clone(),
            date: date.into(),
            starts: 1,
            streams: BTreeMap::new(),
        };
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (new(), Ok(())),
            Err(error) => return (new(), Err(self.error(date, &error))),
        };
        match serde_json::from_slice::<Day>(&text) {
            Ok(day) if day.schema == SCHEMA && day.date == date => {
                let starts = day.starts + u64::from(self.day.is_none());
                (Day { starts, ..day }, Ok(()))
            }
            _ => {
                let aside = path.with_extension("unreadable");
                let moved = std::fs::rename(&path, &aside).map_err(|error| self.error(date, &error));
                let told = moved.and(Err(Error {
                    path,
                    reason: format!("is no privacy report; it is now {}", aside.display()),
                }));
                (new(), told)
            }
        }
    }

    /// Writes the present day, and removes the days that are too old.
    ///
    /// # Errors
    /// When the file cannot be written; the one of before is then still there.
    pub(super) fn write(&self) -> Result<(), Error> {
        let Some(day) = &self.day else { return Ok(()) };
        self.store(day).map_err(|error| self.error(&day.date, &error))?;
        let days = self.stored();
        let surplus = days.len().saturating_sub(self.keep);
        days.iter().take(surplus).try_for_each(|date| {
            std::fs::remove_file(self.path(date)).map_err(|error| self.error(date, &error))
        })
    }

    /// Whole or not at all, whenever the power fails.
    fn store(&self, day: &Day) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer_pretty(&mut file, day)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(self.path(&day.date))?;
        Ok(())
    }

    /// The days that can be asked for, newest first.
    pub(super) fn days(&self) -> Vec<String> {
        let mut days = self.stored();
        days.extend(self.day.as_ref().map(|day| day.date.clone()));
        days.sort();
        days.dedup();
        days.reverse();
        days
    }

    /// A day, as JSON; `None` when there is none.
    pub(super) fn day(&self, date: &str) -> Option<String> {
        if let Some(day) = self.day.as_ref().filter(|day| day.date == date) {
            return serde_json::to_string_pretty(day).ok();
        }
        is_date(date)
            .then(|| std::fs::read_to_string(self.path(date)).ok())
            .flatten()
    }

    /// The days that have a file, oldest first.
    fn stored(&self) -> Vec<String> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut days: Vec<_> = files
            .filter_map(|file| {
                let name = file.file_name().into_string().ok()?;
                let date = name.strip_suffix(".json")?;
                is_date(date).then(|| date.to_owned())
            })
            .collect();
        days.sort();
        days
    }

    fn path(&self, date: &str) -> PathBuf {
        self.folder.join(format!("{date}.json"))
    }

    fn error(&self, date: &str, error: &std::io::Error) -> Error {
        Error {
            path: self.path(date),
            reason: error.to_string(),
        }
    }
}

/// Whether a text has the form `YYYY-MM-DD`.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().enumerate().all(|(index, byte)| match index {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Where reports are kept unless the configuration says otherwise: `$STATE_DIRECTORY/reports` (systemd sets it), else
/// `$XDG_DATA_HOME/persona/reports`, else `~/.local/share/persona/reports`.
pub(super) fn default_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(state) = variable("STATE_DIRECTORY") {
        return Path::new(&state).join("reports");
    }
    let data = variable("XDG_DATA_HOME").map(PathBuf::from);
    data.or_else(|| variable("HOME").map(|home| Path::new(&home).join(".local/share")))
        .unwrap_or_default()
        .join("persona/reports")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(generated: u64, small: u64, similar: u64) -> Figures {
        let mut figures = Figures::default();
        figures.totals.frames = generated + small;
        figures.totals.generated = generated;
        figures.totals.covered[Reason::Small as usize] = small;
        figures.totals.similar = similar;
        figures.totals.distances.0[15] = generated;
        figures.faults[1] = similar;
        figures
    }

    fn stream(report: &Report, date: &str) -> Stream {
        let day: Day = serde_json::from_str(&report.day(date).unwrap()).unwrap();
        day.streams["hall"].clone()
    }

    #[test]
    fn a_day_adds_up_over_restarts_and_the_next_one_begins_at_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let open = || Report::new(dir.path().join("reports"), 10, "Town hall");
        let mut report = open();
        assert!(report.is_due(start));
        report
            .look(start, "2026-11-23", [("hall", figures(5, 1, 0))])
            .unwrap();
        assert!(!report.is_due(start + LOOK / 2) && report.is_due(start + LOOK));
        report
            .look(start + LOOK, "2026-11-23", [("hall", figures(8, 2, 1))])
            .unwrap();
        report.write().unwrap();

        // Another process, whose counters begin at nothing.
        let mut report = open();
        report
            .look(start, "2026-11-23", [("hall", figures(90, 0, 0))])
            .unwrap();
        // A stream whose counters begin anew.
        report
            .look(start, "2026-11-23", [("hall", figures(2, 0, 0))])
            .unwrap();
        let hall = stream(&report, "2026-11-23");
        assert_eq!((hall.generated, hall.covered["small"]), (100, 2));
        assert_eq!((hall.face_frames, hall.frames.anonymized), (102, 102));
        assert!((hall.covered_share - 2.0 / 102.0).abs() < 1e-9);
        assert_eq!((hall.verification.outputs, hall.verification.similar), (100, 1));
        assert_eq!(
            (hall.verification.distances[15], hall.faults["camera_lost"]),
            (100, 1)
        );

        report
            .look(start, "2026-11-24", [("hall", figures(7, 0, 0))])
            .unwrap();
        assert_eq!(stream(&report, "2026-11-24").generated, 5);
        assert_eq!(report.days(), ["2026-11-24", "2026-11-23"]);
        let stored: Day = serde_json::from_str(&report.day("2026-11-23").unwrap()).unwrap();
        assert_eq!((stored.starts, stored.site.as_str()), (2, "Town hall"));
    }

    #[test]
    fn the_oldest_days_go_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::new(dir.path().into(), 2, "Persona");
        for name in ["2020-01-01.txt", "notes.json"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        for date in ["2026-11-22", "2026-11-23", "2026-11-24"] {
            report.look(Instant::now(), date, []).unwrap();
        }
        report.write().unwrap();
        assert_eq!(report.days(), ["2026-11-24", "2026-11-23"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
        for date in ["2026-11-22", "../2026-11-", "2026-11-24.json", ""] {
            assert_eq!(report.day(date), None, "{date}");
        }
    }

    #[test]
    fn a_file_that_is_no_report_is_put_aside_and_a_full_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("2026-11-23.json"), "{\"schema\": 1").unwrap();
        let mut report = Report::new(dir.path().into(), 2, "Persona");
        let told = report
            .look(Instant::now(), "2026-11-23", [("hall", figures(1, 0, 0))])
            .unwrap_err()
            .to_string();
        assert!(told.contains("2026-11-23.unreadable"), "{told}");
        assert_eq!(stream(&report, "2026-11-23").generated, 1);
        assert!(dir.path().join("2026-11-23.unreadable").exists());

        let nowhere = Report {
            folder: dir.path().join("2026-11-23.json"),
            ..report
        };
        assert!(nowhere.write().is_err());
    }
}
