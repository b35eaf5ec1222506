//! What is needed to build for a box: Debian's arm64 libraries in a folder, and a compiler with the standard library.
//!
//! Nothing is installed into the machine but the cross linker and the tools that unpack; no container is needed.
//! `cross/Dockerfile` makes the same for `cross build`, out of the same packages (a test compares).

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{setup, steps};

/// The target of every box, Jetson or Raspberry Pi.
pub const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Debian's name for the same.
const MULTIARCH: &str = "aarch64-linux-gnu";
/// The release that the libraries come from. Its C library is older than JetPack 6's, its GStreamer newer.
const RELEASE: &str = "bookworm";

/// Debian packages of the target that the program is built with.
const DEVELOPMENT: [&str; 5] = [
    "libc6-dev",
    "libgcc-12-dev",
    "libgstreamer1.0-dev",
    "libgstreamer-plugins-base1.0-dev",
    "libgstrtspserver-1.0-dev",
];

/// Debian packages of the target that the program is run with; the package for boxes depends on them.
pub const RUNTIME: [&str; 5] = [
    "gstreamer1.0-plugins-base",
    "gstreamer1.0-plugins-good",
    "gstreamer1.0-plugins-bad",
    "gstreamer1.0-plugins-ugly",
    "gstreamer1.0-libav",
];

/// Debian packages of the emulated board.
const EMULATED: [&str; 2] = ["linux-image-arm64", "busybox-static"];

/// The target's standard library as Debian builds it, of the same version as the compiler below.
const STANDARD_LIBRARY: &str = "libstd-rust-web-dev";
/// Debian's compiler of that version. It conflicts with the package `rustc`, so it is unpacked and never installed.
const COMPILER: &str = "rustc-web";

/// Where things lie below `target/cross`.
#[derive(Debug, Clone)]
pub struct Sysroot {
    folder: PathBuf,
}

impl Sysroot {
    /// Makes what is missing below `target/cross`: 1.7 GB, a few minutes the first time.
    ///
    /// # Errors
    /// When a tool is missing and cannot be installed, or a package cannot be fetched.
    pub fn ensure(root: &Path) -> Result<Self> {
        setup::ensure_cross_tools()?;
        let sysroot = Self {
            folder: root.join("target/cross"),
        };
        fs::create_dir_all(&sysroot.folder)?;
        sysroot.libraries()?;
        sysroot.alternatives()?;
        sysroot.processors()?;
        if !host_knows_target() {
            sysroot.compiler()?;
        }
        Ok(sysroot)
    }

    /// The folder that stands for `/` of a box.
    pub fn path(&self) -> PathBuf {
        self.folder.join("sysroot")
    }

