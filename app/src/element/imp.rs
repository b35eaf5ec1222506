use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use gst::buffer::BufferMetaForeachAction;
use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

use engines::models::default_dir;

use super::gpu::{FEATURE, Gpu};
use super::pixels::{Layout, VideoBuffer};
use crate::frame::{Anonymized, RawFrame};
use crate::networks::{Choice, GpuPrecision, Loaded, Place};
use crate::pipeline::{self, MOST_HELD, Polygon, Rules, Snapshot, Threads, Vitals};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        "persona",
        gst::DebugColorFlags::empty(),
        Some("Face anonymization"),
    )
});

/// Frame duration that is assumed for streams with a variable or unknown rate.
const UNKNOWN_DURATION: gst::ClockTime = gst::ClockTime::from_mseconds(40);

/// Frames that are asked to become key frames when less may be shown: one may be in work with the old policy.
const KEY_FRAMES: u32 = 2;

/// What to do with the faces of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstPersonaPolicy")]
pub enum Policy {
    /// Replace each face, or cover it where that cannot be done well.
    #[default]
    #[enum_value(
        name = "Replace each face, or cover it where that cannot be done well",
        nick = "anonymize"
    )]
    Anonymize,
    /// Cover each face.
    #[enum_value(name = "Cover each face", nick = "cover")]
    Cover,
    /// Cover each head, hair and ears too.
    #[enum_value(name = "Cover each head, hair and ears too", nick = "head")]
    Head,
    /// Cover the whole frame.
    #[enum_value(name = "Cover the whole frame", nick = "shutter")]
    Shutter,
}

/// What may be shown of a stream: whoever stands at the box decides, over the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstPersonaView")]
pub enum View {
    /// What the policy leaves.
    #[default]
    #[enum_value(name = "What the policy leaves", nick = "anonymized")]
    Anonymized,
    /// The whole frame covered.
    #[enum_value(name = "The whole frame covered", nick = "covered")]
    Covered,
    /// A black slate.
    #[enum_value(name = "A black slate", nick = "slate")]
    Slate,
}

impl From<View> for board::View {
    fn from(view: View) -> Self {
        match view {
            View::Anonymized => Self::Anonymized,
            View::Covered => Self::Covered,
            View::Slate => Self::Slate,
        }
    }
}

impl From<board::View> for View {
    fn from(view: board::View) -> Self {
        match view {
            // The element has no way to show a raw picture.
            board::View::Raw | board::View::Anonymized => Self::Anonymized,
            board::View::Covered => Self::Covered,
            board::View::Slate => Self::Slate,
        }
    }
}

impl From<Policy> for pipeline::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Anonymize => Self::Anonymize,
            Policy::Cover => Self::Cover,
            Policy::Head => Self::Head,
            Policy::Shutter => Self::Shutter,
        }
    }
}

/// How closely to look for faces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, glib::Enum)]
#[repr(i32)]
#[enum_type(name = "GstPersonaScan")]
pub enum Scan {
    /// Every frame as a whole, and one tile after the other in full resolution.
    #[default]
    #[enum_value(
        name = "Each frame as a whole, and in full resolution tile by tile",
        nick = "sweep"
    )]
    Sweep,
    /// Full resolution in every frame.
    #[enum_value(
        name = "Full resolution in every frame (several times slower)",
        nick = "thorough"
    )]
    Thorough,
}

/// What the properties say.
#[derive(Debug, Clone)]
struct Settings {
    models: PathBuf,
    place: Place,
    precision: GpuPrecision,
    threads: u32,
    pipeline: pipeline::Settings,
    policy: Policy,
    view: View,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            models: default_dir(),
            place: Place::default(),
            precision: GpuPrecision::default(),
            threads: 1,
            pipeline: pipeline::Settings::default(),
            policy: Policy::default(),
            view: View::default(),
        }
    }
}

/// What the stream is like at this moment.
#[derive(Default)]
struct Stream {
    /// Where the pixels have to be brought to.
    gpu: Option<Gpu>,
    info: Option<gst_video::VideoInfo>,
    layout: Option<Layout>,
    /// Buffers for frames that somebody else holds too.
    pool: Option<gst_video::VideoBufferPool>,
    /// Presentation time of the latest frame, for frames that come without one.
    time: gst::ClockTime,
}

/// What the thread that pushes downstream shares with the rest.
struct Shared {
    /// What downstream said to the latest buffer.
    flow: Mutex<Result<gst::FlowSuccess, gst::FlowError>>,
    /// How many of the next frames the encoder is asked to make key frames.
    key_frames: AtomicU32,
    /// Whether a fault of the pipeline has been reported.
    fault: AtomicBool,
    /// Whether covered frames leave as a black slate.
    slate: AtomicBool,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            flow: Mutex::new(Ok(gst::FlowSuccess::Ok)),
            key_frames: AtomicU32::new(0),
            fault: AtomicBool::new(false),
            slate: AtomicBool::new(false),
        }
    }
}

