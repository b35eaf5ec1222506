//! TensorRT without unsafe calls: compiling a network into a plan, and running a plan.

use std::ffi::{CString, c_void};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kernels::Kernels;

use super::result::{self, Destroy, Refusal};
use super::sys::{self, Dims64, Family, Version};
use super::{Profile, operators};
use crate::onnx::{Builder as Onnx, Dim};
use crate::{Engine, Error, Port, Precision, Result, Shared, Signature};

/// File names of the two libraries, newest first.
const NAMES: [(&str, &str); 4] = [
    ("libnvinfer.so.11", "libnvonnxparser.so.11"),
    ("libnvinfer.so.10", "libnvonnxparser.so.10"),
    ("libnvinfer.so.8", "libnvonnxparser.so.8"),
    // Only for building without a GPU; never where a TensorRT is.
    ("libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"),
];

/// An opened TensorRT that has answered the first questions as it should.
#[derive(Debug, Clone)]
pub struct Library(Arc<result::Library>);

/// What a network is compiled for.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// The network, in the precision that it is to compute with.
    pub onnx: &'a [u8],
    /// What its inputs and outputs must be.
    pub signature: &'a Signature,
    /// The shapes that it must take; one execution context each.
    pub profiles: &'a [Profile],
    /// The precision of `onnx`.
    pub precision: Precision,
    /// Most memory that layers may take while they compute, in bytes; without it, all of the device's.
    pub workspace: Option<usize>,
    /// The deep learning accelerator to compute on, as far as it can.
    pub dla: Option<u32>,
}

/// An object that is destroyed when it goes out of scope. Whatever is made from another object is declared after it, and so
/// destroyed before it.
struct Owned<T: Destroy> {
    raw: T,
    library: Arc<result::Library>,
}

impl<T: Destroy> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: it is alive until here, and its children are gone (see the type).
        unsafe { self.raw.destroy(&self.library) }
    }
}

fn refused(network: &str) -> impl Fn(Refusal) -> Error + Copy {
    move |Refusal(reason)| Error::TensorRt {
        network: network.into(),
        reason,
    }
}

impl Library {
    /// Opens the TensorRT in `folder`, or without one the newest that the system's loader finds, and checks that it is
    /// what it says: a builder, a network and the parser must give what they must give for a network of one layer.
    ///
    /// # Errors
    /// [`Error::TensorRtLibrary`] when there is none, it is of an unknown version, or it does not give that.
    pub fn open(folder: Option<&Path>) -> Result<Self> {
        let mut first_error = None;
        for (infer, parser) in NAMES {
            let path = |name: &str| folder.map_or_else(|| name.into(), |folder| folder.join(name));
            if folder.is_some() && !path(infer).exists() {
                continue;
            }
            match result::Library::open(&path(infer), &path(parser)) {
                Ok(library) => {
                    let library = Self(Arc::new(library));
                    library.check(&path(infer))?;
                    return Ok(library);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| Error::TensorRtLibrary {
            path: folder.unwrap_or(Path::new(NAMES[0].0)).into(),
            reason: "there is no libnvinfer".into(),
        }))
    }

    /// What the library says it is.
    pub fn version(&self) -> Version {
        self.0.version
    }

    fn own<T: Destroy>(&self, raw: T) -> Owned<T> {
        Owned {
            raw,
            library: self.0.clone(),
        }
    }

    /// Asks for what is known before. A wrong slot most likely fails here, before anything depends on it.
    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |reason: String| Error::TensorRtLibrary {
            path: path.into(),
            reason: format!("{}: {reason}", self.version()),
        };
        let mut onnx = Onnx::new("check");
        let input = onnx.input("x", &[Dim::Free("n"), Dim::Fixed(4)]);
        let output = onnx.node("Relu", &[&input], &[]);
        onnx.output(&output, "y", &[Dim::Free("n"), Dim::Fixed(4)]);
        let onnx = onnx.finish();
        let signature = Signature::new("check")
            .input("x", &[None, Some(4)])
            .output("y", &[None, Some(4)]);

        let library = &*self.0;
        let says = |Refusal(reason)| wrong(reason);
        let builder = self.own(library.create_builder().map_err(says)?);
        // SAFETY: the builder, and then the network, are alive; locals are dropped last to first.
        let (network, counts) = unsafe {
            let network = self.own(builder.raw.create_network(library).map_err(says)?);
            let raw = network.raw;
            (
                network,
                [raw.layers(library), raw.inputs(library), raw.outputs(library)],
            )
        };
        if counts != [0; 3] {
            return Err(wrong(format!(
                "an empty network has {counts:?} layers, inputs and outputs; this build does not fit this library"
            )));
        }
        let _parser = self.parse(&network, &onnx).map_err(says)?;
        self.compare_network(&network, &signature)
            .map_err(|error| wrong(error.to_string()))
    }

