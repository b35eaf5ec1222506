//! TensorRT's methods as functions that return `Result`. Nothing here owns anything: [`super::safe`] does.
//!
//! # Safety
//! Every unsafe function here asks the same of its caller: the object it is called on, and every object passed to it, is
//! alive and belongs to `library`. What a function asks beyond that stands there.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::Path;
use std::ptr;

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_NOW};

use super::logger::{logger, take_error};
use super::sys::{self, Dims32, Dims64, Family, Object, Slots, Version};
use crate::Error;

type Result<T> = std::result::Result<T, Refusal>;

/// Calls a method: `call!(receiver, slot, (argument => Type, ...) -> Type)`. Unsafe as `Receiver::method`, and as whatever
/// the method asks of its arguments.
macro_rules! call {
    ($receiver:expr, $slot:expr, ($($argument:expr => $type:ty),*) -> $result:ty) => {{
        let receiver = $receiver;
        let method: unsafe extern "C" fn(*mut std::ffi::c_void $(, $type)*) -> $result = receiver.method($slot);
        method(receiver.this $(, $argument)*)
    }};
}

type Get = unsafe extern "C" fn() -> i32;
type Create = unsafe extern "C" fn(*mut c_void, i32) -> *mut c_void;
type CreateParser = unsafe extern "C" fn(*mut c_void, *mut c_void, i32) -> *mut c_void;

/// `libnvinfer` and `libnvonnxparser`, opened. They are never closed: TensorRT keeps threads and device memory.
#[derive(Debug)]
pub struct Library {
    /// What the library says it is.
    pub version: Version,
    reported: i32,
    parser_reported: i32,
    create_builder: Create,
    create_runtime: Create,
    create_parser: CreateParser,
}

impl Library {
    /// Opens both libraries. `infer` and `parser` are paths or names that the system's loader looks for.
    pub fn open(infer: &Path, parser: &Path) -> crate::Result<Self> {
        let wrong = |path: &Path, reason: String| Error::TensorRtLibrary {
            path: path.into(),
            reason,
        };
        let open = |path: &Path| {
            // SAFETY: loading runs the library's initialisers; the names are those of NVIDIA's libraries. The parser finds
            // the first library's symbols, so they are global.
            let handle = unsafe { Handle::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
            handle.map_err(|error| wrong(path, error.to_string()))
        };
        let (infer_handle, parser_handle) = (open(infer)?, open(parser)?);
        let missing = |path: &Path| {
            let path = path.to_owned();
            move |error: libloading::Error| wrong(&path, error.to_string())
        };
        // SAFETY: the symbols have these types in every version (`NvInferRuntime.h`, `NvInfer.h`, `NvOnnxParser.h`).
        let (get, create_builder, create_runtime, get_parser, create_parser) = unsafe {
            (
                *infer_handle
                    .get::<Get>(c"getInferLibVersion")
                    .map_err(missing(infer))?,
                *infer_handle
                    .get::<Create>(c"createInferBuilder_INTERNAL")
                    .map_err(missing(infer))?,
                *infer_handle
                    .get::<Create>(c"createInferRuntime_INTERNAL")
                    .map_err(missing(infer))?,
                *parser_handle
                    .get::<Get>(c"getNvOnnxParserVersion")
                    .map_err(missing(parser))?,
                *parser_handle
                    .get::<CreateParser>(c"createNvOnnxParser_INTERNAL")
                    .map_err(missing(parser))?,
            )
        };
        std::mem::forget((infer_handle, parser_handle));
        // SAFETY: both only return a number.
        let (reported, parser_reported) = unsafe { (get(), get_parser()) };
        let version = Version::decode(reported).ok_or_else(|| {
            wrong(
                infer,
                format!("it reports version {reported}; TensorRT 8.5, 8.6, 10 and 11 are supported"),
            )
        })?;
        Ok(Self {
            version,
            reported,
            parser_reported,
            create_builder,
            create_runtime,
            create_parser,
        })
    }

    /// Which interface the library has.
    pub fn family(&self) -> Family {
        self.version.family
    }

    fn slots(&self) -> &'static Slots {
        self.family().slots()
    }