/// Implementation of the element.
pub struct Persona {
    sinkpad: gst::Pad,
    srcpad: gst::Pad,
    settings: Mutex<Settings>,
    stream: Mutex<Stream>,
    shared: Arc<Shared>,
    threads: RwLock<Option<Arc<Threads<VideoBuffer>>>>,
    /// Networks that are shared with other elements; without them the element loads its own.
    engines: Mutex<Option<Arc<Loaded>>>,
}

/// Locks; what the lock protects is valid at every moment, so that a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Persona {
    fn running(&self) -> Option<Arc<Threads<VideoBuffer>>> {
        self.threads
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Changes what may be shown.
    pub(super) fn set_view(&self, view: board::View) {
        let mut settings = lock(&self.settings);
        let before = std::mem::replace(&mut settings.view, view.into());
        let view = settings.view;
        self.shared.slate.store(view == View::Slate, Ordering::Release);
        // Under the lock, so that of two calls the later one holds for the threads too.
        let Some(threads) = self.running() else {
            return;
        };
        threads.set_view(view.into());
        if view > before {
            self.shared.key_frames.store(KEY_FRAMES, Ordering::Release);
        }
    }

    /// Changes how much work frames are given.
    pub(super) fn set_rung(&self, rung: board::Rung) {
        if let Some(threads) = self.running() {
            threads.set_rung(rung);
        }
    }

    pub(super) fn vitals(&self) -> Option<Vitals> {
        self.running().map(|threads| threads.stats().vitals())
    }

    pub(super) fn snapshot(&self) -> Option<Snapshot> {
        self.running().map(|threads| threads.stats().snapshot())
    }

    pub(super) fn set_engines(&self, engines: Arc<Loaded>) {
        *lock(&self.engines) = Some(engines);
    }

    /// Loads the networks and starts the threads.
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let settings = lock(&self.settings).clone();
        let shared = lock(&self.engines).clone();
        let loaded = shared.map_or_else(|| Loaded::load(&settings.choice()).map(Arc::new), Ok);
        let (srcpad, shared) = (self.srcpad.clone(), self.shared.clone());
        let sink = Box::new(move |frame| shared.pushed(push(&srcpad, &shared, frame)));
        let started = loaded.and_then(|loaded| Ok((loaded.start(&settings.pipeline, sink)?, loaded)));
        let (threads, loaded) =
            started.map_err(|error| gst::error_msg!(gst::ResourceError::NotFound, ("{error}")))?;
        lock(&self.stream).gpu = loaded.gpu().cloned();
        let threads = Arc::new(threads);
        *self.threads.write().unwrap_or_else(PoisonError::into_inner) = Some(threads.clone());
        // Not from the copy: they may have changed while the networks were loading.
        let present = lock(&self.settings);
        threads.set_policy(present.policy.into());
        threads.set_rules((&present.pipeline).into());
        threads.set_view(present.view.into());
        drop(present);
        gst::info!(CAT, imp = self, "{loaded}");
        Ok(())
    }

    fn sink_chain(&self, buffer: gst::Buffer) -> Result<gst::FlowSuccess, gst::FlowError> {
        let threads = self.running().ok_or(gst::FlowError::Flushing)?;
        self.shared.flow()?;
        let Some(frame) = self.raw_frame(buffer)? else {
            threads.stats().dropped();
            return Ok(gst::FlowSuccess::Ok);
        };
        threads.submit(frame).map_err(|_| gst::FlowError::Flushing)?;
        if threads.stats().is_faulty() && !self.shared.fault.swap(true, Ordering::Relaxed) {
            self.shared.key_frames.store(KEY_FRAMES, Ordering::Release);
            gst::element_imp_warning!(
                self,
                gst::LibraryError::Failed,
                ("A stage of the pipeline has failed: every frame is covered until the element is started anew")
            );
        }
        Ok(gst::FlowSuccess::Ok)
    }

    /// The frame as the pipeline takes it: its time, and memory that nobody else holds. `None` for a frame of which
    /// there is no such memory.
    fn raw_frame(&self, buffer: gst::Buffer) -> Result<Option<RawFrame<VideoBuffer>>, gst::FlowError> {
        let mut stream = lock(&self.stream);
        let layout = stream.layout.ok_or(gst::FlowError::NotNegotiated)?;
        let time = buffer.pts().unwrap_or(stream.time + stream.frame_duration());
        stream.time = time;
        let buffer = stream.own(buffer).inspect_err(|error| {
            gst::warning!(CAT, imp = self, "no buffer to copy a shared one into: {error}");
        })?;
        if buffer.is_none() {
            gst::warning!(CAT, imp = self, "dropped a shared buffer that cannot be copied");
        }
        let gpu = stream.gpu.clone();
        Ok(buffer.map(|buffer| RawFrame::new(VideoBuffer::new(buffer, layout, gpu), time.into())))
    }

    fn sink_event(&self, pad: &gst::Pad, event: gst::Event) -> bool {
        if !super::may_pass(&event) {
            gst::debug!(
                CAT,
                imp = self,
                "dropped {:?}: it may describe who is in the picture",
                event.type_()
            );
            return true;
        }
        match event.view() {
            gst::EventView::FlushStart(_) => {
                // First downstream, so that a push that waits there comes back.
                let passed = self.srcpad.push_event(event);
                self.flush();
                return passed;
            }
            gst::EventView::FlushStop(_) => {
                self.flush();
                self.shared.pushed(Ok(gst::FlowSuccess::Ok));
                return self.srcpad.push_event(event);
            }
            // One comes for each lost RTP packet. It says nothing that an encoder needs, and nothing is held for it.
            gst::EventView::Gap(_) => return true,
            // May overtake held frames: a key frame that comes early does no harm, an emptied look-ahead does.
            _ if gst_video::ForceKeyUnitEvent::is(&event) => (),
            _ if event.is_serialized() => self.drain(),
            _ => (),
        }
        match event.view() {
            gst::EventView::Caps(caps) => {
                if let Err(error) = self.set_caps(caps.caps()) {
                    gst::error!(CAT, imp = self, "{error}");
                    return false;
                }
                let passed = gst::Pad::event_default(pad, Some(&*self.obj()), event);
                // The look-ahead is counted in frames, so the latency depends on the rate.
                let _ = self
                    .obj()
                    .post_message(gst::message::Latency::builder().src(&*self.obj()).build());
                passed
            }
            gst::EventView::StreamStart(start) => self.srcpad.push_event(without_stream(start)),
            _ => gst::Pad::event_default(pad, Some(&*self.obj()), event),
        }
    }

    /// Waits until every buffer so far has left.
    fn drain(&self) {
        if let Some(threads) = self.running() {
            // Threads that have ended hold no buffer.
            let _ = threads.drain();
        }
    }

    /// Drops every buffer that has not left.
    fn flush(&self) {
        if let Some(threads) = self.running() {
            // Threads that have ended hold no buffer.
            let _ = threads.flush();
        }
    }

    fn set_caps(&self, caps: &gst::CapsRef) -> Result<(), glib::BoolError> {
        let info = gst_video::VideoInfo::from_caps(caps)?;
        let layout =
            Layout::of_caps(caps, &info).ok_or_else(|| glib::bool_error!("{caps}: wanted I420 or NV12"))?;
        let gpu = lock(&self.stream).gpu.clone();
        let pool = if layout.is_nvmm() {
            let found = gpu.as_ref().map(Gpu::check);
            found
                .unwrap_or_else(|| Err("pixels and networks are on the CPU".into()))
                .map_err(|reason| glib::bool_error!("{caps}: {reason}"))?;
            None
        } else {
            Some(pool(caps, &info)?)
        };
        let mut stream = lock(&self.stream);
        stream.release();
        *stream = Stream {
            gpu,
            info: Some(info),
            layout: Some(layout),
            pool,
            time: stream.time,
        };
        Ok(())
    }

    fn sink_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        match query.view_mut() {
            gst::QueryViewMut::Allocation(query) => self.propose_allocation(query),
            gst::QueryViewMut::Caps(_) => self.query_caps(pad, query),
            gst::QueryViewMut::Drain(_) => {
                self.drain();
                gst::Pad::query_default(pad, Some(&*self.obj()), query)
            }
            _ => gst::Pad::query_default(pad, Some(&*self.obj()), query),
        }
    }

    /// What both sides can do, and the place that is in use: only a GPU reaches its own memory.
    fn query_caps(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let answered = gst::Pad::query_default(pad, Some(&*self.obj()), query);
        let on_cpu = self.running().is_some() && lock(&self.stream).gpu.is_none();
        if let (true, true, Some(feature), gst::QueryViewMut::Caps(query)) =
            (answered, on_cpu, FEATURE, query.view_mut())
        {
            let caps = query.result_owned().unwrap_or_else(gst::Caps::new_empty);
            let ordinary = caps
                .iter_with_features()
                .filter(|(_, features)| !features.contains(feature));
            query.set_result(
                &ordinary
                    .map(|(structure, features)| (structure.to_owned(), features.to_owned()))
                    .collect::<gst::Caps>(),
            );
        }
        answered
    }

    /// Offers buffers that are nobody else's, as many as the element and downstream hold. Strides of their own are
    /// offered only when downstream can read them, because the buffers pass through.
    fn propose_allocation(&self, query: &mut gst::query::Allocation) -> bool {
        let (Some(caps), need_pool) = query.get_owned() else {
            return false;
        };
        let Ok(info) = gst_video::VideoInfo::from_caps(&caps) else {
            return false;
        };
        let Ok(size) = u32::try_from(info.size()) else {
            return false;
        };
        // Whoever makes NVMM buffers has a pool for them.
        let is_nvmm = Layout::of_caps(&caps, &info).is_some_and(|layout| layout.is_nvmm());
        let pool = (need_pool && !is_nvmm).then(gst_video::VideoBufferPool::new);
        let own = u32::try_from(lock(&self.settings).frames_held()).unwrap_or(u32::MAX);
        let mut downstream = gst::query::Allocation::new(Some(&caps), false);
        let answered = self.srcpad.peer_query(&mut downstream);
        let wanted = downstream.allocation_pools().map(|(_, _, least, _)| least).max();
        let held = own.saturating_add(wanted.unwrap_or(0));
        if let Some(pool) = &pool {
            let mut config = pool.config();
            config.set_params(Some(&caps), size, held, 0);
            if pool.set_config(config).is_err() {
                return false;
            }
        }
        query.add_allocation_pool(pool.as_ref(), size, held, 0);
        if answered
            && downstream
                .find_allocation_meta::<gst_video::VideoMeta>()
                .is_some()
        {
            query.add_allocation_meta::<gst_video::VideoMeta>(None);
        }
        true
    }

    fn src_query(&self, pad: &gst::Pad, query: &mut gst::QueryRef) -> bool {
        let query = match query.view_mut() {
            gst::QueryViewMut::Latency(query) => query,
            gst::QueryViewMut::Caps(_) => return self.query_caps(pad, query),
            _ => return gst::Pad::query_default(pad, Some(&*self.obj()), query),
        };
        let mut upstream = gst::query::Latency::new();
        if !self.sinkpad.peer_query(&mut upstream) {
            return false;
        }
        let duration = lock(&self.stream).frame_duration();
        let (own_min, own_max) = lock(&self.settings).latency(duration);
        let (live, min, max) = upstream.result();
        query.set(live, min + own_min, max.map(|max| max + own_max));
        true
    }
}

