use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use board::{Rung, View};
use kernels::Kernels;

use super::lookahead::LookAhead;
use super::{Anonymize, Detect, Error, Job, Policy, Rules, Settings, Shared, Stats};
use crate::frame::{Anonymized, Pixels, RawFrame};
use crate::track::Track;

/// The pipeline's threads have ended; the frame was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has stopped")]
pub struct Stopped;

/// The two halves of the pipeline side by side: one thread finds the faces of the next frame while the other one
/// anonymizes this one.
///
/// Every queue is bounded: [`Threads::submit`] waits when the threads are behind, and the threads wait for the sink.
/// Frames leave in the order in which they came. Dropping stops: frames not yet anonymized are dropped, and the drop
/// waits for the sink's call in progress, so nothing may drop this, drain or flush it from inside of the sink.
pub struct Threads<B> {
    /// `None` only while dropping.
    queue: Option<SyncSender<Message<B>>>,
    common: Arc<Common>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Common {
    shared: Shared,
    /// Frames of an earlier epoch are dropped: counts the flushes.
    epoch: AtomicU64,
}

impl Common {
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

enum Message<B> {
    Frame {
        frame: RawFrame<B>,
        arrived: Instant,
        epoch: u64,
    },
    Drain(SyncSender<()>),
    Flush(SyncSender<()>),
}

enum Work<B> {
    Job { job: Job<B>, epoch: u64 },
    Drain(SyncSender<()>),
    Flush(SyncSender<()>),
}

impl<B: Send + 'static> Threads<B> {
    /// Starts the threads. `sink` is called on the second one, with the anonymized frames in order; if it panics, the
    /// pipeline is at fault as if a stage of its own had ([`Stats::is_faulty`]).
    ///
    /// # Errors
    /// [`Error::Settings`] for settings out of range; [`Error::Thread`] when the system gives no thread.
    pub fn start<K>(
        detect: Detect<K>,
        anonymize: Anonymize<K>,
        settings: &Settings,
        sink: impl FnMut(Anonymized<B>) + Send + 'static,
    ) -> Result<Self, Error>
    where
        K: Kernels + Send + 'static,
        B: Pixels<K>,
    {
        settings.check()?;
        let common = Arc::new(Common {
            shared: Shared::new(settings.policy),
            epoch: AtomicU64::new(0),
        });
        let (queue, frames) = sync_channel(settings.queue);
        let (work, jobs) = sync_channel(settings.queue);
        // Lists of tracks on their way back to the first thread.
        let (back, spare) = sync_channel(2 * settings.queue + settings.look_ahead + 2);
        let first = {
            let (common, look_ahead) = (common.clone(), LookAhead::new(settings.look_ahead));
            let deadline = settings.deadline;
            start("detect", move || {
                detect_frames(detect, look_ahead, deadline, &common, &frames, &work, &spare)
            })?
        };
        // Should this one not start, the channels close and the first thread ends by itself.
        let second = {
            let common = common.clone();
            start("anonymize", move || {
                anonymize_frames(anonymize, sink, &common, &jobs, &back)
            })?
        };
        Ok(Self {
            queue: Some(queue),
            common,
            threads: vec![first, second],
        })
    }

    /// Hands a frame over; waits while the queue is full.
    ///
    /// # Errors
    /// [`Stopped`] when a thread has ended; the frame is dropped and goes nowhere.
    pub fn submit(&self, frame: RawFrame<B>) -> Result<(), Stopped> {
        self.send(Message::Frame {
            frame,
            arrived: Instant::now(),
            epoch: self.common.epoch(),
        })
    }

    /// Waits until every frame submitted so far, held ones included, has been through the sink: for the end of a
    /// stream, and before a change of resolution.
    ///
    /// # Errors
    /// [`Stopped`] when a thread has ended.
    pub fn drain(&self) -> Result<(), Stopped> {
        let (done, wait) = sync_channel(1);
        self.send(Message::Drain(done))?;
        wait.recv().map_err(|_| Stopped)
    }

    /// Drops every frame submitted so far that is not yet in the sink, forgets all faces, and waits until that is
    /// done: for a seek. The frames are counted as dropped.
    ///
    /// # Errors
    /// [`Stopped`] when a thread has ended.
    pub fn flush(&self) -> Result<(), Stopped> {
        self.common.epoch.fetch_add(1, Ordering::AcqRel);
        let (done, wait) = sync_channel(1);
        self.send(Message::Flush(done))?;
        wait.recv().map_err(|_| Stopped)
    }

