//! An RTSP camera on this machine that can be killed, silenced and brought back.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::gst_rtsp;
use gst_rtsp_server::prelude::*;
use gstreamer as gst;
use gstreamer_rtsp_server as gst_rtsp_server;

/// What the camera sends.
#[derive(Debug, Clone, Copy)]
pub enum Codec {
    H264,
    H265,
}

/// A bright test picture of 320x240 at 15 frames per second, and a tone, at `/camera`.
pub struct TestCamera {
    port: u16,
    silence: Arc<Mutex<Vec<gst::Element>>>,
    server: gst_rtsp_server::RTSPServer,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
}

impl TestCamera {
    /// Listens at `port`, or at any free one for 0; `login` is the name and password that it asks for.
    pub fn start(port: u16, codec: Codec, login: Option<(&str, &str)>) -> Self {
        Self::showing("smpte", port, codec, login)
    }

    /// As [`Self::start`], with another pattern of `videotestsrc`.
    pub fn showing(pattern: &str, port: u16, codec: Codec, login: Option<(&str, &str)>) -> Self {
        let encoder = match codec {
            Codec::H264 => "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph264pay",
            Codec::H265 => "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=15 ! rtph265pay",
        };
        let factory = gst_rtsp_server::RTSPMediaFactory::new();
        factory.set_launch(&format!(
            "( videotestsrc is-live=true pattern={pattern} ! video/x-raw,format=I420,width=320,height=240,framerate=15/1 ! \
             identity name=silence ! {encoder} name=pay0 pt=96 audiotestsrc is-live=true ! alawenc ! rtppcmapay name=pay1 pt=8 )"
        ));
        factory.set_shared(true);
        let silence = Arc::<Mutex<Vec<_>>>::default();
        let elements = silence.clone();
        factory.connect_media_configure(move |_, media| {
            let bin = media.element().downcast::<gst::Bin>().unwrap();
            elements.lock().unwrap().push(bin.by_name("silence").unwrap());
        });
        let server = gst_rtsp_server::RTSPServer::new();
        server.set_address("127.0.0.1");
        server.set_service(&port.to_string());
        if let Some((name, password)) = login {
            let auth = gst_rtsp_server::RTSPAuth::new();
            let token = gst_rtsp_server::RTSPToken::builder()
                .field("media.factory.role", "user")
                .build();
            auth.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
            auth.add_digest(name, password, &token);
            server.set_auth(Some(&auth));
            let role = gst::Structure::builder("user")
                .field("media.factory.access", true)
                .field("media.factory.construct", true)
                .build();
            factory.add_role_from_structure(&role);
        }
        server.mount_points().unwrap().add_factory("/camera", factory);
        let context = glib::MainContext::new();
        server.attach(Some(&context)).unwrap();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let running = main_loop.clone();
        let port = u16::try_from(server.bound_port()).unwrap();
        Self {
            port,
            silence,
            server,
            main_loop,
            thread: Some(std::thread::spawn(move || running.run())),
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops or goes on sending pictures; the connection stays.
    pub fn set_silent(&self, silent: bool) {
        let probability: f32 = if silent { 1.0 } else { 0.0 };
        for element in self.silence.lock().unwrap().iter() {
            element.set_property("drop-probability", probability);
        }
    }
}

impl Drop for TestCamera {
    /// Every connection breaks, and nobody listens any more.
    fn drop(&mut self) {
        let clients = |_: &gst_rtsp_server::RTSPServer, _: &gst_rtsp_server::RTSPClient| {
            gst_rtsp_server::RTSPFilterResult::Remove
        };
        self.server.client_filter(Some(&mut { clients }));
        let main_loop = self.main_loop.clone();
        glib::idle_source_new(None, glib::Priority::HIGH, move || {
            main_loop.quit();
            glib::ControlFlow::Break
        })
        .attach(Some(&self.main_loop.context()));
        self.thread.take().unwrap().join().unwrap();
    }
}
