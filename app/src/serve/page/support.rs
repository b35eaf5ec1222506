//! What a person who helps from afar needs to know: numbers and words, never a pixel or a password.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use gstreamer as gst;
use serde_json::{Value, json};

use super::{Visits, describe};
use crate::check::hardware;
use crate::serve::metrics;
use crate::serve::site::Site;

/// The bundle. Passwords stand in files of their own, so the configuration can be in it whole.
pub(super) fn bundle(site: &Arc<Site>, visits: &Arc<Visits>) -> Value {
    let hardware: Vec<_> = hardware(Path::new("/"))
        .into_iter()
        .map(|row| format!("{}: {}", row.what, row.note))
        .collect();
    let kernel = std::fs::read_to_string("/proc/version").unwrap_or_default();
    json!({
        "persona": env!("CARGO_PKG_VERSION"),
        "gstreamer": gst::version_string().to_string(),
        "kernel": kernel.trim(),
        "hardware": hardware,
        "configuration": site.config(),
        "status": describe(site, Instant::now()),
        "metrics": metrics::text(site, visits).unwrap_or_default(),
    })
}
