//! The arm64 package for a box: program, plugin, networks, starter configuration, service, SBOM.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    build, steps,
    sysroot::{RUNTIME, Sysroot, TARGET},
};

/// What `cargo xtask package` is told.
#[derive(Args)]
pub struct Options {
    /// Profile of cargo
    #[arg(long, default_value = "release")]
    profile: String,
    /// Also install the package into an arm64 root folder, start the program there in qemu, and uninstall it
    #[arg(long)]
    check: bool,
    /// Also sign the package for `persona update`, with this secret key of minisign
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
}

/// Where the package is left.
pub fn path(root: &Path) -> PathBuf {
    root.join(format!(
        "target/cross/persona_{}_arm64.deb",
        env!("CARGO_PKG_VERSION")
    ))
}

/// Packages of Debian, and of Ubuntu under the same names, that hold the libraries of `build.rs`.
const LIBRARIES: [&str; 4] = [
    "libc6 (>= 2.34)",
    "libgstreamer1.0-0 (>= 1.20)",
    "libgstreamer-plugins-base1.0-0 (>= 1.20)",
    "libgstrtspserver-1.0-0 (>= 1.20)",
];

/// Files of the repository, where they go, and their mode.
const FILES: [(&str, &str, u32); 11] = [
    (
        "cross/debian/persona.service",
        "usr/lib/systemd/system/persona.service",
        0o644,
    ),
    (
        "cross/debian/persona-update.service",
        "usr/lib/systemd/system/persona-update.service",
        0o644,
    ),
    (
        "cross/debian/persona-confirm.service",
        "usr/lib/systemd/system/persona-confirm.service",
        0o644,
    ),
    (
        "cross/debian/persona-confirm.timer",
        "usr/lib/systemd/system/persona-confirm.timer",
        0o644,
    ),
    ("cross/debian/update", "usr/lib/persona/update", 0o755),
    ("cross/debian/confirm", "usr/lib/persona/confirm", 0o755),
    (
        "cross/debian/60-persona.rules",
        "usr/lib/udev/rules.d/60-persona.rules",
        0o644,
    ),
    (
        "cross/debian/persona.sysusers",
        "usr/lib/sysusers.d/persona.conf",
        0o644,
    ),
    ("cross/debian/environment", "etc/persona/environment", 0o644),
    ("docs/box.md", "usr/share/doc/persona/box.md", 0o644),
    ("engines/models.toml", "usr/share/doc/persona/models.toml", 0o644),
];

const PROGRAM: &str = "usr/bin/persona";
const PLUGIN: &str = "usr/lib/aarch64-linux-gnu/gstreamer-1.0/libpersona.so";
const MODELS: &str = "usr/share/persona/models";
const CONFIGURATION: &str = "etc/persona/persona.toml";

/// How long the program may take in qemu until it serves.
const STARTING: Duration = Duration::from_secs(120);

/// Builds, packs, and checks when asked to.
///
/// # Errors
/// When a step fails.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let sysroot = Sysroot::ensure(root)?;
    let built = build::persona(root, &sysroot, &options.profile)?;
    let package = pack(root, &sysroot, &built)?;
    println!("{}", package.display());
    if let Some(key) = &options.sign {
        // The trusted comment is what a box compares with its own version.
        let mut minisign = Command::new("minisign");
        minisign.args(["-S", "-t", concat!("persona ", env!("CARGO_PKG_VERSION"))]);
        steps::run(minisign.arg("-s").arg(key).arg("-m").arg(&package))?;
    }
    if options.check {
        check(root, &sysroot, &package)?;
    }
    Ok(())
}

