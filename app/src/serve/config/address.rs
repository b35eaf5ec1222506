//! Names and places in the configuration; each is checked where it is read, so that the parser knows the line.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// Name of a camera: lower case letters, digits, `-` and `_`, so that it can stand in a path, a file name and a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if (1..=32).contains(&text.len()) && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err("a name has 1 to 32 lower case letters, digits, - or _".into())
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Path of a stream on the box, as `/hall`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mount(String);

impl TryFrom<String> for Mount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let parts = text.strip_prefix('/');
        let named = parts.is_some_and(|rest| rest.split('/').all(|part| !part.is_empty()));
        if named && text.len() <= 128 && text.chars().all(fits) {
            Ok(Self(text))
        } else {
            Err("a mount begins with a slash and has letters, digits, -, _, . and single slashes, as in /hall".into())
        }
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a camera's frames come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// `rtsp://` or `rtsps://`, without user and password.
    Rtsp(String),
    /// A Video4Linux camera, as `/dev/video0`.
    Device(PathBuf),
    /// A camera at the CSI connector of a Jetson, by its number: `csi:0`.
    Csi(u32),
    /// A video file, played in a loop.
    File(PathBuf),
    /// A test picture with a moving ball.
    Test,
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "test" {
            return Ok(Self::Test);
        }
        if let Some(number) = text.strip_prefix("csi:") {
            let number = number.parse().map_err(|_| "a CSI camera is csi:0, csi:1, ...")?;
            return Ok(Self::Csi(number));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let authority = rest.split('/').next().unwrap_or_default();
            return match scheme {
                "rtsp" | "rtsps" if authority.contains('@') => {
                    Err("leave the user and the password out of the address and give [camera.user] with name and \
                         password_file"
                        .into())
                }
                "rtsp" | "rtsps" if !authority.is_empty() => Ok(Self::Rtsp(text)),
                "rtsp" | "rtsps" => Err("the camera's address is missing, as in rtsp://10.0.0.7/stream1".into()),
                _ => Err("wanted rtsp://..., rtsps://..., /dev/videoN, csi:N, a file or test".into()),
            };
        }
        match text.as_str() {
            "" => Err("wanted rtsp://..., rtsps://..., /dev/videoN, csi:N, a file or test".into()),
            _ if text.starts_with("/dev/") => Ok(Self::Device(text.into())),
            _ => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rtsp(address) => f.write_str(address),
            Self::Device(path) | Self::File(path) => write!(f, "{}", path.display()),
            Self::Csi(number) => write!(f, "csi:{number}"),
            Self::Test => f.write_str("test"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources() {
        let cases = [
            ("test", Some(Source::Test)),
            ("csi:1", Some(Source::Csi(1))),
            ("csi:x", None),
            (
                "rtsp://10.0.0.7/a",
                Some(Source::Rtsp("rtsp://10.0.0.7/a".into())),
            ),
            (
                "rtsps://camera:322/a",
                Some(Source::Rtsp("rtsps://camera:322/a".into())),
            ),
            ("rtsp://u:p@camera/a", None),
            ("rtsp:///a", None),
            ("http://camera/a", None),
            ("/dev/video0", Some(Source::Device("/dev/video0".into()))),
            ("clips/a.mp4", Some(Source::File("clips/a.mp4".into()))),
            ("", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(Source::try_from(text.to_owned()).ok(), wanted, "{text}");
            if let Some(source) = wanted {
                assert_eq!(source.to_string(), text);
            }
        }
    }

    #[test]
    fn names_and_mounts() {
        for (text, good) in [
            ("hall-2_a", true),
            ("", false),
            ("Hall", false),
            ("a/b", false),
            ("é", false),
        ] {
            assert_eq!(Name::try_from(text.to_owned()).is_ok(), good, "{text}");
        }
        for (text, good) in [
            ("/a", true),
            ("/a/b.c", true),
            ("a", false),
            ("/", false),
            ("/a//b", false),
            ("/a b", false),
        ] {
            assert_eq!(Mount::try_from(text.to_owned()).is_ok(), good, "{text}");
        }
    }
}
