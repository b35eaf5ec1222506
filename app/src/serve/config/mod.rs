//! The configuration of the box: one TOML file, read whole or refused whole.
//!
//! docs/configuration.md explains every key, `docs/persona.toml` is a file to begin with. A key that is not known is
//! refused, because a misspelt `policy` would otherwise mean "the default". Passwords stand in files of their own, so
//! that the configuration can be shown to anybody. Relative paths count from the configuration's folder.

mod address;
mod certificate;
mod secret;
mod text;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engines::models::default_dir;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

pub use address::{Mount, Name, Source};
pub use certificate::{Certificate, UnusableCertificate};
pub use secret::{Secret, Unusable};

use super::report::default_folder;
use crate::networks::{Choice, GpuPrecision, Place};
use crate::pipeline::{Polygon, Rules, Settings, Zones};
use crate::run::{Encoding, PolicyName, Preset, Size};

/// A file to begin with, every key in it explained.
pub const STARTER: &str = include_str!("../../../../docs/persona.toml");

/// Why a configuration is refused: one sentence with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{path}: cannot read the configuration: {source}", path = path.display())]
    Read {
        /// The configuration.
        path: PathBuf,
        /// The system's own words.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{path}:{line}: {what}", path = path.display())]
    Wrong {
        /// The configuration.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// The key, what is wrong with it and what to do.
        what: String,
    },
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the box, for the page and the slates.
    #[serde(default = "site")]
    pub site: String,
    /// The networks.
    #[serde(default)]
    pub networks: Networks,
    /// How streams are served.
    #[serde(default)]
    pub rtsp: Rtsp,
    /// The operator's page and the telemetry.
    #[serde(default)]
    pub page: Page,
    /// The daily privacy report.
    #[serde(default)]
    pub report: Report,
    /// The cameras, one stream each.
    #[serde(default)]
    pub camera: Vec<Spanned<Camera>>,
}

fn site() -> String {
    "Persona".into()
}

/// `[networks]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Networks {
    /// Folder with the networks.
    pub folder: PathBuf,
    /// Threads that each network computes with on the processor.
    #[serde(deserialize_with = "whole::<_, 1, 64>")]
    pub threads: u32,
    /// Where pixels and networks are.
    pub place: Place,
    /// What the networks compute with on a GPU.
    pub precision: GpuPrecision,
}

impl Default for Networks {
    fn default() -> Self {
        Self {
            folder: default_dir(),
            threads: 1,
            place: Place::default(),
            precision: GpuPrecision::default(),
        }
    }
}

impl Networks {
    /// Which networks to load, and where.
    pub(crate) fn choice(&self) -> Choice {
        Choice {
            folder: self.folder.clone(),
            place: self.place,
            precision: self.precision,
            threads: self.threads as usize,
        }
    }
}

/// `[rtsp]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rtsp {
    /// Address and port to listen at.
    pub listen: SocketAddr,
    /// How viewers prove who they are.
    pub authentication: Authentication,
    /// Most viewers at one time, over all streams.
    #[serde(deserialize_with = "whole::<_, 1, 1000>")]
    pub most_viewers: u32,
    /// Certificate and private key (PEM) for `rtsps://`.
    pub tls: Option<Tls>,
    /// Who may watch.
    pub user: Vec<User>,
}

impl Default for Rtsp {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8554),
            authentication: Authentication::default(),
            most_viewers: 32,
            tls: None,
            user: Vec::new(),
        }
    }
}

/// How viewers prove who they are (RFC 2617).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// The password does not travel.
    #[default]
    Digest,
    /// The password travels in the clear, unless the connection is TLS.
    Basic,
}

/// `[rtsp.tls]` and `[page.tls]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// Somebody with a password.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// File with the password.
    pub password_file: PathBuf,
}

/// `[page]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    /// Address and port to listen at.
    pub listen: SocketAddr,
    /// Whether an address other than loopback is meant.
    pub public: bool,
    /// Names under which browsers may ask for the page, beside the address itself.
    pub hosts: Vec<String>,
    /// Certificate and private key (PEM) for `https://`.
    pub tls: Option<Tls>,
    /// Who may log in; without one there is telemetry but no page.
    pub user: Option<User>,
}

impl Page {
    /// Whether what operators see and type goes through a network in the clear.
    pub fn is_in_the_clear(&self) -> bool {
        !self.listen.ip().is_loopback() && self.tls.is_none()
    }
}

impl Default for Page {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            public: false,
            hosts: Vec::new(),
            tls: None,
            user: None,
        }
    }
}