fn pack(root: &Path, sysroot: &Sysroot, built: &build::Built) -> Result<PathBuf> {
    let folder = root.join("target/cross/package");
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => (),
    }
    let put = |from: &Path, to: &str, mode: u32| -> Result<()> {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().unwrap_or(&folder))?;
        fs::copy(from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(fs::set_permissions(&to, fs::Permissions::from_mode(mode))?)
    };
    for (from, to, mode) in FILES {
        put(&root.join(from), to, mode)?;
    }
    put(&built.program, PROGRAM, 0o755)?;
    put(&built.plugin, PLUGIN, 0o644)?;
    strip(&folder.join(PROGRAM))?;
    strip(&folder.join(PLUGIN))?;
    for script in ["postinst", "prerm", "postrm"] {
        put(
            &root.join("cross/debian").join(script),
            &format!("DEBIAN/{script}"),
            0o755,
        )?;
    }
    // The program itself fetches, verifies and converts them, as a box would.
    let models = build::models(root, sysroot, built)?;
    copy_folder(&models, &folder.join(MODELS))?;
    let starter = steps::output(program(sysroot, &built.program).args(["serve", "--starter"]))?;
    fs::write(folder.join(CONFIGURATION), starter)?;
    let version = env!("CARGO_PKG_VERSION");
    let sbom = serde_json::to_string_pretty(&sbom(root)?)?;
    fs::write(folder.join("usr/share/doc/persona/sbom.cdx.json"), sbom)?;
    fs::write(folder.join("usr/share/doc/persona/copyright"), copyright(root)?)?;
    fs::write(
        folder.join("DEBIAN/conffiles"),
        format!("/{CONFIGURATION}\n/etc/persona/environment\n"),
    )?;
    let depends: Vec<_> = LIBRARIES.into_iter().chain(RUNTIME).collect();
    fs::write(
        folder.join("DEBIAN/control"),
        format!(
            "Package: persona\nVersion: {version}\nArchitecture: arm64\nSection: video\nPriority: optional\n\
             Maintainer: the Persona developers <persona@localhost>\nDepends: {}\n\
             Description: replaces every face in live video by a face of nobody\n \
             A box between cameras and their viewers: what it cannot prove anonymized never leaves it uncovered.\n",
            depends.join(", ")
        ),
    )?;
    let package = path(root);
    let mut build = Command::new("dpkg-deb");
    build.args(["--build", "--root-owner-group", "-Zxz", "-z1"]);
    steps::quietly(build.arg(&folder).arg(&package))?;
    Ok(package)
}

fn strip(file: &Path) -> Result<()> {
    steps::run(
        Command::new("aarch64-linux-gnu-strip")
            .arg("--strip-unneeded")
            .arg(file),
    )
}

/// A program of a box, in qemu.
fn program(sysroot: &Sysroot, path: &Path) -> Command {
    let mut qemu = Command::new("qemu-aarch64-static");
    qemu.arg("-L").arg(sysroot.path()).arg(path);
    qemu
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
        }
    }
    Ok(())
}

/// Everything that the program is made of, as CycloneDX 1.5: the crates that are linked, with versions and licences,
/// and the networks.
fn sbom(root: &Path) -> Result<Value> {
    let mut metadata = steps::cargo(root);
    metadata.args([
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        TARGET,
    ]);
    let metadata: Value = serde_json::from_str(&steps::output(&mut metadata)?)?;
    let mut tree = steps::cargo(root);
    tree.args([
        "tree",
        "--package",
        "app",
        "--features",
        "gpio",
        "--edges",
        "normal",
    ]);
    tree.args([
        "--target", TARGET, "--prefix", "none", "--format", "{p}", "--locked",
    ]);
    let linked = linked(&steps::output(&mut tree)?);
    let crates = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    let mut components: Vec<_> = crates
        .iter()
        .filter(|package| linked.contains(&(text(&package["name"]), text(&package["version"]))))
        .map(|package| {
            let (name, version) = (&package["name"], &package["version"]);
            let mut component = json!({
                "type": "library",
                "name": name,
                "version": version,
                "purl": format!("pkg:cargo/{}@{}", text(name), text(version)),
            });
            if let Some(licence) = package["license"].as_str() {
                component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
            }
            component
        })
        .collect();
    ensure!(
        components.len() > 50,
        "only {} crates were found",
        components.len()
    );
    components.extend(networks(&fs::read_to_string(root.join("engines/models.toml"))?));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "persona", "version": env!("CARGO_PKG_VERSION") } },
        "components": components,
    }))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Name and version of the packages that `cargo tree` lists, one a line: `name v1.2.3 (...)`.