    /// A builder. Without a CUDA driver most versions have none.
    pub fn create_builder(&self) -> Result<Builder> {
        // SAFETY: the logger lives as long as the process; the version is the library's own.
        let builder = unsafe { (self.create_builder)(logger(self.family()), self.reported) };
        made(builder, "builder").map(Builder)
    }

    /// A runtime.
    pub fn create_runtime(&self) -> Result<Runtime> {
        // SAFETY: as for the builder.
        let runtime = unsafe { (self.create_runtime)(logger(self.family()), self.reported) };
        made(runtime, "runtime").map(Runtime)
    }

    /// A parser that writes into `network`.
    ///
    /// # Safety
    /// As in [`self`]; the network outlives the parser.
    pub unsafe fn create_parser(&self, network: Network) -> Result<Parser> {
        let logger = logger(self.family());
        // SAFETY: the caller's promise, and as for the builder.
        let parser = unsafe { (self.create_parser)(network.0.as_ptr(), logger, self.parser_reported) };
        made(parser, "ONNX parser").map(Parser)
    }
}

/// TensorRT said no: what it did not do, and why in its own words where it had some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub String);

fn refused(what: String) -> Refusal {
    Refusal(match take_error() {
        Some(error) => format!("{what}: {error}"),
        None => what,
    })
}

fn made(pointer: *mut c_void, what: &str) -> Result<Object> {
    Object::new(pointer).ok_or_else(|| refused(format!("it made no {what}")))
}

fn done(accepted: bool, what: impl FnOnce() -> String) -> Result<()> {
    if accepted { Ok(()) } else { Err(refused(what())) }
}

/// Text that TensorRT owns, copied.
///
/// # Safety
/// `text` is null or a C string.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Calls a method that returns `Dims`.
macro_rules! dimensions {
    ($library:expr, $receiver:expr, $slot:expr, ($($argument:expr => $type:ty),*)) => {
        match $library.family() {
            Family::V8 => call!($receiver, $slot, ($($argument => $type),*) -> Dims32).into(),
            _ => call!($receiver, $slot, ($($argument => $type),*) -> Dims64),
        }
    };
}

/// What whoever asked for it must destroy.
pub trait Destroy: Copy {
    /// Destroys the object.
    ///
    /// # Safety
    /// As in [`self`]; nothing that was made from it is alive, and it is not used again.
    unsafe fn destroy(self, library: &Library);
}