impl Settings {
    fn choice(&self) -> Choice {
        Choice {
            folder: self.models.clone(),
            place: self.place,
            precision: self.precision,
            threads: self.threads as usize,
        }
    }

    /// Frames inside of the element when it is full: held, in the two queues, and in work at both ends.
    fn frames_held(&self) -> u64 {
        self.pipeline.look_ahead as u64 + 2 * self.pipeline.queue as u64 + 2
    }

    /// Least and largest time that a buffer spends here. A pipeline that keeps up with its camera takes at most one
    /// frame's duration for detection and one for anonymization; a deadline bounds all of it.
    fn latency(&self, frame: gst::ClockTime) -> (gst::ClockTime, gst::ClockTime) {
        let full = frame * self.frames_held();
        match self.pipeline.deadline {
            Some(deadline) => {
                let deadline = gst::ClockTime::try_from(deadline).unwrap_or(full);
                (deadline, full.max(deadline))
            }
            None => (frame * (self.pipeline.look_ahead as u64 + 2), full),
        }
    }
}

impl Stream {
    fn frame_duration(&self) -> gst::ClockTime {
        let rate = self
            .info
            .as_ref()
            .map(gst_video::VideoInfo::fps)
            .filter(|fps| fps.numer() > 0);
        rate.and_then(|fps| gst::ClockTime::SECOND.mul_div_round(fps.denom() as u64, fps.numer() as u64))
            .unwrap_or(UNKNOWN_DURATION)
    }