    /// A cargo that builds for a box and runs what it has built in qemu.
    pub fn cargo(&self, root: &Path) -> Command {
        let path = self.path();
        let show = |path: PathBuf| path.display().to_string();
        let (lib, usr_lib) = (
            show(path.join("lib").join(MULTIARCH)),
            show(path.join("usr/lib").join(MULTIARCH)),
        );
        let pkg_config = format!("{usr_lib}/pkgconfig:{}", show(path.join("usr/share/pkgconfig")));
        let sysroot = show(path);
        let flags = format!(
            "-C link-arg=--sysroot={sysroot} -C link-arg=-Wl,-rpath-link,{usr_lib} -C link-arg=-Wl,-rpath-link,{lib}"
        );
        let mut cargo = steps::cargo(root);
        cargo
            .env("CARGO_TARGET_DIR", self.folder.join("build"))
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER",
                format!("{MULTIARCH}-gcc"),
            )
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
            .env(
                "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
                format!("qemu-aarch64-static -L {sysroot}"),
            )
            .env("CC_aarch64_unknown_linux_gnu", format!("{MULTIARCH}-gcc"))
            .env("PKG_CONFIG_ALLOW_CROSS", "1")
            .env("PKG_CONFIG_PATH", "")
            .env("PKG_CONFIG_SYSROOT_DIR", sysroot)
            .env("PKG_CONFIG_LIBDIR", pkg_config);
        let compiler = self.folder.join("rustc");
        if compiler.is_file() {
            cargo.env("RUSTC", compiler);
        }
        cargo
    }

    /// Folder into which cargo builds with a profile.
    pub fn built(&self, profile: &str) -> PathBuf {
        let folder = if profile == "dev" { "debug" } else { profile };
        self.folder.join("build").join(TARGET).join(folder)
    }

    /// The folder with the kernel and busybox of the emulated board, made when it is not there.
    ///
    /// # Errors
    /// When the packages cannot be fetched.
    pub fn machine(&self) -> Result<PathBuf> {
        let machine = self.folder.join("machine");
        self.unpack(&machine, &EMULATED)?;
        Ok(machine)
    }

    fn libraries(&self) -> Result<()> {
        let packages: Vec<_> = DEVELOPMENT
            .into_iter()
            .chain(RUNTIME)
            .chain([STANDARD_LIBRARY])
            .collect();
        self.unpack(&self.path(), &packages)
    }

    /// The links that `update-alternatives` would make when the packages were installed: libav needs them.
    fn alternatives(&self) -> Result<()> {
        let libraries = self.path().join("usr/lib").join(MULTIARCH);
        for name in ["blas", "lapack"] {
            let file = format!("lib{name}.so.3");
            match symlink(Path::new(name).join(&file), libraries.join(&file)) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("cannot link {file}"));
                }
                _ => (),
            }
        }
        Ok(())
    }

    /// Describes as many ARM processors as this machine has. In its user mode qemu opens a file of the sysroot in place of
    /// the machine's, and without this one ONNX Runtime finds no processor that it knows in /proc/cpuinfo and follows a
    /// null pointer.
    fn processors(&self) -> Result<()> {
        let own = fs::read_to_string("/proc/cpuinfo").context("cannot count the processors")?;
        let folder = self.path().join("proc");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("cpuinfo"), processors(&own)).context("cannot describe processors for qemu")
    }

    /// Unpacks Debian packages for arm64, and what they depend on, into a folder; does nothing when it was made of the
    /// same ones.
    fn unpack(&self, folder: &Path, packages: &[&str]) -> Result<()> {
        let list = packages.join(",");
        let (stamp, partial) = (
            folder.with_extension("packages"),
            folder.with_extension("partial"),
        );
        if fs::read_to_string(&stamp).is_ok_and(|made| made == list) {
            return Ok(());
        }
        eprintln!("unpacking {} for arm64, once", packages.join(", "));
        remove(&partial)?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--architectures=arm64", "--variant=extract"])
            .arg(format!("--include={list}"))
            .args([RELEASE.as_ref(), partial.as_os_str()]);
        // The machine's own mirror, where it is a Debian of this release.
        let own = Path::new("/etc/apt/sources.list.d/debian.sources");
        if fs::read_to_string(own).is_ok_and(|sources| sources.contains(RELEASE)) {
            mmdebstrap.arg(own);
        }
        steps::run(&mut mmdebstrap)?;
        remove(folder)?;
        fs::rename(&partial, folder)?;
        Ok(fs::write(stamp, list)?)
    }

    /// Unpacks Debian's compiler beside the libraries, with the target's standard library in it.
    fn compiler(&self) -> Result<()> {
        let wrapper = self.folder.join("rustc");
        if wrapper.is_file() {
            return Ok(());
        }
        eprintln!("unpacking Debian's compiler with a standard library for arm64: 92 MB, once");
        let (packages, rust) = (self.folder.join("packages"), self.folder.join("rust"));
        for folder in [&packages, &rust] {
            remove(folder)?;
            fs::create_dir_all(folder)?;
        }
        let mut depends = Command::new("apt-cache");
        depends.args(["depends", "--recurse", "--important", COMPILER]);
        let needed = dependencies(&steps::output(&mut depends)?);
        ensure!(
            needed.iter().any(|package| package == STANDARD_LIBRARY),
            "apt-cache knows no {COMPILER} with {STANDARD_LIBRARY}; run apt-get update"
        );
        let mut download = Command::new("apt-get");
        download
            .current_dir(&packages)
            .args(["--quiet", "download", COMPILER]);
        steps::run(download.args(&needed))?;
        for package in fs::read_dir(&packages)? {
            steps::run(Command::new("dpkg").arg("-x").arg(package?.path()).arg(&rust))?;
        }
        fs::remove_dir_all(&packages)?;
        let rustlib = Path::new("usr/lib/rustlib").join(TARGET);
        symlink(self.path().join(&rustlib), rust.join(&rustlib)).context("the standard library for arm64")?;
        let script = "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\n\
             LD_LIBRARY_PATH=$here/rust/usr/lib/x86_64-linux-gnu exec \"$here/rust/usr/bin/rustc\" \"$@\"\n";
        let partial = self.folder.join("rustc.partial");
        fs::write(&partial, script)?;
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))?;
        steps::quietly(Command::new(&partial).args(["--print", "target-libdir", "--target", TARGET]))?;
        Ok(fs::rename(partial, wrapper)?)
    }
}

