//! Where TensorRT's methods lie in its interface tables, read out of its headers by clang.
//!
//! `engines/src/trt` calls TensorRT without its headers and without a C++ compiler. What it must know, it has from here:
//! one file per major version, `engines/src/trt/sys/v*.rs`. NVIDIA's headers are never part of the repository.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::steps;

/// What `cargo xtask tensorrt-slots` reads and writes.
#[derive(Args)]
pub struct Options {
    /// Folder with NvInfer.h and NvOnnxParser.h of one version; give several to see that they agree
    #[arg(required = true)]
    pub headers: Vec<PathBuf>,
    /// Folder with NvOnnxParser.h, where it came apart from the other headers (the same for all of them)
    #[arg(long)]
    pub parser: Option<PathBuf>,
    /// Compare with the file in the repository instead of writing it
    #[arg(long)]
    pub check: bool,
}

/// A method that the binding calls.
struct Method {
    /// Its name in `Slots`.
    field: &'static str,
    class: &'static str,
    /// Name and as much of the parameters as tells it from its overloads.
    name: &'static str,
    /// Whether not every 8.x has it, so that the binding does without it there.
    since_10: bool,
}

const fn method(field: &'static str, class: &'static str, name: &'static str) -> Method {
    Method {
        field,
        class,
        name,
        since_10: false,
    }
}

const fn since_10(field: &'static str, class: &'static str, name: &'static str) -> Method {
    Method {
        field,
        class,
        name,
        since_10: true,
    }
}

/// Stands for every interface but the parser's: they have their destructors from one base.
const OBJECT: &str = "nvinfer1::IBuilder";
const BUILDER: &str = "nvinfer1::apiv::VBuilder";
const NETWORK: &str = "nvinfer1::apiv::VNetworkDefinition";
const TENSOR: &str = "nvinfer1::apiv::VTensor";
const CONFIG: &str = "nvinfer1::apiv::VBuilderConfig";
const PROFILE: &str = "nvinfer1::apiv::VOptimizationProfile";
const MEMORY: &str = "nvinfer1::apiv::VHostMemory";
const RUNTIME: &str = "nvinfer1::apiv::VRuntime";
const ENGINE: &str = "nvinfer1::apiv::VCudaEngine";
const CONTEXT: &str = "nvinfer1::apiv::VExecutionContext";
const PARSER: &str = "nvonnxparser::IParser";
const PARSER_ERROR: &str = "nvonnxparser::IParserError";

#[rustfmt::skip]
const METHODS: [Method; 46] = [
    method("object_destroy", OBJECT, "~IBuilder() [deleting]"),
    method("builder_dla_cores", BUILDER, "getNbDLACores("),
    method("builder_create_config", BUILDER, "createBuilderConfig("),
    method("builder_create_network", BUILDER, "createNetworkV2("),
    method("builder_create_profile", BUILDER, "createOptimizationProfile("),
    method("builder_build", BUILDER, "buildSerializedNetwork("),
    method("network_layers", NETWORK, "getNbLayers("),
    method("network_inputs", NETWORK, "getNbInputs("),
    method("network_input", NETWORK, "getInput("),
    method("network_outputs", NETWORK, "getNbOutputs("),
    method("network_output", NETWORK, "getOutput("),
    method("tensor_name", TENSOR, "getName("),
    method("tensor_dimensions", TENSOR, "getDimensions("),
    method("tensor_type", TENSOR, "getType("),
    method("config_clear_flag", CONFIG, "clearFlag("),
    method("config_set_flag", CONFIG, "setFlag("),
    method("config_set_dla_core", CONFIG, "setDLACore("),
    method("config_set_device", CONFIG, "setDefaultDeviceType("),
    method("config_add_profile", CONFIG, "addOptimizationProfile("),
    method("config_set_pool", CONFIG, "setMemoryPoolLimit("),
    method("profile_set_dimensions", PROFILE, "setDimensions("),
    method("profile_is_valid", PROFILE, "isValid("),
    method("memory_data", MEMORY, "data("),
    method("memory_size", MEMORY, "size("),
    method("runtime_deserialize", RUNTIME, "deserializeCudaEngine(const void *, "),
    method("runtime_set_dla_core", RUNTIME, "setDLACore("),
    method("engine_tensors", ENGINE, "getNbIOTensors("),
    method("engine_tensor_name", ENGINE, "getIOTensorName("),
    method("engine_tensor_shape", ENGINE, "getTensorShape("),
    method("engine_tensor_type", ENGINE, "getTensorDataType("),
    method("engine_tensor_mode", ENGINE, "getTensorIOMode("),
    method("engine_profiles", ENGINE, "getNbOptimizationProfiles("),
    method("engine_create_context", ENGINE, "createExecutionContext("),
    method("context_set_profile", CONTEXT, "setOptimizationProfileAsync("),
    method("context_set_shape", CONTEXT, "setInputShape("),
    method("context_shape", CONTEXT, "getTensorShape("),
    method("context_set_address", CONTEXT, "setTensorAddress("),
    method("context_enqueue", CONTEXT, "enqueueV3("),
    method("parser_parse", PARSER, "parse("),
    method("parser_errors", PARSER, "getNbErrors("),
    method("parser_error", PARSER, "getError("),
    method("parser_destroy", PARSER, "~IParser() [deleting]"),
    since_10("parser_set_flag", PARSER, "setFlag("),
    method("error_code", PARSER_ERROR, "code("),
    method("error_description", PARSER_ERROR, "desc("),
    method("error_node", PARSER_ERROR, "node("),
];