/// `[report]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Report {
    /// Folder for the files, made when it is not there.
    pub folder: PathBuf,
    /// How many days are kept; the oldest go first.
    #[serde(deserialize_with = "whole::<_, 1, 36_500>")]
    pub keep: u32,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            folder: default_folder(),
            keep: 90,
        }
    }
}

/// `[[camera]]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Camera {
    /// Name of the stream.
    pub name: Name,
    /// Where frames come from.
    pub source: Source,
    /// Size of the picture to ask a Video4Linux camera for.
    pub size: Option<Size>,
    /// Who the box is to the camera.
    pub user: Option<User>,
    /// How RTP travels from the camera.
    #[serde(default)]
    pub transport: Transport,
    /// RTSP: how long to wait for late and disordered packets, milliseconds.
    #[serde(default = "latency", deserialize_with = "whole::<_, 0, 5000>")]
    pub latency: u32,
    /// Seconds without a frame after which the camera is connected to anew.
    #[serde(default = "timeout", deserialize_with = "whole::<_, 2, 600>")]
    pub timeout: u32,
    /// Path of the stream on the box; `/NAME` when not given.
    pub mount: Option<Mount>,
    /// What to do with faces.
    #[serde(default)]
    pub faces: Faces,
    /// Parts of the picture that are covered, and parts in which faces are.
    #[serde(default)]
    pub zones: ZonesTable,
    /// How the stream is encoded.
    #[serde(default)]
    pub encoding: EncodingTable,
    /// Where the anonymized stream is recorded, if it is.
    pub recording: Option<Recording>,
}

fn latency() -> u32 {
    200
}

fn timeout() -> u32 {
    5
}

/// How RTP travels from the camera to the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Inside of the RTSP connection: no packet is lost.
    #[default]
    Tcp,
    /// In datagrams of its own: less delay on a bad network.
    Udp,
}

/// `[camera.faces]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faces {
    /// What to do with faces.
    pub policy: PolicyName,
    /// Look for faces in full resolution in every frame.
    pub thorough: bool,
    /// Frames held back so that a face is covered before it is first detected.
    #[serde(deserialize_with = "whole::<_, 0, 3>")]
    pub look_ahead: u32,
    /// Detector score from which something may be a face.
    #[serde(deserialize_with = "score")]
    pub threshold: f32,
    /// Width in pixels below which a face is covered and not replaced.
    #[serde(deserialize_with = "whole::<_, 1, 4096>")]
    pub min_face: u32,
    /// Seconds for which a face stays covered after it was last detected.
    #[serde(deserialize_with = "coast")]
    pub coast: f64,
    /// Seconds from one comparison of a replaced face with the person to the next.
    #[serde(deserialize_with = "verify")]
    pub verify: f64,
    /// Longest time that a frame may take, milliseconds; faces untreated by then are covered.
    #[serde(deserialize_with = "whole::<_, 20, 10_000>")]
    pub deadline: u32,
}

impl Default for Faces {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            policy: PolicyName::default(),
            thorough: false,
            look_ahead: settings.look_ahead as u32,
            threshold: settings.possible,
            min_face: settings.trust.smallest_face as u32,
            coast: settings.track.coast.as_secs_f64(),
            verify: settings.verify.every.as_secs_f64(),
            deadline: 500,
        }
    }
}

/// `[camera.zones]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ZonesTable {
    /// Covered in every frame.
    #[serde(deserialize_with = "polygons")]
    pub masked: Vec<Polygon>,
    /// Faces that reach into one of these are covered, never replaced.
    #[serde(deserialize_with = "polygons")]
    pub covered: Vec<Polygon>,
}

/// `[camera.encoding]`
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodingTable {
    preset: Preset,
    #[serde(deserialize_with = "some::<_, 0, 51>")]
    quality: Option<u32>,
    #[serde(deserialize_with = "some::<_, 16, 200_000>")]
    bitrate: Option<u32>,
}

impl EncodingTable {
    /// Bit rate of a stream, in kbit/s, when neither it nor a quality is asked for: what a network can rely on.
    const BITRATE: u32 = 4000;

    /// As the encoder takes it.
    pub fn encoding(&self) -> Encoding {
        let (quality, bitrate) = match (self.quality, self.bitrate) {
            (Some(quality), None) => (quality, None),
            (_, bitrate) => (21, Some(bitrate.unwrap_or(Self::BITRATE))),
        };
        Encoding {
            preset: self.preset,
            quality,
            bitrate,
        }
    }
}

/// `[camera.recording]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Folder for the files, made when it is not there.
    pub folder: PathBuf,
    /// Length of a file, seconds.
    #[serde(default = "segment", deserialize_with = "whole::<_, 1, 86_400>")]
    pub segment: u32,
    /// How many files are kept; the oldest go first.
    #[serde(default = "keep", deserialize_with = "whole::<_, 1, 1_000_000>")]
    pub keep: u32,
}

