//! The GStreamer element `persona`: raw video in, anonymized video out.
//!
//! ```text
//! gst-launch-1.0 --gst-plugin-path=target/release filesrc location=in.mp4 ! decodebin ! videoconvert ! \
//!     persona ! x264enc ! mp4mux ! filesink location=out.mp4
//! ```
//! `gst-inspect-1.0 persona` describes its properties. The program links the same plugin ([`register`]).
//!
//! # What it does with a stream
//! * Caps are `video/x-raw`, I420 or NV12, the same on both pads. Pixels change in place: a buffer that somebody else
//!   holds too (a decoder keeps its reference frames) is copied once into a pooled buffer, every other one never.
//! * On a GPU (properties `place` and `precision`) also `video/x-raw(memory:NVMM), format=NV12`, in place: the buffers of a
//!   Jetson's camera, decoder and converter. One that somebody else holds too is dropped: put `nvvidconv` before the
//!   element. Pixels of ordinary buffers are copied to memory that the GPU sees, and back.
//! * Buffers leave in order with their own time stamps, later by the look-ahead and the processing; the answer to the
//!   latency query says by how much. Serialised events wait for the buffers before them; at the end of the stream and
//!   at new caps every held buffer leaves first. Requests for a key frame do not wait, and gap events, one for each
//!   lost RTP packet, are dropped: either would empty the look-ahead.
//! * **Only pictures and their timing pass.** Tags, tables of contents and stream collections (titles, places, cover
//!   pictures), every buffer meta but the video meta, and events of unknown kinds are dropped.
//! * When less may be shown than before (another policy, a fault), the encoder is asked for a key frame, so that no
//!   later frame is predicted from an earlier one.
//! * The property `view` covers everything, or makes it a black slate, whatever the policy.
//! * A frame that cannot be anonymized is covered; one whose memory cannot be reached is dropped.

#[cfg(feature = "tensorrt")]
mod gpu;
#[cfg(not(feature = "tensorrt"))]
#[path = "no_gpu.rs"]
mod gpu;
mod imp;
mod pixels;

use std::sync::Arc;

use gst::glib;
use gst::prelude::*;
use gst::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video as gst_video;

pub(crate) use gpu::Gpu;
pub use imp::{Policy, Scan, View};
pub use pixels::VideoBuffer;

use crate::networks::Loaded;
use crate::pipeline::{Rules, Snapshot, Vitals};

glib::wrapper! {
    /// The element. Make one with `gst::ElementFactory::make("persona")` after [`register`].
    pub struct Persona(ObjectSubclass<imp::Persona>) @extends gst::Element, gst::Object;
}

impl Persona {
    /// Lets the element use these networks, which others use too, rather than load its own; from its next start on.
    pub fn set_engines(&self, engines: Arc<Loaded>) {
        self.imp().set_engines(engines);
    }

    /// What was done since the element left the READY state; `None` in READY and NULL.
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.imp().snapshot()
    }

    /// Changes what may be shown, over the policy; holds for frames that are already inside, too. The element has no
    /// way to show a raw picture: [`board::View::Raw`] is anonymized.
    pub fn set_view(&self, view: board::View) {
        self.imp().set_view(view);
    }

    /// Changes the properties `policy`, `masks`, `covered-zones`, `min-face` and `verify` together, in every state. No
    /// frame is treated by less than the rules of before or the new ones.
    pub fn set_rules(&self, policy: Policy, rules: Rules) {
        self.imp().change_rules(policy, rules);
    }

    /// Changes how much work frames are given, in PAUSED and PLAYING.
    pub fn set_rung(&self, rung: board::Rung) {
        self.imp().set_rung(rung);
    }

    /// The few numbers that say whether all is well; `None` in READY and NULL, where the networks are not loaded.
    pub fn vitals(&self) -> Option<Vitals> {
        self.imp().vitals()
    }
}

/// Whether an event carries nothing but the timing and the shape of pictures.
///
/// Tags hold titles, places and cover pictures, tables of contents hold chapter names, a stream collection holds tags
/// again. What an unknown event holds is unknown, so it does not pass either.
pub fn may_pass(event: &gst::EventRef) -> bool {
    use gst::EventType;
    match event.type_() {
        EventType::CustomDownstream => gst_video::ForceKeyUnitEvent::is(event),
        EventType::FlushStart
        | EventType::FlushStop
        | EventType::StreamStart
        | EventType::Caps
        | EventType::Segment
        | EventType::Buffersize
        | EventType::StreamGroupDone
        | EventType::InstantRateChange
        | EventType::SegmentDone
        | EventType::Gap
        | EventType::Eos => true,
        _ => false,
    }
}

/// What GStreamer looks for in a plugin's library.
#[allow(missing_docs, reason = "the macro writes items without documentation")]
mod plugin {
    use super::*;

    fn init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
        gst::Element::register(Some(plugin), "persona", gst::Rank::NONE, Persona::static_type())
    }

    gst::plugin_define!(
        persona,
        "Replaces every face in live video by a natural-looking face of nobody",
        init,
        env!("CARGO_PKG_VERSION"),
        "MIT/X11",
        "persona",
        "persona",
        "persona"
    );
}

/// Makes the element known to GStreamer in this process.
///
/// # Errors
/// When GStreamer refuses the plugin.
pub fn register() -> Result<(), glib::BoolError> {
    plugin::plugin_desc::plugin_register_static()
}