/// Values that move between major versions: the field, the C++ expression, and whether it is of version 8 alone (from
/// TensorRT 10 on networks are strongly typed, and these flags say nothing).
const VALUES: [(&str, &str, bool); 4] = [
    ("flag_fp16", "BuilderFlag::kFP16", true),
    ("flag_int8", "BuilderFlag::kINT8", true),
    ("flag_gpu_fallback", "BuilderFlag::kGPU_FALLBACK", false),
    ("flag_tf32", "BuilderFlag::kTF32", false),
];

/// What `engines/src/trt/sys/mod.rs` takes for granted in every version; clang refuses headers in which it is not so.
const ASSERTIONS: &str = "
static_assert((int)ILogger::Severity::kINTERNAL_ERROR == 0 && (int)ILogger::Severity::kERROR == 1);
static_assert((int)ILogger::Severity::kWARNING == 2 && (int)ILogger::Severity::kINFO == 3);
static_assert((int)DataType::kFLOAT == 0 && (int)DataType::kHALF == 1 && (int)DataType::kINT8 == 2);
static_assert((int)TensorIOMode::kINPUT == 1 && (int)TensorIOMode::kOUTPUT == 2);
static_assert((int)OptProfileSelector::kMIN == 0 && (int)OptProfileSelector::kOPT == 1 && (int)OptProfileSelector::kMAX == 2);
static_assert((int)DeviceType::kGPU == 0 && (int)DeviceType::kDLA == 1);
static_assert((int)MemoryPoolType::kWORKSPACE == 0);
static_assert(sizeof(IBuilder) == 2 * sizeof(void*) && sizeof(IHostMemory) == 2 * sizeof(void*));
static_assert(sizeof(Dims) == (NV_TENSORRT_MAJOR == 8 ? 36 : 72) && sizeof(ILogger) == sizeof(void*));
";

/// The two types that TensorRT's headers need of CUDA's.
const CUDA_STUB: &str = "#pragma once\n\
    typedef struct CUstream_st* cudaStream_t;\n\
    typedef struct CUevent_st* cudaEvent_t;\n";

/// The binding's knowledge of one version.
struct Column {
    version: [u32; 3],
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    field: &'static str,
    /// Slot or value, as Rust.
    value: String,
    /// The declaration that it was taken from.
    declaration: String,
}

/// Writes, or compares, the column of the headers' major version.
///
/// # Errors
/// Without clang++-16; when the headers lack a method, disagree with each other, or differ from the file.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let mut columns = Vec::new();
    for headers in &options.headers {
        let column = Column::read(root, headers, options.parser.as_deref())
            .with_context(|| format!("headers in {}", headers.display()))?;
        columns.push(column);
    }
    let text = write(&columns)?;
    // TensorRT-RTX 1.x has the interfaces of TensorRT 11.
    let major = columns.first().map_or(0, |column| column.version[0]);
    let major = if major == 1 { 11 } else { major };
    let file = root.join(format!("engines/src/trt/sys/v{major}.rs"));
    if options.check {
        let there = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        ensure!(
            values(&there) == values(&text),
            "{} differs from what these headers give:\n{text}",
            file.display()
        );
        println!("{} is what these headers give", file.display());
    } else {
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}

