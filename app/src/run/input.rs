//! What `--input` can be.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Error;

/// Where frames come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A file with a video track.
    Video(PathBuf),
    /// One PNG or JPEG file.
    Picture(PathBuf),
    /// A folder with PNG and JPEG files.
    Pictures(PathBuf),
    /// A camera's address, `rtsp://` or `rtsps://`, with its password if it has one.
    Rtsp(String),
    /// A Video4Linux camera.
    Device(PathBuf),
    /// GStreamer's test picture.
    Test,
}

impl Input {
    /// Tells the kinds apart and looks whether a file or folder is there.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Empty`], [`Error::File`].
    pub fn parse(text: &OsStr) -> Result<Self, Error> {
        if text == "test" {
            return Ok(Self::Test);
        }
        if let Some(address) = text.to_str().filter(|text| is_rtsp(text)) {
            return Ok(Self::Rtsp(address.to_owned()));
        }
        let path = PathBuf::from(text);
        if path.starts_with("/dev") {
            return if path.exists() {
                Ok(Self::Device(path))
            } else {
                Err(Error::NotFound(path))
            };
        }
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound(path));
            }
            Err(source) => {
                return Err(Error::File {
                    path,
                    action: "open the file",
                    source,
                });
            }
        };
        if metadata.is_dir() {
            Ok(Self::Pictures(path))
        } else if metadata.is_file() && metadata.len() == 0 {
            Err(Error::Empty(path))
        } else if is_picture(&path) {
            Ok(Self::Picture(path))
        } else {
            Ok(Self::Video(path))
        }
    }

    /// Whether frames come at their own pace and cannot be asked for again.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Rtsp(_) | Self::Device(_))
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Video(path) | Self::Picture(path) | Self::Pictures(path) | Self::Device(path) => {
                write!(f, "{}", path.display())
            }
            Self::Rtsp(address) => f.write_str(&without_password(address)),
            Self::Test => f.write_str("the test picture"),
        }
    }
}

/// Whether the text is an RTSP address.
pub(super) fn is_rtsp(text: &str) -> bool {
    ["rtsp://", "rtsps://"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
}

/// Whether the name ends like a picture's.
pub(crate) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    ["png", "jpg", "jpeg"]
        .iter()
        .any(|known| extension.eq_ignore_ascii_case(known))
}

/// The address without user and password, fit for messages and logs.
pub(super) fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_input() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let (clip, photo) = (file("a.mkv", b"x"), file("b.JPG", b"x"));
        let cases: [(&OsStr, Input); 6] = [
            ("test".as_ref(), Input::Test),
            ("rtsp://camera/1".as_ref(), Input::Rtsp("rtsp://camera/1".into())),
            ("/dev/null".as_ref(), Input::Device("/dev/null".into())),
            (clip.as_os_str(), Input::Video(clip.clone())),
            (photo.as_os_str(), Input::Picture(photo.clone())),
            (dir.path().as_os_str(), Input::Pictures(dir.path().into())),
        ];
        for (text, wanted) in cases {
            assert_eq!(Input::parse(text).unwrap(), wanted);
        }
        let empty = file("empty.mp4", b"");
        assert!(matches!(Input::parse(empty.as_os_str()), Err(Error::Empty(path)) if path == empty));
        let missing = dir.path().join("missing.mp4");
        assert!(matches!(Input::parse(missing.as_os_str()), Err(Error::NotFound(path)) if path == missing));
    }

    #[test]
    fn passwords_stay_out_of_messages() {
        for (address, wanted) in [
            ("rtsp://10.0.0.7:554/live", "rtsp://10.0.0.7:554/live"),
            ("rtsp://admin:s3cret@10.0.0.7/live", "rtsp://10.0.0.7/live"),
            ("rtsps://admin:p@ss@camera", "rtsps://camera"),
        ] {
            assert_eq!(Input::Rtsp(address.into()).to_string(), wanted);
        }
    }
}
