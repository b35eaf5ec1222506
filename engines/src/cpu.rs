//! The CPU engine: ONNX Runtime, loaded when the program runs.
//!
//! The library is pinned and fetched like a network ([`crate::models::Store::runtime_library`]). One process holds one
//! ONNX Runtime; every network is a session of its own with its own threads.
//!
//! # Memory
//! An engine keeps its own copy of the inputs and outputs for the last shapes that it was run with, because ONNX
//! Runtime's values own their memory; copying costs less than 1 % of a run. Once a shape has been seen, a run makes no
//! allocation in Rust (`tests/allocations.rs`).

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kernels::cpu::{Cpu, Tensor};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::builder::GraphOptimizationLevel;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{Outlet, TensorElementType, ValueType};

use crate::together::Gather;
use crate::{Engine, Error, Port, Result, Shared, Signature};

/// Most faces of several pipelines in one run. More take no less time each, and memory in ONNX Runtime for every number of
/// faces.
pub(crate) const TOGETHER: usize = 4;
/// Shapes kept ready per network; a further one replaces the shape that was made first.
const READY: usize = 16;

/// The one environment that ONNX Runtime allows per process, and the library that it came from.
static LOADED: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

/// A loaded ONNX Runtime.
pub struct Runtime {
    environment: Environment,
    threads: usize,
}

impl Runtime {
    /// Loads the library. `threads` is how many threads each network computes with, the calling one included.
    ///
    /// # Errors
    /// [`Error::Library`] when the file is missing, is not a usable ONNX Runtime, or another one is loaded already.
    pub fn load(library: &Path, threads: usize) -> Result<Self> {
        let failed = |reason: String| Error::Library {
            path: library.into(),
            reason,
        };
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let environment = match &*loaded {
            Some((path, environment)) if path == library => environment.clone(),
            Some((path, _)) => return Err(failed(format!("{} is loaded already", path.display()))),
            None => {
                let builder = ort::init_from(library).map_err(|error| failed(error.to_string()))?;
                let environment = builder.with_name("persona").with_telemetry(false).build();
                let environment = environment.map_err(|error| failed(error.to_string()))?;
                // Its errors come back as values; on standard error they would be said twice.
                environment.set_log_level(LogLevel::Fatal);
                *loaded = Some((library.into(), environment.clone()));
                environment
            }
        };
        Ok(Self {
            environment,
            threads: threads.max(1),
        })
    }

    /// Loads a network from its ONNX bytes and compares its inputs and outputs with what is expected.
    ///
    /// # Errors
    /// [`Error::Runtime`] when ONNX Runtime refuses it, [`Error::Signature`] when names, types or shapes differ.
    pub fn engine(&self, onnx: &[u8], expected: &Signature) -> Result<Box<dyn Engine<Cpu>>> {
        self.load_engine(onnx, expected, GraphOptimizationLevel::All)
    }

    fn load_engine(
        &self,
        onnx: &[u8],
        expected: &Signature,
        level: GraphOptimizationLevel,
    ) -> Result<Box<dyn Engine<Cpu>>> {
        let failed = |error: ort::Error| runtime_error(expected, &error);
        let session = self.session(onnx, level).map_err(failed)?;
        compare(expected, "input", &expected.inputs, session.inputs())?;
        compare(expected, "output", &expected.outputs, session.outputs())?;
        Ok(Box::new(Network {
            signature: expected.clone(),
            session,
            ready: Vec::with_capacity(READY),
        }))
    }

    /// Loads a network as it is written, without the optimizations that would compute QuantizeLinear and
    /// DequantizeLinear in integers: those saturate on processors without VNNI, which TensorRT does not.
    ///
    /// # Errors
    /// As [`Self::engine`].
    pub fn exact_engine(&self, onnx: &[u8], expected: &Signature) -> Result<Box<dyn Engine<Cpu>>> {
        self.load_engine(onnx, expected, GraphOptimizationLevel::Disable)
    }

    /// Loads a network, as it is written, of which any number of outputs is looked at.
    ///
    /// # Errors
    /// [`Error::Runtime`] when ONNX Runtime refuses it.
    pub fn probe(&self, onnx: &[u8], network: &str) -> Result<Probe> {
        let session = self
            .session(onnx, GraphOptimizationLevel::Disable)
            .map_err(|error| Error::Runtime {
                network: network.into(),
                reason: error.to_string(),
            })?;
        Ok(Probe {
            network: network.into(),
            session,
        })
    }