fn linked(tree: &str) -> BTreeSet<(String, String)> {
    tree.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(" v")?;
            let version = rest.split_ascii_whitespace().next()?;
            Some((name.to_owned(), version.to_owned()))
        })
        .collect()
}

/// The networks and libraries of `engines/models.toml`, each a table `[[package]]` with one key a line.
fn networks(manifest: &str) -> Vec<Value> {
    manifest
        .split("[[package]]\n")
        .skip(1)
        .map(|package| {
            let value = |key: &str| {
                package
                    .lines()
                    .filter_map(|line| line.split_once(" = "))
                    .find_map(|(name, value)| (name == key).then(|| value.trim_matches('"')))
                    .unwrap_or_default()
            };
            json!({
                "type": "machine-learning-model",
                "name": value("package"),
                "version": value("version"),
                "description": value("name"),
                "licenses": [{ "expression": value("licence") }],
            })
        })
        .collect()
}

/// Debian's machine-readable copyright file (DEP 5).
fn copyright(root: &Path) -> Result<String> {
    let mit = fs::read_to_string(root.join("LICENSE-MIT"))?;
    let text: String = mit
        .lines()
        .map(|line| match line.trim() {
            "" => " .\n".to_owned(),
            line => format!(" {line}\n"),
        })
        .collect();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: persona\n\
         Comment: sbom.cdx.json lists every part with its licence, models.toml where the networks come from.\n\n\
         Files: *\nCopyright: the Persona developers\nLicense: MIT or Apache-2.0\n{text}"
    ))
}

/// Installs into an arm64 root folder that has nothing else, starts the program, uninstalls, and looks whether
/// anything is left. The maintainer scripts run here, told of the root by `$DPKG_ROOT`; the program runs in qemu with
/// the sysroot's libraries.
fn check(root: &Path, sysroot: &Sysroot, package: &Path) -> Result<()> {
    // The sysroot is unpacked and not installed, so that dpkg knows nothing of it; each package brings its copyright.
    for depends in LIBRARIES.iter().chain(&RUNTIME) {
        let name = depends.split(' ').next().unwrap_or(depends);
        let known = sysroot.path().join("usr/share/doc").join(name).is_dir();
        ensure!(known, "the package depends on {name}, which the sysroot lacks");
    }
    let target = root.join("target/cross/root");
    match fs::remove_dir_all(&target) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => (),
    }
    for folder in [
        "var/lib/dpkg/info",
        "var/lib/dpkg/updates",
        "var/lib/dpkg/triggers",
        "etc",
    ] {
        fs::create_dir_all(target.join(folder))?;
    }
    fs::write(target.join("var/lib/dpkg/status"), "")?;
    fs::write(target.join("var/lib/dpkg/arch"), "arm64\n")?;
    let dpkg = |action: &str, package: &Path| {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", target.display()));
        dpkg.args([
            "--force-script-chrootless",
            "--force-depends",
            "--force-architecture",
            "--force-not-root",
        ]);
        steps::quietly(dpkg.arg(action).arg(package))
    };
    dpkg("--install", package)?;
    for file in [
        PROGRAM,
        PLUGIN,
        CONFIGURATION,
        "usr/lib/systemd/system/persona.service",
    ] {
        ensure!(target.join(file).is_file(), "{file} was not installed");
    }
    units(&target.join("usr/lib/systemd/system"))?;
    start(sysroot, &target)?;
    dpkg("--purge", Path::new("persona"))?;
    let left: Vec<_> = files(&target)?
        .into_iter()
        .filter(|file| !file.starts_with("var/lib/dpkg"))
        // The user and the group stay, as Debian's policy wants it.
        .filter(|file| {
            ![
                "etc/passwd",
                "etc/group",
                "etc/shadow",
                "etc/gshadow",
                "etc/.pwd.lock",
            ]
            .contains(&file.as_str())
        })
        .collect();
    ensure!(
        left.is_empty(),
        "after the purge there is still {}",
        left.join(", ")
    );
    println!("installed, started and purged in an arm64 root");
    Ok(())
}