/// A /proc/cpuinfo of the Cortex-A72 that qemu emulates, with the processors of another one.
fn processors(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .map(|line| {
            format!(
                "{line}\nBogoMIPS\t: 125.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n\
                 CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\n\
                 CPU revision\t: 3\n\n"
            )
        })
        .collect()
}

/// Whether the machine's own compiler has the target's standard library (`rustup target add`).
fn host_knows_target() -> bool {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--print", "target-libdir", "--target", TARGET]);
    rustc
        .output()
        .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// The packages of the compiler that lie beside it: its own library, the standard library and LLVM's. The text is that
/// of `apt-cache depends --recurse`, in which each package begins a line and what is said about it is indented.
fn dependencies(depends: &str) -> Vec<String> {
    depends
        .lines()
        .filter(|package| package.starts_with("libstd-rust") || package.starts_with("libllvm"))
        .map(str::to_owned)
        .collect()
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_container_has_the_same_packages() {
        let dockerfile = include_str!("../Dockerfile");
        let found: BTreeSet<_> = dockerfile
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_suffix(":arm64"))
            .collect();
        let wanted: BTreeSet<_> = DEVELOPMENT.into_iter().chain(RUNTIME).collect();
        assert_eq!(found, wanted);
        assert!(
            dockerfile.contains(&format!("FROM debian:{RELEASE}")),
            "another release"
        );
        let config = include_str!("../Cross.toml");
        assert!(config.contains(&format!("[target.{TARGET}]")) && config.contains("cross/Dockerfile"));
    }

    #[test]
    fn every_processor_of_the_machine_is_described_as_an_arm() {
        let text = processors("processor\t: 0\nmodel name\t: x\n\nprocessor\t: 1\n");
        assert_eq!(text.matches("CPU part\t: 0xd08\n").count(), 2);
        assert!(
            text.starts_with("processor\t: 0\n") && !text.contains("model name"),
            "{text}"
        );
    }

    #[test]
    fn the_compiler_s_own_packages_are_found() {
        let depends = "rustc-web\n  Depends: libc6\n  Depends: libstd-rust-web-dev\nlibc6\nlibstd-rust-web-dev\n  \
             Depends: libstd-rust-web-1.96\nlibstd-rust-web-1.96\n  Depends: libllvm22\n |Depends: gcc\nlibllvm22\n";
        assert_eq!(
            dependencies(depends),
            ["libstd-rust-web-dev", "libstd-rust-web-1.96", "libllvm22"]
        );
    }
}