macro_rules! interfaces {
    ($($(#[$documentation:meta])* $name:ident)*) => {$(
        $(#[$documentation])*
        #[derive(Debug, Clone, Copy)]
        pub struct $name(Object);

        impl Destroy for $name {
            unsafe fn destroy(self, library: &Library) {
                // SAFETY: the caller's promise. The deleting destructor lies in the object's own table.
                unsafe { call!(self.0.itself(), library.slots().object_destroy, () -> ()) }
            }
        }
    )*};
}

interfaces! {
    /// `IBuilder`.
    Builder
    /// `INetworkDefinition`.
    Network
    /// `IBuilderConfig`.
    Config
    /// `IHostMemory`.
    HostMemory
    /// `IRuntime`.
    Runtime
    /// `ICudaEngine`.
    Engine
    /// `IExecutionContext`.
    Context
}

/// `IOptimizationProfile`; the builder owns it.
#[derive(Debug, Clone, Copy)]
pub struct Profile(Object);

/// `ITensor`; the network owns it.
#[derive(Debug, Clone, Copy)]
pub struct Tensor(Object);

/// `nvonnxparser::IParser`.
#[derive(Debug, Clone, Copy)]
pub struct Parser(Object);

impl Builder {
    /// An empty network with explicit batch size.
    pub unsafe fn create_network(self, library: &Library) -> Result<Network> {
        let (slot, flags) = (
            library.slots().builder_create_network,
            library.family().network_flags(),
        );
        // SAFETY: `INetworkDefinition* createNetworkV2(uint32_t)`.
        let network = unsafe { call!(self.0.implementation(), slot, (flags => u32) -> *mut c_void) };
        made(network, "network").map(Network)
    }

    /// A configuration with the version's defaults.
    pub unsafe fn create_config(self, library: &Library) -> Result<Config> {
        let slot = library.slots().builder_create_config;
        // SAFETY: `IBuilderConfig* createBuilderConfig()`.
        let config = unsafe { call!(self.0.implementation(), slot, () -> *mut c_void) };
        made(config, "configuration").map(Config)
    }

    /// A profile, which the builder owns.
    pub unsafe fn create_profile(self, library: &Library) -> Result<Profile> {
        let slot = library.slots().builder_create_profile;
        // SAFETY: `IOptimizationProfile* createOptimizationProfile()`.
        let profile = unsafe { call!(self.0.implementation(), slot, () -> *mut c_void) };
        made(profile, "optimization profile").map(Profile)
    }

    /// How many deep learning accelerators there are.
    pub unsafe fn dla_cores(self, library: &Library) -> u32 {
        let slot = library.slots().builder_dla_cores;
        // SAFETY: `int32_t getNbDLACores() const`.
        let cores = unsafe { call!(self.0.implementation(), slot, () -> i32) };
        u32::try_from(cores).unwrap_or(0)
    }

    /// Compiles the network. Takes seconds to minutes.
    pub unsafe fn build(self, library: &Library, network: Network, config: Config) -> Result<HostMemory> {
        let slot = library.slots().builder_build;
        let (network, config) = (network.0.as_ptr(), config.0.as_ptr());
        // SAFETY: `IHostMemory* buildSerializedNetwork(INetworkDefinition&, IBuilderConfig&)`; references are pointers.
        let plan = unsafe {
            call!(self.0.implementation(), slot, (network => *mut c_void, config => *mut c_void) -> *mut c_void)
        };
        made(plan, "plan").map(HostMemory)
    }
}

impl Network {
    /// How many layers it has.
    pub unsafe fn layers(self, library: &Library) -> i32 {
        // SAFETY: `int32_t getNbLayers() const`.
        unsafe { call!(self.0.implementation(), library.slots().network_layers, () -> i32) }
    }

    /// How many inputs it has.
    pub unsafe fn inputs(self, library: &Library) -> i32 {
        // SAFETY: `int32_t getNbInputs() const`.
        unsafe { call!(self.0.implementation(), library.slots().network_inputs, () -> i32) }
    }

    /// An input.
    pub unsafe fn input(self, library: &Library, index: i32) -> Result<Tensor> {
        let slot = library.slots().network_input;
        // SAFETY: `ITensor* getInput(int32_t) const`.
        let tensor = unsafe { call!(self.0.implementation(), slot, (index => i32) -> *mut c_void) };
        made(tensor, "input").map(Tensor)
    }

    /// How many outputs it has.
    pub unsafe fn outputs(self, library: &Library) -> i32 {
        // SAFETY: `int32_t getNbOutputs() const`.
        unsafe { call!(self.0.implementation(), library.slots().network_outputs, () -> i32) }
    }

    /// An output.
    pub unsafe fn output(self, library: &Library, index: i32) -> Result<Tensor> {
        let slot = library.slots().network_output;
        // SAFETY: `ITensor* getOutput(int32_t) const`.
        let tensor = unsafe { call!(self.0.implementation(), slot, (index => i32) -> *mut c_void) };
        made(tensor, "output").map(Tensor)
    }
}

impl Tensor {
    /// Its name.
    pub unsafe fn name(self, library: &Library) -> String {
        let slot = library.slots().tensor_name;
        // SAFETY: `char const* getName() const`, a C string that the tensor owns.
        unsafe { copied(call!(self.0.implementation(), slot, () -> *const c_char)) }
    }

    /// Its shape.
    pub unsafe fn dimensions(self, library: &Library) -> Dims64 {
        let slot = library.slots().tensor_dimensions;
        // SAFETY: `Dims getDimensions() const`.
        unsafe { dimensions!(library, self.0.implementation(), slot, ()) }
    }

    /// Its `DataType`.
    pub unsafe fn data_type(self, library: &Library) -> i32 {
        // SAFETY: `DataType getType() const`.
        unsafe { call!(self.0.implementation(), library.slots().tensor_type, () -> i32) }
    }
}

impl Config {
    /// Sets a `BuilderFlag`.
    pub unsafe fn set_flag(self, library: &Library, flag: i32) {
        let slot = library.slots().config_set_flag;
        // SAFETY: `void setFlag(BuilderFlag)`.
        unsafe { call!(self.0.implementation(), slot, (flag => i32) -> ()) }
    }

    /// Clears a `BuilderFlag`.
    pub unsafe fn clear_flag(self, library: &Library, flag: i32) {
        let slot = library.slots().config_clear_flag;
        // SAFETY: `void clearFlag(BuilderFlag)`.
        unsafe { call!(self.0.implementation(), slot, (flag => i32) -> ()) }
    }

    /// Most memory that layers may take while they compute, in bytes.
    pub unsafe fn set_workspace(self, library: &Library, bytes: usize) {
        let slot = library.slots().config_set_pool;
        // SAFETY: `void setMemoryPoolLimit(MemoryPoolType, std::size_t)`.
        unsafe { call!(self.0.implementation(), slot, (sys::WORKSPACE => i32, bytes => usize) -> ()) }
    }

    /// Puts every layer that it can compute on a deep learning accelerator, and the others on the GPU.
    pub unsafe fn use_dla(self, library: &Library, core: i32) {
        let slots = library.slots();
        // SAFETY: `void setDefaultDeviceType(DeviceType)`, `void setDLACore(int32_t)`.
        unsafe {
            call!(self.0.implementation(), slots.config_set_device, (sys::DLA => i32) -> ());
            call!(self.0.implementation(), slots.config_set_dla_core, (core => i32) -> ());
            self.set_flag(library, slots.flag_gpu_fallback);
        }
    }

    /// Adds a profile.
    pub unsafe fn add_profile(self, library: &Library, profile: Profile) -> Result<()> {
        let (slot, profile) = (library.slots().config_add_profile, profile.0.as_ptr());
        // SAFETY: `int32_t addOptimizationProfile(IOptimizationProfile const*)`.
        let index = unsafe { call!(self.0.implementation(), slot, (profile => *mut c_void) -> i32) };
        done(index >= 0, || "it refused an optimization profile".into())
    }
}

impl Profile {
    /// Sets the smallest, the usual or the largest shape of an input.
    pub unsafe fn set(self, library: &Library, input: &CStr, selector: i32, dims: Dims64) -> Result<()> {
        let slot = library.slots().profile_set_dimensions;
        // SAFETY: `bool setDimensions(char const*, OptProfileSelector, Dims)` in 8.x, `Dims const&` later.
        let accepted = unsafe {
            let receiver = self.0.implementation();
            match library.family() {
                Family::V8 => {
                    let dims = dims.narrow();
                    call!(receiver, slot, (input.as_ptr() => *const c_char, selector => i32, dims => Dims32) -> bool)
                }
                _ => {
                    let dims = &raw const dims;
                    call!(receiver, slot, (input.as_ptr() => *const c_char, selector => i32, dims => *const Dims64) -> bool)
                }
            }
        };
        done(accepted, || {
            format!("it refused the shape {:?} of {input:?}", dims.sizes())
        })
    }

    /// Whether the shapes fit each other.
    pub unsafe fn is_valid(self, library: &Library) -> bool {
        // SAFETY: `bool isValid() const`.
        unsafe { call!(self.0.implementation(), library.slots().profile_is_valid, () -> bool) }
    }
}

impl HostMemory {
    /// Its bytes, copied.
    pub unsafe fn to_vec(self, library: &Library) -> Vec<u8> {
        let slots = library.slots();
        // SAFETY: `void* data() const`, `std::size_t size() const`: so many bytes, which the object owns.
        unsafe {
            let data = call!(self.0.implementation(), slots.memory_data, () -> *const u8);
            let size = call!(self.0.implementation(), slots.memory_size, () -> usize);
            if data.is_null() {
                return Vec::new();
            }
            std::slice::from_raw_parts(data, size).to_vec()
        }
    }
}

impl Runtime {
    /// The deep learning accelerator for plans that use one.
    pub unsafe fn set_dla_core(self, library: &Library, core: i32) {
        let slot = library.slots().runtime_set_dla_core;
        // SAFETY: `void setDLACore(int32_t)`.
        unsafe { call!(self.0.implementation(), slot, (core => i32) -> ()) }
    }

    /// Loads a plan. A plan is code: the caller has seen that it is one that this program wrote.
    pub unsafe fn deserialize(self, library: &Library, plan: &[u8]) -> Result<Engine> {
        let slot = library.slots().runtime_deserialize;
        let (data, size) = (plan.as_ptr(), plan.len());
        // SAFETY: `ICudaEngine* deserializeCudaEngine(void const*, std::size_t)`; 8.x has a plugin factory as third
        // argument, which is null.
        let engine = unsafe {
            let receiver = self.0.implementation();
            match library.family() {
                Family::V8 => {
                    let factory = ptr::null_mut();
                    call!(receiver, slot, (data => *const u8, size => usize, factory => *mut c_void) -> *mut c_void)
                }
                _ => call!(receiver, slot, (data => *const u8, size => usize) -> *mut c_void),
            }
        };
        made(engine, "engine").map(Engine)
    }
}

impl Engine {
    /// How many inputs and outputs it has.
    pub unsafe fn tensors(self, library: &Library) -> i32 {
        // SAFETY: `int32_t getNbIOTensors() const`.
        unsafe { call!(self.0.implementation(), library.slots().engine_tensors, () -> i32) }
    }

    /// Name of an input or output.
    pub unsafe fn tensor_name(self, library: &Library, index: i32) -> CString {
        let slot = library.slots().engine_tensor_name;
        // SAFETY: `char const* getIOTensorName(int32_t) const`.
        let name = unsafe { copied(call!(self.0.implementation(), slot, (index => i32) -> *const c_char)) };
        // What was a C string has no zero inside.
        CString::new(name).unwrap_or_default()
    }

    /// Shape of an input or output; -1 where it is chosen at run time.
    pub unsafe fn tensor_shape(self, library: &Library, name: &CStr) -> Dims64 {
        let slot = library.slots().engine_tensor_shape;
        // SAFETY: `Dims getTensorShape(char const*) const`.
        unsafe { dimensions!(library, self.0.implementation(), slot, (name.as_ptr() => *const c_char)) }
    }

    /// `DataType` of an input or output.
    pub unsafe fn tensor_type(self, library: &Library, name: &CStr) -> i32 {
        let slot = library.slots().engine_tensor_type;
        // SAFETY: `DataType getTensorDataType(char const*) const`.
        unsafe { call!(self.0.implementation(), slot, (name.as_ptr() => *const c_char) -> i32) }
    }

    /// `TensorIOMode` of an input or output.
    pub unsafe fn tensor_mode(self, library: &Library, name: &CStr) -> i32 {
        let slot = library.slots().engine_tensor_mode;
        // SAFETY: `TensorIOMode getTensorIOMode(char const*) const`.
        unsafe { call!(self.0.implementation(), slot, (name.as_ptr() => *const c_char) -> i32) }
    }

    /// How many profiles it was built for.
    pub unsafe fn profiles(self, library: &Library) -> i32 {
        // SAFETY: `int32_t getNbOptimizationProfiles() const`.
        unsafe { call!(self.0.implementation(), library.slots().engine_profiles, () -> i32) }
    }

    /// A context with device memory of its own.
    pub unsafe fn create_context(self, library: &Library) -> Result<Context> {
        let slot = library.slots().engine_create_context;
        // SAFETY: `IExecutionContext* createExecutionContext()` in 8.x, with an allocation strategy later, of which 0 is
        // `kSTATIC`.
        let context = unsafe {
            let receiver = self.0.implementation();
            match library.family() {
                Family::V8 => call!(receiver, slot, () -> *mut c_void),
                _ => call!(receiver, slot, (0 => i32) -> *mut c_void),
            }
        };
        made(context, "execution context").map(Context)
    }
}

impl Context {
    /// Chooses a profile. `stream` is a CUDA stream.
    pub unsafe fn set_profile(self, library: &Library, profile: i32, stream: *mut c_void) -> Result<()> {
        let slot = library.slots().context_set_profile;
        // SAFETY: `bool setOptimizationProfileAsync(int32_t, cudaStream_t)`.
        let accepted =
            unsafe { call!(self.0.implementation(), slot, (profile => i32, stream => *mut c_void) -> bool) };
        done(accepted, || format!("it refused profile {profile}"))
    }

    /// Sets the shape of an input.
    pub unsafe fn set_shape(self, library: &Library, input: &CStr, dims: Dims64) -> Result<()> {
        let slot = library.slots().context_set_shape;
        let narrow = dims.narrow();
        let pointer: *const c_void = match library.family() {
            Family::V8 => (&raw const narrow).cast(),
            _ => (&raw const dims).cast(),
        };
        // SAFETY: `bool setInputShape(char const*, Dims const&)`.
        let accepted = unsafe {
            call!(self.0.implementation(), slot, (input.as_ptr() => *const c_char, pointer => *const c_void) -> bool)
        };
        done(accepted, || {
            format!("it refused the shape {:?} of {input:?}", dims.sizes())
        })
    }

    /// Shape of an input or output with the shapes that were set.
    pub unsafe fn shape(self, library: &Library, name: &CStr) -> Dims64 {
        let slot = library.slots().context_shape;
        // SAFETY: `Dims getTensorShape(char const*) const`.
        unsafe { dimensions!(library, self.0.implementation(), slot, (name.as_ptr() => *const c_char)) }
    }

    /// Where an input lies, or an output is to be written.
    ///
    /// # Safety
    /// As in [`self`]; the memory is there, large enough, until the work that is enqueued next is done.
    pub unsafe fn set_address(self, library: &Library, name: &CStr, address: *mut c_void) -> Result<()> {
        let slot = library.slots().context_set_address;
        // SAFETY: `bool setTensorAddress(char const*, void*)`.
        let accepted = unsafe {
            call!(self.0.implementation(), slot, (name.as_ptr() => *const c_char, address => *mut c_void) -> bool)
        };
        done(accepted, || format!("it refused the memory for {name:?}"))
    }

    /// Enqueues the network on a CUDA stream and returns at once.
    pub unsafe fn enqueue(self, library: &Library, stream: *mut c_void) -> Result<()> {
        let slot = library.slots().context_enqueue;
        // SAFETY: `bool enqueueV3(cudaStream_t)`.
        let accepted = unsafe { call!(self.0.implementation(), slot, (stream => *mut c_void) -> bool) };
        done(accepted, || "it did not run".into())
    }
}

impl Parser {
    /// Asks for TensorRT's own instance normalization, which is the default only in some versions. 8.x cannot.
    pub unsafe fn use_native_instance_norm(self, library: &Library) {
        if let Some(slot) = library.slots().parser_set_flag {
            // SAFETY: `void setFlag(OnnxParserFlag)`.
            unsafe { call!(self.0.itself(), slot, (sys::NATIVE_INSTANCENORM => i32) -> ()) }
        }
    }

    /// Reads an ONNX file into the network.
    ///
    /// # Safety
    /// As in [`self`]; `onnx` lives as long as the network, whose weights may point into it.
    pub unsafe fn parse(self, library: &Library, onnx: &[u8]) -> Result<()> {
        let slot = library.slots().parser_parse;
        let (data, size, path) = (onnx.as_ptr(), onnx.len(), ptr::null());
        // SAFETY: `bool parse(void const*, std::size_t, char const*)`.
        let accepted = unsafe {
            call!(self.0.itself(), slot, (data => *const u8, size => usize, path => *const c_char) -> bool)
        };
        done(accepted, || {
            // SAFETY: the caller's promise.
            let errors = unsafe { self.errors(library) };
            format!("it refused the ONNX file: {}", errors.join("; "))
        })
    }

    /// What the parser found wrong.
    unsafe fn errors(self, library: &Library) -> Vec<String> {
        let slots = library.slots();
        let mut errors = Vec::new();
        // SAFETY: `int getNbErrors() const`, `IParserError const* getError(int) const`, and the error's
        // `ErrorCode code() const`, `char const* desc() const`, `int node() const`; the parser owns the errors.
        unsafe {
            for index in 0..call!(self.0.itself(), slots.parser_errors, () -> i32) {
                let error = call!(self.0.itself(), slots.parser_error, (index => i32) -> *mut c_void);
                let Some(error) = Object::new(error) else { continue };
                let code = call!(error.itself(), slots.error_code, () -> i32);
                let node = call!(error.itself(), slots.error_node, () -> i32);
                let words = copied(call!(error.itself(), slots.error_description, () -> *const c_char));
                errors.push(format!("node {node}: {} (code {code})", words.trim()));
            }
        }
        errors
    }
}

impl Destroy for Parser {
    unsafe fn destroy(self, library: &Library) {
        // SAFETY: the caller's promise. Its table is not that of the other interfaces.
        unsafe { call!(self.0.itself(), library.slots().parser_destroy, () -> ()) }
    }
}
