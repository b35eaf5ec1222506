//! An RTSP server for anonymized streams: several mounts, one encoder each, many viewers.
//!
//! The server keeps no picture: what an encoder gives goes to whoever watches at that moment, and a new viewer waits for
//! a key frame, which is asked for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::gio::prelude::TlsCertificateExt;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{gio, gst_rtsp};
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_video as gst_video;

/// What the server makes for its viewers; all of a mount's share it. A network that is too slow loses old access units
/// rather than filling the memory.
const LAUNCH: &str = "( appsrc name=frames is-live=true format=time max-bytes=0 max-buffers=90 leaky-type=downstream ! \
                      rtph264pay name=pay0 pt=96 config-interval=-1 )";
/// The role of those who may watch.
const VIEWER: &str = "viewer";

/// Where to listen, and who may come in.
#[derive(Default)]
pub(crate) struct Listen {
    /// Address of this machine.
    pub(crate) host: String,
    /// TCP port; 0 for any free one.
    pub(crate) port: u16,
    /// Names and passwords of those who may watch; without any, everybody may.
    pub(crate) viewers: Vec<(String, String)>,
    /// Let the password travel in the clear (RFC 2617 Basic) rather than not at all (Digest).
    pub(crate) basic: bool,
    /// Certificate and private key, to serve `rtsps://` and nothing else.
    pub(crate) tls: Option<gio::TlsCertificate>,
    /// Most viewers at one time.
    pub(crate) most: Option<u32>,
}

/// Who may come in, for comparing.
#[derive(Clone, PartialEq)]
struct Access {
    viewers: Vec<(String, String)>,
    basic: bool,
    /// PEM, without the key.
    certificate: Option<glib::GString>,
    most: Option<u32>,
}

impl Access {
    fn of(listen: &Listen) -> Self {
        Self {
            viewers: listen.viewers.clone(),
            basic: listen.basic,
            certificate: listen.tls.as_ref().and_then(TlsCertificateExt::certificate_pem),
            most: listen.most,
        }
    }
}

/// A running server.
pub(crate) struct Server {
    server: gst_rtsp_server::RTSPServer,
    mounts: gst_rtsp_server::RTSPMountPoints,
    sessions: Option<gst_rtsp_server::RTSPSessionPool>,
    access: Mutex<Access>,
    port: u16,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
}

/// Why it cannot be served, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refused(String);

