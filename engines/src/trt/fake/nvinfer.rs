//! A made-up `libnvinfer` and `libnvonnxparser` for tests, with the binary layouts of TensorRT 8, 10 and 11.
//!
//! It takes the calls of the binding through tables laid out as NVIDIA's headers say, and does what they ask in ONNX Runtime
//! on the CPU, at once or, where there is a stream, when the driver of the tests comes to it; addresses on the device are
//! addresses in memory. Whatever NVIDIA's library would answer with undefined
//! behaviour ends the process with a sentence: a slot that is none of those in use, a method on another kind of object, an
//! object destroyed before what was made from it, a network compiled after its parser was gone.
//!
//! The file `fake` beside the library says, one word a line, which version it reports (`version 8502`) and what shall fail
//! (`fail build`). It is read at every call.
#![allow(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::process::abort;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use engines::models::{Store, default_dir};
use engines::onnx::proto::{Extent, Model, ValueInfo};
use engines::{Engine, Signature, cpu};
use kernels::Kernels;
use kernels::cpu::Cpu;
use prost::Message;
use serde::{Deserialize, Serialize};

#[path = "../sys/mod.rs"]
#[expect(dead_code, reason = "the binding's side of it")]
mod sys;

use sys::{Dims32, Dims64, Family, Version};

/// Ends the process: what NVIDIA's library would not survive either.
fn wrong(what: &str) -> ! {
    eprintln!("fake nvinfer: {what}");
    abort()
}

/// The lines of the file `fake`.
fn settings() -> String {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // The line of the memory map that holds this function names the library's file.
        let here = settings as *const () as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let is_here = |line: &&str| {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            let bound = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
            range.is_some_and(|(from, to)| (bound(from)..bound(to)).contains(&here))
        };
        let line = maps
            .lines()
            .find(is_here)
            .unwrap_or_else(|| wrong("it is in no file"));
        let path = line.find('/').map_or("", |at| &line[at..]);
        PathBuf::from(path).with_file_name("fake")
    });
    std::fs::read_to_string(folder).unwrap_or_default()
}

fn reported() -> i32 {
    let settings = settings();
    let version = settings.lines().find_map(|line| line.strip_prefix("version "));
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(100_300)
}

fn version() -> Version {
    // A version that the binding refuses has no layout; then nothing but its number is asked for.
    Version::decode(reported()).unwrap_or_else(|| wrong("an unknown version was used"))
}

fn is_v8() -> bool {
    version().family == Family::V8
}

fn slots() -> &'static sys::Slots {
    version().family.slots()
}

/// Whether `what` shall fail, and if so a word about it to the log.
fn fails(what: &str) -> bool {
    let fails = settings()
        .lines()
        .any(|line| line.strip_prefix("fail ") == Some(what));
    if fails {
        log(&format!("{what} was made to fail"));
    }
    fails
}

static LOGGER: AtomicUsize = AtomicUsize::new(0);

fn log(message: &str) {
    let logger = LOGGER.load(Ordering::Relaxed) as *mut c_void;
    let Some(logger) = sys::Object::new(logger) else {
        return;
    };
    let Ok(message) = CString::new(message) else {
        return;
    };
    let slot = if matches!(version().family, Family::V8 | Family::V10) {
        0
    } else {
        4
    };
    // SAFETY: `ILogger::log(Severity, char const*)` of a logger that lives as long as the process.
    unsafe {
        let receiver = logger.itself();
        let method: extern "C" fn(*mut c_void, i32, *const c_char) = receiver.method(slot);
        method(receiver.this, 1, message.as_ptr());
    }
}

/// What stands behind every pointer that is given out. `I*` objects are `{ table, implementation }`; the parser's objects
/// are their own implementation. Both words of the former point into this.
#[repr(C)]
struct Object {
    own: *const *const c_void,
    implementation: *mut Implementation,
    behind: Implementation,
}

#[repr(C)]
struct Implementation {
    methods: *const *const c_void,
    kind: Kind,
    parent: *mut Object,
    children: usize,
    /// Text that was given out, kept as long as the object.
    names: Vec<CString>,
}

enum Kind {
    Builder,
    Network(Network),
    Tensor(Tensor),
    Config {
        profiles: Vec<Shapes>,
        flags: u64,
        workspace: usize,
        dla: Option<i32>,
    },
    Profile(Shapes),
    Memory(Vec<u8>),
    Runtime,
    Engine(Plan),
    Context {
        profile: usize,
        shapes: HashMap<String, Vec<i64>>,
        addresses: HashMap<String, usize>,
        engine: cpu::Runtime,
        /// Made at the first run.
        computer: Option<Computer>,
    },
    Parser {
        errors: Vec<*mut Object>,
    },
    ParserError,
}

/// What computes in place of a GPU.
type Computer = Arc<Mutex<Box<dyn Engine<Cpu>>>>;

type Shapes = HashMap<String, [Vec<i64>; 3]>;

