//! Feeding the parsers with whatever gets further into them: libFuzzer over `tests/fuzz`, without a nightly compiler.
//!
//! What `cargo fuzz` does with `-Zsanitizer` is left out: the parsers have no unsafe code for a sanitizer to watch. The
//! counters of coverage that libFuzzer steers by need only options of a stable compiler.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{steps, steps::Steps};

/// What `cargo xtask fuzz` runs.
#[derive(Args)]
pub struct Options {
    /// Parsers to feed (tests/src/parsers); without any, all of them
    parsers: Vec<String>,
    /// Seconds for each
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
}

/// The options with which `cargo fuzz` has LLVM put in counters of coverage and reports of comparisons.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// Feeds every parser that was asked for.
///
/// # Errors
/// When something was found, or cannot be built.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let known = names(root)?;
    if let Some(other) = options.parsers.iter().find(|name| !known.contains(name)) {
        bail!("there is no parser {other}; there are {}", known.join(", "));
    }
    let wanted = if options.parsers.is_empty() {
        &known
    } else {
        &options.parsers
    };
    build(root)?;
    let mut all = Steps::default();
    for name in wanted {
        all.step(name, || feed(root, name, options.seconds));
    }
    all.finish()
}

/// Feeds all parsers for so many seconds each, as one step.
///
/// # Errors
/// As [`run`].
pub fn every(root: &Path, seconds: u32) -> Result<()> {
    run(
        root,
        &Options {
            parsers: Vec::new(),
            seconds,
        },
    )
}

/// Named, so that cargo leaves the counters out of what runs while it builds.
fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn names(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/fuzz_targets");
    let mut names = fs::read_dir(&folder)
        .and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.path()))
                .collect::<std::io::Result<Vec<_>>>()
        })
        .with_context(|| format!("{}: cannot be listed", folder.display()))?
        .iter()
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect::<Vec<_>>();
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<()> {
    let mut build = steps::cargo(root);
    build
        .args(["build", "--manifest-path", "tests/fuzz/Cargo.toml"])
        .args(["--target", &target(), "--target-dir", "target/fuzz"])
        .env("RUSTFLAGS", COVERAGE);
    steps::run(&mut build)
}

/// What gets further is kept in target/fuzz/corpus and is where the next run begins.
fn feed(root: &Path, name: &str, seconds: u32) -> Result<()> {
    let folder = root.join("target/fuzz");
    let (corpus, finds) = (folder.join("corpus").join(name), folder.join("finds"));
    for folder in [&corpus, &finds] {
        fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    }
    let program = folder.join(target()).join("debug").join(name);
    let mut fuzz = std::process::Command::new(program);
    fuzz.arg(&corpus)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", finds.display()))
        .args([
            "-max_len=16384",
            "-timeout=20",
            "-rss_limit_mb=4096",
            "-print_final_stats=1",
        ])
        .env("PERSONA_SEEDS", &corpus);
    steps::run(&mut fuzz).with_context(|| {
        format!(
            "what was found lies in {}; add it to the parser's seeds",
            finds.display()
        )
    })
}