    /// Changes the policy for the frames that have not been anonymized yet, held ones included.
    pub fn set_policy(&self, policy: Policy) {
        self.common.shared.set_policy(policy);
    }

    /// Changes what may be shown of the frames that have not been anonymized yet, held ones included: covers them
    /// whole, or leaves them to the policy.
    pub fn set_view(&self, view: View) {
        self.common.shared.set_view(view);
    }

    /// Changes the rules for the frames that have not been anonymized yet, held ones included.
    pub fn set_rules(&self, rules: Rules) {
        self.common.shared.set_rules(rules);
    }

    /// Changes how much work the frames that have not been anonymized yet are given.
    pub fn set_rung(&self, rung: Rung) {
        self.common.shared.set_rung(rung);
    }

    /// What was done so far.
    pub fn stats(&self) -> &Stats {
        &self.common.shared.stats
    }

    fn send(&self, message: Message<B>) -> Result<(), Stopped> {
        self.queue
            .as_ref()
            .ok_or(Stopped)?
            .send(message)
            .map_err(|_| Stopped)
    }
}

impl<B> Drop for Threads<B> {
    fn drop(&mut self) {
        // What waits is dropped rather than worked off; the closing queue then ends the first thread, and that one's
        // the second.
        self.common.epoch.fetch_add(1, Ordering::AcqRel);
        self.queue = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a pipeline thread panicked outside of its stages");
            }
        }
    }
}

fn start(name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    Builder::new()
        .name(name.into())
        .spawn(work)
        .map_err(|source| Error::Thread { name, source })
}

/// The first thread: ends when the queue closes or the second thread is gone.
fn detect_frames<K: Kernels, B: Pixels<K>>(
    mut detect: Detect<K>,
    mut look_ahead: LookAhead<B>,
    deadline: Option<Duration>,
    common: &Common,
    frames: &Receiver<Message<B>>,
    work: &SyncSender<Work<B>>,
    spare: &Receiver<Vec<Track>>,
) {
    let stats = &common.shared.stats;
    // Frames held by look-ahead are of the present epoch: a flush empties it before the next one begins.
    let mut present = common.epoch();
    for message in frames {
        let sent = match message {
            Message::Frame { epoch, .. } if epoch < common.epoch() => {
                stats.dropped();
                Ok(())
            }
            // Its time was up before anybody could look at it: showing it covered would only make the next ones late.
            Message::Frame { arrived, .. } if deadline.is_some_and(|limit| arrived.elapsed() > limit) => {
                stats.dropped();
                Ok(())
            }
            Message::Frame {
                frame,
                arrived,
                epoch,
            } => {
                present = epoch;
                let tracks = spare.try_recv().unwrap_or_default();
                let job = detect.look(frame, arrived, tracks, &common.shared);
                match look_ahead.push(job) {
                    Some(job) => work.send(Work::Job { job, epoch }),
                    None => Ok(()),
                }
            }
            Message::Drain(done) => std::iter::from_fn(|| look_ahead.pop())
                .try_for_each(|job| work.send(Work::Job { job, epoch: present }))
                .and_then(|()| work.send(Work::Drain(done))),
            Message::Flush(done) => {
                while look_ahead.pop().is_some() {
                    stats.dropped();
                }
                detect.reset();
                work.send(Work::Flush(done))
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The second thread: ends when the first one does.
fn anonymize_frames<K: Kernels, B: Pixels<K>>(
    mut anonymize: Anonymize<K>,
    mut sink: impl FnMut(Anonymized<B>),
    common: &Common,
    jobs: &Receiver<Work<B>>,
    back: &SyncSender<Vec<Track>>,
) {
    let stats = &common.shared.stats;
    for work in jobs {
        match work {
            Work::Job { epoch, .. } if epoch < common.epoch() => stats.dropped(),
            Work::Job { job, .. } => {
                let (frame, tracks) = anonymize.finish(job, &common.shared);
                // Full or closed: the list is only memory.
                let _ = back.try_send(tracks);
                let Some(frame) = frame else { continue };
                if catch_unwind(AssertUnwindSafe(|| sink(frame))).is_err() {
                    log::error!("the sink panicked: every frame from now on is covered whole");
                    stats.set_fault();
                }
            }
            // Whoever waits may have given up.
            Work::Drain(done) => {
                let _ = done.send(());
            }
            Work::Flush(done) => {
                anonymize.reset();
                let _ = done.send(());
            }
        }
    }
}
