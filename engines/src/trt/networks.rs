//! The networks of a box: compiled in the best precision that is admitted on this very GPU.

use std::fmt;

use indicatif::ProgressBar;

use super::{Device, Key, Library, Plan, Plans, Profile, Recipe, Settings};
use crate::admission::{self, Closeness};
use crate::models::{Network, Store};
use crate::{
    Engine, Engines, Error, Golden, InputSize, Precision, Result, Signature, cpu, detector, embedding,
    generator, golden, landmarks,
};

/// The file beside the plans that says what was admitted last, for `persona check`.
pub const REPORT: &str = "admission.txt";

/// Most faces of several pipelines in one run: those at which the second profile of a plan is fast. They cost 28 MB, half of
/// it on the device.
const TOGETHER: usize = 8;

/// What the networks of a box are made from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The networks in FP32.
    pub store: &'a Store,
    /// TensorRT.
    pub library: &'a Library,
    /// Where plans are kept.
    pub plans: &'a Plans,
    /// The GPU's name.
    pub gpu: &'a str,
    /// Largest detector input.
    pub largest: InputSize,
}

/// How one network was admitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Admission {
    /// Which.
    pub network: Network,
    /// In which precision it runs.
    pub precision: Precision,
    /// How near it is to FP32.
    pub closeness: Closeness,
    /// The precisions that were tried before, and why they do not run.
    pub refused: Vec<(Precision, String)>,
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} admitted, {}",
            self.network, self.precision, self.closeness
        )?;
        for (precision, reason) in &self.refused {
            write!(f, "; {precision} refused: {reason}")?;
        }
        Ok(())
    }
}

/// One network with what is known of it.
struct Known {
    network: Network,
    signature: Signature,
    golden: Golden,
    fp32: Vec<u8>,
}

impl Known {
    fn of(network: Network, store: &Store) -> Result<Self> {
        let (signature, golden) = match network {
            Network::Detector => (detector::signature(), Golden::detector()),
            Network::Landmarks => (landmarks::signature(), Golden::landmarks()),
            Network::Embedding => (embedding::signature(), Golden::embedding()),
            Network::Generator => {
                let golden = Golden::generator()?;
                (generator::signature(golden.side()), golden)
            }
        };
        Ok(Self {
            network,
            signature,
            golden,
            fp32: store.load(network)?,
        })
    }
}