    /// The buffer with nothing on it but its pixels and times, in memory that nobody else holds: the buffer itself
    /// where that is so, else a pooled copy; `None` when it cannot be copied.
    fn own(&self, mut buffer: gst::Buffer) -> Result<Option<gst::Buffer>, gst::FlowError> {
        let own = buffer
            .get_mut()
            .is_some_and(|buffer| buffer.is_all_memory_writable() && strip(buffer));
        if own {
            return Ok(Some(buffer));
        }
        let Some(info) = &self.info else {
            return Err(gst::FlowError::NotNegotiated);
        };
        // NVMM buffers cannot be copied here.
        let Some(pool) = &self.pool else {
            return Ok(None);
        };
        let mut copy = pool.acquire_buffer(None)?;
        let copied = copy.get_mut().is_some_and(|copy| copy_frame(&buffer, copy, info));
        Ok(copied.then_some(copy))
    }

    /// Gives the pooled memory back.
    fn release(&mut self) {
        if let Some(pool) = self.pool.take()
            && let Err(error) = pool.set_active(false)
        {
            gst::debug!(CAT, "pool stays active: {error}");
        }
    }
}

impl Shared {
    fn flow(&self) -> Result<gst::FlowSuccess, gst::FlowError> {
        *lock(&self.flow)
    }