    fn session(&self, onnx: &[u8], level: GraphOptimizationLevel) -> ort::Result<Session> {
        Session::builder(&self.environment)?
            .with_intra_threads(self.threads)?
            // Spinning threads would take the cores from decoder, encoder and the other networks.
            .with_intra_op_spinning(false)?
            // Shapes vary, and a plan per shape costs memory: 1280x736 takes 165 MB without it, 200 MB with it.
            .with_memory_pattern(false)?
            .with_optimization_level(level)?
            .commit_from_memory(onnx)
    }
}

/// A network whose values are looked at, rather than used: calibration reads what goes on inside.
pub struct Probe {
    network: String,
    session: Session,
}

impl Probe {
    /// Runs the network on one value per input, each a shape and as many numbers, and gives every output to `look`: its
    /// index, its shape, its numbers.
    ///
    /// # Errors
    /// [`Error::Runtime`] when a shape is not the network's or it has an output that is no `f32`.
    pub fn run(
        &mut self,
        inputs: &[(Vec<usize>, Vec<f32>)],
        mut look: impl FnMut(usize, &[i64], &[f32]),
    ) -> Result<()> {
        let mut run = || -> ort::Result<()> {
            let mut values: Vec<SessionInputValue<'static>> = Vec::with_capacity(inputs.len());
            for input in inputs {
                values.push(ort::value::Tensor::from_array(input.clone())?.into());
            }
            let outputs = self.session.run(values.as_slice())?;
            for (index, output) in outputs.values().enumerate() {
                let (shape, numbers) = output.try_extract_tensor::<f32>()?;
                look(index, shape, numbers);
            }
            Ok(())
        };
        run().map_err(|error| Error::Runtime {
            network: self.network.clone(),
            reason: error.to_string(),
        })
    }
}

fn runtime_error(signature: &Signature, error: &ort::Error) -> Error {
    Error::Runtime {
        network: signature.network.clone(),
        reason: error.to_string(),
    }
}

fn compare(signature: &Signature, kind: &str, wanted: &[Port], got: &[Outlet]) -> Result<()> {
    let fits = |wanted: &Port, got: &Outlet| match got.dtype() {
        ValueType::Tensor { ty, shape, .. } => {
            *ty == TensorElementType::Float32 && shape.len() <= 4 && wanted.fits(got.name(), shape)
        }
        _ => false,
    };
    let describe = |got: &Outlet| format!("`{}` {}", got.name(), got.dtype());
    signature.compare(kind, wanted, got, fits, describe)
}

impl Gather<Cpu> for Cpu {
    fn place(&mut self) -> &mut Cpu {
        self
    }

    fn shape(tensor: &Tensor) -> [usize; 4] {
        tensor.shape()
    }

    fn put(&self, from: &[&Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        for (from, to) in from.iter().zip(to) {
            let start = first * to.entry_len();
            to.data_mut()[start..start + from.data().len()].copy_from_slice(from.data());
        }
        Ok(())
    }

    fn in_order(&self, _: &Tensor, work: impl FnOnce() -> Result<()>) -> Result<()> {
        work()
    }

    fn take(&self, from: &[Tensor], first: usize, to: &mut [Tensor]) -> Result<()> {
        for (from, to) in from.iter().zip(to) {
            let (start, length) = (first * from.entry_len(), to.data().len());
            to.data_mut().copy_from_slice(&from.data()[start..start + length]);
        }
        Ok(())
    }
}

impl Shared<Cpu> {
    /// Shares a network of which every input and output has one entry per face: requests that wait are put together, up
    /// to `most` faces in a run.
    ///
    /// # Errors
    /// [`Error::Kernels`] when memory is short or `most` is 0.
    pub fn merging(engine: Box<dyn Engine<Cpu>>, signature: &Signature, most: usize) -> Result<Self> {
        let groups = [Cpu::default(), Cpu::default()];
        Self::gathering(engine, signature, most, groups)
    }
}

/// Inputs and outputs of one set of shapes, in ONNX Runtime's own memory.
struct Bound {
    input_shapes: Vec<[usize; 4]>,
    output_shapes: Vec<[usize; 4]>,
    inputs: Vec<SessionInputValue<'static>>,
    outputs: RunOptions<HasSelectedOutputs>,
}

struct Network {
    signature: Signature,
    session: Session,
    ready: Vec<Bound>,
}

impl Network {
    /// The shape in ONNX, which may have fewer dimensions than a tensor's four.
    fn shape(&self, port: &Port, tensor: &Tensor) -> Result<Vec<usize>> {
        let shape = tensor.shape();
        let (used, rest) = shape.split_at(port.dims.len());
        let fits = port
            .dims
            .iter()
            .zip(used)
            .all(|(wanted, got)| *got > 0 && wanted.is_none_or(|w| w == *got));
        if fits && rest.iter().all(|dim| *dim == 1) {
            return Ok(used.into());
        }
        Err(Error::Shape {
            network: self.signature.network.clone(),
            tensor: port.name.clone(),
            wanted: port.to_string(),
            got: format!("{shape:?}"),
        })
    }