impl Column {
    fn read(root: &Path, headers: &Path, parser: Option<&Path>) -> Result<Self> {
        let work = root.join("target/tensorrt-slots");
        fs::create_dir_all(&work)?;
        fs::write(work.join("cuda_runtime_api.h"), CUDA_STUB)?;
        let (source, code) = (work.join("classes.cpp"), work.join("classes.ll"));
        fs::write(&source, translation_unit())?;
        let mut clang = Command::new("clang++-16");
        clang.args([
            "-std=c++17",
            "-w",
            "-S",
            "-emit-llvm",
            "-Xclang",
            "-fdump-vtable-layouts",
            "-I",
        ]);
        clang
            .arg(&work)
            .args(parser.iter().flat_map(|parser| [Path::new("-I"), parser]));
        clang.arg("-I").arg(headers).arg("-o").arg(&code).arg(&source);
        let dump = steps::output(&mut clang)?;
        let tables = tables(&dump);
        let code = fs::read_to_string(&code)?;
        let global = |name: &str| global(&code, name).with_context(|| format!("clang gave no {name}"));

        let version = [global("major")?, global("minor")?, global("patch")?];
        let is_v8 = version[0] == 8;
        let mut entries = Vec::new();
        for Method {
            field,
            class,
            name,
            since_10,
        } in METHODS
        {
            let entry = |value: String, declaration: &str| Entry {
                field,
                value,
                declaration: declaration.into(),
            };
            if since_10 && is_v8 {
                entries.push(entry("None".into(), "not in every 8.x"));
                continue;
            }
            let (slot, declaration) = tables
                .get(class)
                .and_then(|table| slot(table, class, name))
                .with_context(|| format!("{class} has no method {name}"))?;
            let value = if since_10 {
                format!("Some({slot})")
            } else {
                slot.to_string()
            };
            entries.push(entry(value, declaration));
        }
        for (field, expression, only_8) in VALUES {
            let value = match (only_8, is_v8) {
                (false, _) => global(field)?.to_string(),
                (true, true) => format!("Some({})", global(field)?),
                (true, false) => "None".into(),
            };
            entries.push(Entry {
                field,
                value,
                declaration: expression.into(),
            });
        }
        Ok(Self { version, entries })
    }
}

/// A derived class per interface, whose constructor makes clang lay out the tables of its bases, and a global per value.
fn translation_unit() -> String {
    let mut text =
        String::from("#include <NvInfer.h>\n#include <NvOnnxParser.h>\nusing namespace nvinfer1;\n");
    text.push_str(ASSERTIONS);
    let mut classes: Vec<_> = METHODS.iter().map(|method| method.class).collect();
    classes.dedup();
    for (number, class) in classes.iter().enumerate() {
        let _ = writeln!(
            text,
            "struct C{number} : {class} {{ C{number}(); }}; C{number}::C{number}() {{}}"
        );
    }
    for (name, value) in [("major", "MAJOR"), ("minor", "MINOR"), ("patch", "PATCH")] {
        let _ = writeln!(
            text,
            "extern \"C\" {{ int persona_{name} = NV_TENSORRT_{value}; }}"
        );
    }
    for (field, expression, only_8) in VALUES {
        let condition = if only_8 { "NV_TENSORRT_MAJOR == 8" } else { "1" };
        let _ = writeln!(
            text,
            "#if {condition}\nextern \"C\" {{ int persona_{field} = (int){expression}; }}\n#endif"
        );
    }
    text
}

/// The sections `VTable indices for 'CLASS'` of clang's dump: slot and declaration per line.
fn tables(dump: &str) -> HashMap<&str, Vec<(u32, &str)>> {
    let mut tables: HashMap<_, Vec<_>> = HashMap::new();
    let mut class = None;
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix("VTable indices for '") {
            class = rest.split('\'').next();
        } else if let (Some(class), Some((slot, declaration))) = (class, line.split_once('|')) {
            if let Ok(slot) = slot.trim().parse() {
                tables.entry(class).or_default().push((slot, declaration.trim()));
            }
        } else {
            class = None;
        }
    }
    tables
}

