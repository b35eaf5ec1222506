//! `persona serve`: cameras in, anonymized streams out, for months.
//!
//! ```text
//! camera ─► connection (comes and goes) ─► persona ─► output (always there) ─► encoder ─┬─► RTSP mount
//!            thread "in NAME"                          thread "out NAME"                └─► MP4 files
//! ```
//! Every camera is a stream of its own: two threads, two GStreamer pipelines and a bounded queue between them. What
//! fails is made anew where it failed: a connection with growing pauses for ever, an encoder or a recording after a
//! short rest. The process does not restart, the other streams do not notice, and viewers keep their connection and see
//! a slate with the reason.

mod camera;
pub mod config;
mod output;
mod recording;
mod slate;
pub mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::Args;
use engines::models::Store;
use gst_rtsp_server::gio;
use gstreamer_rtsp_server as gst_rtsp_server;

use crate::panel::{self, Panel};
use crate::rtsp::{Listen, Server};
use camera::Supervisor;
use config::{Authentication, Camera, Config, Secret};
use output::{Output, WAITING};
use status::{Events, Health};

/// What `persona serve` is told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The configuration (docs/configuration.md); begin with the one that --starter prints
    #[arg(long, value_name = "FILE", required_unless_present = "starter")]
    pub config: Option<PathBuf>,

    /// Print a configuration to begin with, every key explained
    #[arg(long)]
    pub starter: bool,

    /// The box's front panel
    #[command(flatten, next_help_heading = "Front panel")]
    pub panel: panel::Options,
}

/// Why a box cannot start; one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A password cannot be used.
    #[error(transparent)]
    Password(#[from] config::Unusable),
    /// The certificate or its key cannot be used.
    #[error("{certificate}, {key}: cannot serve with this certificate: {reason}", certificate = certificate.display(), key = key.display())]
    Certificate {
        /// The certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The streams cannot be served.
    #[error("rtsp.listen: {listen}: {reason}")]
    Rtsp {
        /// The address.
        listen: std::net::SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The networks are not there, or not what they should be.
    #[error(transparent)]
    Networks(#[from] crate::networks::Error),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}; is a limit on processes set?")]
    Thread(std::io::Error),
}

/// Serves until `interrupted` is set. Every stream stands under the front panel, if there is one.
///
/// # Errors
/// When the box cannot start. Whatever happens later is put right, and told.
pub fn run(config: &Config, panel: Option<Arc<Panel>>, interrupted: &AtomicBool) -> Result<(), Error> {
    let running = Running::start(config, panel.as_ref())?;
    for stream in &running.streams {
        log::info!("{}: {}", stream.health.name(), stream.address);
    }
    while !interrupted.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A box at work; dropping it stops it in order.
struct Running {
    streams: Vec<Stream>,
    _server: Server,
}

/// A stream at work.
struct Stream {
    health: Arc<Health>,
    address: String,
    /// Closing it stops the camera's thread.
    stop: Option<SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(config: &Config, panel: Option<&Arc<Panel>>) -> Result<Self, Error> {
        let events = Arc::new(Events::default());
        let networks = Store::open(&config.networks.folder).map_err(crate::networks::Error::from)?;
        let usable = networks
            .verify()
            .into_iter()
            .try_for_each(|network| network.state);
        usable.map_err(crate::networks::Error::from)?;
        // Every password is read before anything is opened.
        let logins = config
            .cameras()
            .map(|camera| camera.user.as_ref().map(|user| login(user, 1)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let server = Server::start(listen(config)?).map_err(|error| Error::Rtsp {
            listen: config.rtsp.listen,
            reason: error.to_string(),
        })?;
        let streams = config
            .cameras()
            .zip(logins)
            .map(|(camera, login)| Stream::start(config, camera, login, panel, &server, &events))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            streams,
            _server: server,
        })
    }
}

fn login(user: &config::User, least: usize) -> Result<(String, Secret), Error> {
    let password = Secret::read(&user.password_file, least)?;
    Ok((user.name.clone(), password))
}

fn listen(config: &Config) -> Result<Listen, Error> {
    let rtsp = &config.rtsp;
    let viewers = rtsp
        .user
        .iter()
        .map(|user| login(user, Secret::LEAST).map(|(name, password)| (name, password.reveal().to_owned())))
        .collect::<Result<_, _>>()?;
    let certificate = |tls: &config::Tls| {
        gio::TlsCertificate::from_files(&tls.certificate, &tls.key).map_err(|error| Error::Certificate {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            reason: error.message().to_owned(),
        })
    };
    Ok(Listen {
        host: rtsp.listen.ip().to_string(),
        port: rtsp.listen.port(),
        viewers,
        basic: rtsp.authentication == Authentication::Basic,
        tls: rtsp.tls.as_ref().map(certificate).transpose()?,
        most: Some(rtsp.most_viewers),
    })
}

impl Stream {
    fn start(
        config: &Config,
        camera: &Camera,
        login: Option<(String, Secret)>,
        panel: Option<&Arc<Panel>>,
        server: &Server,
        events: &Arc<Events>,
    ) -> Result<Self, Error> {
        let name = camera.name.as_str();
        let health = Arc::new(Health::new(name, Instant::now(), events.clone()));
        let mount = camera.mount();
        let scheme = if config.rtsp.tls.is_some() {
            "rtsps"
        } else {
            "rtsp"
        };
        let address = format!("{scheme}://{}:{}{mount}", config.rtsp.listen.ip(), server.port());
        let (pictures, waiting) = sync_channel(WAITING);
        let (stop, stopped) = sync_channel(1);
        let output = Output::new(&config.site, camera.clone(), health.clone(), server.mount(&mount));
        let supervisor = Supervisor {
            camera: camera.clone(),
            networks: config.networks.clone(),
            panel: panel.cloned(),
            login,
            health: health.clone(),
            output: pictures,
            stop: stopped,
        };
        let threads = vec![
            thread(format!("out {name}"), move || output.run(&waiting))?,
            thread(format!("in {name}"), move || supervisor.run())?,
        ];
        Ok(Self {
            health,
            address,
            stop: Some(stop),
            threads,
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("{}: a thread panicked", self.health.name());
            }
        }
    }
}

fn thread(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map_err(Error::Thread)
}