    /// Reads a file into the network. The parser owns weights that the network uses: it must be kept until the network is
    /// compiled (`NvOnnxParser.h`).
    fn parse(
        &self,
        network: &Owned<result::Network>,
        onnx: &[u8],
    ) -> std::result::Result<Owned<result::Parser>, Refusal> {
        // SAFETY: the network is alive. Callers keep the file as long as the network.
        unsafe {
            let parser = self.own(self.0.create_parser(network.raw)?);
            parser.raw.use_native_instance_norm(&self.0);
            parser.raw.parse(&self.0, onnx)?;
            Ok(parser)
        }
    }

    fn compare_network(&self, network: &Owned<result::Network>, signature: &Signature) -> Result<()> {
        let (library, raw) = (&*self.0, network.raw);
        // SAFETY: the network is alive, and it owns its tensors.
        let (inputs, outputs) = unsafe {
            let found = |tensor: result::Tensor| Found {
                name: tensor.name(library),
                data_type: tensor.data_type(library),
                dims: tensor.dimensions(library),
            };
            let inputs: std::result::Result<Vec<_>, _> = (0..raw.inputs(library))
                .map(|index| raw.input(library, index).map(found))
                .collect();
            let outputs: std::result::Result<Vec<_>, _> = (0..raw.outputs(library))
                .map(|index| raw.output(library, index).map(found))
                .collect();
            (inputs, outputs)
        };
        let says = refused(&signature.network);
        compare(signature, "input", &signature.inputs, &inputs.map_err(says)?)?;
        compare(signature, "output", &signature.outputs, &outputs.map_err(says)?)
    }

    /// Compiles a network for the GPU of this machine. Takes seconds to minutes, and all of the GPU meanwhile.
    ///
    /// # Errors
    /// [`Error::TensorRt`] with TensorRT's reason; [`Error::Signature`] when the network's inputs and outputs differ.
    pub fn build(&self, recipe: &Recipe<'_>) -> Result<Vec<u8>> {
        let library = &*self.0;
        let Signature {
            network: name,
            inputs,
            ..
        } = recipe.signature;
        let says = refused(name);
        let refuse = |reason: String| Error::TensorRt {
            network: name.clone(),
            reason,
        };
        let basic;
        let onnx = match self.version().family {
            Family::V8 => {
                basic = crate::onnx::basic::convert(recipe.onnx)?;
                &basic
            }
            _ => recipe.onnx,
        };
        operators::check(self.version(), name, onnx)?;
        let builder = self.own(library.create_builder().map_err(says)?);
        // SAFETY: every object is owned by a local of this function or by the builder, in the order in which they are made,
        // so all of them are alive wherever they are used; the ONNX file is borrowed until the end.
        unsafe {
            let network = self.own(builder.raw.create_network(library).map_err(says)?);
            let _parser = self.parse(&network, onnx).map_err(says)?;
            self.compare_network(&network, recipe.signature)?;
            let config = self.own(builder.raw.create_config(library).map_err(says)?);
            if let Some(bytes) = recipe.workspace {
                config.raw.set_workspace(library, bytes);
            }
            let slots = self.version().family.slots();
            // Weakly typed networks (8.x) follow the file's types only with these flags; others always do.
            let flags = match recipe.precision {
                Precision::Fp32 => [None, None],
                Precision::Fp16 => [slots.flag_fp16, None],
                Precision::Int8 => [slots.flag_fp16, slots.flag_int8],
            };
            for flag in flags.into_iter().flatten() {
                config.raw.set_flag(library, flag);
            }
            if recipe.precision == Precision::Fp32 {
                // TF32 has FP16's mantissa.
                config.raw.clear_flag(library, slots.flag_tf32);
            }
            if let Some(core) = recipe.dla {
                let cores = builder.raw.dla_cores(library);
                if core >= cores {
                    return Err(refuse(format!(
                        "accelerator {core} was asked for and this machine has {cores}; leave out --dla"
                    )));
                }
                config.raw.use_dla(library, core as i32);
            }
            for profile in recipe.profiles {
                let raw = builder.raw.create_profile(library).map_err(says)?;
                for (port, shapes) in inputs.iter().zip(&profile.0) {
                    let name = CString::new(port.name.as_str()).map_err(|error| refuse(error.to_string()))?;
                    for (selector, shape) in sys::SELECTORS.into_iter().zip(shapes) {
                        let dims = Dims64::new(shape.iter().copied())
                            .ok_or_else(|| refuse(format!("the shape {shape:?} is too large")))?;
                        raw.set(library, &name, selector, dims).map_err(says)?;
                    }
                }
                if !raw.is_valid(library) {
                    return Err(refuse(format!("it calls the profile {profile} invalid")));
                }
                config.raw.add_profile(library, raw).map_err(says)?;
            }
            let plan = builder.raw.build(library, network.raw, config.raw);
            let plan = self.own(plan.map_err(says)?);
            Ok(plan.raw.to_vec(library))
        }
    }