#[derive(Default)]
struct Network {
    onnx: Vec<u8>,
    layers: i32,
    inputs: Vec<*mut Object>,
    outputs: Vec<*mut Object>,
    is_parser_alive: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Tensor {
    name: String,
    /// -1 where it is chosen at run time.
    dims: Vec<i64>,
    /// Names of the latter.
    free: Vec<String>,
}

/// A plan is this as JSON, a zero byte, and the ONNX file.
#[derive(Clone, Serialize, Deserialize)]
struct Plan {
    version: i32,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    profiles: Vec<Shapes>,
    flags: u64,
    workspace: usize,
    dla: Option<i32>,
    #[serde(skip)]
    onnx: Vec<u8>,
}

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// How many objects are alive that the binding must destroy.
#[unsafe(no_mangle)]
extern "C" fn fakeLiveObjects() -> usize {
    LIVE.load(Ordering::SeqCst)
}

extern "C" fn no_method() {
    wrong("a slot was called that is none of those in use");
}

type Entry = (usize, *const c_void);

fn table(entries: &[Entry]) -> *const *const c_void {
    let mut table = vec![no_method as *const c_void; 96];
    for (slot, method) in entries {
        table[*slot] = *method;
    }
    table.leak().as_ptr()
}

fn new(kind: Kind, parent: *mut Object, entries: &[Entry]) -> *mut Object {
    let is_parser = matches!(kind, Kind::Parser { .. } | Kind::ParserError);
    let methods = table(entries);
    let own = if is_parser {
        methods
    } else {
        table(&[(slots().object_destroy, destroy as _)])
    };
    let object = Box::into_raw(Box::new(Object {
        own,
        implementation: null_mut(),
        behind: Implementation {
            methods,
            kind,
            parent,
            children: 0,
            names: Vec::new(),
        },
    }));
    // SAFETY: both are alive: the one was just made, the other is a parent that the caller has.
    unsafe {
        (*object).implementation = &raw mut (*object).behind;
        if let Some(parent) = parent.as_mut() {
            parent.behind.children += 1;
        }
    }
    LIVE.fetch_add(1, Ordering::SeqCst);
    object
}

/// The object with this implementation.
fn of<'a>(this: *mut c_void) -> &'a mut Implementation {
    // SAFETY: `this` is what a method was called on, so an implementation that was given out, if the caller is right: a
    // table that is not ours would have led elsewhere.
    unsafe { &mut *this.cast() }
}

/// An object that was passed as an argument.
fn argument<'a>(object: *mut c_void) -> &'a mut Implementation {
    // SAFETY: the binding passes pointers that were given out here, as `I*`, whose second word is the implementation.
    unsafe { &mut *(*object.cast::<Object>()).implementation }
}

fn object_of(implementation: &mut Implementation) -> *mut Object {
    (&raw mut *implementation)
        .wrapping_byte_sub(std::mem::offset_of!(Object, behind))
        .cast()
}

fn text(text: *const c_char) -> String {
    // SAFETY: the binding passes C strings.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Keeps a text with the object, and gives its address.
fn keep(object: &mut Implementation, text: &str) -> *const c_char {
    object.names.push(CString::new(text).unwrap_or_default());
    object
        .names
        .last()
        .map_or(null_mut(), |name| name.as_ptr().cast_mut())
}

extern "C" fn destroy(object: *mut c_void) {
    release(object.cast());
}

extern "C" fn destroy_parser(object: *mut c_void) {
    // SAFETY: the parser is alive, and so is its network, which is its parent.
    unsafe {
        let parser = &mut *object.cast::<Object>();
        if let Kind::Parser { errors } = &mut parser.behind.kind {
            std::mem::take(errors).into_iter().for_each(release);
        }
        if let Kind::Network(network) = &mut (*parser.behind.parent).behind.kind {
            network.is_parser_alive = false;
        }
    }
    release(object.cast());
}

fn release(object: *mut Object) {
    // SAFETY: a pointer that was given out, and is destroyed once: its memory is overwritten below.
    let mut freed = unsafe { Box::from_raw(object) };
    if let Kind::Network(network) = &mut freed.behind.kind {
        for tensor in network.inputs.drain(..).chain(network.outputs.drain(..)) {
            freed.behind.children -= 1;
            LIVE.fetch_sub(1, Ordering::SeqCst);
            // SAFETY: the network owns its tensors.
            drop(unsafe { Box::from_raw(tensor) });
        }
    }
    if freed.behind.children != 0 {
        wrong("an object was destroyed before what was made from it");
    }
    // SAFETY: parents outlive their children, or the line above ends the process.
    if let Some(parent) = unsafe { freed.behind.parent.as_mut() } {
        parent.behind.children -= 1;
    }
    // Whoever uses it again finds no table.
    freed.own = null_mut();
    freed.implementation = null_mut();
    LIVE.fetch_sub(1, Ordering::SeqCst);
}

fn dims64(sizes: &[i64]) -> Dims64 {
    Dims64::new(sizes.iter().copied()).unwrap_or_else(|| wrong("a shape is too long"))
}

/// Reads `Dims const&` in the version's width.
fn read_dims(dims: *const c_void) -> Vec<i64> {
    // SAFETY: the binding passes the version's structure.
    let dims = unsafe {
        if is_v8() {
            (*dims.cast::<Dims32>()).into()
        } else {
            *dims.cast::<Dims64>()
        }
    };
    dims.sizes().to_vec()
}

/// A method that gives dimensions, in both widths.
macro_rules! gives_dims {
    ($narrow:ident, $wide:ident, $body:expr, ($($argument:ident: $type:ty),*)) => {
        extern "C" fn $wide(this: *mut c_void $(, $argument: $type)*) -> Dims64 {
            ($body)(of(this) $(, $argument)*)
        }
        extern "C" fn $narrow(this: *mut c_void $(, $argument: $type)*) -> Dims32 {
            $wide(this $(, $argument)*).narrow()
        }
    };
}

fn pick(narrow: *const c_void, wide: *const c_void) -> *const c_void {
    if is_v8() { narrow } else { wide }
}

// ---- libnvinfer: builder

#[unsafe(no_mangle)]
extern "C" fn getInferLibVersion() -> i32 {
    reported()
}

#[unsafe(no_mangle)]
extern "C" fn createInferBuilder_INTERNAL(logger: *mut c_void, asked: i32) -> *mut c_void {
    LOGGER.store(logger as usize, Ordering::Relaxed);
    if asked != reported() || fails("builder") {
        return null_mut();
    }
    let slots = slots();
    let entries = [
        (slots.builder_dla_cores, dla_cores as _),
        (slots.builder_create_config, create_config as _),
        (slots.builder_create_network, create_network as _),
        (slots.builder_create_profile, create_profile as _),
        (slots.builder_build, build as _),
    ];
    new(Kind::Builder, null_mut(), &entries).cast()
}

fn builder(this: *mut c_void) -> &'static mut Implementation {
    let builder = of(this);
    match builder.kind {
        Kind::Builder => builder,
        _ => wrong("a builder's method was called on something else"),
    }
}

extern "C" fn dla_cores(this: *mut c_void) -> i32 {
    builder(this);
    1
}

extern "C" fn create_config(this: *mut c_void) -> *mut c_void {
    if fails("config") {
        return null_mut();
    }
    let slots = slots();
    let entries = [
        (slots.config_set_flag, set_flag as _),
        (slots.config_clear_flag, clear_flag as _),
        (slots.config_set_pool, set_pool as _),
        (slots.config_set_device, set_device as _),
        (slots.config_set_dla_core, set_dla_core as _),
        (slots.config_add_profile, add_profile as _),
    ];
    let kind = Kind::Config {
        profiles: Vec::new(),
        flags: 1 << slots.flag_tf32,
        workspace: 0,
        dla: None,
    };
    new(kind, object_of(builder(this)), &entries).cast()
}

extern "C" fn create_network(this: *mut c_void, flags: u32) -> *mut c_void {
    if flags != version().family.network_flags() {
        wrong("a network without explicit batch, or of another typing, was asked for");
    }
    if fails("network") {
        return null_mut();
    }
    let slots = slots();
    let entries = [
        (slots.network_layers, layers as _),
        (slots.network_inputs, inputs as _),
        (slots.network_input, input as _),
        (slots.network_outputs, outputs as _),
        (slots.network_output, output as _),
    ];
    new(
        Kind::Network(Network::default()),
        object_of(builder(this)),
        &entries,
    )
    .cast()
}

extern "C" fn create_profile(this: *mut c_void) -> *mut c_void {
    builder(this);
    let slots = slots();
    let set = pick(set_dimensions_v8 as _, set_dimensions as _);
    let entries = [
        (slots.profile_set_dimensions, set),
        (slots.profile_is_valid, is_valid as _),
    ];
    // The builder owns its profiles: nobody destroys them.
    let profile = new(Kind::Profile(Shapes::new()), null_mut(), &entries);
    LIVE.fetch_sub(1, Ordering::SeqCst);
    profile.cast()
}

extern "C" fn build(this: *mut c_void, network: *mut c_void, config: *mut c_void) -> *mut c_void {
    let builder = builder(this);
    let (
        Kind::Network(network),
        Kind::Config {
            profiles,
            flags,
            workspace,
            dla,
        },
    ) = (&argument(network).kind, &argument(config).kind)
    else {
        wrong("a network and a configuration are needed to build");
    };
    if !network.is_parser_alive {
        wrong("a network was compiled after its parser, which owns weights, was gone");
    }
    let tensors = |tensors: &[*mut Object]| -> Vec<Tensor> {
        // SAFETY: the network owns its tensors.
        tensors
            .iter()
            .map(|tensor| tensor_of(unsafe { &**tensor }).clone())
            .collect()
    };
    let (inputs, outputs) = (tensors(&network.inputs), tensors(&network.outputs));
    let is_dynamic = inputs.iter().any(|tensor| tensor.dims.contains(&-1));
    if fails("build") || (is_dynamic && profiles.is_empty()) {
        return null_mut();
    }
    let plan = Plan {
        version: reported(),
        inputs,
        outputs,
        profiles: profiles.clone(),
        flags: *flags,
        workspace: *workspace,
        dla: *dla,
        onnx: network.onnx.clone(),
    };
    let mut bytes = serde_json::to_vec(&plan).unwrap_or_default();
    bytes.push(0);
    bytes.extend(&plan.onnx);
    let entries = [(slots().memory_data, data as _), (slots().memory_size, size as _)];
    let memory = new(Kind::Memory(bytes), null_mut(), &entries);
    let _ = builder;
    memory.cast()
}

// ---- network and tensors

fn network(this: *mut c_void) -> &'static mut Network {
    match &mut of(this).kind {
        Kind::Network(network) => network,
        _ => wrong("a network's method was called on something else"),
    }
}