fn segment() -> u32 {
    600
}

fn keep() -> u32 {
    144
}

impl Camera {
    /// Path of the stream on the box.
    pub fn mount(&self) -> String {
        match &self.mount {
            Some(mount) => mount.to_string(),
            None => format!("/{}", self.name),
        }
    }

    /// What is done with faces, beside the policy.
    pub fn rules(&self) -> Rules {
        Rules {
            zones: Zones {
                masked: self.zones.masked.clone(),
                covered: self.zones.covered.clone(),
            },
            smallest_face: self.faces.min_face as f32,
            verify_every: Duration::from_secs_f64(self.faces.verify),
        }
    }

    /// How long the camera may be silent.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }
}

impl Config {
    /// Reads and checks the file; no other file is opened.
    ///
    /// # Errors
    /// [`Error`] names the first thing that is wrong.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::read_with_text(path).map(|(config, _)| config)
    }

    /// As [`Self::read`], with the file's text.
    ///
    /// # Errors
    /// [`Error`].
    pub fn read_with_text(path: &Path) -> Result<(Self, String), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        Ok((Self::parse(&text, path)?, text))
    }

    /// As [`Self::read`], from the text of the file `path`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let wrong = |offset: Option<usize>, what: String| Error::Wrong {
            path: path.into(),
            line: text::line_of(text, offset.unwrap_or(0)),
            what,
        };
        let mut config: Self = toml::from_str(text)
            .map_err(|error| wrong(error.span().map(|span| span.start), text::explain(text, &error)))?;
        config
            .contradiction()
            .map_or(Ok(()), |(offset, what)| Err(wrong(offset, what)))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        config.resolve(folder);
        Ok(config)
    }

    /// The cameras.
    pub fn cameras(&self) -> impl Iterator<Item = &Camera> {
        self.camera.iter().map(Spanned::get_ref)
    }

    /// What no single key shows: where, and what is wrong.
    fn contradiction(&self) -> Option<(Option<usize>, String)> {
        if self.camera.is_empty() {
            return Some((
                None,
                "no [[camera]]; a box without a camera has nothing to do".into(),
            ));
        }
        let (rtsp, page) = (&self.rtsp, &self.page);
        if !rtsp.listen.ip().is_loopback() && rtsp.user.is_empty() {
            return Some((
                None,
                format!(
                    "rtsp.listen: at {} everybody in the network could watch; add [[rtsp.user]] with name and \
                     password_file, or listen at 127.0.0.1:{}",
                    rtsp.listen,
                    rtsp.listen.port()
                ),
            ));
        }
        if !page.listen.ip().is_loopback() && !page.public {
            return Some((
                None,
                format!(
                    "page.listen: {} can be reached from outside; set page.public = true if that is meant, or listen \
                     at 127.0.0.1:{}",
                    page.listen,
                    page.listen.port()
                ),
            ));
        }
        for (index, camera) in self.camera.iter().enumerate() {
            let offset = Some(camera.span().start);
            let name = &camera.get_ref().name;
            let earlier = || self.cameras().take(index);
            if earlier().any(|other| other.name == *name) {
                return Some((
                    offset,
                    format!("name: there is another camera {name}; names must differ"),
                ));
            }
            let mount = camera.get_ref().mount();
            if let Some(other) = earlier().find(|other| other.mount() == mount) {
                let other = &other.name;
                return Some((
                    offset,
                    format!("mount: {mount} is taken by the camera {other}; mounts must differ"),
                ));
            }
            if let Some(folder) = camera
                .get_ref()
                .recording
                .as_ref()
                .map(|recording| &recording.folder)
                && let Some(other) = earlier().find(|other| {
                    other
                        .recording
                        .as_ref()
                        .is_some_and(|other| other.folder == *folder)
                })
            {
                return Some((
                    offset,
                    format!(
                        "recording.folder: {} is taken by the camera {}; each camera needs a folder of its own",
                        folder.display(),
                        other.name
                    ),
                ));
            }
        }
        None
    }

    /// Makes paths count from the configuration's folder.
    fn resolve(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        resolve(&mut self.networks.folder);
        resolve(&mut self.report.folder);
        for tls in self.rtsp.tls.iter_mut().chain(&mut self.page.tls) {
            resolve(&mut tls.certificate);
            resolve(&mut tls.key);
        }
        let users = self.rtsp.user.iter_mut().chain(&mut self.page.user);
        users.for_each(|user| resolve(&mut user.password_file));
        for camera in self.camera.iter_mut().map(Spanned::get_mut) {
            if let Some(user) = &mut camera.user {
                resolve(&mut user.password_file);
            }
            if let Some(recording) = &mut camera.recording {
                resolve(&mut recording.folder);
            }
            if let Source::File(path) = &mut camera.source {
                resolve(path);
            }
        }
    }
}