    fn pushed(&self, flow: Result<gst::FlowSuccess, gst::FlowError>) {
        *lock(&self.flow) = flow;
    }

    /// As before the first buffer.
    fn reset(&self) {
        self.pushed(Ok(gst::FlowSuccess::Ok));
        self.key_frames.store(0, Ordering::Release);
        self.fault.store(false, Ordering::Release);
    }

    /// Whether the next frame shall be a key frame.
    fn take_key_frame(&self) -> bool {
        let take = |wanted: u32| wanted.checked_sub(1);
        self.key_frames
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take)
            .is_ok()
    }
}

/// Pushes a frame downstream. Nothing else in the program does, and it takes nothing but anonymized ones.
fn push(
    pad: &gst::Pad,
    shared: &Shared,
    frame: Anonymized<VideoBuffer>,
) -> Result<gst::FlowSuccess, gst::FlowError> {
    if shared.take_key_frame() {
        pad.push_event(
            gst_video::DownstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build(),
        );
    }
    let mut pixels = frame.into_buffer();
    if shared.slate.load(Ordering::Acquire) && pixels.blacken().is_err() {
        // It is covered, but not black: nobody shall take the one for the other.
        return Ok(gst::FlowSuccess::Ok);
    }
    pad.push(pixels.into_buffer())
}

/// Removes every meta but the video meta: regions of interest and captions describe the picture, a parent buffer
/// leads to another one. Gives `false`, with the buffer untouched, when one of them cannot be removed.
fn strip(buffer: &mut gst::BufferRef) -> bool {
    let video = gst_video::VideoMeta::meta_api();
    let parent = gst::ParentBufferMeta::meta_api();
    let mut stuck = false;
    buffer.foreach_meta(|meta| {
        let locked = meta.flags().contains(gst::MetaFlags::LOCKED);
        // Whoever made the parent may use its memory again once the meta is gone.
        stuck |= meta.api() != video && (locked || meta.api() == parent);
        ControlFlow::Continue(())
    });
    if stuck {
        return false;
    }
    buffer.foreach_meta_mut(|meta| {
        let keep = meta.api() == video;
        ControlFlow::Continue(if keep {
            BufferMetaForeachAction::Keep
        } else {
            BufferMetaForeachAction::Remove
        })
    });
    true
}

/// Pooled buffers for copies.
fn pool(
    caps: &gst::CapsRef,
    info: &gst_video::VideoInfo,
) -> Result<gst_video::VideoBufferPool, glib::BoolError> {
    let pool = gst_video::VideoBufferPool::new();
    let mut config = pool.config();
    let size = u32::try_from(info.size()).unwrap_or(0);
    config.set_params(Some(&caps.to_owned()), size, 0, 0);
    pool.set_config(config)?;
    pool.set_active(true)?;
    Ok(pool)
}

/// Copies pixels, flags and times.
fn copy_frame(from: &gst::BufferRef, to: &mut gst::BufferRef, info: &gst_video::VideoInfo) -> bool {
    let metadata = gst::BufferCopyFlags::FLAGS | gst::BufferCopyFlags::TIMESTAMPS;
    if from.copy_into(to, metadata, ..).is_err() {
        return false;
    }
    let Ok(from) = gst_video::VideoFrameRef::from_buffer_ref_readable(from, info) else {
        return false;
    };
    let Ok(mut to) = gst_video::VideoFrameRef::from_buffer_ref_writable(to, info) else {
        return false;
    };
    from.copy(&mut to).is_ok()
}

/// The event without its `GstStream`, which carries tags.
fn without_stream(start: &gst::event::StreamStart) -> gst::Event {
    gst::event::StreamStart::builder(start.stream_id())
        .seqnum(start.seqnum())
        .flags(start.stream_flags())
        .group_id_if_some(start.group_id())
        .build()
}

#[glib::object_subclass]
impl ObjectSubclass for Persona {
    const NAME: &'static str = "GstPersona";
    type Type = super::Persona;
    type ParentType = gst::Element;

