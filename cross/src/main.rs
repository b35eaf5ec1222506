//! Everything around the program: `cargo xtask COMMAND` sets a bare machine up, shows the program, checks it and
//! measures it. Only this package installs or downloads anything outside of the networks' store.

mod bench;
mod build;
mod clips;
mod demo;
mod flash;
mod fuzz;
mod hil;
mod kernels;
mod libtorch;
mod package;
mod ptx;
mod registers;
mod setup;
mod slots;
mod steps;
mod sysroot;
mod tensorrt;
mod test;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Everything around the program `persona`",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install the system packages that building and running need, saying which and why first
    Setup,
    /// Anonymize a clip: leaves out/demo.mp4 and the contact sheet out/demo.png
    Demo {
        /// Any video file; without it, two clips out of pinned packages
        clip: Option<PathBuf>,
    },
    /// Make the demo's two input clips in out/, and nothing else
    Clips,
    /// Set up, then run every check of the repository
    Test(test::Options),
    /// Feed every parser of bytes from outside with whatever gets further into it, guided by coverage
    Fuzz(fuzz::Options),
    /// Unpack what building for a box needs: Debian's arm64 libraries and a compiler for them (1.7 GB)
    Sysroot,
    /// Build the program for a box and check that it would run there: leaves it below target/cross
    Build(build::Options),
    /// Make the arm64 package for a box: program, plugin, networks, configuration, service, bill of materials
    Package(package::Options),
    /// Put the package into NVIDIA's root file system and call NVIDIA's flashing tool
    Flash(flash::Options),
    /// Run the box's program on an emulated board, press its button and read its lamp from outside
    Hil(hil::Options),
    /// Compile the CUDA kernels (kernels/cu) into kernels/ptx
    Ptx(ptx::Options),
    /// Run the CUDA kernels on the processor: the conformance suite, plainly and under sanitizers
    Kernels(kernels::Options),
    /// Fetch the libtorch that the trainer links (542 MB, once) and print its folder
    Libtorch,
    /// Run the trainer, libtorch included: `cargo xtask train -- --help`
    Train {
        /// The trainer's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the whole job from decode to encode, beside another program when asked to
    Bench(bench::Options),
    /// Check the TensorRT binding alone, as `test` does: needs the networks (`persona models fetch`)
    Tensorrt,
    /// Write the tables of engines/src/trt/sys from TensorRT's headers (never committed), or compare with them
    TensorrtSlots(slots::Options),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::from(if error.is::<setup::CannotInstall>() { 2 } else { 1 })
        }
    }
}

fn run(command: Command) -> Result<()> {
    let root = root();
    match command {
        Command::Setup => setup::ensure(),
        Command::Demo { clip } => demo::run(root, clip.as_deref()),
        Command::Clips => setup::ensure().and_then(|()| clips::defaults(root).map(drop)),
        Command::Test(options) => test::run(root, &options),
        Command::Fuzz(options) => fuzz::run(root, &options),
        Command::Sysroot => {
            println!("{}", sysroot::Sysroot::ensure(root)?.path().display());
            Ok(())
        }
        Command::Build(options) => build::run(root, &options),
        Command::Package(options) => package::run(root, &options),
        Command::Flash(options) => flash::run(root, &options),
        Command::Hil(options) => hil::run(root, &options),
        Command::Ptx(options) => ptx::run(root, &options),
        Command::Kernels(options) => kernels::run(root, &options),
        Command::Libtorch => {
            setup::ensure()?;
            println!("{}", libtorch::ensure(root)?.display());
            Ok(())
        }
        Command::Train { arguments } => {
            setup::ensure()?;
            let mut trainer = libtorch::cargo(root)?;
            trainer.args(["run", "--release", "--manifest-path"]);
            trainer.arg(root.join("engines/train/Cargo.toml"));
            steps::run(trainer.arg("--").args(arguments))
        }
        Command::Bench(options) => bench::run(root, &options),
        Command::Tensorrt => {
            setup::ensure()?;
            let mut all = steps::Steps::default();
            tensorrt::check(root, &mut all);
            all.finish()
        }
        Command::TensorrtSlots(options) => slots::run(root, &options),
    }
}

/// The top folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the folder cross lies in the repository")
}
