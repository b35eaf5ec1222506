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
mod metrics;
mod output;
mod page;
mod recording;
mod report;
mod site;
mod slate;
pub mod status;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use board::sensors::Sensors;
use clap::Args;
use gst_rtsp_server::gio;
use gstreamer_rtsp_server as gst_rtsp_server;

use crate::networks::Pool;
use crate::panel::{self, Panel};
use crate::rtsp::{Listen, Server};
use camera::Supervisor;
use config::{Authentication, Camera, Config, Secret};
use output::{Output, WAITING};
use site::{Served, Site};
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
        listen: SocketAddr,
        /// Why not.
        reason: String,
    },
    /// The page cannot be served.
    #[error("page.listen: {listen}: cannot listen there: {source}")]
    Page {
        /// The address.
        listen: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The front panel cannot be used.
    #[error(transparent)]
    Panel(#[from] panel::Error),
    /// The networks are not there, or not what they should be.
    #[error(transparent)]
    Networks(#[from] crate::networks::Error),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}; is a limit on processes set?")]
    Thread(std::io::Error),
}

/// Serves until `interrupted` is set. `text` is the configuration as it was written, for the support bundle.
///
/// # Errors
/// When the box cannot start. Whatever happens later is put right, and told.
pub fn run(
    config: &Config,
    text: &str,
    panel: &panel::Options,
    interrupted: &AtomicBool,
) -> Result<(), Error> {
    let running = Running::start(config, text, panel)?;
    for stream in &running.site.streams {
        log::info!("{}: {}", stream.health.name(), stream.address);
    }
    while !interrupted.load(Ordering::Relaxed) {
        running.site.round(Instant::now());
        std::thread::sleep(ROUND);
    }
    running.site.finish();
    Ok(())
}

/// Time from one round of the main loop to the next.
const ROUND: Duration = Duration::from_millis(50);

/// A box at work; dropping it stops it in order.
struct Running {
    site: Arc<Site>,
    _streams: Vec<Stream>,
    _page: page::Server,
}

/// A stream's threads.
struct Stream {
    name: String,
    /// Closing it stops the camera's thread, and with it the output's.
    stop: Option<SyncSender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(config: &Config, text: &str, options: &panel::Options) -> Result<Self, Error> {
        // Every password is read before anything is opened.
        let logins = config
            .cameras()
            .map(|camera| camera.user.as_ref().map(|user| login(user, 1)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let operator = config.page.user.as_ref();
        let operator = operator.map(|user| login(user, Secret::LEAST)).transpose()?;
        let networks = Arc::new(Pool::load(config.networks.choice())?);
        let server = Server::start(listen(config)?).map_err(|error| Error::Rtsp {
            listen: config.rtsp.listen,
            reason: error.to_string(),
        })?;
        let (events, now) = (Arc::new(Events::default()), Instant::now());
        let served = config
            .cameras()
            .map(|camera| serve(config, camera, &server, &events, now))
            .collect();
        let sensors = || Sensors::find("/sys".as_ref(), "/proc".as_ref());
        // Without a button at the box there is still the page's.
        let panel = match Panel::open(options)? {
            Some(panel) => panel,
            None => Panel::start(board::Sim::default(), sensors(), None)?,
        };
        let site = Arc::new(Site::new(
            config,
            served,
            events,
            server,
            Arc::new(panel),
            sensors(),
            now,
        ));
        let streams = config
            .cameras()
            .zip(logins)
            .zip(&site.streams)
            .map(|((camera, login), served)| {
                Stream::start(config, camera, login, served, &site.panel, &networks)
            })
            .collect::<Result<_, _>>()?;
        let settings = page::Settings {
            listen: config.page.listen,
            hosts: config.page.hosts.clone(),
            operator,
            config: text.to_owned(),
        };
        let page = page::Server::start(settings, site.clone()).map_err(|source| Error::Page {
            listen: config.page.listen,
            source,
        })?;
        Ok(Self {
            site,
            _streams: streams,
            _page: page,
        })
    }
}

/// The lasting part of a stream.
fn serve(config: &Config, camera: &Camera, server: &Server, events: &Arc<Events>, now: Instant) -> Served {
    let mount = camera.mount();
    let scheme = if config.rtsp.tls.is_some() {
        "rtsps"
    } else {
        "rtsp"
    };
    let host = SocketAddr::new(config.rtsp.listen.ip(), server.port());
    Served {
        health: Arc::new(Health::new(camera.name.as_str(), now, events.clone())),
        feed: server.mount(&mount),
        address: format!("{scheme}://{host}{mount}"),
        recorded: camera.recording.is_some(),
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
        served: &Served,
        panel: &Arc<Panel>,
        networks: &Arc<Pool>,
    ) -> Result<Self, Error> {
        let name = camera.name.as_str();
        let (pictures, waiting) = sync_channel(WAITING);
        let (stop, stopped) = sync_channel(1);
        let health = served.health.clone();
        let output = Output::new(&config.site, camera.clone(), health.clone(), served.feed.clone());
        let supervisor = Supervisor {
            camera: camera.clone(),
            networks: networks.clone(),
            login,
            health,
            panel: panel.clone(),
            output: pictures,
            stop: stopped,
        };
        Ok(Self {
            name: name.into(),
            threads: vec![
                thread(format!("out {name}"), move || output.run(&waiting))?,
                thread(format!("in {name}"), move || supervisor.run())?,
            ],
            stop: Some(stop),
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("{}: a thread panicked", self.name);
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
