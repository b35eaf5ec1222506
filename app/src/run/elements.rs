//! The GStreamer elements that the program is made of, and the Debian package of each.

use gstreamer as gst;

use super::Error;

/// An element that some job needs.
#[derive(Debug, Clone, Copy)]
pub struct Requirement {
    /// Name of the element's factory.
    pub element: &'static str,
    /// What it does here, in words.
    pub purpose: &'static str,
    /// The Debian and Ubuntu package that holds it.
    pub package: &'static str,
}

const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const UGLY: &str = "gstreamer1.0-plugins-ugly";
const LIBAV: &str = "gstreamer1.0-libav";

const fn requirement(element: &'static str, purpose: &'static str, package: &'static str) -> Requirement {
    Requirement {
        element,
        purpose,
        package,
    }
}

/// Every element that some job of the program asks for by name, and the decoders of the usual formats.
pub const REQUIREMENTS: [Requirement; 26] = [
    requirement("uridecodebin", "opens files and streams", BASE),
    requirement("videoconvert", "converts pixel formats", BASE),
    requirement("videoscale", "keeps the size of a file", BASE),
    requirement("videotestsrc", "makes a test picture", BASE),
    requirement("audioconvert", "converts audio", BASE),
    requirement("audioresample", "converts audio", BASE),
    requirement("opusenc", "encodes Opus", BASE),
    requirement("videoflip", "turns pictures upright", GOOD),
    requirement("videocrop", "makes odd sizes even", GOOD),
    requirement("v4l2src", "reads a camera", GOOD),
    requirement("rtspsrc", "reads an RTSP stream", GOOD),
    requirement("rtph264pay", "serves an RTSP stream", GOOD),
    requirement("autovideosink", "shows a window", GOOD),
    requirement("qtdemux", "reads MP4 and MOV", GOOD),
    requirement("matroskademux", "reads Matroska and WebM", GOOD),
    requirement("mp4mux", "writes MP4", GOOD),
    requirement("matroskamux", "writes Matroska", GOOD),
    requirement("webmmux", "writes WebM", GOOD),
    requirement("jpegdec", "decodes JPEG", GOOD),
    requirement("vp8dec", "decodes VP8", GOOD),
    requirement("vp8enc", "encodes VP8", GOOD),
    requirement("kmssink", "shows pictures where there are no windows", BAD),
    requirement("h264parse", "parses H.264", BAD),
    requirement("avdec_h264", "decodes H.264", LIBAV),
    requirement("avdec_h265", "decodes H.265", LIBAV),
    requirement("x264enc", "encodes H.264", UGLY),
];

/// Where the decoder of an unforeseen format is most likely to be found.
pub const DECODERS: &str = LIBAV;

/// Makes an element.
///
/// # Errors
/// [`Error::Element`] when it is not installed, with the package to install.
pub fn make(element: &'static str) -> Result<gst::Element, Error> {
    gst::ElementFactory::make(element)
        .build()
        .map_err(|_| missing(element))
}

/// Why an element could not be made, and the remedy.
fn missing(element: &'static str) -> Error {
    let known = REQUIREMENTS
        .iter()
        .find(|requirement| requirement.element == element);
    Error::Element {
        element,
        purpose: known.map_or("is part of GStreamer", |known| known.purpose),
        package: known.map_or("gstreamer1.0-tools", |known| known.package),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_element_is_named_with_its_package() {
        let sentence = missing("x264enc").to_string();
        assert!(
            sentence.contains("x264enc") && sentence.contains("encodes H.264"),
            "{sentence}"
        );
        assert!(
            sentence.contains("apt-get install gstreamer1.0-plugins-ugly"),
            "{sentence}"
        );
    }

    #[test]
    fn no_element_is_listed_twice() {
        for (index, requirement) in REQUIREMENTS.iter().enumerate() {
            let again = REQUIREMENTS[index + 1..]
                .iter()
                .any(|other| other.element == requirement.element);
            assert!(!again, "{}", requirement.element);
        }
    }
}