extern "C" fn layers(this: *mut c_void) -> i32 {
    network(this).layers
}

extern "C" fn inputs(this: *mut c_void) -> i32 {
    network(this).inputs.len() as i32
}

extern "C" fn input(this: *mut c_void, index: i32) -> *mut c_void {
    network(this)
        .inputs
        .get(index as usize)
        .map_or(null_mut(), |tensor| tensor.cast())
}

extern "C" fn outputs(this: *mut c_void) -> i32 {
    network(this).outputs.len() as i32
}

extern "C" fn output(this: *mut c_void, index: i32) -> *mut c_void {
    network(this)
        .outputs
        .get(index as usize)
        .map_or(null_mut(), |tensor| tensor.cast())
}

fn tensor_of(object: &Object) -> &Tensor {
    match &object.behind.kind {
        Kind::Tensor(tensor) => tensor,
        _ => wrong("a tensor's method was called on something else"),
    }
}

fn tensor(implementation: &Implementation) -> &Tensor {
    match &implementation.kind {
        Kind::Tensor(tensor) => tensor,
        _ => wrong("a tensor's method was called on something else"),
    }
}

extern "C" fn tensor_name(this: *mut c_void) -> *const c_char {
    let name = tensor(of(this)).name.clone();
    keep(of(this), &name)
}