    fn with_class(class: &Self::Class) -> Self {
        let pad = |name| {
            let template = class
                .pad_template(name)
                .expect("the class has made its templates");
            gst::Pad::builder_from_template(&template).flags(gst::PadFlags::PROXY_CAPS)
        };
        let sinkpad = pad("sink")
            .chain_function(|_, parent, buffer| {
                Self::catch_panic_pad_function(
                    parent,
                    || Err(gst::FlowError::Error),
                    |element| element.sink_chain(buffer),
                )
            })
            .event_function(|pad, parent, event| {
                Self::catch_panic_pad_function(parent, || false, |element| element.sink_event(pad, event))
            })
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |element| element.sink_query(pad, query))
            })
            .build();
        let srcpad = pad("src")
            .query_function(|pad, parent, query| {
                Self::catch_panic_pad_function(parent, || false, |element| element.src_query(pad, query))
            })
            .build();
        Self {
            sinkpad,
            srcpad,
            settings: Mutex::default(),
            stream: Mutex::default(),
            shared: Arc::default(),
            threads: RwLock::default(),
            engines: Mutex::default(),
        }
    }
}

impl ObjectImpl for Persona {
    fn constructed(&self) {
        self.parent_constructed();
        let element = self.obj();
        for pad in [&self.sinkpad, &self.srcpad] {
            element
                .add_pad(pad)
                .expect("a new element has no pad of this name");
        }
    }

    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            let defaults = Settings::default();
            let pipeline = &defaults.pipeline;
            vec![
                glib::ParamSpecString::builder("models")
                    .nick("Folder of the networks")
                    .blurb("Folder with the networks that `persona models fetch` has fetched; unset: $PERSONA_MODELS, else the user's data folder")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("threads")
                    .nick("Threads per network")
                    .blurb("Threads that each network may use; detection and anonymization run side by side anyway")
                    .minimum(1)
                    .maximum(64)
                    .default_value(defaults.threads)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("place", defaults.place)
                    .nick("Where pixels and networks are")
                    .blurb("Where pixels and networks are; networks that others use too are where those are")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("precision", defaults.precision)
                    .nick("Precision on a GPU")
                    .blurb("What the networks compute with on a GPU")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecUInt::builder("look-ahead")
                    .nick("Look-ahead in frames")
                    .blurb("Frames held back so that a face is covered before its first detection; each adds a frame's duration to the latency")
                    .maximum(MOST_HELD as u32)
                    .default_value(pipeline.look_ahead as u32)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("scan", Scan::default())
                    .nick("How closely to look")
                    .blurb("How closely to look for faces")
                    .mutable_ready()
                    .build(),
                glib::ParamSpecFloat::builder("threshold")
                    .nick("Detection threshold")
                    .blurb("Detector score from which something may be a face and is covered; lower covers more")
                    .minimum(0.05)
                    .maximum(pipeline.track.confident)
                    .default_value(pipeline.possible)
                    .mutable_ready()
                    .build(),
                glib::ParamSpecFloat::builder("min-face")
                    .nick("Smallest face that is replaced")
                    .blurb("Width in pixels below which a face is covered and not replaced")
                    .minimum(1.0)
                    .maximum(4096.0)
                    .default_value(pipeline.trust.smallest_face)
                    .mutable_playing()
                    .build(),
                glib::ParamSpecDouble::builder("coast")
                    .nick("Coasting time in seconds")
                    .blurb("How long a face stays covered after it was last detected, in seconds")
                    .minimum(0.0)
                    .maximum(60.0)
                    .default_value(pipeline.track.coast.as_secs_f64())
                    .mutable_ready()
                    .build(),
                glib::ParamSpecDouble::builder("verify")
                    .nick("Verification interval in seconds")
                    .blurb("Time from one comparison of a replaced face with the person to the next, in seconds; a face that resembles the person is covered")
                    .minimum(0.1)
                    .maximum(60.0)
                    .default_value(pipeline.verify.every.as_secs_f64())
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("masks")
                    .nick("Masked parts of the picture")
                    .blurb("Convex polygons that are covered in every frame, such as \"0,0 0.5,0 0.5,0.3; 0.9,0.9 1,0.9 1,1\": corners in fractions of the picture, polygons separated by ;. What cannot be understood covers everything")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecString::builder("covered-zones")
                    .nick("Zones in which faces are covered")
                    .blurb("Convex polygons, written as masks are: faces that reach into one are covered, never replaced. What cannot be understood covers every face")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecUInt::builder("deadline")
                    .nick("Deadline in milliseconds")
                    .blurb("Longest time that a frame may stay in the element, look-ahead included; faces untreated by then are covered. 0: no limit, for files")
                    .maximum(10_000)
                    .default_value(pipeline.deadline.map_or(0, |deadline| deadline.as_millis() as u32))
                    .mutable_ready()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("policy", defaults.policy)
                    .nick("What to do with faces")
                    .blurb("What to do with faces")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecEnum::builder_with_default("view", defaults.view)
                    .nick("What may be shown")
                    .blurb("What may be shown, over the policy: for the button at the box")
                    .mutable_playing()
                    .build(),
                glib::ParamSpecBoxed::builder::<gst::Structure>("stats")
                    .nick("Statistics")
                    .blurb("Frames and faces so far: frames, frames-covered, dropped, faces, generated, covered, verified, similar, unverifiable, fault, and the mean time of each stage in nanoseconds")
                    .read_only()
                    .build(),
            ]
        });
        &PROPERTIES
    }

    fn set_property(&self, _id: usize, value: &glib::Value, pspec: &glib::ParamSpec) {
        if pspec.name() == "view" {
            let view: View = value.get().expect("GObject has checked the type");
            return self.set_view(view.into());
        }
        let mut settings = lock(&self.settings);
        let pipeline = &mut settings.pipeline;
        match pspec.name() {
            "models" => {
                let models: Option<PathBuf> = value.get().expect("GObject has checked the type");
                settings.models = models.unwrap_or_else(default_dir);
            }
            "threads" => settings.threads = value.get().expect("GObject has checked the type"),
            "place" => settings.place = value.get().expect("GObject has checked the type"),
            "precision" => settings.precision = value.get().expect("GObject has checked the type"),
            "look-ahead" => {
                let frames: u32 = value.get().expect("GObject has checked the type");
                pipeline.look_ahead = frames as usize;
            }
            "scan" => {
                let scan: Scan = value.get().expect("GObject has checked the type");
                pipeline.scan.thorough = scan == Scan::Thorough;
            }
            "threshold" => pipeline.possible = value.get().expect("GObject has checked the type"),
            "min-face" => {
                pipeline.trust.smallest_face = value.get().expect("GObject has checked the type");
                self.set_rules(pipeline);
            }
            name @ ("masks" | "covered-zones") => {
                let text: Option<String> = value.get().expect("GObject has checked the type");
                let zones = self.zones(name, text.as_deref().unwrap_or_default());
                if name == "masks" {
                    pipeline.zones.masked = zones;
                } else {
                    pipeline.zones.covered = zones;
                }
                self.set_rules(pipeline);
            }
            "coast" => {
                let seconds: f64 = value.get().expect("GObject has checked the type");
                pipeline.track.coast = Duration::from_secs_f64(seconds);
            }
            "verify" => {
                let seconds: f64 = value.get().expect("GObject has checked the type");
                pipeline.verify.every = Duration::from_secs_f64(seconds);
                self.set_rules(pipeline);
            }
            "deadline" => {
                let milliseconds: u32 = value.get().expect("GObject has checked the type");
                pipeline.deadline = (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()));
            }
            "policy" => {
                let policy = value.get().expect("GObject has checked the type");
                let before = std::mem::replace(&mut settings.policy, policy);
                // Under the lock, so that of two calls the later one holds for the threads too.
                self.set_policy(before, policy);
            }
            name => unreachable!("GObject knows no property {name}"),
        }
    }

    fn property(&self, _id: usize, pspec: &glib::ParamSpec) -> glib::Value {
        if pspec.name() == "stats" {
            return self.snapshot().map(|snapshot| structure(&snapshot)).to_value();
        }
        let settings = lock(&self.settings);
        let pipeline = &settings.pipeline;
        match pspec.name() {
            "models" => settings.models.to_value(),
            "threads" => settings.threads.to_value(),
            "place" => settings.place.to_value(),
            "precision" => settings.precision.to_value(),
            "look-ahead" => (pipeline.look_ahead as u32).to_value(),
            "scan" => (if pipeline.scan.thorough {
                Scan::Thorough
            } else {
                Scan::Sweep
            })
            .to_value(),
            "threshold" => pipeline.possible.to_value(),
            "min-face" => pipeline.trust.smallest_face.to_value(),
            "coast" => pipeline.track.coast.as_secs_f64().to_value(),
            "masks" => Polygon::join(&pipeline.zones.masked).to_value(),
            "covered-zones" => Polygon::join(&pipeline.zones.covered).to_value(),
            "verify" => pipeline.verify.every.as_secs_f64().to_value(),
            "deadline" => pipeline
                .deadline
                .map_or(0, |deadline| deadline.as_millis() as u32)
                .to_value(),
            "policy" => settings.policy.to_value(),
            "view" => settings.view.to_value(),
            name => unreachable!("GObject knows no property {name}"),
        }
    }
}