fn refuse<E: serde::de::Error>(
    got: impl std::fmt::Display,
    least: impl std::fmt::Display,
    most: impl std::fmt::Display,
) -> E {
    E::custom(format!("{got} is out of range; wanted {least} to {most}"))
}

/// A whole number from `LEAST` to `MOST`.
fn whole<'de, D: Deserializer<'de>, const LEAST: i64, const MOST: i64>(from: D) -> Result<u32, D::Error> {
    let number = i64::deserialize(from)?;
    let fits = (LEAST..=MOST).contains(&number);
    u32::try_from(number)
        .ok()
        .filter(|_| fits)
        .ok_or_else(|| refuse(number, LEAST, MOST))
}

fn some<'de, D: Deserializer<'de>, const LEAST: i64, const MOST: i64>(
    from: D,
) -> Result<Option<u32>, D::Error> {
    whole::<D, LEAST, MOST>(from).map(Some)
}

fn real<'de, D: Deserializer<'de>>(from: D, least: f64, most: f64) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(refuse(number, least, most))
    }
}

fn score<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    real(from, 0.05, 0.35).map(|score| score as f32)
}

fn coast<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    real(from, 0.0, 60.0)
}

fn polygons<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Polygon>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let polygon = |(index, text): (usize, &String)| {
        text.parse()
            .map_err(|error| serde::de::Error::custom(format!("polygon {}: {error}", index + 1)))
    };
    texts.iter().enumerate().map(polygon).collect()
}