gives_dims!(
    tensor_dims_v8,
    tensor_dims,
    |this: &mut Implementation| dims64(&tensor(this).dims),
    ()
);

extern "C" fn tensor_type(this: *mut c_void) -> i32 {
    tensor(of(this));
    sys::FLOAT
}

fn new_tensor(info: &ValueInfo, network: *mut Object) -> Option<*mut Object> {
    let shape = info.r#type.as_ref()?.tensor_type.as_ref()?.shape.as_ref()?;
    let mut tensor = Tensor {
        name: info.name.clone()?,
        dims: Vec::new(),
        free: Vec::new(),
    };
    for dim in &shape.dim {
        match dim.value.as_ref()? {
            Extent::Value(size) => tensor.dims.push(*size),
            Extent::Param(name) => {
                tensor.dims.push(-1);
                tensor.free.push(name.clone());
            }
        }
    }
    let slots = slots();
    let entries = [
        (slots.tensor_name, tensor_name as _),
        (
            slots.tensor_dimensions,
            pick(tensor_dims_v8 as _, tensor_dims as _),
        ),
        (slots.tensor_type, tensor_type as _),
    ];
    Some(new(Kind::Tensor(tensor), network, &entries))
}

// ---- configuration, profiles, memory

macro_rules! config {
    ($this:expr, $field:ident) => {
        match &mut of($this).kind {
            Kind::Config { $field, .. } => $field,
            _ => wrong("a configuration's method was called on something else"),
        }
    };
}

extern "C" fn set_flag(this: *mut c_void, flag: i32) {
    *config!(this, flags) |= 1 << flag;
}

extern "C" fn clear_flag(this: *mut c_void, flag: i32) {
    *config!(this, flags) &= !(1 << flag);
}

extern "C" fn set_pool(this: *mut c_void, pool: i32, bytes: usize) {
    if pool != sys::WORKSPACE {
        wrong("another memory pool than the workspace was limited");
    }
    *config!(this, workspace) = bytes;
}

extern "C" fn set_device(this: *mut c_void, device: i32) {
    config!(this, dla);
    if device != sys::DLA {
        wrong("another device than an accelerator was chosen");
    }
}

extern "C" fn set_dla_core(this: *mut c_void, core: i32) {
    if let Kind::Config { dla, .. } = &mut of(this).kind {
        *dla = Some(core);
    } else if !matches!(of(this).kind, Kind::Runtime) {
        wrong("an accelerator was chosen for something else than a configuration or a runtime");
    }
}