impl Server {
    /// Listens; there is nothing to watch yet.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub(crate) fn start(listen: Listen) -> Result<Self, Refused> {
        let refuse = |reason: &str| Refused(reason.to_owned());
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address(&listen.host);
        server.set_service(&listen.port.to_string());
        server.set_auth(auth(&listen).as_ref());
        let sessions = server.session_pool();
        if let (Some(sessions), Some(most)) = (&sessions, listen.most) {
            sessions.set_max_sessions(most);
        }
        let mounts = server
            .mount_points()
            .ok_or_else(|| refuse("the server has no mount points"))?;
        let context = glib::MainContext::new();
        server.attach(Some(&context)).map_err(|_| {
            refuse("cannot listen there; is the address one of this machine's, and the port free?")
        })?;
        let port = u16::try_from(server.bound_port()).unwrap_or(listen.port);
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let running = main_loop.clone();
        let cleaned = sessions.clone();
        let served = server.clone();
        let thread = std::thread::Builder::new()
            .name("rtsp".into())
            .spawn(move || {
                // The server lives as long as its loop runs.
                let _server = served;
                // Viewers that have gone without a word are forgotten after their session's time.
                let sweep = glib::timeout_source_new_seconds(5, None, glib::Priority::LOW, move || {
                    if let Some(sessions) = &cleaned {
                        sessions.cleanup();
                    }
                    glib::ControlFlow::Continue
                });
                sweep.attach(Some(&running.context()));
                running.run();
                sweep.destroy();
            })
            .map_err(|error| Refused(error.to_string()))?;
        Ok(Self {
            server,
            mounts,
            sessions,
            access: Mutex::new(Access::of(&listen)),
            port,
            main_loop,
            thread: Some(thread),
        })
    }

    /// Takes over who may come in, how, and how many; address and port stay. When names, passwords or the way to prove them
    /// are others, all viewers are sent away, so that nobody stays who would not be let in; a certificate is for those who
    /// come later. Says whether anything is different.
    pub(crate) fn set(&self, listen: Listen) -> bool {
        let after = Access::of(&listen);
        let before = std::mem::replace(&mut *lock(&self.access), after.clone());
        if before == after {
            return false;
        }
        self.server.set_auth(auth(&listen).as_ref());
        if let (Some(sessions), Some(most)) = (&self.sessions, listen.most) {
            sessions.set_max_sessions(most);
        }
        if (before.viewers, before.basic) != (after.viewers, after.basic) {
            let client = |_: &gst_rtsp_server::RTSPServer, _: &gst_rtsp_server::RTSPClient| {
                gst_rtsp_server::RTSPFilterResult::Remove
            };
            self.server.client_filter(Some(&mut { client }));
            if let Some(sessions) = &self.sessions {
                // One whose pictures go over UDP outlives its connection.
                let session = |_: &gst_rtsp_server::RTSPSessionPool, _: &gst_rtsp_server::RTSPSession| {
                    gst_rtsp_server::RTSPFilterResult::Remove
                };
                sessions.filter(Some(&mut { session }));
            }
        }
        true
    }

    /// A path at which a stream can be watched.
    pub(crate) fn mount(&self, path: &str) -> Feed {
        let feed = Feed::default();
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(LAUNCH);
        factory.set_shared(true);
        factory.set_protocols(
            gst_rtsp::RTSPLowerTrans::TCP | gst_rtsp::RTSPLowerTrans::UDP | gst_rtsp::RTSPLowerTrans::TLS,
        );
        // Of no meaning while nobody is asked who they are.
        let viewer = gst::Structure::builder(VIEWER)
            .field("media.factory.access", true)
            .field("media.factory.construct", true)
            .build();
        factory.add_role_from_structure(&viewer);
        let viewers = feed.clone();
        factory.connect_media_configure(move |_, media| {
            let source = media
                .element()
                .downcast::<gst::Bin>()
                .ok()
                .and_then(|bin| bin.by_name("frames"))
                .and_then(|element| element.downcast::<gst_app::AppSrc>().ok());
            if let Some(source) = source {
                viewers.join(source);
            }
        });
        self.mounts.add_factory(path, factory);
        feed
    }

    /// Takes a path away; who watches there is told that the stream has ended when its feed ends.
    pub(crate) fn unmount(&self, path: &str) {
        self.mounts.remove_factory(path);
    }

    /// Port that is listened at.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Viewers at this moment, over all mounts.
    pub(crate) fn viewers(&self) -> u32 {
        self.sessions.as_ref().map_or(0, |sessions| sessions.n_sessions())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // From inside of the loop: one that has not begun to run would not notice.
        let main_loop = self.main_loop.clone();
        glib::idle_source_new(None, glib::Priority::HIGH, move || {
            main_loop.quit();
            glib::ControlFlow::Break
        })
        .attach(Some(&self.main_loop.context()));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the RTSP server's thread panicked");
        }
    }
}

/// `None` when everybody may watch.
fn auth(listen: &Listen) -> Option<gst_rtsp_server::RTSPAuth> {
    if listen.viewers.is_empty() && listen.tls.is_none() {
        return None;
    }
    let auth = gst_rtsp_server::RTSPAuth::new();
    auth.set_realm(Some("Persona"));
    auth.set_tls_certificate(listen.tls.as_ref());
    let mut token = gst_rtsp_server::RTSPToken::builder()
        .field("media.factory.role", VIEWER)
        .build();
    if listen.viewers.is_empty() {
        // TLS without users: everybody who comes is nobody in particular, and may watch.
        auth.set_default_token(Some(&mut token));
    }
    auth.set_supported_methods(if listen.basic {
        gst_rtsp::RTSPAuthMethod::Basic
    } else {
        gst_rtsp::RTSPAuthMethod::Digest
    });
    for (name, password) in &listen.viewers {
        if listen.basic {
            auth.add_basic(&gst_rtsp_server::RTSPAuth::make_basic(name, password), &token);
        } else {
            auth.add_digest(name, password, &token);
        }
    }
    Some(auth)
}

/// What the encoder of a mount fills.
#[derive(Clone, Default)]
pub(crate) struct Feed(Arc<Mount>);

