//! Building the program for a box, and looking at what came out.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::{
    steps,
    sysroot::{Sysroot, TARGET},
};

/// What `cargo xtask build` is told.
#[derive(Args)]
pub struct Options {
    /// What to build for
    #[arg(long, default_value = TARGET, value_parser = [TARGET])]
    target: String,
    /// Profile of cargo
    #[arg(long, default_value = "release")]
    profile: String,
    /// Also run the tests of kernels, engines and board for the target, in qemu
    #[arg(long)]
    test: bool,
}

/// What a box has: the C library of JetPack 6 (Ubuntu 22.04).
const NEWEST_GLIBC: (u32, u32) = (2, 35);

/// Libraries that a box has, or that the package depends on. Everything of NVIDIA's and ONNX Runtime is opened at run
/// time instead.
const LIBRARIES: [&str; 15] = [
    "ld-linux-aarch64.so.1",
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libglib-2.0.so.0",
    "libgobject-2.0.so.0",
    "libgio-2.0.so.0",
    "libgstreamer-1.0.so.0",
    "libgstapp-1.0.so.0",
    "libgstbase-1.0.so.0",
    "libgstnet-1.0.so.0",
    "libgstrtp-1.0.so.0",
    "libgstrtsp-1.0.so.0",
    "libgstrtspserver-1.0.so.0",
    "libgstvideo-1.0.so.0",
];

/// What was built for a box.
pub struct Built {
    /// The program.
    pub program: PathBuf,
    /// The GStreamer plugin.
    pub plugin: PathBuf,
}

/// Builds, checks, says where the program lies.
///
/// # Errors
/// When something cannot be built, or would not run on a box.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let sysroot = Sysroot::ensure(root)?;
    let built = persona(root, &sysroot, &options.profile)?;
    println!("{}\n{}", built.program.display(), built.plugin.display());
    if options.test {
        test(root, &sysroot)?;
    }
    Ok(())
}

/// Builds the program with GPIO, checks what it needs, and lets it say its version in qemu.
///
/// # Errors
/// As [`run`].
pub fn persona(root: &Path, sysroot: &Sysroot, profile: &str) -> Result<Built> {
    let mut cargo = sysroot.cargo(root);
    cargo.args(["build", "--target", TARGET, "--profile", profile]);
    steps::run(cargo.args([
        "--package",
        "app",
        "--bin",
        "persona",
        "--lib",
        "--features",
        "gpio",
    ]))?;
    let folder = sysroot.built(profile);
    let built = Built {
        program: folder.join("persona"),
        plugin: folder.join("libpersona.so"),
    };
    for file in [&built.program, &built.plugin] {
        check(file)?;
    }
    let mut qemu = Command::new("qemu-aarch64-static");
    qemu.arg("-L")
        .arg(sysroot.path())
        .arg(&built.program)
        .arg("--version");
    let version = steps::output(&mut qemu)?;
    ensure!(
        version.contains(env!("CARGO_PKG_VERSION")),
        "the program says {version:?}"
    );
    Ok(built)
}

/// Builds the program that tries a front panel alone.
///
/// # Errors
/// When it cannot be built.
pub fn panel(root: &Path, sysroot: &Sysroot) -> Result<PathBuf> {
    let mut cargo = sysroot.cargo(root);
    cargo.args(["build", "--target", TARGET, "--package", "board"]);
    steps::run(cargo.args(["--features", "gpio", "--example", "panel"]))?;
    Ok(sysroot.built("dev").join("examples/panel"))
}

/// Lets the program fetch the networks of a box, with ONNX Runtime for ARM, and gives the folder.
///
/// # Errors
/// When they cannot be fetched.
pub fn models(root: &Path, sysroot: &Sysroot, built: &Built) -> Result<PathBuf> {
    let folder = root.join("target/cross/models");
    let mut fetch = Command::new("qemu-aarch64-static");
    fetch.arg("-L").arg(sysroot.path()).arg(&built.program);
    steps::run(fetch.args(["models", "fetch", "--models"]).arg(&folder))?;
    Ok(folder)
}

/// The tests that need neither GStreamer nor networks, on the target's instructions: what is inside of kernels, engines
/// and board, and the suite that every place for pixels must pass. The networks and what `app` adds are seen at work
/// when the package is checked and on the emulated board: the program checks its networks by golden values when it starts.
fn test(root: &Path, sysroot: &Sysroot) -> Result<()> {
    let mut cargo = sysroot.cargo(root);
    cargo.args(["test", "--target", TARGET, "--lib", "--test", "conformance"]);
    for package in ["kernels", "engines", "board"] {
        cargo.args(["--package", package]);
    }
    steps::run(cargo.args(["--features", "board/gpio,board/pi"]))
}

/// Refuses a file that needs a newer C library or other libraries than a box has.
fn check(file: &Path) -> Result<()> {
    let show = |tool: &str, option: &str| {
        steps::output(
            Command::new(format!("aarch64-linux-gnu-{tool}"))
                .arg(option)
                .arg(file),
        )
    };
    let (major, minor) = newest_glibc(&show("objdump", "-T")?);
    if (major, minor) > NEWEST_GLIBC {
        let (wanted_major, wanted_minor) = NEWEST_GLIBC;
        bail!(
            "{} needs GLIBC_{major}.{minor}; a box has {wanted_major}.{wanted_minor}",
            file.display()
        );
    }
    let other: Vec<_> = needed(&show("readelf", "-d")?)
        .into_iter()
        .filter(|library| !LIBRARIES.contains(&library.as_str()))
        .collect();
    ensure!(
        other.is_empty(),
        "{} needs {}, which a box lacks",
        file.display(),
        other.join(", ")
    );
    println!(
        "{}: GLIBC_{major}.{minor}, no library that a box lacks",
        file.display()
    );
    Ok(())
}

/// The newest version of the C library that a symbol table names.
fn newest_glibc(symbols: &str) -> (u32, u32) {
    symbols
        .split("GLIBC_")
        .skip(1)
        .filter_map(|rest| {
            let version: String = rest
                .chars()
                .take_while(|c| c.is_ascii_digit() || *c == '.')
                .collect();
            let mut parts = version.split('.').map_while(|part| part.parse().ok());
            Some((parts.next()?, parts.next().unwrap_or(0)))
        })
        .max()
        .unwrap_or((0, 0))
}

/// The libraries that a dynamic section names.
fn needed(dynamic: &str) -> Vec<String> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_c_library_counts_by_number() {
        let symbols = "0000 DF *UND* 0000 (GLIBC_2.17) malloc\n0000 DF *UND* (GLIBC_2.4) x\n \
             0000 DF *UND* 0000 (GLIBC_2.34) pthread_create\n0000 DF *UND* (GCC_3.0) _Unwind_Resume\n";
        assert_eq!(newest_glibc(symbols), (2, 34));
        assert_eq!(newest_glibc(""), (0, 0));
    }

    #[test]
    fn the_libraries_of_a_dynamic_section_are_found() {
        let dynamic = " 0x0000000000000001 (NEEDED)  Shared library: [libgstapp-1.0.so.0]\n \
             0x000000000000000e (SONAME) Library soname: [libpersona.so]\n 0x01 (NEEDED) Shared library: [libc.so.6]\n";
        assert_eq!(needed(dynamic), ["libgstapp-1.0.so.0", "libc.so.6"]);
    }
}