extern "C" fn add_profile(this: *mut c_void, profile: *mut c_void) -> i32 {
    let Kind::Profile(shapes) = &argument(profile).kind else {
        wrong("something else than a profile was added");
    };
    let profiles = config!(this, profiles);
    profiles.push(shapes.clone());
    if fails("profile") {
        -1
    } else {
        profiles.len() as i32 - 1
    }
}

fn set_shape_of(this: *mut c_void, input: *const c_char, selector: i32, sizes: Vec<i64>) -> bool {
    let Kind::Profile(shapes) = &mut of(this).kind else {
        wrong("a profile's method was called on something else");
    };
    match shapes.entry(text(input)).or_default().get_mut(selector as usize) {
        Some(shape) => *shape = sizes,
        None => wrong("a shape is neither smallest nor usual nor largest"),
    }
    true
}

extern "C" fn set_dimensions(
    this: *mut c_void,
    input: *const c_char,
    selector: i32,
    dims: *const c_void,
) -> bool {
    set_shape_of(this, input, selector, read_dims(dims))
}

extern "C" fn set_dimensions_v8(
    this: *mut c_void,
    input: *const c_char,
    selector: i32,
    dims: Dims32,
) -> bool {
    set_shape_of(this, input, selector, Dims64::from(dims).sizes().to_vec())
}

extern "C" fn is_valid(this: *mut c_void) -> bool {
    let Kind::Profile(shapes) = &of(this).kind else {
        wrong("a profile's method was called on something else");
    };
    let is_ordered = |[small, usual, large]: &[Vec<i64>; 3]| {
        let pairs = |a: &[i64], b: &[i64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a <= b);
        pairs(small, usual) && pairs(usual, large)
    };
    shapes.values().all(is_ordered)
}

fn memory(this: *mut c_void) -> &'static [u8] {
    match &of(this).kind {
        Kind::Memory(bytes) => bytes,
        _ => wrong("a host memory's method was called on something else"),
    }
}

extern "C" fn data(this: *mut c_void) -> *const u8 {
    memory(this).as_ptr()
}

extern "C" fn size(this: *mut c_void) -> usize {
    memory(this).len()
}

// ---- runtime, engine, context

#[unsafe(no_mangle)]
extern "C" fn createInferRuntime_INTERNAL(logger: *mut c_void, asked: i32) -> *mut c_void {
    LOGGER.store(logger as usize, Ordering::Relaxed);
    if asked != reported() || fails("runtime") {
        return null_mut();
    }
    let deserialize = pick(deserialize_v8 as _, deserialize as _);
    let slots = slots();
    let entries = [
        (slots.runtime_deserialize, deserialize),
        (slots.runtime_set_dla_core, set_dla_core as _),
    ];
    new(Kind::Runtime, null_mut(), &entries).cast()
}

extern "C" fn deserialize_v8(
    this: *mut c_void,
    data: *const u8,
    size: usize,
    factory: *mut c_void,
) -> *mut c_void {
    if !factory.is_null() {
        wrong("a plugin factory was passed");
    }
    deserialize(this, data, size)
}

extern "C" fn deserialize(this: *mut c_void, data: *const u8, size: usize) -> *mut c_void {
    let runtime = of(this);
    if !matches!(runtime.kind, Kind::Runtime) {
        wrong("a runtime's method was called on something else");
    }
    // SAFETY: so many bytes of the binding's.
    let bytes = unsafe { std::slice::from_raw_parts(data, size) };
    let parts = bytes
        .iter()
        .position(|byte| *byte == 0)
        .map(|end| bytes.split_at(end));
    let read = |(head, onnx): (&[u8], &[u8])| {
        let mut plan: Plan = serde_json::from_slice(head).ok()?;
        plan.onnx = onnx[1..].to_vec();
        (plan.version == reported()).then_some(plan)
    };
    let Some(plan) = parts.and_then(read).filter(|_| !fails("deserialize")) else {
        log("the plan is not one of this version");
        return null_mut();
    };
    let slots = slots();
    let entries = [
        (slots.engine_tensors, engine_tensors as _),
        (slots.engine_tensor_name, engine_tensor_name as _),
        (
            slots.engine_tensor_shape,
            pick(engine_shape_v8 as _, engine_shape as _),
        ),
        (slots.engine_tensor_type, engine_tensor_type as _),
        (slots.engine_tensor_mode, engine_tensor_mode as _),
        (slots.engine_profiles, engine_profiles as _),
        (
            slots.engine_create_context,
            pick(create_context_v8 as _, create_context as _),
        ),
    ];
    new(Kind::Engine(plan), object_of(runtime), &entries).cast()
}

fn plan(implementation: &Implementation) -> &Plan {
    match &implementation.kind {
        Kind::Engine(plan) => plan,
        _ => wrong("an engine's method was called on something else"),
    }
}