impl Source<'_> {
    /// The plan of a network in a precision: from the cache, or compiled. With `settings` it must have been compiled with
    /// them.
    ///
    /// # Errors
    /// The store's, when the network is not there; [`Error::TensorRt`] when TensorRT refuses it.
    pub fn plan(&self, network: Network, precision: Precision, settings: Option<Settings>) -> Result<Plan> {
        self.compiled(&Known::of(network, self.store)?, precision, settings)
    }

    fn compiled(&self, known: &Known, precision: Precision, settings: Option<Settings>) -> Result<Plan> {
        let onnx = precision.onnx(known.network, &known.fp32)?;
        let profiles = Profile::of(known.network, &known.signature, self.largest);
        let name = known.network.to_string();
        let key = Key::new(
            self.library.version(),
            self.gpu,
            &name,
            precision,
            &profiles,
            &onnx,
        );
        self.plans.get(&key, settings, |settings| {
            self.library.build(&Recipe {
                onnx: &onnx,
                signature: &known.signature,
                profiles: &profiles,
                precision,
                workspace: settings.workspace.map(|mebibytes| (mebibytes as usize) << 20),
                dla: settings.dla,
            })
        })
    }

    /// The networks in the first precision that is admitted, from `precision` downwards: INT8, FP16. Each is compared on
    /// the device of `kernels` with ONNX Runtime in FP32, which has passed its golden values. What is not compiled yet is
    /// compiled, which takes minutes. The admissions are written beside the plans.
    ///
    /// # Errors
    /// [`Error::NotAdmitted`] when a network is admitted in none. The store's and the place's own.
    pub fn engines<K: Device + 'static>(
        &self,
        reference: &cpu::Runtime,
        precision: Precision,
        kernels: &mut K,
    ) -> Result<(Engines<K>, Vec<Admission>)> {
        let side = Golden::generator()?.side();
        let mut admissions = Vec::new();
        let mut admitted = |network: Network| {
            let admitted = self.admitted(network, side, reference, precision, kernels);
            let line = match &admitted {
                Ok((.., admission)) => admission.to_string(),
                Err(error) => error.to_string(),
            };
            match &admitted {
                Ok((.., admission)) if admission.refused.is_empty() => log::info!("{line}"),
                _ => log::warn!("{line}"),
            }
            let (engine, signature, admission) = match admitted {
                Ok(admitted) => admitted,
                Err(error) => {
                    self.report(&admissions, Some(&line))?;
                    return Err(error);
                }
            };
            admissions.push(admission);
            let most = match network {
                // A picture at a time, each of its own size.
                Network::Detector => 1,
                _ => TOGETHER,
            };
            K::share(kernels, engine, &signature, most)
        };
        let engines = Engines {
            detector: admitted(Network::Detector)?,
            landmarks: admitted(Network::Landmarks)?,
            embedding: admitted(Network::Embedding)?,
            generator: admitted(Network::Generator)?,
            side,
        };
        self.report(&admissions, None)?;
        Ok((engines, admissions))
    }

    fn report(&self, admissions: &[Admission], failed: Option<&str>) -> Result<()> {
        let admitted = admissions.iter().map(ToString::to_string);
        let lines: Vec<_> = admitted.chain(failed.map(Into::into)).collect();
        self.plans.write_note(REPORT, &format!("{}\n", lines.join("\n")))
    }

    fn admitted<K: Device>(
        &self,
        network: Network,
        side: usize,
        reference: &cpu::Runtime,
        precision: Precision,
        kernels: &mut K,
    ) -> Result<(Box<dyn Engine<K>>, Signature, Admission)> {
        let known = Known::of(network, self.store)?;
        let mut fp32 = reference.engine(&known.fp32, &known.signature)?;
        golden::admit(&mut Default::default(), fp32.as_mut(), &known.golden)?;
        let mut refused = Vec::new();
        for precision in precision.downwards() {
            match self.try_precision(&known, side, *precision, kernels, fp32.as_mut()) {
                Ok((engine, closeness)) => {
                    let admission = Admission {
                        network,
                        precision: *precision,
                        closeness,
                        refused,
                    };
                    return Ok((engine, known.signature, admission));
                }
                Err(error) => refused.push((*precision, error.to_string())),
            }
        }
        let reasons: Vec<_> = refused
            .iter()
            .map(|(precision, reason)| format!("{precision}: {reason}"))
            .collect();
        Err(Error::NotAdmitted {
            network: network.to_string(),
            reason: reasons.join("; "),
        })
    }

    fn try_precision<K: Device>(
        &self,
        known: &Known,
        side: usize,
        precision: Precision,
        kernels: &mut K,
        fp32: &mut dyn Engine<kernels::cpu::Cpu>,
    ) -> Result<(Box<dyn Engine<K>>, Closeness)> {
        let profiles = Profile::of(known.network, &known.signature, self.largest);
        let plan = self.compiled(known, precision, None)?;
        let load = |plan: &Plan| {
            let dla = plan.settings.dla;
            self.library.load(&plan.bytes, &known.signature, &profiles, dla)
        };
        let loaded = load(&plan).or_else(|error| {
            // It is what this program wrote, and TensorRT does not take it: the device or the driver is another one.
            log::warn!("{error}; compiling {} again", known.network);
            let settings = plan.settings;
            self.plans.discard(&known.network.to_string(), precision)?;
            load(&self.compiled(known, precision, Some(settings))?)
        });
        let mut engine: Box<dyn Engine<K>> = Box::new(loaded?);
        let closeness = admission::admit(known.network, side, kernels, engine.as_mut(), fp32)?;
        Ok((engine, closeness))
    }

    /// Compiles what is not compiled yet: every network in `precision` and in those that it may fall back to. One step of
    /// `progress` each.
    ///
    /// # Errors
    /// As [`Source::plan`].
    pub fn compile(&self, precision: Precision, settings: Settings, progress: &ProgressBar) -> Result<()> {
        let precisions = precision.downwards();
        progress.set_length((Network::ALL.len() * precisions.len()) as u64);
        for network in Network::ALL {
            for precision in precisions {
                progress.set_message(format!("{network} in {precision}"));
                match self.plan(network, *precision, Some(settings)) {
                    Ok(_) => {}
                    // What it falls back to is compiled too, and `networks` says why.
                    Err(error) if precisions.last() != Some(precision) => {
                        log::warn!("{network} in {precision}: {error}");
                    }
                    Err(error) => return Err(error),
                }
                progress.inc(1);
            }
        }
        progress.finish_with_message("plans are complete");
        Ok(())
    }
}
