//! Finds what is missing on this machine and installs it through apt-get.

use std::{fmt, process::Command};

use anyhow::Result;

use crate::steps;

/// How to see that something is there. What it can do counts, not which package it came in.
enum Sign {
    /// A command that succeeds.
    Succeeds(&'static [&'static str]),
    /// A module that pkg-config knows.
    Library(&'static str),
    /// A GStreamer element.
    Element(&'static str),
}

struct Requirement {
    sign: Sign,
    /// The Debian and Ubuntu package.
    package: &'static str,
    /// What it is for.
    why: &'static str,
}

const fn requirement(sign: Sign, package: &'static str, why: &'static str) -> Requirement {
    Requirement { sign, package, why }
}

#[rustfmt::skip]
const REQUIREMENTS: [Requirement; 17] = [
    requirement(Sign::Succeeds(&["cc", "--version"]), "build-essential", "links Rust programs"),
    requirement(Sign::Succeeds(&["pkg-config", "--version"]), "pkg-config", "finds libraries"),
    requirement(Sign::Library("gstreamer-1.0"), "libgstreamer1.0-dev", "builds the pipeline"),
    requirement(Sign::Library("gstreamer-video-1.0"), "libgstreamer-plugins-base1.0-dev", "builds the pipeline"),
    requirement(Sign::Library("gstreamer-rtsp-server-1.0"), "libgstrtspserver-1.0-dev", "serves RTSP"),
    requirement(Sign::Element("fakesink"), "gstreamer1.0-tools", "gst-inspect-1.0 and gst-launch-1.0"),
    requirement(Sign::Element("videoconvert"), "gstreamer1.0-plugins-base", "converts and scales pictures"),
    requirement(Sign::Element("qtdemux"), "gstreamer1.0-plugins-good", "reads and writes containers, RTSP, cameras"),
    requirement(Sign::Element("h264parse"), "gstreamer1.0-plugins-bad", "parses H.264 and H.265"),
    requirement(Sign::Element("x264enc"), "gstreamer1.0-plugins-ugly", "encodes H.264"),
    requirement(Sign::Element("avdec_h264"), "gstreamer1.0-libav", "decodes video"),
    requirement(Sign::Succeeds(&["sh", "-c", "ls /usr/lib/*/gio/modules/libgio*tls.so"]), "glib-networking", "serves RTSP over TLS"),
    requirement(Sign::Succeeds(&["python3", "--version"]), "python3", "runs pip"),
    requirement(Sign::Succeeds(&["python3", "-m", "pip", "--version"]), "python3-pip", "fetches networks out of packages"),
    requirement(Sign::Succeeds(&["python3", "-c", "import ensurepip"]), "python3-venv", "runs other programs for comparison"),
    requirement(Sign::Succeeds(&["npm", "--version"]), "npm", "fetches networks out of packages"),
    requirement(Sign::Succeeds(&["openssl", "version"]), "openssl", "makes a certificate in a test"),
];

/// For `cargo xtask ptx` alone, so that nobody else downloads a compiler of 90 MB.
const PTX_COMPILER: [Requirement; 1] = [requirement(
    Sign::Succeeds(&["clang++-16", "--version"]),
    "clang-16",
    "compiles the CUDA kernels",
)];

/// For `cargo xtask sysroot` and what builds on it.
#[rustfmt::skip]
const CROSS_TOOLS: [Requirement; 6] = [
    requirement(Sign::Succeeds(&["aarch64-linux-gnu-gcc", "--version"]), "gcc-aarch64-linux-gnu", "links for a box"),
    requirement(Sign::Succeeds(&["aarch64-linux-gnu-g++", "--version"]), "g++-aarch64-linux-gnu", "links for a box"),
    requirement(Sign::Succeeds(&["test", "-e", "/usr/aarch64-linux-gnu/lib/libc.so.6"]), "libc6-dev-arm64-cross", "links for a box"),
    requirement(Sign::Succeeds(&["qemu-aarch64-static", "--version"]), "qemu-user-static", "runs a box's programs here"),
    requirement(Sign::Succeeds(&["mmdebstrap", "--version"]), "mmdebstrap", "unpacks Debian's arm64 libraries"),
    requirement(Sign::Succeeds(&["test", "-e", "/usr/share/keyrings/debian-archive-keyring.gpg"]), "debian-archive-keyring", "verifies them"),
];

/// For `cargo xtask hil --emulated`.
#[rustfmt::skip]
const EMULATOR: [Requirement; 3] = [
    requirement(Sign::Succeeds(&["qemu-system-aarch64", "--version"]), "qemu-system-arm", "emulates a board"),
    requirement(Sign::Succeeds(&["depmod", "--version"]), "kmod", "finds the kernel modules of the emulated board"),
    requirement(Sign::Succeeds(&["cpio", "--version"]), "cpio", "packs what the emulated board boots"),
];

#[rustfmt::skip]
const BROWSER: [Requirement; 2] = [
    requirement(Sign::Succeeds(&["chromium", "--version"]), "chromium", "shows the operator's page"),
    requirement(Sign::Succeeds(&["chromedriver", "--version"]), "chromium-driver", "presses its buttons"),
];

impl Sign {
    fn is_there(&self) -> bool {
        match self {
            Sign::Succeeds([program, arguments @ ..]) => {
                steps::succeeds(Command::new(program).args(arguments.iter()))
            }
            Sign::Succeeds([]) => true,
            Sign::Library(module) => steps::succeeds(Command::new("pkg-config").args(["--exists", module])),
            Sign::Element(element) => {
                steps::succeeds(Command::new("gst-inspect-1.0").args(["--exists", element]))
            }
        }
    }
}

/// Packages are missing, and this machine has no apt-get to install them with.
#[derive(Debug)]
pub struct CannotInstall(String);

impl fmt::Display for CannotInstall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this machine has no apt-get; install what corresponds to these Debian packages, then run the same \
             command again:\n{}",
            self.0
        )
    }
}

