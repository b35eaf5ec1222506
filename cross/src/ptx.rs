//! `kernels/cu` to `kernels/ptx`: the CUDA kernels as the driver's own assembly, by Debian's clang.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{setup, steps};

/// What `cargo xtask ptx` does.
#[derive(Args)]
pub struct Options {
    /// Change nothing; fail when a committed file is not what the sources give
    #[arg(long)]
    pub check: bool,
}

/// Xavier (JetPack 5) and everything newer; Orin and everything newer. A driver compiles PTX for its own device.
const ARCHITECTURES: [u32; 2] = [72, 87];

/// The newest PTX version that the oldest supported driver reads: CUDA 11.4, JetPack 5.1.
const NEWEST_VERSION: (u32, u32) = (7, 4);

/// Another compiler gives other text for the same kernels, so `--check` needs this one.
const COMPILER: &str = "clang++-16";

/// Compiles the kernels for every architecture.
///
/// # Errors
/// When the compiler cannot be had or refuses, when the result is too new for the drivers, or, with `--check`, when
/// a committed file differs.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    setup::ensure_ptx_compiler()?;
    for architecture in ARCHITECTURES {
        let ptx = compile(root, architecture)?;
        let file = file(root, architecture);
        if options.check {
            let committed = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            ensure!(
                committed == ptx,
                "{} is not what kernels/cu gives: run `cargo xtask ptx` and commit",
                file.display()
            );
        } else {
            fs::write(&file, ptx).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// The committed file for an architecture.
fn file(root: &Path, architecture: u32) -> PathBuf {
    root.join(format!("kernels/ptx/compute_{architecture}.ptx"))
}

/// The committed files, with the number of the oldest GPU that each is for.
pub fn files(root: &Path) -> impl Iterator<Item = (u32, PathBuf)> {
    ARCHITECTURES
        .into_iter()
        .map(move |architecture| (architecture, file(root, architecture)))
}

fn compile(root: &Path, architecture: u32) -> Result<String> {
    let ptx = steps::output(
        Command::new(COMPILER)
            .current_dir(root.join("kernels/cu"))
            .args(["-x", "cuda", "-nocudainc", "-nocudalib", "--cuda-device-only"])
            .arg(format!("--cuda-gpu-arch=sm_{architecture}"))
            // The CPU is the specification, and it does not fuse multiplications with additions.
            .args(["-S", "-O3", "-std=c++17", "-ffp-contract=off"])
            .args(["-Wall", "-Wextra", "-Werror"])
            .args(["-include", "device.cuh", "kernels.cu", "-o", "-"]),
    )?;
    let version = version(&ptx).with_context(|| format!("{COMPILER} gave something without .version"))?;
    if version > NEWEST_VERSION {
        bail!("PTX {version:?} is newer than {NEWEST_VERSION:?}: the driver of JetPack 5.1 would refuse it");
    }
    Ok(ptx)
}

/// The PTX version that a text declares.
fn version(ptx: &str) -> Option<(u32, u32)> {
    let (major, minor) = ptx
        .lines()
        .find_map(|line| line.strip_prefix(".version "))?
        .trim()
        .split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_files_suit_the_oldest_driver() {
        for (architecture, file) in files(crate::root()) {
            let ptx = fs::read_to_string(&file).unwrap();
            assert!(version(&ptx).unwrap() <= NEWEST_VERSION, "{}", file.display());
            assert!(
                ptx.contains(&format!(".target sm_{architecture}")),
                "{}",
                file.display()
            );
            // The CPU neither fuses nor flushes nor approximates.
            for word in ["fma.rn.f32", ".ftz", ".approx"] {
                assert!(!ptx.contains(word), "{}: {word}", file.display());
            }
        }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("//\n.version 7.4\n.target sm_87\n"), Some((7, 4)));
        assert_eq!(version(".version 8.5"), Some((8, 5)));
        assert_eq!(version("nothing"), None);
    }
}