impl Persona {
    /// Polygons out of a property; the whole picture when one of them cannot be understood.
    fn zones(&self, name: &str, text: &str) -> Vec<Polygon> {
        Polygon::split(text).unwrap_or_else(|error| {
            gst::error!(CAT, imp = self, "{name}: {error}: the whole picture is meant");
            vec![Polygon::everything()]
        })
    }

    /// Tells the running pipeline; under the lock of the settings, so that of two calls the later one holds.
    fn set_rules(&self, settings: &pipeline::Settings) {
        if let Some(threads) = self.running() {
            threads.set_rules(settings.into());
            self.shared.key_frames.store(KEY_FRAMES, Ordering::Release);
        }
    }

    pub(super) fn change_rules(&self, policy: Policy, rules: Rules) {
        let mut settings = lock(&self.settings);
        let before = std::mem::replace(&mut settings.policy, policy);
        let pipeline = &mut settings.pipeline;
        pipeline.zones = rules.zones;
        pipeline.trust.smallest_face = rules.smallest_face;
        pipeline.verify.every = rules.verify_every;
        // The stricter of the two policies holds for a frame between the two changes.
        if policy as i32 > before as i32 {
            self.set_policy(before, policy);
            self.set_rules(pipeline);
        } else {
            self.set_rules(pipeline);
            self.set_policy(before, policy);
        }
    }