    /// Loads a plan that this program built on this machine, with one execution context per profile.
    ///
    /// A plan is code for the GPU: only one whose hash was checked may come here.
    ///
    /// # Errors
    /// [`Error::TensorRt`] when TensorRT refuses it: it is of another version or GPU; [`Error::Signature`] when its inputs
    /// and outputs differ.
    pub fn load(
        &self,
        plan: &[u8],
        signature: &Signature,
        profiles: &[Profile],
        dla: Option<u32>,
    ) -> Result<Executor> {
        let library = &*self.0;
        let says = refused(&signature.network);
        let runtime = self.own(library.create_runtime().map_err(says)?);
        // SAFETY: the runtime, the engine and the contexts are owned in this order, here and in the executor, whose fields
        // are dropped contexts first.
        let (engine, contexts, tensors) = unsafe {
            if let Some(core) = dla {
                runtime.raw.set_dla_core(library, core as i32);
            }
            let engine = self.own(runtime.raw.deserialize(library, plan).map_err(says)?);
            let tensors = self.tensors(&engine, signature)?;
            let count = engine.raw.profiles(library);
            if usize::try_from(count) != Ok(profiles.len()) {
                return Err(says(Refusal(format!(
                    "the plan has {count} profiles, wanted {}",
                    profiles.len()
                ))));
            }
            let mut contexts = Vec::with_capacity(profiles.len());
            for (index, profile) in profiles.iter().enumerate() {
                contexts.push(Prepared {
                    context: self.own(engine.raw.create_context(library).map_err(says)?),
                    index: index as i32,
                    is_selected: false,
                    profile: profile.clone(),
                    shapes: Vec::with_capacity(tensors.len()),
                });
            }
            (engine, contexts, tensors)
        };
        Ok(Executor {
            contexts,
            _engine: engine,
            _runtime: runtime,
            library: self.clone(),
            signature: signature.clone(),
            tensors,
        })
    }

    /// Names of an engine's inputs, then outputs, in the signature's order, after comparing all there is to compare.
    fn tensors(&self, engine: &Owned<result::Engine>, signature: &Signature) -> Result<Vec<CString>> {
        let (library, raw) = (&*self.0, engine.raw);
        let (mut inputs, mut outputs, mut names) = (Vec::new(), Vec::new(), Vec::new());
        // SAFETY: the engine is alive.
        unsafe {
            for index in 0..raw.tensors(library) {
                let name = raw.tensor_name(library, index);
                let found = Found {
                    name: name.to_string_lossy().into_owned(),
                    data_type: raw.tensor_type(library, &name),
                    dims: raw.tensor_shape(library, &name),
                };
                match raw.tensor_mode(library, &name) {
                    sys::INPUT => inputs.push(found),
                    _ => outputs.push(found),
                }
                names.push(name);
            }
        }
        // An engine lists its tensors in an order of its own.
        let place = |ports: &[Port], found: &Found| {
            let index = ports.iter().position(|port| port.name == found.name);
            index.unwrap_or(ports.len())
        };
        inputs.sort_by_key(|found| place(&signature.inputs, found));
        outputs.sort_by_key(|found| place(&signature.outputs, found));
        compare(signature, "input", &signature.inputs, &inputs)?;
        compare(signature, "output", &signature.outputs, &outputs)?;
        let ports = signature.inputs.iter().chain(&signature.outputs);
        let name = |port: &Port| names.iter().find(|name| name.as_bytes() == port.name.as_bytes());
        Ok(ports.filter_map(name).cloned().collect())
    }
}