    fn bind(&self, inputs: &[&Tensor], outputs: &[Tensor]) -> Result<Bound> {
        let (wanted, got) = (&self.signature, (inputs.len(), outputs.len()));
        if (wanted.inputs.len(), wanted.outputs.len()) != got {
            return Err(Error::Shape {
                network: wanted.network.clone(),
                tensor: "the list of tensors".into(),
                wanted: format!("{} in and {} out", wanted.inputs.len(), wanted.outputs.len()),
                got: format!("{} in and {} out", got.0, got.1),
            });
        }
        let failed = |error: ort::Error| runtime_error(wanted, &error);
        let allocator = Allocator::default();
        let new = |port: &Port, tensor: &Tensor| {
            let shape = self.shape(port, tensor)?;
            ort::value::Tensor::<f32>::new(&allocator, shape).map_err(failed)
        };
        let mut bound_inputs = Vec::with_capacity(inputs.len());
        for (port, tensor) in wanted.inputs.iter().zip(inputs) {
            bound_inputs.push(new(port, tensor)?.into());
        }
        let mut selected = OutputSelector::default();
        for (port, tensor) in wanted.outputs.iter().zip(outputs) {
            selected = selected.preallocate(&port.name, new(port, tensor)?);
        }
        Ok(Bound {
            input_shapes: inputs.iter().map(|tensor| tensor.shape()).collect(),
            output_shapes: outputs.iter().map(Tensor::shape).collect(),
            inputs: bound_inputs,
            outputs: RunOptions::new().map_err(failed)?.with_outputs(selected),
        })
    }
}

impl Engine<Cpu> for Network {
    fn run(&mut self, inputs: &[&Tensor], outputs: &mut [Tensor]) -> Result<()> {
        let is_ready = |bound: &Bound| {
            bound
                .input_shapes
                .iter()
                .copied()
                .eq(inputs.iter().map(|tensor| tensor.shape()))
                && bound
                    .output_shapes
                    .iter()
                    .copied()
                    .eq(outputs.iter().map(Tensor::shape))
        };
        let index = match self.ready.iter().position(is_ready) {
            Some(index) => index,
            None => {
                let bound = self.bind(inputs, outputs)?;
                if self.ready.len() == READY {
                    self.ready.remove(0);
                }
                self.ready.push(bound);
                self.ready.len() - 1
            }
        };
        let bound = &mut self.ready[index];
        let run = || {
            for (value, tensor) in bound.inputs.iter_mut().zip(inputs) {
                if let SessionInputValue::Owned(value) = value {
                    value
                        .try_extract_tensor_mut::<f32>()?
                        .1
                        .copy_from_slice(tensor.data());
                }
            }
            let results = self
                .session
                .run_with_options(bound.inputs.as_slice(), &bound.outputs)?;
            for (result, tensor) in results.values().zip(outputs) {
                tensor
                    .data_mut()
                    .copy_from_slice(result.try_extract_tensor::<f32>()?.1);
            }
            Ok(())
        };
        run().map_err(|error| runtime_error(&self.signature, &error))
    }
}