/// Most exposure of the service that is accepted, tenths of `systemd-analyze security`: 0 is locked in, 100 is open.
const EXPOSURE: &str = "20";

/// Asks systemd, where the machine has it, whether it understands the units and how far the service is locked in.
fn units(folder: &Path) -> Result<()> {
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        command.args(["--no-pager", "--man=no"]).args(arguments);
        command
    };
    if !steps::succeeds(&mut analyze(&[
        "--recursive-errors=no",
        "--offline=true",
        "--version",
    ])) {
        println!("the units were not looked at: this machine has no systemd-analyze of systemd 250 or newer");
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let unit = entry?.path();
        let said = analyze(&["--recursive-errors=no", "verify"])
            .arg(&unit)
            .output()?;
        let said = String::from_utf8_lossy(&said.stderr);
        // What the units start is not installed on this machine.
        let wrong: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("is not executable"))
            .collect();
        ensure!(wrong.is_empty(), "{}: {}", unit.display(), wrong.join("; "));
    }
    let service = folder.join("persona.service");
    let threshold = format!("--threshold={EXPOSURE}");
    steps::quietly(analyze(&["--offline=true", &threshold, "security"]).arg(service))?;
    println!("systemd understands the units and finds the service locked in");
    Ok(())
}

/// Starts the service's command as it stands in the unit, and waits until the networks have passed their check: then
/// frames of the starter configuration's camera flow.
fn start(sysroot: &Sysroot, target: &Path) -> Result<()> {
    let unit = fs::read_to_string(target.join("usr/lib/systemd/system/persona.service"))?;
    let command = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/persona "))
        .context("the unit starts no /usr/bin/persona")?;
    // Paths of the unit lie in the root; this machine has no panel.
    let arguments = command.split(' ').map(|word| match word {
        "$PERSONA_PANEL" => "--board=none".to_owned(),
        word if word.starts_with("/etc/") => format!("{}{word}", target.display()),
        word => word.to_owned(),
    });
    let plugins = sysroot.path().join("usr/lib/aarch64-linux-gnu/gstreamer-1.0");
    let mut service = program(sysroot, &target.join(PROGRAM))
        .args(arguments)
        .env("PERSONA_MODELS", target.join(MODELS))
        .env("GST_PLUGIN_SYSTEM_PATH", plugins)
        .env("GST_REGISTRY", target.join("registry.bin"))
        .env("GST_REGISTRY_FORK", "no")
        .env("RUST_LOG", "warn,persona=info")
        .stderr(Stdio::piped())
        .spawn()
        .context("qemu-aarch64-static cannot be started")?;
    let log = service.stderr.take().context("the program's log is a pipe")?;
    let (said, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            eprintln!("  {line}");
            let _ = said.send(line);
        }
    });
    let until = Instant::now() + STARTING;
    let well = loop {
        let rest = until.saturating_duration_since(Instant::now());
        match lines.recv_timeout(rest) {
            Ok(line) if line.contains("state covering -> anonymizing") => break true,
            Ok(_) => (),
            Err(_) => break false,
        }
    };
    let ended = service.try_wait()?;
    steps::run(Command::new("kill").args(["-s", "TERM", &service.id().to_string()]))?;
    let status = service.wait()?;
    let _ = reader.join();
    let _ = fs::remove_file(target.join("registry.bin"));
    if !well {
        bail!(
            "the program did not come to anonymize within {} s ({ended:?})",
            STARTING.as_secs()
        );
    }
    ensure!(status.success(), "the program did not end in order: {status}");
    Ok(())
}