/// An input or output as TensorRT describes it.
struct Found {
    name: String,
    data_type: i32,
    dims: Dims64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {:?}", self.name, self.dims.sizes())?;
        if self.data_type == sys::FLOAT {
            return Ok(());
        }
        write!(f, " of data type {}", self.data_type)
    }
}

impl Found {
    fn is(&self, port: &Port) -> bool {
        self.data_type == sys::FLOAT && port.fits(&self.name, self.dims.sizes())
    }
}

fn compare(signature: &Signature, kind: &str, wanted: &[Port], got: &[Found]) -> Result<()> {
    let fits = |wanted: &Port, got: &Found| got.is(wanted);
    signature.compare(kind, wanted, got, fits, Found::to_string)
}

/// A place whose tensors lie where TensorRT can read and write them.
///
/// # Safety
/// What [`Device::address`] gives is the address, in the GPU's address space, of as many `f32` as [`Device::shape`] has, and
/// stays so until everything that was enqueued on [`Device::stream`] before the tensor was dropped is done.
/// [`Device::stream`] is a live CUDA stream of the process's current device. What [`Device::share`] gives never lets two
/// runs work at the same time.
pub unsafe trait Device: Kernels {
    /// Where the tensor's values begin; `None` when they are not `f32`.
    fn address(tensor: &Self::Tensor) -> Option<u64>;
    /// The shape in use.
    fn shape(tensor: &Self::Tensor) -> [usize; 4];
    /// The CUDA stream (`CUstream`) in whose order everything happens to the tensor.
    fn stream(tensor: &Self::Tensor) -> *mut c_void;
    /// A network for pipelines on streams of their own: a run begins on the GPU when the one before is done, whatever stream
    /// that one was on, because both work in the same memory. Of a network whose inputs and outputs have one entry per face,
    /// requests that wait for each other are put together, up to `most` faces in a run; 1 for any other network.
    ///
    /// # Errors
    /// [`Error::Kernels`] when the place has no means left.
    fn share(
        kernels: &mut Self,
        engine: Box<dyn Engine<Self>>,
        signature: &Signature,
        most: usize,
    ) -> Result<Shared<Self>>
    where
        Self: Sized;
}

/// A loaded network. It is enqueued on the stream of its tensors and nobody waits for it, so that kernels and networks on one
/// stream follow each other on the GPU.
pub struct Executor {
    // Fields are dropped in this order.
    contexts: Vec<Prepared>,
    _engine: Owned<result::Engine>,
    _runtime: Owned<result::Runtime>,
    library: Library,
    signature: Signature,
    /// Names of inputs, then outputs, in the signature's order.
    tensors: Vec<CString>,
}

// SAFETY: TensorRT's objects may be used from every thread, one at a time; `run` takes the executor exclusively.
unsafe impl Send for Executor {}

/// The context of one profile, with the shapes that it was last given.
struct Prepared {
    context: Owned<result::Context>,
    /// Of the profile.
    index: i32,
    /// Whether the context knows its profile, which it is told on the stream that it first runs on.
    is_selected: bool,
    profile: Profile,
    shapes: Vec<[usize; 4]>,
}

impl Executor {
    /// Where a tensor does not fit its port: the error.
    fn check_shape(&self, port: &Port, shape: [usize; 4]) -> Result<()> {
        let (used, rest) = shape.split_at(port.dims.len().min(shape.len()));
        let fits =
            |(wanted, got): (&Option<usize>, &usize)| *got > 0 && wanted.is_none_or(|size| size == *got);
        if port.dims.iter().zip(used).all(fits) && rest.iter().all(|size| *size == 1) {
            return Ok(());
        }
        Err(self.shape_error(&port.name, port.to_string(), format!("{shape:?}")))
    }

    fn shape_error(&self, tensor: &str, wanted: String, got: String) -> Error {
        Error::Shape {
            network: self.signature.network.clone(),
            tensor: tensor.into(),
            wanted,
            got,
        }
    }

