//! What `--output` can be.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::{Error, Input, input};

/// Where anonymized frames go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// A video file.
    Video {
        /// The file.
        path: PathBuf,
        /// Its format, by the file's extension.
        container: Container,
    },
    /// One PNG or JPEG file.
    Picture(PathBuf),
    /// A folder for PNG and JPEG files.
    Pictures(PathBuf),
    /// An RTSP stream that others can fetch.
    Rtsp(Mount),
    /// A window.
    Display,
}

/// Format of a video file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// MP4 with H.264; written in fragments, so that what is there can be played at any moment.
    Mp4,
    /// Matroska with H.264.
    Matroska,
    /// WebM with VP8.
    WebM,
}

impl Container {
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase();
        match extension.as_str() {
            "mp4" | "m4v" | "mov" => Some(Self::Mp4),
            "mkv" => Some(Self::Matroska),
            "webm" => Some(Self::WebM),
            _ => None,
        }
    }
}

/// The address under which a stream is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Address to listen at; only this one.
    pub host: String,
    /// TCP port; 0 for any free one.
    pub port: u16,
    /// Path on the server, beginning with a slash.
    pub path: String,
}

impl Mount {
    /// Port of RTSP servers without privileges.
    const PORT: u16 = 8554;

    fn parse(address: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Address {
            address: input::without_password(address),
            reason: reason.to_owned(),
        };
        let rest = address
            .strip_prefix("rtsp://")
            .ok_or_else(|| wrong("a stream is served as rtsp://ADDRESS:PORT/NAME, without TLS"))?;
        if rest.contains('@') {
            return Err(wrong(
                "a stream is served without a user name; take it out of the address",
            ));
        }
        let (authority, name) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong("the stream needs a name, as in rtsp://127.0.0.1:8554/hall"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (
                host,
                port.parse()
                    .map_err(|_| wrong("the port is not a number from 0 to 65535"))?,
            ),
            None => (authority, Self::PORT),
        };
        if host.is_empty() {
            return Err(wrong(
                "the address to listen at is missing, as in rtsp://127.0.0.1:8554/hall",
            ));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            path: format!("/{name}"),
        })
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rtsp://{}:{}{}", self.host, self.port, self.path)
    }
}

impl Output {
    /// Finds an output that fits `input` and does not destroy anything unasked, nor does the file that is written until
    /// the output is complete.
    ///
    /// # Errors
    /// [`Error::SameFile`], [`Error::Exists`], [`Error::Extension`], [`Error::Address`], [`Error::File`].
    pub fn parse(text: &OsStr, input: &Input, overwrite: bool) -> Result<Self, Error> {
        let output = Self::kind(text, input)?;
        let (Self::Video { path, .. } | Self::Picture(path) | Self::Pictures(path)) = &output else {
            return Ok(output);
        };
        let partial = Partial::new(path);
        if let Input::Video(from) | Input::Picture(from) | Input::Pictures(from) = input
            && (is_same(from, path) || is_same(from, partial.part()))
        {
            return Err(Error::SameFile(from.clone()));
        }
        match output {
            // A folder may exist; each file in it is looked at when it is written.
            Self::Pictures(_) => Ok(output),
            _ if path.is_dir() => Err(Error::Extension {
                path: path.clone(),
                wanted: "a file's name",
            }),
            _ if path.exists() && !overwrite => Err(Error::Exists(path.clone())),
            _ if partial.part().exists() && !overwrite => Err(Error::Exists(partial.part().to_owned())),
            _ => Ok(output),
        }
    }

    fn kind(text: &OsStr, input: &Input) -> Result<Self, Error> {
        let path = PathBuf::from(text);
        let pictures = matches!(input, Input::Picture(_) | Input::Pictures(_));
        match (text.to_str(), input) {
            (Some(address), _) if input::is_rtsp(address) && !pictures => {
                Ok(Self::Rtsp(Mount::parse(address)?))
            }
            (Some("display"), _) if !pictures => Ok(Self::Display),
            (_, Input::Pictures(_)) => Ok(Self::Pictures(path)),
            (_, Input::Picture(_)) if input::is_picture(&path) => Ok(Self::Picture(path)),
            (_, Input::Picture(_)) => Err(Error::Extension {
                path,
                wanted: ".png, .jpg or .jpeg",
            }),
            _ => match Container::of(&path) {
                Some(container) => Ok(Self::Video { path, container }),
                None => Err(Error::Extension {
                    path,
                    wanted: ".mp4, .mov, .mkv or .webm",
                }),
            },
        }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Video { path, .. } | Self::Picture(path) | Self::Pictures(path) => {
                write!(f, "{}", path.display())
            }
            Self::Rtsp(mount) => mount.fmt(f),
            Self::Display => f.write_str("the display"),
        }
    }
}

