//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::{Parser, Subcommand};
use engines::models::default_dir;
use gstreamer as gst;
use persona::serve::config::Config;
use persona::{bench, check, element, models, quantize, run, serve, sheet, tensorrt, update};

/// The stream failed in the middle, or something needed is missing.
const FAILED: u8 = 1;
/// Nothing could be started; one sentence on standard error says why.
const CANNOT_START: u8 = 2;

/// Replaces every face in live video by a natural-looking face of nobody.
///
/// What cannot be replaced well is covered; docs/privacy.md says what may still show. Begin with
/// `persona models fetch` and `persona check`, then `persona run --input in.mp4 --output out.mp4`.
#[derive(Parser)]
#[command(
    name = "persona",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Anonymize a video, a camera's stream or pictures
    ///
    /// Exit status: 0 done, 1 failed in the middle (what was written can be played), 2 could not start.
    /// Ctrl-C ends the run and closes the output properly.
    #[command(after_help = "Examples:\n  \
        persona run --input party.mp4 --output party-anonymized.mp4\n  \
        persona run --input rtsp://USER:PASSWORD@10.0.0.7/stream1 --output rtsp://127.0.0.1:8554/hall\n  \
        persona run --input /dev/video0 --output display\n  \
        persona run --input photos --output photos-anonymized")]
    Run(run::Options),
    /// Serve cameras as a box does, for ever: streams, slates, recordings
    ///
    /// Exit status: 0 after Ctrl-C or SIGTERM, 2 could not start.
    Serve(serve::Options),
    /// Say what is present and what is missing, with the remedy for each
    Check {
        /// Check this configuration of a box and what it refers to, too
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Instead, compare the GPU with the CPU on random frames, and time it
        #[arg(long, conflicts_with = "config")]
        gpu: bool,
        /// How many random frames
        #[arg(long, value_name = "N", default_value_t = 2000, requires = "gpu")]
        cases: u64,
        #[command(flatten)]
        folder: Folder,
    },
    /// Compile the networks with TensorRT for the GPU of this machine, and let each prove itself on it
    ///
    /// Takes minutes, once: plans are kept until a network, TensorRT or the GPU is another one. A network whose results are
    /// too far from those of the CPU is not used.
    Build {
        #[command(flatten)]
        options: tensorrt::Options,
        #[command(flatten)]
        folder: Folder,
    },
    /// Fetch the networks and look at them
    Models {
        #[command(subcommand)]
        command: models::Command,
        #[command(flatten)]
        folder: Folder,
    },
    /// Measure the speed of the whole job and of its stages
    Bench(bench::Options),
    /// Update the program of a box: two slots, signed packages, and a way back
    Update(update::Options),
    /// Write the networks as FP16 and INT8, and measure what that costs in accuracy
    #[command(after_help = "Examples:\n  \
        persona quantize --onnx plans\n  \
        persona quantize --measure clips\n  \
        persona quantize --calibrate pictures --measure clips --recipes engines/models/int8")]
    Quantize(quantize::Options),
    /// Make a contact sheet: frames of one video above the same frames of another one
    Sheet(sheet::Options),
}

#[derive(clap::Args)]
struct Folder {
    /// Folder with the networks [default: $PERSONA_MODELS, else ~/.local/share/persona/models]
    #[arg(long = "models", value_name = "DIR", global = true)]
    models: Option<PathBuf>,
}

impl Folder {
    fn path(self) -> PathBuf {
        self.models.unwrap_or_else(default_dir)
    }
}

fn main() -> ExitCode {
    forbid_core_dumps();
    env_logger::Builder::from_env(
        env_logger::Env::default().default_filter_or("warn,persona::panel=info,persona::serve=info"),
    )
    .init();
    match work(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("persona: {error:#}");
            ExitCode::from(CANNOT_START)
        }
    }
}

/// A core dump would hold raw frames. Neither this process nor a program that it starts leaves one, nor may a debugger of
/// the same user look into its memory (`prctl(2)`, PR_SET_DUMPABLE).
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit and one's own flag are allowed to every process.
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn work(command: Command) -> anyhow::Result<ExitCode> {
    if let Command::Models { command, folder } = command {
        models::run(command, &folder.path())?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::Check { gpu: true, cases, .. } = command {
        return check_gpu(cases);
    }
    if let Command::Build { options, folder } = command {
        tensorrt::build(&options, &folder.path())?;
        return Ok(ExitCode::SUCCESS);
    }
    // A box asks for this before anything else works.
    if let Command::Update(options) = command {
        update::run(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    gst::init().context("GStreamer does not start; sudo apt-get install gstreamer1.0-plugins-base")?;
    element::register().context("GStreamer does not take the element persona")?;
    match command {
        Command::Models { .. } | Command::Build { .. } | Command::Update(_) => Ok(ExitCode::SUCCESS),
        Command::Run(options) => {
            let report = run::run(&options, &*interrupted()?)?;
            print!("{report}");
            if let Some(path) = &options.stats_json {
                report.write_json(path)?;
            }
            Ok(match report.fault {
                None => ExitCode::SUCCESS,
                Some(fault) => {
                    eprintln!("persona: {fault}");
                    ExitCode::from(FAILED)
                }
            })
        }
        Command::Serve(options) => {
            let Some(path) = options.config.filter(|_| !options.starter) else {
                print!("{}", serve::config::STARTER);
                return Ok(ExitCode::SUCCESS);
            };
            serve::run(&path, &options.panel, &*interrupted()?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { config, folder, .. } => {
            let config = config.map(|path| Config::read(&path)).transpose()?;
            let models = match (&folder.models, &config) {
                (None, Some(config)) => config.networks.folder.clone(),
                _ => folder.path(),
            };
            let mut rows = check::check(&models, "/".as_ref())?;
            rows.extend(config.iter().flat_map(check::configured));
            print!("{}", check::table(&rows));
            Ok(if check::is_complete(&rows) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILED)
            })
        }
        Command::Bench(options) if options.null_networks => {
            let streams = options.streams.unwrap_or(1);
            let rows = bench::latency::run(streams, options.seconds, &options.faces, &*interrupted()?)?;
            for row in rows {
                if options.json {
                    println!("{}", row.json());
                } else {
                    println!("{row}");
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Bench(options) => {
            let bench = bench::run(&options, &*interrupted()?)?;
            if options.json {
                println!("{:#}", bench.json());
            } else {
                print!("{bench}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Quantize(options) => {
            quantize::run(&options)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Sheet(options) => {
            sheet::run(&options)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(feature = "cuda")]
fn check_gpu(cases: u64) -> anyhow::Result<ExitCode> {
    print!("{}", persona::gpu::check(cases)?);
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(feature = "cuda"))]
fn check_gpu(_cases: u64) -> anyhow::Result<ExitCode> {
    anyhow::bail!("this build works on the CPU alone; for the GPU, build it with --features jetson")
}

/// Set once the user presses Ctrl-C or the system asks the program to end; a second time ends it at once.
fn interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second one finds it set.
        signal_hook::flag::register_conditional_shutdown(signal, i32::from(FAILED), flag.clone())
            .and_then(|_| signal_hook::flag::register(signal, flag.clone()))
            .context("signals cannot be watched")?;
    }
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
