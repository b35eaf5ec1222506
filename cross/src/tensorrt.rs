//! What of TensorRT can be checked without a GPU: the tables of `engines/src/trt/sys` against headers, and the binding
//! against TensorRT-RTX, which compiles networks without one. Nothing that is fetched here may be committed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{kernels, setup, slots, steps, steps::Steps};

/// The wheel with both libraries, by version and SHA-256, which pip itself compares. NVIDIA's licence allows its use.
const RTX: &str = "tensorrt_rtx_cu12_libs==1.7.1.116 \
    --hash=sha256:68c2615fef1556e7721235682f460f3d78ab89df320a3f34a416367b144817a8\n";

/// The crate that carries headers of TensorRT 11 and of TensorRT-RTX (Apache-2.0). It is fetched, never built.
const HEADERS: &str = "[package]\nname = \"headers\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
    [lib]\npath = \"lib.rs\"\n[dependencies]\ntrtx-sys = \"=0.9.1\"\n[workspace]\n";

/// The headers that must give the committed column of version 11.
const COLUMN_11: [&str; 2] = ["TRT-Enterprise-11.4", "TRT-RTX-1.7"];

/// Compares the committed column of version 11 with headers that anybody can fetch.
fn check_slots(root: &Path) -> Result<()> {
    setup::ensure_ptx_compiler()?;
    let folder = root.join("target/tensorrt-headers");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("Cargo.toml"), HEADERS)?;
    fs::write(folder.join("lib.rs"), "")?;
    let mut metadata = steps::cargo(&folder);
    metadata.args(["metadata", "--quiet", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&steps::output(&mut metadata)?)?;
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "trtx-sys")
        .and_then(|package| package["manifest_path"].as_str())
        .context("cargo fetched no trtx-sys")?;
    let headers = Path::new(manifest).with_file_name("TensorRT-Headers");
    let options = slots::Options {
        headers: COLUMN_11.iter().map(|version| headers.join(version)).collect(),
        parser: None,
        check: true,
    };
    slots::run(root, &options)
}

/// The folder with NVIDIA's libraries, fetched once: 89 MB, 215 MB unpacked.
fn rtx(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/tensorrt-rtx");
    let libraries = folder.join("tensorrt_rtx_libs");
    steps::wheel(&folder, RTX, "89 MB")?;
    ensure!(libraries.is_dir(), "the wheel holds no tensorrt_rtx_libs");
    Ok(libraries)
}

/// Adds every check of the binding.
pub fn check(root: &Path, all: &mut Steps) {
    all.step("TensorRT: tables", || check_slots(root));
    all.step("TensorRT: binding", || test(root));
    all.step("GPU: the whole pipeline on a made-up one", || pipeline(root));
    // The wheel is for x86-64 alone.
    if cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        all.step("TensorRT: every network", || test_rtx(root));
    } else {
        all.skip("TensorRT: every network", "TensorRT-RTX is for x86-64");
    }
}

/// Lints, documentation and tests of the binding, without any library of NVIDIA's.
fn test(root: &Path) -> Result<()> {
    let feature = ["--package", "engines", "--features", "tensorrt"];
    steps::run(steps::cargo(root).arg("clippy").args(feature).args([
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    let app = ["--package", "app", "--features", "jetson"];
    steps::run(
        steps::cargo(root)
            .arg("clippy")
            .args(app)
            .args(["--all-targets", "--", "-D", "warnings"]),
    )?;
    let mut doc = steps::cargo(root);
    steps::run(
        doc.arg("doc")
            .args(feature)
            .arg("--no-deps")
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    // The made-up library is no target of the tests, so cargo does not build it with `--lib`.
    steps::run(
        steps::cargo(root)
            .arg("build")
            .args(feature)
            .args(["--example", "fake_nvinfer"]),
    )?;
    steps::run(
        steps::cargo(root)
            .arg("test")
            .args(feature)
            .args(["--lib", "--", "trt::", "onnx::basic"]),
    )
}

/// The program with its GPU's place: the kernels compiled for the processor behind the driver of the tests, and the made-up
/// TensorRT, which computes on the processor.
fn pipeline(root: &Path) -> Result<()> {
    let folder = kernels::libraries(root, &root.join("target/gpu-on-the-cpu"))?;
    let feature = ["--package", "engines", "--features", "tensorrt"];
    steps::run(
        steps::cargo(root)
            .arg("build")
            .args(feature)
            .args(["--example", "fake_nvinfer"]),
    )?;
    let built = root.join("target/debug/examples/libfake_nvinfer.so");
    for name in ["libnvinfer.so.10", "libnvonnxparser.so.10"] {
        fs::copy(&built, folder.join(name)).with_context(|| format!("{}", built.display()))?;
    }
    let mut test = steps::cargo(root);
    test.args([
        "test",
        "--package",
        "app",
        "--features",
        "jetson",
        "--test",
        "gpu",
    ]);
    test.args(["--", "--include-ignored", "--test-threads=1"]);
    // The tests' own processes get folders of their own.
    test.env("LD_LIBRARY_PATH", &folder);
    steps::run(test.env("PERSONA_GPU_LIBRARIES", &folder))
}

/// The tests that need TensorRT-RTX: every network is parsed and compiled.
fn test_rtx(root: &Path) -> Result<()> {
    let folder = rtx(root)?;
    let mut test = steps::cargo(root);
    test.args([
        "test",
        "--package",
        "engines",
        "--features",
        "tensorrt",
        "--lib",
        "--",
        "rtx",
        "--include-ignored",
    ]);
    steps::run(test.env("PERSONA_TENSORRT_RTX", folder))
}
