//! The RTSP server of `--output rtsp://...`.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_rtsp_server as gst_rtsp_server;
use gstreamer_video as gst_video;

use super::{Error, Mount};

/// What the server makes for its clients; all of them share it. A network that is too slow loses old access units
/// rather than filling the memory.
const LAUNCH: &str = "( appsrc name=frames is-live=true format=time max-bytes=0 max-buffers=90 leaky-type=downstream ! \
                      rtph264pay name=pay0 pt=96 config-interval=-1 )";

/// A client's stream within the server.
struct Client {
    source: gst_app::AppSrc,
    /// From the encoder's time to the client's; unknown until its first key frame.
    offset: Option<gst::ClockTimeDiff>,
}

type Clients = Arc<Mutex<Vec<Client>>>;

/// Serves one H.264 stream. It keeps no picture: a new client waits for a key frame, which is asked for.
pub(super) struct Server {
    sink: gst_app::AppSink,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at the mount's address.
    ///
    /// # Errors
    /// [`Error::Address`] when the address cannot be listened at.
    pub(super) fn start(mount: &Mount) -> Result<Self, Error> {
        // Asked for here, because the launch line would only fail at the first client.
        super::elements::make("rtph264pay")?;
        let refuse = |reason: String| Error::Address {
            address: mount.to_string(),
            reason,
        };
        let clients = Clients::default();
        let sink = sink(&clients);

        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(LAUNCH);
        factory.set_shared(true);
        let encoder = sink.downgrade();
        factory.connect_media_configure(move |_, media| {
            let source = media
                .element()
                .downcast::<gst::Bin>()
                .ok()
                .and_then(|bin| bin.by_name("frames"))
                .and_then(|element| element.downcast::<gst_app::AppSrc>().ok());
            let (Some(source), Some(encoder)) = (source, encoder.upgrade()) else {
                return;
            };
            clients
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Client { source, offset: None });
            let key_frame = gst_video::UpstreamForceKeyUnitEvent::builder()
                .all_headers(true)
                .build();
            encoder.send_event(key_frame);
        });

        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address(&mount.host);
        server.set_service(&mount.port.to_string());
        let mounts = server
            .mount_points()
            .ok_or_else(|| refuse("the server has no mount points".into()))?;
        mounts.add_factory(&mount.path, factory);
        let context = glib::MainContext::new();
        server.attach(Some(&context)).map_err(|_| {
            refuse("cannot listen there; is the address one of this machine's, and the port free?".into())
        })?;
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let running = main_loop.clone();
        let thread = std::thread::Builder::new()
            .name("rtsp".into())
            .spawn(move || {
                // The server lives as long as its loop runs.
                let _server = server;
                running.run();
            })
            .map_err(|error| refuse(error.to_string()))?;
        log::info!("serving {mount}");
        Ok(Self {
            sink,
            main_loop,
            thread: Some(thread),
        })
    }

    /// What the server's clients can decode.
    pub(super) fn caps() -> gst::Caps {
        gst::Caps::builder("video/x-h264")
            .field("stream-format", "byte-stream")
            .field("alignment", "au")
            .build()
    }

    /// Where the encoded stream goes in.
    pub(super) fn sink(&self) -> &gst_app::AppSink {
        &self.sink
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

/// Hands every access unit to every client, at the client's own time.
fn sink(clients: &Clients) -> gst_app::AppSink {
    let (fed, ended) = (clients.clone(), clients.clone());
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            fed.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain_mut(|client| client.feed(&sample));
            Ok(gst::FlowSuccess::Ok)
        })
        .eos(move |_| {
            for client in ended.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                // A client that has gone needs no end.
                let _ = client.source.end_of_stream();
            }
        })
        .build();
    gst_app::AppSink::builder()
        .caps(&Server::caps())
        .callbacks(callbacks)
        .build()
}

impl Client {
    /// Passes an access unit on; `false` once the client has gone.
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
        // The bytes are shared, only the times are the client's own.
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
        let mount = Mount {
            host: "127.0.0.1".into(),
            port: 0,
            path: "/hall".into(),
        };
        let (done, wait) = channel();
        std::thread::spawn(move || {
            for _ in 0..50 {
                drop(Server::start(&mount).unwrap());
            }
            done.send(()).unwrap();
        });
        wait.recv_timeout(Duration::from_secs(20))
            .expect("every server ends");
    }
}