    fn set_policy(&self, before: Policy, policy: Policy) {
        let Some(threads) = self.running() else {
            return;
        };
        threads.set_policy(policy.into());
        // The enumeration goes from showing most to showing least.
        if policy as i32 > before as i32 {
            self.shared.key_frames.store(KEY_FRAMES, Ordering::Release);
        }
        gst::info!(CAT, imp = self, "policy {before:?} -> {policy:?}");
    }
}

/// The statistics as GStreamer applications read them.
fn structure(snapshot: &Snapshot) -> gst::Structure {
    let mut structure = gst::Structure::builder("persona-stats")
        .field("frames", snapshot.frames)
        .field("frames-covered", snapshot.frames_covered)
        .field("dropped", snapshot.dropped)
        .field("faces", snapshot.faces)
        .field("generated", snapshot.generated)
        .field("covered", snapshot.faces.saturating_sub(snapshot.generated))
        .field("verified", snapshot.distances.count())
        .field("similar", snapshot.similar)
        .field("unverifiable", snapshot.unverifiable)
        .field("fault", snapshot.fault)
        .build();
    for (stage, times) in &snapshot.stages {
        structure.set(format!("{stage}-time"), times.mean.as_nanos() as u64);
    }
    structure
}

impl GstObjectImpl for Persona {}

impl ElementImpl for Persona {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "Face anonymizer",
                "Filter/Effect/Video",
                "Replaces every face in a video by a natural-looking face of nobody, and covers what it cannot replace",
                "Persona",
            )
        });
        Some(&METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let ordinary = gst_video::VideoCapsBuilder::new()
                .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::Nv12])
                .build();
            let mut caps = gst::Caps::new_empty();
            let own = caps.get_mut().expect("nobody else has it");
            if let Some(feature) = FEATURE {
                let nvmm = gst_video::VideoCapsBuilder::new().features([feature]);
                own.append(nvmm.format(gst_video::VideoFormat::Nv12).build());
            }
            own.append(ordinary);
            [("sink", gst::PadDirection::Sink), ("src", gst::PadDirection::Src)]
                .into_iter()
                .map(|(name, direction)| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                        .expect("the caps are well formed")
                })
                .collect()
        });
        &TEMPLATES
    }

    fn change_state(
        &self,
        transition: gst::StateChange,
    ) -> Result<gst::StateChangeSuccess, gst::StateChangeError> {
        if transition == gst::StateChange::ReadyToPaused {
            self.start().map_err(|message| {
                self.post_error_message(message);
                gst::StateChangeError
            })?;
        }
        let success = self.parent_change_state(transition);
        // The pads are inactive now: nothing comes in and nothing can leave.
        let stopped = transition == gst::StateChange::PausedToReady;
        if stopped || (transition == gst::StateChange::ReadyToPaused && success.is_err()) {
            let threads = self
                .threads
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            // Waits for the threads, so not under the lock.
            drop(threads);
            lock(&self.stream).release();
            // The GPU's memory goes with it.
            *lock(&self.stream) = Stream::default();
            self.shared.reset();
        }
        success
    }
}
