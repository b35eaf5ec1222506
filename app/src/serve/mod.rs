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
mod reload;
mod report;
mod site;
mod slate;
pub mod status;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use board::sensors::Sensors;
use clap::Args;
use gst_rtsp_server::gio;
use gstreamer_rtsp_server as gst_rtsp_server;

use crate::networks::Pool;
use crate::panel::{self, Panel};
use crate::rtsp::{Feed, Listen, Server};
use camera::Supervisor;
use config::{Authentication, Camera, Certificate, Config, Secret};
use output::{Output, WAITING};
use site::{Served, Site};
use status::{Health, Lost};

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
    /// A certificate or its key cannot be used.
    #[error(transparent)]
    UnusableCertificate(#[from] config::UnusableCertificate),
    /// The certificate or its key cannot be used for streams.
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
    /// The system gives no signals.
    #[error("signals cannot be watched: {0}")]
    Signal(std::io::Error),
    /// The system gives no thread.
    #[error("a thread cannot be started: {0}; is a limit on processes set?")]
    Thread(std::io::Error),
}

/// Serves what the configuration at `path` says until `interrupted` is set. SIGHUP makes it read the configuration anew.
///
/// # Errors
/// When the box cannot start. Whatever happens later is put right, and told.
pub fn run(path: &Path, panel: &panel::Options, interrupted: &AtomicBool) -> Result<(), Error> {
    let hangup = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, hangup.clone()).map_err(Error::Signal)?;
    let (config, text) = Config::read_with_text(path)?;
    let mut running = Running::start(config, text, panel)?;
    for stream in &running.streams {
        log::info!("{}: {}", stream.camera.name, stream.served.address);
    }
    while !interrupted.load(Ordering::Relaxed) {
        if hangup.swap(false, Ordering::Relaxed) {
            running.reload(path);
        }
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
    config: Config,
    networks: Arc<Pool>,
    site: Arc<Site>,
    streams: Vec<Stream>,
    page: page::Server,
}

/// A stream's threads.
struct Stream {
    camera: Camera,
    login: Option<(String, Secret)>,
    served: Arc<Served>,
    /// Ended with the stream, unless another one follows it.
    feed: Feed,
    /// Closing it stops the camera's thread, and with it the output's.
    orders: Option<Sender<Camera>>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(config: Config, text: String, options: &panel::Options) -> Result<Self, Error> {
        // Every password is read before anything is opened.
        let logins = config.cameras().map(login_of).collect::<Result<Vec<_>, _>>()?;
        let settings = page::Settings::read(&config.page)?;
        let networks = Arc::new(Pool::load(config.networks.choice())?);
        let server = Server::start(listen(&config)?).map_err(|error| Error::Rtsp {
            listen: config.rtsp.listen,
            reason: error.to_string(),
        })?;
        let sensors = || Sensors::find("/sys".as_ref(), "/proc".as_ref());
        // Without a button at the box there is still the page's.
        let panel = match Panel::open(options)? {
            Some(panel) => panel,
            None => Panel::start(board::Sim::default(), sensors(), None)?,
        };
        let site = Arc::new(Site::new(
            &config,
            text.clone(),
            Arc::default(),
            server,
            Arc::new(panel),
            sensors(),
            Instant::now(),
        ));
        let streams = config
            .cameras()
            .zip(logins)
            .map(|(camera, login)| {
                let served = Arc::new(served(&config, camera, &site));
                Stream::start(&config, camera.clone(), login, served, &site.panel, &networks)
            })
            .collect::<Result<Vec<_>, _>>()?;
        site.set_streams(streams.iter().map(|stream| stream.served.clone()).collect(), text);
        if config.page.is_in_the_clear() {
            site.events.note("page", in_the_clear(&config.page));
        }
        let page = page::Server::start(settings, site.clone()).map_err(|source| Error::Page {
            listen: config.page.listen,
            source,
        })?;
        Ok(Self {
            config,
            networks,
            site,
            streams,
            page,
        })
    }
}

/// The lasting part of a stream.
fn served(config: &Config, camera: &Camera, site: &Site) -> Served {
    let mount = camera.mount();
    let health = Health::new(camera.name.as_str(), Instant::now(), site.events.clone());
    Served {
        health: Arc::new(health),
        feed: site.server.mount(&mount),
        address: address(config, &site.server, &mount),
        recorded: camera.recording.is_some(),
    }
}

/// Where viewers find a stream.
fn address(config: &Config, server: &Server, mount: &str) -> String {
    let scheme = if config.rtsp.tls.is_some() {
        "rtsps"
    } else {
        "rtsp"
    };
    let host = SocketAddr::new(config.rtsp.listen.ip(), server.port());
    format!("{scheme}://{host}{mount}")
}

/// What an operator should know of a page that others on the way can read.
pub(crate) fn in_the_clear(page: &config::Page) -> String {
    format!(
        "page.listen: {} is served without TLS: others in the network can read its password and pictures; add [page.tls]",
        page.listen
    )
}

/// Who the box is to a camera.
fn login_of(camera: &Camera) -> Result<Option<(String, Secret)>, Error> {
    camera.user.as_ref().map(|user| login(user, 1)).transpose()
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
        Certificate::read(tls)?;
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
        camera: Camera,
        login: Option<(String, Secret)>,
        served: Arc<Served>,
        panel: &Arc<Panel>,
        networks: &Arc<Pool>,
    ) -> Result<Self, Error> {
        let name = camera.name.as_str();
        let (pictures, waiting) = sync_channel(WAITING);
        let (orders, received) = channel();
        let health = served.health.clone();
        let output = Output::new(&config.site, camera.clone(), health.clone(), served.feed.clone());
        let supervisor = Supervisor {
            camera: camera.clone(),
            networks: networks.clone(),
            login: login.clone(),
            health,
            panel: panel.clone(),
            output: pictures,
            orders: received,
        };
        let threads = vec![
            thread(format!("out {name}"), move || output.run(&waiting))?,
            thread(format!("in {name}"), move || supervisor.run())?,
        ];
        Ok(Self {
            feed: served.feed.clone(),
            camera,
            login,
            served,
            orders: Some(orders),
            threads,
        })
    }

    /// Other rules for the faces, from one frame to the next.
    fn set_rules(&mut self, camera: &Camera) {
        self.camera = camera.clone();
        if let Some(orders) = &self.orders {
            // A thread that has ended has no faces.
            let _ = orders.send(camera.clone());
        }
    }

    /// Tells the threads to end.
    fn stop(&mut self) {
        self.orders = None;
    }

    /// Waits for the threads.
    fn join(&mut self) {
        self.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("{}: a thread panicked", self.camera.name);
            }
        }
    }

    /// Ends the threads and gives what lasts to the stream that follows with the camera `next`: counters and viewers.
    /// `None` when viewers will find it elsewhere.
    fn leave(mut self, next: &Camera, server: &Server) -> Option<Arc<Served>> {
        self.join();
        if self.camera.mount() != next.mount() {
            server.unmount(&self.camera.mount());
            return None;
        }
        let served = self.served.clone();
        served.health.set_camera(Some(Lost::Connecting), Instant::now());
        Some(Arc::new(Served {
            health: served.health.clone(),
            feed: std::mem::take(&mut self.feed),
            address: served.address.clone(),
            recorded: next.recording.is_some(),
        }))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.join();
        self.feed.end();
    }
}

fn thread(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    std::thread::Builder::new()
        .name(name)
        .spawn(work)
        .map_err(Error::Thread)
}