fn slot<'a>(table: &[(u32, &'a str)], class: &str, name: &str) -> Option<(u32, &'a str)> {
    let wanted = format!("{class}::{name}");
    table
        .iter()
        .find(|(_, declaration)| declaration.contains(&wanted))
        .copied()
}

/// The value of `int persona_NAME` in LLVM's words: `@persona_NAME = dso_local global i32 7, align 4`.
fn global(code: &str, name: &str) -> Option<u32> {
    let line = code
        .lines()
        .find(|line| line.starts_with(&format!("@persona_{name} =")))?;
    let (_, value) = line.split_once(" i32 ")?;
    value.split(',').next()?.trim().parse().ok()
}

/// The file of one major version. Several versions must give the same.
fn write(columns: &[Column]) -> Result<String> {
    let first = columns.first().context("no headers were given")?;
    let versions: Vec<_> = columns
        .iter()
        .map(
            |Column {
                 version: [major, minor, patch],
                 ..
             }| format!("{major}.{minor}.{patch}"),
        )
        .collect();
    let mut text = format!(
        "//! Written by `cargo xtask tensorrt-slots` from the headers of TensorRT {}; not to be edited.\n\n\
         use super::Slots;\n\npub const SLOTS: Slots = Slots {{\n",
        versions.join(", ")
    );
    for (index, entry) in first.entries.iter().enumerate() {
        for (column, version) in columns.iter().zip(&versions) {
            let other = &column.entries[index];
            ensure!(
                other.value == entry.value,
                "{} is {} in {} and {} in {version}",
                entry.field,
                entry.value,
                versions[0],
                other.value
            );
        }
        let _ = writeln!(
            text,
            "    // {}\n    {}: {},",
            entry.declaration, entry.field, entry.value
        );
    }
    text.push_str("};\n");
    Ok(text)
}

/// The lines with values: the same type is not spelled the same in every version's declarations.
fn values(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
Vtable for 'n::C' (4 entries).
   0 | offset_to_top (0)

VTable indices for 'n::C' (4 entries).
   0 | n::C::~C() [complete]
   1 | n::C::~C() [deleting]
   2 | n::R *n::C::load(n::Reader &)
   3 | n::R *n::C::load(const void *, size_t)

VTable indices for 'n::D' (1 entries).
   0 | int32_t n::D::size() const
";

    #[test]
    fn slots_are_read_by_class_and_overload() {
        let tables = tables(DUMP);
        assert_eq!(tables.len(), 2);
        for (class, name, wanted) in [
            ("n::C", "load(const void *, ", Some(3)),
            ("n::C", "load(", Some(2)),
            ("n::C", "~C() [deleting]", Some(1)),
            ("n::D", "size(", Some(0)),
            ("n::D", "load(", None),
        ] {
            assert_eq!(
                slot(&tables[class], class, name).map(|(slot, _)| slot),
                wanted,
                "{name}"
            );
        }
    }

    #[test]
    fn values_are_read_from_the_code() {
        let code =
            "@persona_major = dso_local global i32 10, align 4\n@persona_minor = dso_local global i32 0\n";
        assert_eq!(global(code, "major"), Some(10));
        assert_eq!(global(code, "minor"), Some(0));
        assert_eq!(global(code, "patch"), None);
    }

    #[test]
    fn versions_that_disagree_are_refused() {
        let column = |minor, slot: u32| Column {
            version: [10, minor, 0],
            entries: vec![Entry {
                field: "builder_build",
                value: slot.to_string(),
                declaration: format!("declaration {minor}"),
            }],
        };
        let text = write(&[column(3, 14), column(16, 14)]).unwrap();
        assert!(
            text.contains("10.3.0, 10.16.0") && text.contains("builder_build: 14,"),
            "{text}"
        );
        assert_eq!(
            values(&text),
            values(&text.replace("declaration 3", "another spelling"))
        );
        let error = write(&[column(3, 14), column(16, 15)]).unwrap_err().to_string();
        assert_eq!(error, "builder_build is 14 in 10.3.0 and 15 in 10.16.0");
    }
}