/// Whether both names lead to one file, through links too.
fn is_same(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// A file that takes its name only when it is complete, so that an older file of that name is never lost to a run
/// that fails, and nobody picks up half a file.
#[derive(Debug)]
pub(super) struct Partial {
    part: PathBuf,
    path: PathBuf,
}

impl Partial {
    /// Will be written as `NAME.part`, next to where it is going to be.
    pub(super) fn new(path: &Path) -> Self {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        Self {
            part: part.into(),
            path: path.to_owned(),
        }
    }

    /// Where to write.
    pub(super) fn part(&self) -> &Path {
        &self.part
    }

    /// Gives the file its name.
    pub(super) fn keep(self) -> Result<(), Error> {
        std::fs::rename(&self.part, &self.path).map_err(|source| Error::File {
            path: self.path.clone(),
            action: "give the finished file its name",
            source,
        })
    }

    /// Removes what was written; nothing is there when nothing was.
    pub(super) fn discard(self) {
        if let Err(error) = std::fs::remove_file(&self.part)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!(
                "{}: cannot remove the unfinished file: {error}",
                self.part.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(host: &str, port: u16, path: &str) -> Output {
        Output::Rtsp(Mount {
            host: host.into(),
            port,
            path: path.into(),
        })
    }

    #[test]
    fn kinds_of_output() {
        let (video, picture, folder) = (
            Input::Test,
            Input::Picture("in.png".into()),
            Input::Pictures("in".into()),
        );
        let file = |name: &str, container| Output::Video {
            path: name.into(),
            container,
        };
        let cases = [
            ("a.mp4", &video, file("a.mp4", Container::Mp4)),
            ("a.MOV", &video, file("a.MOV", Container::Mp4)),
            ("a.mkv", &video, file("a.mkv", Container::Matroska)),
            ("a.webm", &video, file("a.webm", Container::WebM)),
            ("display", &video, Output::Display),
            (
                "rtsp://127.0.0.1:8554/hall",
                &video,
                mount("127.0.0.1", 8554, "/hall"),
            ),
            ("rtsp://10.0.0.1/a/b", &video, mount("10.0.0.1", 8554, "/a/b")),
            ("out.jpg", &picture, Output::Picture("out.jpg".into())),
            ("display", &folder, Output::Pictures("display".into())),
        ];
        for (text, input, wanted) in cases {
            assert_eq!(Output::kind(text.as_ref(), input).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn wrong_outputs_are_refused() {
        for text in [
            "a.avi",
            "a",
            "rtsp://127.0.0.1:8554",
            "rtsp://host:x/y",
            "rtsp:///y",
            "rtsp://u:p@h/y",
            "rtsps://h/y",
        ] {
            assert!(Output::kind(text.as_ref(), &Input::Test).is_err(), "{text}");
        }
        assert!(Output::kind("out.gif".as_ref(), &Input::Picture("in.png".into())).is_err());
    }

    #[test]
    fn nothing_is_destroyed_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("in.mp4"), dir.path().join("out.mp4"));
        std::fs::write(&from, b"in").unwrap();
        std::fs::write(&to, b"out").unwrap();
        let input = Input::Video(from.clone());
        let same = dir.path().join(".").join("in.mp4");
        assert!(matches!(
            Output::parse(same.as_os_str(), &input, true),
            Err(Error::SameFile(_))
        ));
        assert!(matches!(
            Output::parse(to.as_os_str(), &input, false),
            Err(Error::Exists(_))
        ));
        assert!(Output::parse(to.as_os_str(), &input, true).is_ok());
    }

    #[test]
    fn a_partial_file_is_not_destroyed_unasked_either() {
        let dir = tempfile::tempdir().unwrap();
        let (to, part) = (dir.path().join("out.mp4"), dir.path().join("out.mp4.part"));
        std::fs::write(&part, b"left over").unwrap();
        let parse = |input: &Input, overwrite| Output::parse(to.as_os_str(), input, overwrite);
        let refused = parse(&Input::Test, false);
        assert!(
            matches!(&refused, Err(Error::Exists(path)) if *path == part),
            "{refused:?}"
        );
        assert!(parse(&Input::Test, true).is_ok());
        assert!(matches!(
            parse(&Input::Video(part), true),
            Err(Error::SameFile(_))
        ));
    }

    #[test]
    fn a_file_takes_its_name_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.mp4");
        std::fs::write(&path, b"older").unwrap();
        let partial = Partial::new(&path);
        std::fs::write(partial.part(), b"newer").unwrap();
        partial.discard();
        assert_eq!(std::fs::read(&path).unwrap(), b"older");
        let partial = Partial::new(&path);
        std::fs::write(partial.part(), b"newer").unwrap();
        partial.keep().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
