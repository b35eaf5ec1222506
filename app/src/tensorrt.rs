//! `persona build`: the networks compiled by TensorRT for the GPU of this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use engines::Precision;

/// How to compile them.
#[derive(Debug, Args)]
pub struct Options {
    /// fp16, or int8, which is used where it is near enough to FP32 and falls back to fp16 where it is not
    #[arg(long, default_value_t = Precision::Fp16)]
    pub precision: Precision,
    /// Most memory that layers may take while they compute [default: all of the GPU's]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u32).range(1..))]
    pub workspace: Option<u32>,
    /// Compute on this deep learning accelerator whatever it can compute
    #[arg(long, value_name = "N")]
    pub dla: Option<u32>,
    /// Folder for the plans [default: `plans` in the folder with the networks]
    #[arg(long, value_name = "DIR")]
    pub plans: Option<PathBuf>,
    /// Folder with libnvinfer and libnvonnxparser [default: where the system's loader finds them]
    #[arg(long, value_name = "DIR")]
    pub tensorrt: Option<PathBuf>,
}

impl Options {
    /// Where the plans are.
    pub fn plans(&self, models: &Path) -> PathBuf {
        self.plans.clone().unwrap_or_else(|| models.join("plans"))
    }
}

#[cfg(not(feature = "tensorrt"))]
mod build {
    use super::*;
    use crate::check::Row;

    /// Says that this build cannot.
    ///
    /// # Errors
    /// Always.
    pub fn build(_options: &Options, _models: &Path) -> anyhow::Result<()> {
        anyhow::bail!(
            "this build runs its networks in ONNX Runtime; for TensorRT, build it with --features jetson"
        )
    }

    /// Nothing: [`crate::check`] says what this build cannot use.
    pub fn rows(_models: &Path) -> Vec<Row> {
        Vec::new()
    }
}

#[cfg(feature = "tensorrt")]
mod build {
    use engines::cpu::Runtime;
    use engines::models::Store;
    use engines::trt::{Library, Plans, REPORT, Settings, Source};
    use indicatif::{ProgressBar, ProgressStyle};
    use kernels::cuda::{Cuda, Device};

    use super::*;
    use crate::check::{Row, State};
    use crate::pipeline::LARGEST_INPUT;

    /// Faces per run while the networks are compared; plans take more.
    const FACES: usize = 16;

    /// Compiles what is not compiled yet, then lets every network prove itself on this GPU, and prints what came out.
    ///
    /// # Errors
    /// One sentence that says what is missing, or which network is not admitted and why.
    pub fn build(options: &Options, models: &Path) -> anyhow::Result<()> {
        let library = Library::open(options.tensorrt.as_deref())?;
        let device = Device::open(0)?;
        let (store, plans) = (Store::open(models)?, Plans::open(options.plans(models))?);
        let source = Source {
            store: &store,
            library: &library,
            plans: &plans,
            gpu: device.name(),
            largest: LARGEST_INPUT,
        };
        let settings = Settings {
            workspace: options.workspace,
            dla: options.dla,
        };
        println!("{} on {}", library.version(), device.name());
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {msg}  {elapsed}") {
            bar.set_style(style);
        }
        // One network can take minutes.
        bar.enable_steady_tick(std::time::Duration::from_secs(1));
        source.compile(options.precision, settings, &bar)?;
        let reference = Runtime::load(&store.runtime_library()?, 1)?;
        let (mut detect, mut rest) = (Cuda::new(&device)?, Cuda::new(&device)?);
        let (_, admissions) =
            source.networks(&reference, options.precision, [&mut detect, &mut rest], FACES)?;
        for admission in admissions {
            println!("{admission}");
        }
        println!("the plans are in {}", plans.dir().display());
        Ok(())
    }

    /// Which TensorRT there is, and what was admitted when networks were last made ready for it.
    pub fn rows(models: &Path) -> Vec<Row> {
        let row = |state, note| Row {
            what: "TensorRT".into(),
            state,
            note,
        };
        let mut rows = vec![match Library::open(None) {
            Ok(library) => row(State::Present, library.version().to_string()),
            Err(error) => row(State::Unused, format!("{error}; networks run on the CPU")),
        }];
        let report = std::fs::read_to_string(models.join("plans").join(REPORT)).unwrap_or_default();
        rows.extend(report.lines().map(|line| {
            let (network, note) = line.split_once(": ").unwrap_or(("network", line));
            Row {
                what: format!("TensorRT {network}"),
                state: if note.starts_with("not admitted") {
                    State::Missing
                } else {
                    State::Present
                },
                note: note.into(),
            }
        }));
        rows
    }
}

pub use build::{build, rows};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_tensorrt_gets_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            precision: Precision::Fp16,
            workspace: None,
            dla: None,
            plans: None,
            tensorrt: Some(folder.path().into()),
        };
        let error = build(&options, folder.path()).unwrap_err().to_string();
        let wanted = if cfg!(feature = "tensorrt") {
            "there is no libnvinfer"
        } else {
            "--features jetson"
        };
        assert!(error.contains(wanted) && !error.contains('\n'), "{error}");
        assert_eq!(options.plans(folder.path()), folder.path().join("plans"));
    }

    /// What was admitted last, and what was not, is shown without a GPU.
    #[cfg(feature = "tensorrt")]
    #[test]
    fn the_last_admission_is_shown() {
        use crate::check::State;
        let folder = tempfile::tempdir().unwrap();
        let plans = engines::trt::Plans::open(folder.path().join("plans")).unwrap();
        let report =
            "detector: fp16 admitted, fine; int8 refused: too far\nlandmarks: not admitted: fp16: too far\n";
        plans.write_note(engines::trt::REPORT, report).unwrap();
        let rows = rows(folder.path());
        let found: Vec<_> = rows[1..]
            .iter()
            .map(|row| (row.what.as_str(), row.state, row.note.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (
                    "TensorRT detector",
                    State::Present,
                    "fp16 admitted, fine; int8 refused: too far"
                ),
                (
                    "TensorRT landmarks",
                    State::Missing,
                    "not admitted: fp16: too far"
                ),
            ]
        );
    }
}