#[derive(Default)]
struct Mount {
    viewers: Mutex<Vec<Viewer>>,
    /// The encoder's end, which is asked for key frames.
    encoder: Mutex<Option<glib::WeakRef<gst_app::AppSink>>>,
    bytes: AtomicU64,
}

/// A viewer's stream within the server.
struct Viewer {
    source: gst_app::AppSrc,
    /// From the encoder's time to the viewer's; unknown until its first key frame.
    offset: Option<gst::ClockTimeDiff>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// What viewers can decode: the form in which access units are handed over.
    pub(crate) fn caps() -> gst::Caps {
        gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .build()
    }

    /// Where an encoder's stream goes in. A new encoder takes the place of the one before.
    pub(crate) fn sink(&self) -> gst_app::AppSink {
        let (fed, ended) = (self.clone(), self.clone());
        let callbacks = gst_app::AppSinkCallbacks::builder()
            .new_sample(move |sink| {
                let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                fed.push(&sample);
                Ok(gst::FlowSuccess::Ok)
            })
            .eos(move |_| ended.end())
            .build();
        let sink = gst_app::AppSink::builder()
            .caps(&Self::caps())
            .callbacks(callbacks)
            .build();
        self.attach(&sink);
        sink
    }

    /// Lets `encoder` be asked for key frames from now on; its times have nothing to do with those of the one before.
    pub(crate) fn attach(&self, encoder: &gst_app::AppSink) {
        *lock(&self.0.encoder) = Some(encoder.downgrade());
        for viewer in lock(&self.0.viewers).iter_mut() {
            viewer.offset = None;
        }
    }

    /// Hands an access unit to every viewer, at the viewer's own time.
    pub(crate) fn push(&self, sample: &gst::Sample) {
        let bytes = sample.buffer().map_or(0, gst::BufferRef::size) as u64;
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        lock(&self.0.viewers).retain_mut(|viewer| viewer.feed(sample));
    }

    /// Ends the stream for every viewer.
    pub(crate) fn end(&self) {
        for viewer in lock(&self.0.viewers).drain(..) {
            // A viewer that has gone needs no end.
            let _ = viewer.source.end_of_stream();
        }
    }

    /// Bytes of encoded video so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    fn join(&self, source: gst_app::AppSrc) {
        lock(&self.0.viewers).push(Viewer { source, offset: None });
        let encoder = lock(&self.0.encoder).as_ref().and_then(glib::WeakRef::upgrade);
        if let Some(encoder) = encoder {
            let key_frame = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            encoder.send_event(key_frame);
        }
    }
}

impl Viewer {
    /// Passes an access unit on; `false` once the viewer has gone.
    fn feed(&mut self, sample: &gst::Sample) -> bool {
        let (Some(buffer), Some(caps)) = (sample.buffer(), sample.caps()) else {
            return true;
        };
        let Some(time) = buffer.pts() else {
            return true;
        };
        let offset = match self.offset {
            Some(offset) => offset,
            None if buffer.flags().contains(gst::BufferFlags::DELTA_UNIT) => return true,
            None => {
                let Some(now) = self.source.current_running_time() else {
                    return true;
                };
                self.source.set_caps(Some(&caps.to_owned()));
                let offset = now.nseconds() as i64 - time.nseconds() as i64;
                *self.offset.insert(offset)
            }
        };
        // The bytes are shared, only the times are the viewer's own.
        let mut copy = buffer.to_owned();
        let shift = |time: gst::ClockTime| {
            gst::ClockTime::from_nseconds(time.nseconds().saturating_add_signed(offset))
        };
        let copy_ref = copy.make_mut();
        copy_ref.set_pts(buffer.pts().map(shift));
        copy_ref.set_dts(buffer.dts().map(shift));
        self.source.push_buffer(copy).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_server_ends_even_before_its_loop_runs() {
        gst::init().unwrap();
        let (done, wait) = channel();
        std::thread::spawn(move || {
            for _ in 0..50 {
                let listen = Listen {
                    host: "127.0.0.1".into(),
                    ..Listen::default()
                };
                let server = Server::start(listen).unwrap();
                assert_ne!(server.port(), 0);
                server.mount("/hall");
            }
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(20))
            .expect("every server ends");
    }
}