fn verify<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    real(from, 0.1, 60.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAMERA: &str = "[[camera]]\nname = \"hall\"\nsource = \"test\"\n";

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(text, Path::new("etc/persona.toml"))
    }

    fn sentence(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    /// The starter with every key that is commented out put in.
    fn everything() -> String {
        let key = |line: &str| {
            line.strip_prefix('#')
                .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
                .map(str::to_owned)
        };
        STARTER
            .lines()
            .map(|line| key(line).unwrap_or_else(|| line.to_owned()) + "\n")
            .collect()
    }

    #[test]
    fn the_starter_can_be_used_as_it_is_and_with_every_key_in_it() {
        let config = parse(STARTER).unwrap();
        assert_eq!(config.camera.len(), 1);
        let config = parse(&everything()).unwrap();
        let camera = config.cameras().next().unwrap();
        assert!(camera.recording.is_some() && camera.user.is_some());
        assert!(config.rtsp.tls.is_some() && config.page.tls.is_some());
    }

    #[test]
    fn every_key_is_in_the_starter_and_in_the_manual() {
        let manual = include_str!("../../../../docs/configuration.md");
        let all = everything();
        // A key that does not exist makes the parser list those that do.
        let user = "[rtsp]\n[[rtsp.user]]\nzz = 1";
        for (table, text) in [
            ("", "zz = 1".to_owned()),
            ("networks", "[networks]\nzz = 1".to_owned()),
            ("rtsp", "[rtsp]\nzz = 1".to_owned()),
            ("rtsp.tls", "[rtsp.tls]\nzz = 1".to_owned()),
            ("rtsp.user", user.to_owned()),
            ("page", "[page]\nzz = 1".to_owned()),
            ("page.tls", "[page.tls]\nzz = 1".to_owned()),
            ("report", "[report]\nzz = 1".to_owned()),
            ("camera", "[[camera]]\nzz = 1".to_owned()),
            ("camera.faces", format!("{CAMERA}[camera.faces]\nzz = 1")),
            ("camera.zones", format!("{CAMERA}[camera.zones]\nzz = 1")),
            ("camera.encoding", format!("{CAMERA}[camera.encoding]\nzz = 1")),
            ("camera.recording", format!("{CAMERA}[camera.recording]\nzz = 1")),
        ] {
            let error = toml::from_str::<Config>(&text).unwrap_err();
            let keys = text::quoted(error.message()).skip(1).collect::<Vec<_>>();
            assert!(!keys.is_empty(), "{error}");
            for key in keys {
                let full = [table, key].join(".").trim_start_matches('.').to_owned();
                assert!(
                    manual.contains(&format!("`{full}`")),
                    "docs/configuration.md lacks `{full}`"
                );
                let there = all.lines().any(|line| {
                    line.split('=').next().is_some_and(|name| name.trim() == key)
                        || line.trim_matches(['[', ']']) == full
                });
                assert!(there, "docs/persona.toml lacks {full}");
            }
        }
    }

    #[test]
    fn a_wrong_file_is_refused_with_place_and_remedy() {
        let camera = |more: &str| format!("{CAMERA}{more}");
        let cases: [(String, &[&str]); 23] = [
            (
                "bypass = 60\n".into(),
                &[":1: bypass: there is none", "never leaves the box"],
            ),
            (
                camera("[camera.faces]\nbypass = true"),
                &["bypass: there is none"],
            ),
            (
                camera("look_ahed = 2"),
                &["etc/persona.toml:4: look_ahed: unknown key"],
            ),
            (camera("polycy = \"cover\"\n"), &[":4: polycy", "unknown key"]),
            (
                camera("size = \"640*480\""),
                &[":4: size: wanted WIDTHxHEIGHT in pixels, 640x480 say"],
            ),
            (camera("transprt = \"tcp\"\n"), &["did you mean transport?"]),
            (
                camera("[camera.faces]\npolicy = \"blur\""),
                &[":5: policy", "`blur`", "anonymize, cover, head, shutter"],
            ),
            (
                camera("[camera.faces]\npolicy = \"covr\""),
                &["did you mean cover?"],
            ),
            (
                camera("[camera.faces]\nlook_ahead = 4"),
                &[":5: look_ahead", "4 is out of range; wanted 0 to 3"],
            ),
            (
                camera("[camera.faces]\nthreshold = 0.9"),
                &["wanted 0.05 to 0.35"],
            ),
            (
                camera("[camera.zones]\nmasked = [\"0,0 1,0 1,1\", \"0,0 1,0\"]"),
                &[":5: masked: polygon 2: 2 corners; wanted 3 to 32"],
            ),
            (
                camera("[camera.zones]\ncovered = [\"0,0 1,0 1,1 0.5,0.2 0,1\"]"),
                &[":5: covered: polygon 1", "convex", "make two polygons"],
            ),
            (
                camera("[camera.zones]\ncovered = [\"0,0 100,0 100,100\"]"),
                &["100,0 is outside of the picture", "0 to 1"],
            ),
            (camera("latency = \"200\""), &[":4: latency", "expected i64"]),
            ("[[camera]]\nname = \"hall\"\n".into(), &["missing", "source"]),
            (
                "[[camera]]\nname = \"a b\"\nsource = \"test\"".into(),
                &[":2: name", "letters"],
            ),
            ("site = \"x\"\n".into(), &["no [[camera]]"]),
            (
                "[[camera]]\nname = \"a\"\nsource = \"rtsp://me:secret@10.0.0.1/s\"".into(),
                &[":3: source", "password_file"],
            ),
            (camera(CAMERA), &[":4: name", "another camera hall"]),
            (
                camera("[rtsp]\nlisten = \"0.0.0.0:8554\""),
                &["rtsp.listen", "[[rtsp.user]]"],
            ),
            (
                camera("[page]\nlisten = \"0.0.0.0:8080\""),
                &["page.listen", "page.public"],
            ),
            (camera("mount = \"hall\""), &[":4: mount", "slash"]),
            ("[[camera]\n".into(), &["etc/persona.toml:1: "]),
        ];
        for (text, words) in cases {
            let sentence = sentence(&text);
            assert_eq!(sentence.lines().count(), 1, "{sentence}");
            for word in words {
                assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
            }
            assert!(!sentence.contains("secret"), "{sentence}");
        }
    }

    #[test]
    fn paths_count_from_the_folder_of_the_configuration() {
        let text = format!(
            "[networks]\nfolder = \"/var/networks\"\n{CAMERA}[camera.recording]\nfolder = \"hall\"\n\
             [[camera]]\nname = \"b\"\nsource = \"clips/b.mp4\"\n"
        );
        let config = parse(&text).unwrap();
        assert_eq!(config.networks.folder, Path::new("/var/networks"));
        let cameras: Vec<_> = config.cameras().collect();
        assert_eq!(
            cameras[0].recording.as_ref().unwrap().folder,
            Path::new("etc/hall")
        );
        assert_eq!(cameras[1].source, Source::File("etc/clips/b.mp4".into()));
        assert_eq!(cameras[1].mount(), "/b");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(\\[\\[camera\\]\\]\n)?([a-z_.]{0,9} ?= ?[\"\\[{]?[a-z0-9:/.é-]{0,12}[\"\\]}]?\n){0,6}") {
            let _ = parse(&text).map_err(|error| error.to_string());
        }
    }
}
