//! The CUDA kernels where there is no GPU: compiled for the processor, behind a driver of our own, under the suite that
//! the CPU passes; and the same with mistakes put in, to see that they are found.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{registers, setup, steps};

/// What `cargo xtask kernels` does.
#[derive(Args, Default)]
pub struct Options {
    /// A million random frames instead of some thousands: many hours
    #[arg(long)]
    pub long: bool,
    /// Begin with this one of them, to go on where an earlier run ended
    #[arg(long, requires = "long", default_value_t = 0, value_name = "CASE")]
    pub from: u64,
    /// Instead, say what each kernel needs on each GPU, by NVIDIA's own assembler; fail when one spills registers
    #[arg(long, conflicts_with = "long")]
    pub report: bool,
}

/// How the kernels are compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nothing,
    /// AddressSanitizer and UndefinedBehaviorSanitizer.
    Memory,
    /// ThreadSanitizer, to which every CUDA thread is a thread.
    Races,
}

/// A mistake: in file, instead of these words, those. It has to be found by this watch in this test, with these words.
struct Mistake {
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
    watch: Watch,
    test: &'static str,
    found: &'static str,
}

const MISTAKES: [Mistake; 8] = [
    Mistake {
        file: "pixels.cuh",
        right: "(usize)y.high * stride",
        wrong: "(usize)(y.high + 1) * stride",
        watch: Watch::Memory,
        test: "conformance cuda::warp_repeats_the_edge",
        found: "heap-buffer-overflow",
    },
    Mistake {
        file: "cover.cu",
        right: "if (i < frame.width && j < frame.height)",
        wrong: "if (i < frame.width)",
        watch: Watch::Memory,
        test: "conformance cuda::tiny_frames_work",
        found: "heap-buffer-overflow",
    },
    Mistake {
        file: "checksum.cu",
        right: "__syncthreads();",
        wrong: "",
        watch: Watch::Races,
        test: "conformance cuda::checksum_tells_pictures_apart",
        found: "data race",
    },
    Mistake {
        file: "judge.cu",
        right: "__syncthreads();",
        wrong: "",
        watch: Watch::Races,
        test: "conformance cuda::judge_fills_the_holes_of_a_mask",
        found: "data race",
    },
    Mistake {
        file: "judge.cu",
        right: "i < 3 * plane",
        wrong: "i < 3 * plane + 64",
        watch: Watch::Memory,
        test: "conformance cuda::judge_fills_the_holes_of_a_mask",
        found: "heap-buffer-overflow",
    },
    Mistake {
        file: "cover.cu",
        right: "__syncthreads();",
        wrong: "",
        watch: Watch::Races,
        test: "conformance cuda::cover_has_no_detail",
        found: "data race",
    },
    Mistake {
        file: "cover.cu",
        right: "if (covers(patches[earlier], 2 * x, 2 * y)) return;",
        wrong: "",
        watch: Watch::Races,
        test: "conformance cuda::cover_depends_on_nothing_inside",
        found: "data race",
    },
    Mistake {
        file: "blend.cu",
        right: "if (holds(placed[earlier], x, y)) return;",
        wrong: "",
        watch: Watch::Races,
        test: "conformance cuda::blend_of_many_is_one_after_another",
        found: "data race",
    },
];

/// The tests that use a driver.
const TESTS: [&str; 4] = ["conformance", "allocations", "driver", "kernels"];

/// A test with a mistake is run until the mistake is named, at most so often: its cases are random, and a wrong picture may
/// end it before the race detector has seen two threads meet.
const ATTEMPTS: usize = 8;

/// Runs the suite plainly, under both watches, and with every mistake.
///
/// # Errors
/// When something fails, or a mistake is not found.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    if options.report {
        return registers::report(root);
    }
    setup::ensure()?;
    let tests = build_tests(root)?;
    let place = root.join("target/kernels-on-the-cpu");
    for (watch, name, cases) in [
        (Watch::Nothing, "plain", None),
        // How often each property is tried, and how many random frames: watching takes long.
        (Watch::Memory, "memory", Some(["8", "200"])),
        (Watch::Races, "races", Some(["2", "20"])),
    ] {
        eprintln!("kernels on the processor: {name}");
        let library = build_library(&root.join("kernels/cu"), root, &place.join(name), watch)?;
        for test in TESTS {
            let mut command = with_driver(&tests, test, &library, watch)?;
            // The names of the tests on the driver; "driver" has no others.
            command.arg(match test {
                "conformance" => "cuda",
                "allocations" => "gpu",
                // The package's own: camera buffers.
                "kernels" => "nvmm",
                _ => "",
            });
            if let Some([properties, frames]) = cases {
                command
                    .env("PROPTEST_CASES", properties)
                    .env("PERSONA_CASES", frames);
            } else if options.long {
                command
                    .env("PROPTEST_CASES", "4096")
                    .env("PERSONA_CASES", "1000000")
                    .env("PERSONA_FIRST_CASE", options.from.to_string());
            }
            steps::run(&mut command)?;
        }
    }
    for (number, mistake) in MISTAKES.iter().enumerate() {
        find(mistake, root, &tests, &place.join(format!("mistake-{number}")))?;
    }
    println!(
        "{} of {} injected mistakes were found",
        MISTAKES.len(),
        MISTAKES.len()
    );
    Ok(())
}

