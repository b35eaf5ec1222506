//! Everything in Persona that reads bytes from outside, as functions that take any bytes at all.
//!
//! Each function panics when a parser does, or when it takes what it must not take. The test `parsers` feeds them with
//! changed seeds in every run; libFuzzer looks for more with `cargo xtask fuzz` (`tests/fuzz`).
//!
//! Networks of others are read from the store that `persona models fetch` fills.

mod archives;
mod networks;
mod served;
mod updates;

use std::path::Path;

use engines::Golden;
use engines::models::Manifest;
use engines::quantize::Recipe;
use persona::serve::config::Config;

/// A parser.
#[derive(Debug, Clone, Copy)]
pub struct Parser {
    /// Its name, also that of the program in `tests/fuzz`.
    pub name: &'static str,
    /// Feeds it.
    pub feed: fn(&[u8]),
    /// What it is meant to read, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Whether one run takes milliseconds rather than microseconds.
    pub is_slow: bool,
}

/// All of them.
pub const PARSERS: &[Parser] = &[
    Parser {
        name: "config",
        feed: config,
        seeds: config_seeds,
        is_slow: false,
    },
    Parser {
        name: "texts",
        feed: texts,
        seeds: text_seeds,
        is_slow: false,
    },
    Parser {
        name: "onnx",
        feed: networks::onnx,
        seeds: networks::onnx_seeds,
        is_slow: false,
    },
    Parser {
        name: "dlib",
        feed: networks::dlib,
        seeds: networks::dlib_seeds,
        is_slow: false,
    },
    Parser {
        name: "dlib_edits",
        feed: networks::dlib_edits,
        seeds: networks::dlib_edits_seeds,
        is_slow: true,
    },
    Parser {
        name: "face_api",
        feed: networks::face_api,
        seeds: networks::face_api_seeds,
        is_slow: true,
    },
    Parser {
        name: "generator",
        feed: networks::generator,
        seeds: networks::generator_seeds,
        is_slow: true,
    },
    Parser {
        name: "archive",
        feed: archives::archive,
        seeds: archives::archive_seeds,
        is_slow: false,
    },
    Parser {
        name: "signature",
        feed: updates::signature,
        seeds: updates::signature_seeds,
        is_slow: false,
    },
    Parser {
        name: "slots",
        feed: updates::slots,
        seeds: updates::slots_seeds,
        is_slow: false,
    },
    Parser {
        name: "page",
        feed: served::page,
        seeds: served::page_seeds,
        is_slow: true,
    },
    Parser {
        name: "rtsp",
        feed: served::rtsp,
        seeds: served::rtsp_seeds,
        is_slow: true,
    },
    #[cfg(feature = "tensorrt")]
    Parser {
        name: "plan",
        feed: networks::plan,
        seeds: networks::plan_seeds,
        is_slow: false,
    },
];

/// # Panics
/// When no parser has this name.
fn named(name: &str) -> &'static Parser {
    let parser = PARSERS.iter().find(|parser| parser.name == name);
    parser.expect("the name of a parser")
}

/// Feeds the parser of this name, for `tests/fuzz`.
///
/// # Panics
/// When there is none, and as the parser's own function does.
pub fn feed(name: &str, bytes: &[u8]) {
    (named(name).feed)(bytes);
}

/// Writes the seeds of a parser into the folder that `PERSONA_SEEDS` names, if it is set, for `tests/fuzz`.
///
/// # Panics
/// When there is no such parser, or a file cannot be written.
pub fn write_seeds(name: &str) {
    let Some(folder) = std::env::var_os("PERSONA_SEEDS") else {
        return;
    };
    for (number, seed) in (named(name).seeds)().iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The configuration of a box. What is refused is refused in one line with the place; what is taken keeps strangers out.
fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Config::parse(text, Path::new("persona.toml")) {
        Err(error) => {
            let sentence = error.to_string();
            let line = sentence
                .strip_prefix("persona.toml:")
                .and_then(|rest| rest.split(':').next()?.parse().ok());
            let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
            assert!(
                line.is_some_and(|line: usize| (1..=lines).contains(&line)),
                "no place: {sentence}"
            );
            assert_eq!(sentence.lines().count(), 1, "{sentence:?}");
        }
        Ok(config) => {
            assert!(config.cameras().next().is_some());
            assert!(config.rtsp.listen.ip().is_loopback() || !config.rtsp.user.is_empty());
            assert!(config.page.listen.ip().is_loopback() || config.page.public);
            for camera in config.cameras() {
                assert!(camera.mount().starts_with('/'));
                assert!(!camera.timeout().is_zero() && camera.faces.look_ahead <= 3);
                assert!(camera.faces.coast.is_finite() && camera.faces.threshold > 0.0);
            }
        }
    }
}

fn config_seeds() -> Vec<Vec<u8>> {
    let starter = persona::serve::config::STARTER;
    // The starter again with every key that is commented out put in.
    let everything: String = starter
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    vec![
        starter.into(),
        everything.into(),
        b"[[camera]]\nname = \"hall\"\nsource = \"rtsp://10.0.0.7/1\"\n".to_vec(),
        b"[[camera]]\nname = \"a\"\nsource = \"csi:0\"\n[camera.faces]\npolicy = \"head\"\n".to_vec(),
    ]
}

/// The other texts: pinned packages, recipes for INT8, boards, golden values.
fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(manifest) = Manifest::parse(text) {
        let files = manifest.packages.iter().flat_map(|package| &package.files);
        for file in files {
            assert!(
                !file.path.contains("..") && !file.path.starts_with('/'),
                "{}",
                file.path
            );
            assert_eq!(file.sha256.len(), 64);
        }
    }
    if let Ok(recipe) = Recipe::read(text, "recipe.toml") {
        assert!(
            recipe
                .scales
                .values()
                .all(|scale| *scale > 0.0 && scale.is_finite())
        );
        let written = recipe.text().expect("what was read can be written");
        assert_eq!(
            Recipe::read(&written, "recipe.toml").expect("and read again"),
            recipe
        );
    }
    // An error's sentence is made too: it quotes the text.
    let _ = board::boards::Profile::parse("board.toml", text).map_err(|error| error.to_string());
    let _ = Golden::generator_from(text, "golden.toml").map_err(|error| error.to_string());
}

fn text_seeds() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../../engines/models.toml").to_vec(),
        include_bytes!("../../../engines/models/edge128.toml").to_vec(),
        include_bytes!("../../../board/boards/orin-nano.toml").to_vec(),
        b"network = \"00\"\ncalibration = \"c\"\ncalibrator = { percentile = 99.9 }\nhalf = [\"Conv1\"]\n\
          [scales]\nx = 0.1\n[corrections]\nConv2 = [0.5, -1.0]\n"
            .to_vec(),
    ]
}