/// Paths of all files below a folder.
fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            } else if let Ok(relative) = path.strip_prefix(folder) {
                found.push(relative.display().to_string());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> &'static str {
        include_str!("../debian/persona.service")
    }

    #[test]
    fn the_service_is_locked_in() {
        for line in [
            "User=persona",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "DevicePolicy=closed",
            "CapabilityBoundingSet=",
            "LimitCORE=0",
            "MemorySwapMax=0",
            "WatchdogSec=30",
        ] {
            assert!(unit().lines().any(|found| found == line), "{line}");
        }
    }

    #[test]
    fn the_service_starts_what_is_installed() {
        for path in [PROGRAM, MODELS, CONFIGURATION, "etc/persona/environment"] {
            assert!(unit().contains(&format!("/{path}")), "{path}");
        }
    }

    /// A folder of made-up programs for a script of the package, and the folder of the slots in it.
    fn programs(name: &str, programs: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("persona-{name}-{}", std::process::id()));
        let slots = folder.join("slots");
        fs::create_dir_all(&slots).unwrap();
        for (name, script) in programs {
            program_file(&folder.join(name), script);
        }
        folder
    }

    fn program_file(file: &Path, script: &str) {
        fs::write(file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What a script of the package prints with these programs first in the path.
    fn script(name: &str, folder: &Path) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("debian").join(name);
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        steps::output(shell.arg(script).arg(folder.join("slots")).env("PATH", path)).unwrap()
    }

    #[test]
    fn the_version_of_the_slot_is_installed_before_the_service_starts() {
        let folder = programs(
            "update",
            &[
                ("persona", "echo /slots/b.deb"),
                ("dpkg-deb", "echo 0.3.0"),
                ("dpkg-query", "printf 0.2.0"),
                ("dpkg", "echo \"$PERSONA_UPDATE $*\""),
            ],
        );
        let installed = "version 0.3.0 takes the place of 0.2.0\n1 --force-downgrade --force-confold --install /slots/b.deb\n";
        assert_eq!(script("update", &folder), installed);
        // The one that was confirmed decides, even when the installed one does not work.
        program_file(&folder.join("persona"), "exit 139");
        assert_eq!(script("update", &folder), "", "what is installed runs");
        program_file(&folder.join("slots/persona"), "echo /slots/a.deb");
        assert!(script("update", &folder).ends_with("--install /slots/a.deb\n"));
        program_file(&folder.join("dpkg-query"), "printf 0.3.0");
        assert_eq!(script("update", &folder), "");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_version_is_confirmed_when_it_has_served_for_five_minutes() {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        let confirmed = |state: &str, seconds: u64, updated: bool| {
            let since = uptime.saturating_sub(seconds) * 1_000_000;
            let systemctl =
                format!("case $* in *StatusText*) echo '{state}' ;; *Timestamp*) echo {since} ;; esac");
            let folder = programs(
                "confirm",
                &[("systemctl", &systemctl), ("persona", "echo \"$1 $4\"")],
            );
            if updated {
                fs::write(folder.join("slots/state.json"), "{}").unwrap();
            }
            let said = script("confirm", &folder);
            let kept = folder.join("slots/persona").exists();
            fs::remove_dir_all(&folder).unwrap();
            assert_eq!(kept, said == "update confirm\n", "{said:?}");
            kept
        };
        assert!(confirmed("anonymizing", 310, true));
        assert!(confirmed("covering on request", 310, true));
        assert!(!confirmed("anonymizing", 100, true));
        assert!(!confirmed("covering", 310, true));
        assert!(!confirmed("fault", 310, true));
        assert!(!confirmed("anonymizing", 310, false), "nothing is on trial");
    }

    #[test]
    fn the_linked_crates_are_told_from_a_tree() {
        let tree = "app v0.1.0 (/somewhere/app)\nanyhow v1.0.99\nserde v1.0.0 (*)\n";
        let wanted = [("anyhow", "1.0.99"), ("app", "0.1.0"), ("serde", "1.0.0")];
        let wanted: BTreeSet<_> = wanted
            .map(|(name, version)| (name.to_owned(), version.to_owned()))
            .into();
        assert_eq!(linked(tree), wanted);
    }

    #[test]
    fn every_network_is_in_the_bill_with_its_licence() {
        let networks = networks(include_str!("../../engines/models.toml"));
        assert!(networks.len() >= 4);
        for network in networks {
            assert!(
                network["version"] != "" && network["licenses"][0]["expression"] != "",
                "{network}"
            );
        }
    }
}