/// Compiles the kernels with a mistake, and makes sure that the watch names it.
fn find(mistake: &Mistake, root: &Path, tests: &[(String, PathBuf)], place: &Path) -> Result<()> {
    let Mistake {
        file, right, wrong, ..
    } = mistake;
    eprintln!("kernels on the processor: {file} with `{wrong}` for `{right}`");
    let sources = place.join("cu");
    fs::create_dir_all(&sources)?;
    for entry in fs::read_dir(root.join("kernels/cu"))? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let mut text = fs::read_to_string(&path)?;
        if name == *file {
            ensure!(
                text.contains(right),
                "{file} has no `{right}` any more: cross/src/kernels.rs puts a mistake there"
            );
            text = text.replace(right, wrong);
        }
        fs::write(sources.join(name), text)?;
    }
    let library = build_library(&sources, root, place, mistake.watch)?;
    let (binary, test) = mistake
        .test
        .split_once(' ')
        .context("a test is named by its binary and its name")?;
    let mut printed = String::new();
    for _ in 0..ATTEMPTS {
        let output = with_driver(tests, binary, &library, mistake.watch)?
            .args([test, "--exact"])
            .env("PROPTEST_CASES", "16")
            .output()?;
        printed =
            (String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout)).into_owned();
        if !output.status.success() && printed.contains(mistake.found) && printed.contains(file) {
            return Ok(());
        }
    }
    bail!("nobody found it; {} printed:\n{printed}", mistake.test);
}

/// The libraries of a made-up GPU: kernels on the processor behind a driver, and NVMM buffers. Gives their folder.
///
/// # Errors
/// When the compiler refuses them.
pub fn libraries(root: &Path, folder: &Path) -> Result<PathBuf> {
    build_library(&root.join("kernels/cu"), root, folder, Watch::Nothing)
}

/// Builds the tests and gives their names and executables.
fn build_tests(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut build = steps::cargo(root);
    build.args(["test", "--package", "kernels", "--features", "cuda", "--no-run"]);
    build.arg("--message-format=json-render-diagnostics");
    build.arg("--lib");
    for test in TESTS.iter().filter(|test| **test != "kernels") {
        build.args(["--test", test]);
    }
    let messages = steps::output(&mut build)?;
    let tests: Vec<_> = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| {
            let name = message["target"]["name"].as_str()?.to_owned();
            Some((name, PathBuf::from(message["executable"].as_str()?)))
        })
        .collect();
    Ok(tests)
}

/// A test that finds our driver.
fn with_driver(tests: &[(String, PathBuf)], name: &str, library: &Path, watch: Watch) -> Result<Command> {
    let (_, test) = tests
        .iter()
        .find(|(test, _)| test == name)
        .with_context(|| format!("cargo built no test {name}"))?;
    // ThreadSanitizer needs memory where it expects it.
    let mut command = Command::new(if watch == Watch::Races { "setarch" } else { "env" });
    if watch == Watch::Races {
        command.arg("-R");
    }
    command.arg(test).args(["--include-ignored"]);
    command.env("LD_LIBRARY_PATH", library);
    match watch {
        Watch::Nothing => {}
        Watch::Memory => {
            command.env("LD_PRELOAD", runtime("libasan.so")?);
            // What the tests leave lying about at their end is the system's.
            command.env("ASAN_OPTIONS", "detect_leaks=0");
        }
        Watch::Races => {
            command.env("LD_PRELOAD", runtime("libtsan.so")?);
            // Rust's own libraries are not watched, and would be misunderstood.
            command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1");
            command.arg("--test-threads=1");
        }
    }
    Ok(command)
}

/// Where the compiler keeps a sanitizer's library.
fn runtime(name: &str) -> Result<String> {
    let path = steps::output(Command::new("g++").arg(format!("-print-file-name={name}")))?;
    Ok(path.trim().to_owned())
}

/// Compiles the kernels in `sources` into a libcuda.so.1 and gives its folder.
fn build_library(sources: &Path, root: &Path, folder: &Path, watch: Watch) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let here = root.join("kernels/tests/cuda");
    let compiler = || {
        let mut compiler = Command::new("g++");
        compiler.current_dir(&here);
        // As in `cargo xtask ptx`: multiplications and additions are not fused.
        compiler.args(["-std=c++17", "-ffp-contract=off", "-fPIC"]);
        compiler.args(["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]);
        compiler
            .args(["-include", "host.cuh", "-I."])
            .arg("-I")
            .arg(sources);
        compiler
    };
    let mut build = compiler();
    match watch {
        Watch::Nothing => build.args(["-O2", "-shared", "libcuda.cpp", "threads.cpp"]),
        Watch::Memory => build
            .args([
                "-O1",
                "-g",
                "-fsanitize=address,undefined",
                "-fno-sanitize-recover=undefined",
            ])
            .args(["-shared", "libcuda.cpp", "threads.cpp"]),
        Watch::Races => {
            let scheduler = folder.join("threads.o");
            let mut plain = compiler();
            plain
                .args(["-O1", "-g", "-c", "threads_tsan.cpp", "-o"])
                .arg(&scheduler);
            steps::run(&mut plain)?;
            build
                .args(["-O1", "-g", "-fsanitize=thread", "-shared", "libcuda.cpp"])
                .arg(scheduler)
        }
    };
    build.arg("-o").arg(folder.join("libcuda.so.1"));
    steps::run(&mut build)?;
    let mut surfaces = compiler();
    surfaces.args(["-O1", "-g", "-shared", "libnvbufsurface.cpp", "-o"]);
    steps::run(surfaces.arg(folder.join("libnvbufsurface.so.1.0.0")))?;
    Ok(folder.to_owned())
}
