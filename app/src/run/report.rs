//! What a run did, for people and for programs.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::Error;
use crate::pipeline::Snapshot;

/// What a run did.
#[derive(Debug)]
pub struct Report {
    /// Frames and faces.
    pub snapshot: Snapshot,
    /// From the first frame in to the last one out.
    pub elapsed: Duration,
    /// From the start, networks not yet loaded, to the first anonymized frame; `None` when none came out.
    pub first_frame: Option<Duration>,
    /// Processor time of the whole program, all threads.
    pub cpu: Duration,
    /// Most memory that was ever resident, in bytes.
    pub peak_memory: u64,
    /// Audio and other tracks that were left out.
    pub tracks_dropped: usize,
    /// Why the run ended early, if it did.
    pub fault: Option<Error>,
}

impl Report {
    /// Frames per second from the first frame in to the last one out.
    pub fn frames_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.snapshot.frames as f64 / seconds
        } else {
            0.0
        }
    }

    /// The report as JSON; times in milliseconds where nothing else is said.
    pub fn json(&self) -> Value {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let snapshot = &self.snapshot;
        let covered: serde_json::Map<String, Value> = snapshot
            .covered
            .iter()
            .map(|(reason, count)| (reason.to_string(), json!(count)))
            .collect();
        let stages: serde_json::Map<String, Value> = snapshot
            .stages
            .iter()
            .map(|(stage, times)| {
                let times = json!({
                    "frames": times.count,
                    "mean": milliseconds(times.mean),
                    "median": milliseconds(times.median),
                    "p99": milliseconds(times.p99),
                });
                (stage.to_string(), times)
            })
            .collect();
        json!({
            "frames": snapshot.frames,
            "frames_covered": snapshot.frames_covered,
            "frames_dropped": snapshot.dropped,
            "faces": snapshot.faces,
            "generated": snapshot.generated,
            "covered": covered,
            "verified": {
                "outputs": snapshot.distances.count(),
                "similar": snapshot.similar,
                "not_possible": snapshot.unverifiable,
                "distances": snapshot.distances.0,
            },
            "stages_ms": stages,
            "fps": self.frames_per_second(),
            "elapsed_s": self.elapsed.as_secs_f64(),
            "first_frame_s": self.first_frame.map(|time| time.as_secs_f64()),
            "cpu_s": self.cpu.as_secs_f64(),
            "peak_memory_bytes": self.peak_memory,
            "tracks_dropped": self.tracks_dropped,
            "pipeline_fault": snapshot.fault,
            "error": self.fault.as_ref().map(ToString::to_string),
        })
    }

    /// Writes [`Report::json`] to a file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write_json(&self, path: &Path) -> Result<(), Error> {
        std::fs::write(path, format!("{:#}\n", self.json())).map_err(|source| Error::File {
            path: path.to_owned(),
            action: "write the statistics",
            source,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.snapshot)?;
        writeln!(f, "{:<42}{:>10.1}", "frames per second", self.frames_per_second())?;
        if let Some(first) = self.first_frame {
            writeln!(
                f,
                "{:<42}{:>10.2}",
                "seconds to the first anonymized frame",
                first.as_secs_f64()
            )?;
        }
        writeln!(f, "{:<42}{:>10.1}", "processor seconds", self.cpu.as_secs_f64())?;
        writeln!(
            f,
            "{:<42}{:>10}",
            "peak memory in MB",
            self.peak_memory / 1_000_000
        )?;
        if self.tracks_dropped > 0 {
            writeln!(
                f,
                "{} track(s) of sound or text left out: a voice identifies a person (--keep-audio keeps sound)",
                self.tracks_dropped
            )?;
        }
        Ok(())
    }
}

/// Processor time of this process so far and its peak resident memory in bytes; zero where procfs does not say.
pub(crate) fn usage(procfs: &Path) -> (Duration, u64) {
    let read = |name| std::fs::read_to_string(procfs.join(name)).unwrap_or_default();
    (cpu_time(&read("self/stat")), peak_memory(&read("self/status")))
}

/// Kernels report clock ticks of 1/100 s to programs, whatever their own rate is (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: u64 = 100;

fn cpu_time(stat: &str) -> Duration {
    // The second field, the program's name in parentheses, may hold spaces.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks = |index| {
        fields
            .split_ascii_whitespace()
            .nth(index)
            .and_then(|text| text.parse::<u64>().ok())
    };
    // utime and stime are fields 14 and 15; the first one after the name is field 3.
    let total = ticks(11).unwrap_or(0) + ticks(12).unwrap_or(0);
    Duration::from_millis(total * 1000 / TICKS_PER_SECOND)
}

fn peak_memory(status: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or_default();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap_or(0);
    kilobytes * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_procfs() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(cpu_time(stat), Duration::from_secs(3));
        assert_eq!(
            peak_memory("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t 1 kB\n"),
            2048 * 1024
        );
        for broken in ["", "7 (x) S", "garbage"] {
            assert_eq!((cpu_time(broken), peak_memory(broken)), (Duration::ZERO, 0));
        }
        let (cpu, memory) = usage(Path::new("/proc"));
        assert!(memory > 0 && cpu < Duration::from_secs(3600));
    }
}