impl std::error::Error for CannotInstall {}

/// Installs whatever is missing, after saying what and why. Does nothing on a machine that has it all.
///
/// # Errors
/// [`CannotInstall`] without apt-get; the failed command otherwise.
pub fn ensure() -> Result<()> {
    install(&REQUIREMENTS)
}

/// [`ensure`] for the compiler of the CUDA kernels.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_ptx_compiler() -> Result<()> {
    install(&PTX_COMPILER)
}

/// [`ensure`] for building and running a box's programs on this machine.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_cross_tools() -> Result<()> {
    install(&CROSS_TOOLS)
}

/// [`ensure`] for the emulated board.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_emulator() -> Result<()> {
    install(&EMULATOR)
}

/// [`ensure`] for the browser in which the operator's page is tested.
///
/// # Errors
/// As [`ensure`].
pub fn browser() -> Result<()> {
    install(&BROWSER)
}

fn install(requirements: &'static [Requirement]) -> Result<()> {
    let missing = missing(requirements);
    if missing.is_empty() {
        return Ok(());
    }
    let list = describe(&missing);
    if !steps::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(CannotInstall(list).into());
    }
    eprintln!("These system packages are missing and will now be installed through apt-get:\n{list}");
    steps::run(apt_get().arg("update"))?;
    steps::run(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(missing.iter().map(|requirement| requirement.package)),
    )?;
    let still = self::missing(requirements);
    anyhow::ensure!(
        still.is_empty(),
        "apt-get succeeded, but this is still not usable:\n{}",
        describe(&still)
    );
    Ok(())
}

fn missing(requirements: &'static [Requirement]) -> Vec<&'static Requirement> {
    requirements
        .iter()
        .filter(|requirement| !requirement.sign.is_there())
        .collect()
}

fn describe(requirements: &[&Requirement]) -> String {
    requirements
        .iter()
        .map(|requirement| format!("  {:34} {}\n", requirement.package, requirement.why))
        .collect()
}

/// apt-get that asks nothing, through sudo when this is not the superuser.
fn apt_get() -> Command {
    let superuser = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let mut command = Command::new(if superuser { "env" } else { "sudo" });
    if !superuser {
        command.arg("env");
    }
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_tells_present_from_absent() {
        assert!(Sign::Succeeds(&["sh", "-c", "true"]).is_there());
        assert!(!Sign::Succeeds(&["sh", "-c", "false"]).is_there());
        assert!(!Sign::Succeeds(&["no-such-program-here"]).is_there());
        assert!(!Sign::Library("no-such-library-here").is_there());
        assert!(!Sign::Element("nosuchelementhere").is_there());
    }

    #[test]
    fn without_apt_get_the_list_is_the_message() {
        let error = CannotInstall(describe(&[&REQUIREMENTS[0]])).to_string();
        assert!(error.contains("build-essential"), "{error}");
        assert!(error.contains("links Rust programs"), "{error}");
    }
}