impl Plan {
    /// Outputs first: the binding must not count on an order.
    fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.outputs.iter().chain(&self.inputs)
    }

    fn find(&self, name: &str) -> &Tensor {
        let found = self.tensors().find(|tensor| tensor.name == name);
        found.unwrap_or_else(|| wrong("a tensor was asked for that the network has not"))
    }
}

extern "C" fn engine_tensors(this: *mut c_void) -> i32 {
    plan(of(this)).tensors().count() as i32
}

extern "C" fn engine_tensor_name(this: *mut c_void, index: i32) -> *const c_char {
    let name = plan(of(this))
        .tensors()
        .nth(index as usize)
        .map(|tensor| tensor.name.clone());
    name.map_or(null_mut(), |name| keep(of(this), &name).cast_mut())
}

gives_dims!(
    engine_shape_v8,
    engine_shape,
    |this: &mut Implementation, name| dims64(&plan(this).find(&text(name)).dims),
    (name: *const c_char)
);

extern "C" fn engine_tensor_type(this: *mut c_void, name: *const c_char) -> i32 {
    plan(of(this)).find(&text(name));
    sys::FLOAT
}

extern "C" fn engine_tensor_mode(this: *mut c_void, name: *const c_char) -> i32 {
    let name = text(name);
    if plan(of(this)).inputs.iter().any(|tensor| tensor.name == name) {
        sys::INPUT
    } else {
        2
    }
}

extern "C" fn engine_profiles(this: *mut c_void) -> i32 {
    plan(of(this)).profiles.len() as i32
}

extern "C" fn create_context_v8(this: *mut c_void) -> *mut c_void {
    create_context(this, 0)
}

extern "C" fn create_context(this: *mut c_void, strategy: i32) -> *mut c_void {
    let engine = of(this);
    plan(engine);
    if strategy != 0 {
        wrong("another allocation strategy than the static one was asked for");
    }
    if fails("context") {
        return null_mut();
    }
    let library = Store::open(default_dir()).and_then(|store| store.runtime_library());
    let Ok(runtime) = library.and_then(|library| cpu::Runtime::load(&library, 1)) else {
        log("there is no ONNX Runtime to compute with");
        return null_mut();
    };
    let slots = slots();
    let entries = [
        (slots.context_set_profile, set_profile as _),
        (slots.context_set_shape, set_input_shape as _),
        (
            slots.context_shape,
            pick(context_shape_v8 as _, context_shape as _),
        ),
        (slots.context_set_address, set_address as _),
        (slots.context_enqueue, enqueue as _),
    ];
    let kind = Kind::Context {
        profile: usize::MAX,
        shapes: HashMap::new(),
        addresses: HashMap::new(),
        engine: runtime,
        computer: None,
    };
    new(kind, object_of(engine), &entries).cast()
}

fn plan_of(context: &Implementation) -> &Plan {
    // SAFETY: the engine outlives its contexts, or the process has ended.
    plan(unsafe { &(*context.parent).behind })
}

extern "C" fn set_profile(this: *mut c_void, index: i32, _stream: *mut c_void) -> bool {
    let context = of(this);
    let count = plan_of(context).profiles.len();
    match &mut context.kind {
        Kind::Context { profile, .. } => *profile = index as usize,
        _ => wrong("a context's method was called on something else"),
    }
    (index as usize) < count && !fails("select")
}

extern "C" fn set_input_shape(this: *mut c_void, name: *const c_char, dims: *const c_void) -> bool {
    let (name, sizes) = (text(name), read_dims(dims));
    let context = of(this);
    let Kind::Context { profile, .. } = context.kind else {
        wrong("a context's method was called on something else");
    };
    let ranges = plan_of(context)
        .profiles
        .get(profile)
        .and_then(|profile| profile.get(&name));
    let Some([small, _, large]) = ranges else {
        return false;
    };
    let fits = |(size, (small, large)): (&i64, (&i64, &i64))| (small..=large).contains(&size);
    if sizes.len() != small.len() || !sizes.iter().zip(small.iter().zip(large)).all(fits) {
        log("a shape lies outside of the profile");
        return false;
    }
    if let Kind::Context { shapes, .. } = &mut context.kind {
        shapes.insert(name, sizes);
    }
    true
}

/// Sizes of an input or output with the shapes that were set. Dimensions of outputs are those of inputs by name; a name
/// that ends in 4 is a quarter.
fn shape_now(context: &Implementation, name: &str) -> Vec<i64> {
    let (Kind::Context { shapes, .. }, plan) = (&context.kind, plan_of(context)) else {
        wrong("a context's method was called on something else");
    };
    let mut known = HashMap::new();
    for tensor in &plan.inputs {
        let Some(sizes) = shapes.get(&tensor.name) else {
            continue;
        };
        let free = tensor
            .dims
            .iter()
            .zip(sizes)
            .filter(|(dim, _)| **dim == -1)
            .map(|(_, size)| *size);
        known.extend(tensor.free.iter().cloned().zip(free));
    }
    let tensor = plan.find(name);
    let mut free = tensor.free.iter().map(|name| match name.strip_suffix('4') {
        Some(whole) => known.get(whole).map_or(-1, |size| size / 4),
        None => known.get(name).copied().unwrap_or(-1),
    });
    tensor
        .dims
        .iter()
        .map(|dim| {
            if *dim == -1 {
                free.next().unwrap_or(-1)
            } else {
                *dim
            }
        })
        .collect()
}