    /// Gives the context of the first profile that takes these shapes, set to them. Allocates only for new shapes.
    fn prepare(
        &mut self,
        shapes: impl Iterator<Item = [usize; 4]> + Clone,
        stream: *mut c_void,
    ) -> Result<result::Context> {
        let ports = || self.signature.inputs.iter().chain(&self.signature.outputs);
        let inputs = self.signature.inputs.len();
        if shapes.clone().count() != self.tensors.len() {
            let (wanted, got) = (self.tensors.len(), shapes.clone().count());
            return Err(self.shape_error("the list of tensors", wanted.to_string(), got.to_string()));
        }
        let is_prepared = |prepared: &Prepared| prepared.shapes.iter().copied().eq(shapes.clone());
        if let Some(prepared) = self.contexts.iter().find(|prepared| is_prepared(prepared)) {
            return Ok(prepared.context.raw);
        }
        for (port, shape) in ports().zip(shapes.clone()) {
            self.check_shape(port, shape)?;
        }
        let takes = |prepared: &Prepared| prepared.profile.takes(shapes.clone().take(inputs));
        let Some(index) = self.contexts.iter().position(takes) else {
            let shapes: Vec<_> = shapes.take(inputs).collect();
            let profiles: Vec<_> = self
                .contexts
                .iter()
                .map(|prepared| prepared.profile.to_string())
                .collect();
            return Err(self.shape_error("its inputs", profiles.join(" or "), format!("{shapes:?}")));
        };
        let (library, says) = (&*self.library.0, refused(&self.signature.network));
        let prepared = &mut self.contexts[index];
        // Whatever fails below leaves a context that fits no shapes.
        prepared.shapes.clear();
        if !prepared.is_selected {
            // SAFETY: the context and the stream are alive.
            let selected = unsafe { prepared.context.raw.set_profile(library, prepared.index, stream) };
            selected.map_err(says)?;
            prepared.is_selected = true;
        }
        let Prepared { context, .. } = &self.contexts[index];
        for ((port, name), shape) in ports().zip(&self.tensors).zip(shapes.clone()).take(inputs) {
            let dims = Dims64::new(shape.into_iter().take(port.dims.len()))
                .ok_or_else(|| self.shape_error(&port.name, port.to_string(), format!("{shape:?}")))?;
            // SAFETY: the context is alive.
            unsafe { context.raw.set_shape(library, name, dims) }.map_err(says)?;
        }
        for ((port, name), shape) in ports().zip(&self.tensors).zip(shapes.clone()).skip(inputs) {
            // SAFETY: the context is alive.
            let dims = unsafe { context.raw.shape(library, name) };
            // TensorRT writes as much as it says here: a smaller tensor must not be passed.
            if !dims
                .sizes()
                .iter()
                .copied()
                .eq(shape.iter().take(port.dims.len()).map(|size| *size as i64))
            {
                return Err(self.shape_error(
                    &port.name,
                    format!("{:?}", dims.sizes()),
                    format!("{shape:?}"),
                ));
            }
        }
        let prepared = &mut self.contexts[index];
        prepared.shapes.extend(shapes);
        Ok(prepared.context.raw)
    }
}

impl<K: Device> Engine<K> for Executor {
    fn run(&mut self, inputs: &[&K::Tensor], outputs: &mut [K::Tensor]) -> Result<()> {
        if inputs.len() != self.signature.inputs.len() {
            let (wanted, got) = (self.signature.inputs.len(), inputs.len());
            return Err(self.shape_error("the list of inputs", wanted.to_string(), got.to_string()));
        }
        let outputs = &*outputs;
        let tensors = || inputs.iter().copied().chain(outputs);
        let Some(stream) = tensors().next().map(K::stream) else {
            return Err(self.shape_error("the list of tensors", "some".into(), "none".into()));
        };
        let context = self.prepare(tensors().map(K::shape), stream)?;
        let (library, says) = (&*self.library.0, refused(&self.signature.network));
        for (name, tensor) in self.tensors.iter().zip(tensors()) {
            let address = K::address(tensor)
                .filter(|_| K::stream(tensor) == stream)
                .ok_or_else(|| {
                    let wanted = "f32 on the stream of the other tensors".into();
                    self.shape_error(&name.to_string_lossy(), wanted, "something else".into())
                })?;
            // SAFETY: the context is alive. The memory is there until the stream has done what is enqueued here, which is
            // what `Device` promises, and as large as TensorRT was told in `prepare`.
            unsafe { context.set_address(library, name, address as *mut c_void) }.map_err(says)?;
        }
        // SAFETY: the context and the stream are alive.
        unsafe { context.enqueue(library, stream) }.map_err(says)
    }
}
