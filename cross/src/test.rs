use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;
use clap::Args;

use crate::{clips, fuzz, hil, kernels, libtorch, ptx, setup, steps, steps::Steps, tensorrt};

/// What `cargo xtask test` runs beyond the ordinary checks.
#[derive(Args)]
pub struct Options {
    /// Also anonymize the default clips with the release build and look for exposed faces; many more random cases
    #[arg(long)]
    long: bool,
    /// Also build for a box, check its package, and boot the emulated board (3 GB the first time, half an hour)
    #[arg(long)]
    with_box: bool,
    /// Also run the cases on a real board, reached over ssh: a file like cross/devices/example.toml
    #[arg(long, value_name = "FILE")]
    device: Option<PathBuf>,
    /// Also check the trainer, fetching libtorch (542 MB) when it is not there
    #[arg(long)]
    with_training: bool,
    /// Also use the operator's page in Chromium, installing it when it is not there; pictures go to target/screenshots
    #[arg(long)]
    with_browser: bool,
}

/// How many random cases each property gets with `--long`.
const LONG_CASES: &str = "4096";
/// How many faults are injected with `--long`; ordinarily 2,000.
const LONG_FAULTS: &str = "100000";
/// For how many seconds cameras come and go with `--long`; ordinarily 15.
const LONG_SOAK: &str = "900";
/// How long libFuzzer feeds each parser with `--long`.
const LONG_FUZZING: u32 = 60;

/// Sets up and runs every check. All of them run, whatever becomes of the others.
///
/// # Errors
/// When the set-up or a check failed.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    setup::ensure()?;
    let mut all = Steps::default();
    let cargo = || steps::cargo(root);

    all.step("format", || steps::run(cargo().args(["fmt", "--all", "--check"])));
    all.step("lints", || {
        steps::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    all.step("lints and documentation of the CUDA place", || {
        let mut clippy = cargo();
        clippy.args([
            "clippy",
            "--package",
            "kernels",
            "--package",
            "app",
            "--all-targets",
        ]);
        clippy.args(["--features", "kernels/cuda,app/cuda"]);
        steps::run(clippy.args(["--", "-D", "warnings"]))?;
        let mut doc = cargo();
        doc.args(["doc", "--package", "kernels", "--features", "cuda", "--no-deps"]);
        steps::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    });
    all.step("PTX is current", || ptx::run(root, &ptx::Options { check: true }));
    // The tests need the networks and the clips; the program that fetches the networks is the one under test.
    all.step("networks", || {
        let persona = steps::build_persona(root, "dev")?;
        steps::run(Command::new(&persona).args(["models", "fetch"]))
    });
    all.step("clips", || clips::defaults(root).map(drop));
    all.step("tests", || {
        let mut test = cargo();
        test.args(["test", "--workspace", "--no-fail-fast"]);
        if options.long {
            test.env("PROPTEST_CASES", LONG_CASES);
            test.env("PERSONA_FAULTS", LONG_FAULTS);
            test.env("PERSONA_SOAK", LONG_SOAK);
        }
        steps::run(&mut test)
    });
    // Real pins are features of their own; without them the logic is `no_std`.
    all.step("board with its pins", || {
        for features in ["", "gpio,pi"] {
            let clippy = [
                "clippy",
                "--package",
                "board",
                "--all-targets",
                "--features",
                features,
            ];
            steps::run(cargo().args(clippy).args(["--", "-D", "warnings"]))?;
        }
        steps::run(cargo().args(["test", "--package", "board", "--features", "gpio,pi"]))
    });
    tensorrt::check(root, &mut all);
    let report = kernels::Options {
        report: true,
        ..kernels::Options::default()
    };
    all.step("registers of the CUDA kernels", || kernels::run(root, &report));
    all.step("CUDA kernels on the CPU", || {
        let options = kernels::Options {
            long: options.long,
            ..kernels::Options::default()
        };
        kernels::run(root, &options)
    });
    all.step("documentation", || {
        steps::run(
            cargo()
                .args(["doc", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    });
    if options.long {
        all.step("exposure of the default clips", || exposure(root));
    } else {
        all.skip("exposure of the default clips", "only with --long");
    }
    if options.long {
        all.step("fuzzing", || fuzz::every(root, LONG_FUZZING));
    } else {
        all.skip(
            "fuzzing",
            "changed seeds were fed among the tests; libFuzzer only with --long",
        );
    }
    if options.with_box {
        for (name, arguments) in [
            ("box: build, tests in qemu", &["build", "--test"][..]),
            ("box: package", &["package", "--check"]),
            ("box: program on the emulated board", &["hil", "--emulated"]),
        ] {
            all.step(name, || steps::run(cargo().arg("xtask").args(arguments)));
        }
    } else {
        for name in [
            "box: build, tests in qemu",
            "box: package",
            "box: program on the emulated board",
        ] {
            all.skip(name, "downloads Debian for arm64; only with --with-box");
        }
    }
    match &options.device {
        Some(device) => all.step("hardware", || {
            steps::run(cargo().args(["xtask", "hil"]).arg(device))
        }),
        None => all.skip("hardware", hil::NO_DEVICE),
    }
    if options.with_browser {
        all.step("page in a browser", || {
            setup::browser()?;
            let browser = ["test", "--package", "app", "--test", "browser", "--", "--ignored"];
            steps::run(cargo().args(browser))
        });
    } else {
        all.skip("page in a browser", "needs Chromium; only with --with-browser");
    }
    if options.with_training {
        all.step("trainer", || trainer(root));
    } else {
        all.skip("trainer", "needs libtorch; only with --with-training");
    }
    all.finish()
}

/// Format, lints and tests of the trainer, which is a workspace of its own.
fn trainer(root: &Path) -> Result<()> {
    let manifest = root.join("engines/train/Cargo.toml");
    for (command, rest) in [
        ("fmt", &["--check"][..]),
        ("clippy", &["--all-targets", "--", "-D", "warnings"]),
        ("test", &[]),
    ] {
        let mut cargo = libtorch::cargo(root)?;
        cargo.arg(command).arg("--manifest-path").arg(&manifest);
        steps::run(cargo.args(rest))?;
    }
    Ok(())
}

/// Runs the release build over the default clips and lets the exposure tool judge every face of every frame.
fn exposure(root: &Path) -> Result<()> {
    let persona = steps::build_persona(root, "release")?;
    for clip in clips::defaults(root)? {
        let output = clip.with_extension("anonymized.mp4");
        steps::run(
            Command::new(&persona)
                .arg("run")
                .arg("--input")
                .arg(&clip)
                .arg("--output")
                .arg(&output)
                .arg("--overwrite"),
        )?;
        steps::run(
            steps::cargo(root)
                .args([
                    "run",
                    "--release",
                    "--package",
                    "tests",
                    "--bin",
                    "exposure",
                    "--",
                ])
                .arg(&clip)
                .arg(&output),
        )?;
    }
    Ok(())
}