gives_dims!(
    context_shape_v8,
    context_shape,
    |this: &mut Implementation, name| dims64(&shape_now(this, &text(name))),
    (name: *const c_char)
);

extern "C" fn set_address(this: *mut c_void, name: *const c_char, address: *mut c_void) -> bool {
    let context = of(this);
    let name = text(name);
    plan_of(context).find(&name);
    let Kind::Context { addresses, .. } = &mut context.kind else {
        wrong("a context's method was called on something else");
    };
    addresses.insert(name, address as usize);
    !address.is_null()
}

extern "C" fn enqueue(this: *mut c_void, stream: *mut c_void) -> bool {
    if fails("enqueue") {
        return false;
    }
    let ran = Run::of(of(this)).and_then(|run| match stream.is_null() {
        true => run.compute(),
        false => {
            run.compute_in_order_of(stream);
            Ok(())
        }
    });
    ran.map_err(|error| log(&error.to_string())).is_ok()
}

/// One run, as it was asked for: shapes and addresses may be others when it is computed.
struct Run {
    network: Computer,
    inputs: Vec<([usize; 4], usize)>,
    outputs: Vec<([usize; 4], usize)>,
}

impl Run {
    fn of(context: &mut Implementation) -> engines::Result<Self> {
        let plan = plan_of(context).clone();
        let memory = |context: &Implementation, tensor: &Tensor| {
            let mut shape = [1; 4];
            for (size, now) in shape.iter_mut().zip(shape_now(context, &tensor.name)) {
                *size = usize::try_from(now).unwrap_or_else(|_| wrong("a shape was not set"));
            }
            let Kind::Context { addresses, .. } = &context.kind else {
                wrong("a context's method was called on something else");
            };
            let address = addresses.get(&tensor.name).copied();
            (shape, address.unwrap_or_else(|| wrong("an address was not set")))
        };
        let [inputs, outputs] = [&plan.inputs, &plan.outputs]
            .map(|tensors| tensors.iter().map(|tensor| memory(context, tensor)).collect());
        let Kind::Context { engine, computer, .. } = &mut context.kind else {
            wrong("a context's method was called on something else");
        };
        if computer.is_none() {
            let mut signature = Signature::new("fake");
            let sizes = |tensor: &Tensor| -> Vec<Option<usize>> {
                tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect()
            };
            for tensor in &plan.inputs {
                signature = signature.input(&tensor.name, &sizes(tensor));
            }
            for tensor in &plan.outputs {
                signature = signature.output(&tensor.name, &sizes(tensor));
            }
            // ONNX Runtime's own fused INT8 overflows on some processors, which TensorRT's does not.
            let graph = Model::decode(plan.onnx.as_slice())
                .ok()
                .and_then(|model| model.graph);
            let is_int8 =
                graph.is_some_and(|graph| graph.node.iter().any(|node| node.op_type() == "QuantizeLinear"));
            let loaded = match is_int8 {
                true => engine.exact_engine(&plan.onnx, &signature)?,
                false => engine.engine(&plan.onnx, &signature)?,
            };
            *computer = Some(Arc::new(Mutex::new(loaded)));
        }
        let network = computer.clone().unwrap_or_else(|| wrong("it was made above"));
        Ok(Self {
            network,
            inputs,
            outputs,
        })
    }

    fn compute(&self) -> engines::Result<()> {
        let mut kernels = Cpu::default();
        let mut memory = |(shape, address): &([usize; 4], usize)| {
            let count = shape.iter().product();
            // SAFETY: the binding promised so many numbers at this address.
            let values = unsafe { std::slice::from_raw_parts_mut(*address as *mut f32, count) };
            Ok::<_, engines::Error>((kernels.tensor(*shape)?, values))
        };
        let mut inputs = Vec::new();
        for input in &self.inputs {
            let (mut held, values) = memory(input)?;
            held.data_mut().copy_from_slice(values);
            inputs.push(held);
        }
        let (mut outputs, mut places) = (Vec::new(), Vec::new());
        for output in &self.outputs {
            let (held, values) = memory(output)?;
            outputs.push(held);
            places.push(values);
        }
        let mut network = self.network.try_lock();
        let network = network
            .as_mut()
            .unwrap_or_else(|_| wrong("two runs of a context at the same time"));
        network.run(&inputs.iter().collect::<Vec<_>>(), &mut outputs)?;
        let is_wrong = fails("numbers");
        for (held, values) in outputs.iter().zip(places) {
            values.copy_from_slice(held.data());
            if is_wrong {
                values.iter_mut().for_each(|value| *value *= 0.3);
            }
        }
        Ok(())
    }

