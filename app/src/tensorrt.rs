//! `persona build`: the networks compiled by TensorRT for the GPU of this machine.

use std::path::{Path, PathBuf};

use clap::Args;
use engines::Precision;

/// The folder of the plans, in that of the networks.
const PLANS: &str = "plans";

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
        self.plans.clone().unwrap_or_else(|| models.join(PLANS))
    }
}

#[cfg(not(feature = "tensorrt"))]
mod build {
    use super::*;
    use crate::check::Row;
    use crate::networks::{Choice, Error, Loaded};

    /// Says that this build cannot.
    ///
    /// # Errors
    /// Always.
    pub fn build(_options: &Options, _models: &Path) -> anyhow::Result<()> {
        anyhow::bail!(
            "this build runs its networks in ONNX Runtime; for TensorRT, build it with --features jetson"
        )
    }

    /// Says that this build cannot.
    ///
    /// # Errors
    /// Always.
    pub fn load(_choice: &Choice) -> Result<Loaded, Error> {
        let reason = "this build knows no GPU; for one, build it with --features jetson";
        Err(Error::Absent(reason.into()))
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
    use crate::element::Gpu;
    use crate::networks::{Choice, Error, Loaded};
    use crate::pipeline::LARGEST_INPUT;

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
        let (_, admissions) = source.engines(&reference, options.precision, &mut Cuda::new(&device)?)?;
        for admission in admissions {
            println!("{admission}");
        }
        println!("the plans are in {}", plans.dir().display());
        Ok(())
    }

    /// The networks on the GPU, if each of them is admitted there. What is not compiled yet is compiled, which takes
    /// minutes.
    ///
    /// # Errors
    /// [`Error::Absent`] on a machine without GPU or TensorRT; else why the networks cannot be used on it.
    pub fn load(choice: &Choice) -> Result<Loaded, Error> {
        let absent = |reason: String| Error::Absent(reason);
        let device = Device::open(0).map_err(|error| absent(error.to_string()))?;
        let library = Library::open(None).map_err(|error| absent(error.to_string()))?;
        let store = Store::open(&choice.folder)?;
        let plans = Plans::open(choice.folder.join(PLANS))?;
        let source = Source {
            store: &store,
            library: &library,
            plans: &plans,
            gpu: device.name(),
            largest: LARGEST_INPUT,
        };
        let reference = Runtime::load(&store.runtime_library()?, choice.threads)?;
        let mut place = Cuda::new(&device).map_err(engines::Error::from)?;
        let (engines, _) = source.engines(&reference, choice.precision.into(), &mut place)?;
        let name = format!("{}, with {}", device.name(), library.version());
        let gpu = Gpu::new(device.clone());
        let loaded = Loaded::new(engines, move || Cuda::new(&device), Some(gpu), name);
        log::info!("{loaded}");
        Ok(loaded)
    }

    /// Which GPU and TensorRT there are, what was admitted when networks were last made ready for them, and where the
    /// pixels and networks of a stream come to be.
    pub fn rows(models: &Path) -> Vec<Row> {
        let row = |what: &str, state, note: String| Row {
            what: what.into(),
            state,
            note,
        };
        let device = Device::open(0).map_err(|error| error.to_string());
        let library = Library::open(None).map_err(|error| error.to_string());
        let found = |what, found: Result<String, &String>| match found {
            Ok(note) => row(what, State::Present, note),
            Err(reason) => row(what, State::Unused, reason.clone()),
        };
        let name = |device: &std::sync::Arc<Device>| {
            let (major, minor) = device.compute_capability();
            format!("{}, compute capability {major}.{minor}", device.name())
        };
        let mut rows = vec![
            found("CUDA", device.as_ref().map(name)),
            found(
                "TensorRT",
                library.as_ref().map(|library| library.version().to_string()),
            ),
        ];
        let report = std::fs::read_to_string(models.join(PLANS).join(REPORT)).unwrap_or_default();
        rows.extend(report.lines().map(|line| {
            let (network, note) = line.split_once(": ").unwrap_or(("network", line));
            let state = match note.starts_with("not admitted") {
                true => State::Missing,
                false => State::Present,
            };
            row(&format!("TensorRT {network}"), state, note.into())
        }));
        let refused = rows.iter().find(|row| row.state == State::Missing);
        let place = match (device, library, refused) {
            (Err(reason), _, _) | (_, Err(reason), _) => format!("on the CPU: {reason}"),
            (_, _, Some(row)) => format!("on the CPU, as long as this holds: {} {}", row.what, row.note),
            _ if report.is_empty() => {
                "on the GPU, once every network has proved itself: persona build".into()
            }
            _ => "on the GPU, if every network proves itself again at the start".into(),
        };
        rows.push(row("pixels and networks", State::Present, place));
        rows
    }
}

pub use build::{build, load, rows};

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
        let found: Vec<_> = rows
            .iter()
            .filter(|row| row.what.starts_with("TensorRT "))
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
        // Neither of them is on a machine without a GPU.
        let place = rows.last().unwrap();
        assert!(
            place.what == "pixels and networks" && place.note.starts_with("on the CPU"),
            "{place:?}"
        );
    }
}
