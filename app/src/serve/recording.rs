//! The anonymized stream as MP4 files of even length, the oldest of which are removed.
//!
//! It takes what the encoder gives to the viewers, so there is nothing else that could be recorded. A full disk or a
//! folder that has gone stops the recording, never the stream; it is tried again until it works.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::config::Recording;
use super::status::{Count, Health};
use crate::run::{Container, Error, from_zero, make, muxer};

/// Access units that may wait for the disk: some seconds.
const WAITING: u64 = 200;
/// Pause after a fault.
const REST: Duration = Duration::from_secs(5);
/// How long closing a file may take.
const CLOSING: gst::ClockTime = gst::ClockTime::from_seconds(3);

/// Records one stream.
pub(super) struct Recorder {
    name: String,
    recording: Recording,
    health: Arc<Health>,
    running: Option<Running>,
    rest: Option<Instant>,
}

struct Running {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
}

impl Recorder {
    pub(super) fn new(name: &str, recording: &Recording, health: Arc<Health>) -> Self {
        Self {
            name: name.into(),
            recording: recording.clone(),
            health,
            running: None,
            rest: None,
        }
    }

    /// Takes an access unit; a file begins with a key frame.
    pub(super) fn push(&mut self, sample: &gst::Sample, now: Instant) {
        if let Some(reason) = self.running.as_ref().and_then(Running::fault) {
            self.fail(&reason, now);
        }
        let (Some(buffer), Some(caps)) = (sample.buffer_owned(), sample.caps_owned()) else {
            return;
        };
        if self.running.is_none() {
            let rests = self.rest.is_some_and(|until| now < until);
            if rests || buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) {
                return;
            }
            match Running::start(&self.name, &self.recording, &caps, &self.health) {
                Ok(running) => self.running = Some(running),
                Err(error) => return self.fail(&error.to_string(), now),
            }
        }
        if let Some(running) = &self.running
            && running.source.push_buffer(buffer).is_err()
        {
            self.fail("takes nothing more", now);
        }
    }

    /// Closes the file.
    pub(super) fn finish(&mut self) {
        if let Some(running) = self.running.take()
            && running.source.end_of_stream().is_ok()
            && let Some(bus) = running.pipeline.bus()
        {
            bus.timed_pop_filtered(CLOSING, &[gst::MessageType::Eos, gst::MessageType::Error]);
        }
    }

    fn fail(&mut self, reason: &str, now: Instant) {
        self.running = None;
        self.rest = Some(now + REST);
        self.health.count(Count::RecordingFaults);
        // Said once, not every few seconds.
        if !self.health.recording_stopped() {
            self.health.note(format!(
                "recording stopped: {}: {reason}",
                self.recording.folder.display()
            ));
        }
        self.health.set_recording_stopped(true);
    }
}

impl Running {
    fn start(
        name: &str,
        recording: &Recording,
        caps: &gst::Caps,
        health: &Arc<Health>,
    ) -> Result<Self, Error> {
        let folder = recording.folder.clone();
        std::fs::create_dir_all(&folder).map_err(|source| Error::File {
            path: folder.clone(),
            action: "make the folder",
            source,
        })?;
        let source = gst_app::AppSrc::builder()
            .caps(caps)
            .format(gst::Format::Time)
            .max_buffers(WAITING)
            .max_bytes(0)
            .build();
        let (parse, split, muxer) = (make("h264parse")?, make("splitmuxsink")?, muxer(Container::Mp4)?);
        from_zero(&muxer);
        split.set_property("muxer", &muxer);
        split.set_property(
            "max-size-time",
            gst::ClockTime::from_seconds(recording.segment.into()).nseconds(),
        );
        let (prefix, keep, health) = (format!("{name}-"), recording.keep as usize, health.clone());
        split.connect("format-location", false, move |_| {
            health.count(Count::Files);
            health.set_recording_stopped(false);
            remove_oldest(&folder, &prefix, keep.saturating_sub(1));
            Some(new_file(&folder, &prefix).to_string_lossy().to_value())
        });
        let pipeline = gst::Pipeline::new();
        let chain = [source.upcast_ref(), &parse, &split];
        pipeline
            .add_many(chain)
            .and_then(|()| gst::Element::link_many(chain))
            .map_err(|error| error.to_string())
            .and_then(|()| {
                pipeline
                    .set_state(gst::State::Playing)
                    .map_err(|error| error.to_string())
            })
            .map_err(|reason| Error::Stream {
                input: recording.folder.display().to_string(),
                reason,
            })?;
        Ok(Self { pipeline, source })
    }

    /// What went wrong, if something did. A disk that is too slow is one of the faults: memory is bounded.
    fn fault(&self) -> Option<String> {
        if self.source.current_level_buffers() >= WAITING {
            return Some("the disk is too slow".into());
        }
        let message = self.pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(error) if error.error().matches(gst::ResourceError::NoSpaceLeft) => {
                Some("no space is left on the disk".into())
            }
            gst::MessageView::Error(error) => Some(error.error().message().trim_end_matches('.').to_owned()),
            _ => None,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.pipeline.set_state(gst::State::Null).is_err() {
            log::warn!("a recording did not stop in order");
        }
    }
}

/// `NAME-20261123T170512Z.mp4`, and a number behind it when there is such a file.
fn new_file(folder: &Path, prefix: &str) -> PathBuf {
    let time = gst::glib::DateTime::now_utc()
        .and_then(|now| now.format("%Y%m%dT%H%M%SZ"))
        .map(String::from)
        .unwrap_or_default();
    (0..)
        .map(|number| match number {
            0 => folder.join(format!("{prefix}{time}.mp4")),
            _ => folder.join(format!("{prefix}{time}-{number}.mp4")),
        })
        .find(|path| !path.exists())
        .unwrap_or_default()
}

/// Leaves the `keep` youngest files of a stream: their names are in the order of their times.
fn remove_oldest(folder: &Path, prefix: &str, keep: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with(prefix) && name.ends_with(".mp4")
        })
        .map(|entry| entry.path())
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    for file in &files[..surplus] {
        if let Err(error) = std::fs::remove_file(file) {
            log::warn!("{}: cannot be removed: {error}", file.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_files_go_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "hall-20260101T000000Z.mp4",
            "hall-20260101T000000Z-1.mp4",
            "hall-20270101T000000Z.mp4",
        ];
        for name in files
            .iter()
            .chain(&["door-20200101T000000Z.mp4", "hall-notes.txt"])
        {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        remove_oldest(dir.path(), "hall-", 1);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(
            left,
            [
                "door-20200101T000000Z.mp4",
                "hall-20270101T000000Z.mp4",
                "hall-notes.txt"
            ]
        );
        let first = new_file(dir.path(), "hall-");
        std::fs::write(&first, b"").unwrap();
        assert_ne!(new_file(dir.path(), "hall-"), first);
    }
}