    /// Lets the driver call [`Run::compute`] when it is this run's turn.
    fn compute_in_order_of(self, stream: *mut c_void) {
        extern "C" fn now(run: *mut c_void) {
            // SAFETY: made by `into_raw` below, and called once.
            let run = unsafe { Box::from_raw(run.cast::<Run>()) };
            if let Err(error) = run.compute() {
                wrong(&error.to_string());
            }
        }
        type Launch = extern "C" fn(*mut c_void, extern "C" fn(*mut c_void), *mut c_void) -> u32;
        // SAFETY: the driver is loaded already, as there is a stream; the type is that of cuda.h.
        let launched = unsafe {
            libloading::Library::new("libcuda.so.1").and_then(|driver| {
                let launch = driver.get::<Launch>(c"cuLaunchHostFunc")?;
                Ok(launch(stream, now, Box::into_raw(Box::new(self)).cast()))
            })
        };
        if !matches!(launched, Ok(0)) {
            wrong("the driver does not take a function into a stream");
        }
    }
}

// ---- libnvonnxparser

#[unsafe(no_mangle)]
extern "C" fn getNvOnnxParserVersion() -> i32 {
    reported()
}

#[unsafe(no_mangle)]
extern "C" fn createNvOnnxParser_INTERNAL(
    network: *mut c_void,
    logger: *mut c_void,
    asked: i32,
) -> *mut c_void {
    if asked != reported() || logger.is_null() || fails("parser") {
        return null_mut();
    }
    let Kind::Network(state) = &mut argument(network).kind else {
        wrong("a parser was made for something else than a network");
    };
    state.is_parser_alive = true;
    let slots = slots();
    let mut entries = vec![
        (slots.parser_parse, parse as _),
        (slots.parser_errors, errors as _),
        (slots.parser_error, error as _),
        (slots.parser_destroy, destroy_parser as _),
    ];
    entries.extend(slots.parser_set_flag.map(|slot| (slot, set_parser_flag as _)));
    new(Kind::Parser { errors: Vec::new() }, network.cast(), &entries).cast()
}

/// The parser's methods are called on the object itself.
fn parser(this: *mut c_void) -> &'static mut Object {
    // SAFETY: the method lies in the object's own table, so `this` is an object that was given out.
    let object = unsafe { &mut *this.cast::<Object>() };
    match object.behind.kind {
        Kind::Parser { .. } | Kind::ParserError => object,
        _ => wrong("a parser's method was called on something else"),
    }
}

extern "C" fn set_parser_flag(this: *mut c_void, flag: i32) {
    parser(this);
    if flag != sys::NATIVE_INSTANCENORM {
        wrong("another flag than that of instance normalization was set");
    }
}

extern "C" fn parse(this: *mut c_void, data: *const c_void, size: usize, _path: *const c_char) -> bool {
    let parser = parser(this);
    // SAFETY: so many bytes of the binding's.
    let onnx = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), size) };
    let graph = Model::decode(onnx)
        .ok()
        .and_then(|model| model.graph)
        .filter(|_| !fails("parse"));
    let Some(graph) = graph else {
        let slots = slots();
        let entries = [
            (slots.error_code, error_code as _),
            (slots.error_description, error_description as _),
            (slots.error_node, error_node as _),
        ];
        let error = new(Kind::ParserError, null_mut(), &entries);
        if let Kind::Parser { errors } = &mut parser.behind.kind {
            errors.push(error);
        }
        return false;
    };
    let object = parser.behind.parent;
    // SAFETY: the network outlives its parser, or the process has ended.
    let Kind::Network(network) = (unsafe { &mut (*object).behind.kind }) else {
        wrong("a parser belongs to something else than a network");
    };
    network.onnx = onnx.to_vec();
    network.layers = graph.node.len() as i32;
    network.inputs = graph
        .input
        .iter()
        .filter_map(|info| new_tensor(info, object))
        .collect();
    network.outputs = graph
        .output
        .iter()
        .filter_map(|info| new_tensor(info, object))
        .collect();
    true
}

extern "C" fn errors(this: *mut c_void) -> i32 {
    match &parser(this).behind.kind {
        Kind::Parser { errors } => errors.len() as i32,
        _ => wrong("a parser error has no errors"),
    }
}

extern "C" fn error(this: *mut c_void, index: i32) -> *mut c_void {
    match &parser(this).behind.kind {
        Kind::Parser { errors } => errors
            .get(index as usize)
            .map_or(null_mut(), |error| error.cast()),
        _ => wrong("a parser error has no errors"),
    }
}

extern "C" fn error_code(this: *mut c_void) -> i32 {
    parser(this);
    4
}

extern "C" fn error_description(this: *mut c_void) -> *const c_char {
    keep(&mut parser(this).behind, "this is no network")
}

extern "C" fn error_node(this: *mut c_void) -> i32 {
    parser(this);
    7
}
