//! The map of docs/architecture.md, asserted: what exists, what may import what, where `unsafe` may stand.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Folder, package, and the packages of this repository that it may import (for its tests too).
const MAP: [(&str, &str, &[&str]); 8] = [
    ("kernels", "kernels", &[]),
    ("engines", "engines", &["kernels"]),
    ("engines/train", "train", &["kernels", "engines"]),
    ("board", "board", &[]),
    ("app", "app", &["kernels", "engines", "board"]),
    ("cross", "xtask", &[]),
    ("tests", "tests", &["kernels", "engines", "board", "app"]),
    ("tests/fuzz", "fuzz", &["tests"]),
];

/// Packages that are workspaces of their own.
const OTHER_WORKSPACES: [&str; 2] = ["engines/train", "tests/fuzz"];

/// Folders at the top that hold no package.
const OTHER_FOLDERS: [&str; 3] = [".cargo", ".ci", "docs"];

/// The only folders with unsafe code.
const UNSAFE_FOLDERS: [&str; 2] = ["kernels/src/cuda/", "engines/src/trt/"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Paths of all tracked files, relative to the root.
fn tracked() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root())
        .output()
        .expect("this test asks git which files belong to the repository");
    assert!(output.status.success(), "git ls-files failed: not a clone?");
    let files: Vec<_> = String::from_utf8(output.stdout)
        .expect("file names are text")
        .split_terminator('\0')
        .map(str::to_owned)
        .filter(|file| root().join(file).is_file())
        .collect();
    assert!(files.len() > 20, "only {files:?} are tracked");
    files
}

/// Lines of all tracked text files but lock files: file, line number, line.
fn lines() -> impl Iterator<Item = (String, usize, String)> {
    tracked()
        .into_iter()
        .filter(|file| !file.ends_with(".lock"))
        .filter_map(|file| {
            let text = String::from_utf8(std::fs::read(root().join(&file)).ok()?).ok()?;
            Some((file, text))
        })
        .flat_map(|(file, text)| {
            text.lines()
                .enumerate()
                .map(|(number, line)| (file.clone(), number + 1, line.to_owned()))
                .collect::<Vec<_>>()
        })
}

/// `cargo metadata` of a workspace: package name to (folder, imported packages of this repository).
fn packages(manifest: &Path) -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--manifest-path",
        ])
        .arg(manifest)
        .output()
        .expect("cargo can be started");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("name").to_owned();
            let manifest = Path::new(package["manifest_path"].as_str().expect("manifest_path"));
            let folder = manifest.parent().expect("a manifest lies in a folder").to_owned();
            let imports = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter()
                .filter(|dependency| dependency["path"].is_string())
                .map(|dependency| dependency["name"].as_str().expect("name").to_owned())
                .collect();
            (name, (folder, imports))
        })
        .collect()
}

#[test]
fn packages_lie_in_their_folders_and_import_only_downwards() {
    let mut found = packages(&root().join("Cargo.toml"));
    for folder in OTHER_WORKSPACES {
        let manifest = root().join(folder).join("Cargo.toml");
        if manifest.exists() {
            found.extend(packages(&manifest));
        }
    }
    let root = root().canonicalize().expect("the root exists");
    for (folder, name, allowed) in MAP {
        let Some((place, imports)) = found.remove(name) else {
            assert_eq!(name, "train", "package {name} is missing");
            continue;
        };
        assert_eq!(place, root.join(folder), "package {name} lies in another folder");
        for import in &imports {
            assert!(
                allowed.contains(&import.as_str()),
                "{name} imports {import}; the map allows {allowed:?}"
            );
        }
    }
    assert!(found.is_empty(), "packages that the map does not know: {found:?}");
}

#[test]
fn the_map_itself_has_no_way_up() {
    // A package may import only packages that come earlier in some order; the table is written in one.
    for (position, (_, name, allowed)) in MAP.iter().enumerate() {
        let earlier: Vec<_> = MAP[..position].iter().map(|(_, name, _)| *name).collect();
        for import in *allowed {
            assert!(
                earlier.contains(import),
                "{name} may import {import}, which comes later"
            );
        }
    }
}

#[test]
fn the_top_folders_are_those_of_the_map() {
    let allowed: BTreeSet<_> = MAP
        .iter()
        .map(|(folder, ..)| folder.split('/').next().unwrap_or(folder))
        .chain(OTHER_FOLDERS)
        .collect();
    for file in tracked() {
        if let Some((folder, _)) = file.split_once('/') {
            assert!(allowed.contains(folder), "{file} lies outside of the map");
        }
    }
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    const KEYWORD: &str = concat!("un", "safe");
    const PERMISSION: &str = concat!("allow(un", "safe_code)");
    for (file, number, line) in lines().filter(|(file, ..)| file.ends_with(".rs")) {
        if UNSAFE_FOLDERS.iter().any(|folder| file.starts_with(folder)) {
            continue;
        }
        let code = line.split("//").next().unwrap_or_default();
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(
            !words.any(|word| word == KEYWORD) && !code.contains(PERMISSION),
            "{file}:{number}: {KEYWORD} code outside of {UNSAFE_FOLDERS:?}"
        );
    }
}

#[test]
fn nothing_names_a_machine_or_a_registry() {
    // Written in two halves, so that this file does not find itself.
    const ROOTS: [&str; 4] = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/fa", "rm/"),
    ];
    const HOSTS: [&str; 5] = [
        concat!("pypi", ".org"),
        concat!("pythonhosted", ".org"),
        concat!("npmjs", ".org"),
        concat!("npmjs", ".com"),
        concat!("crates", ".io"),
    ];
    for (file, number, line) in lines() {
        for folder in ROOTS {
            let absolute = line.match_indices(folder).any(|(position, _)| {
                let before = line[..position].chars().next_back();
                before.is_none_or(|c| !c.is_alphanumeric() && !"._-}".contains(c))
            });
            assert!(
                !absolute,
                "{file}:{number}: an absolute path of one machine: {line}"
            );
        }
        for host in HOSTS {
            assert!(
                !line.contains(host),
                "{file}:{number}: a registry's host name: {line}"
            );
        }
    }
}

#[test]
fn names_say_what_is_inside() {
    const EMPTY_NAMES: [&str; 8] = [
        "util", "utils", "helper", "helpers", "common", "manager", "misc", "core",
    ];
    for file in tracked() {
        for part in Path::new(&file).iter().filter_map(|part| part.to_str()) {
            let stem = part.split('.').next().unwrap_or(part);
            assert!(!EMPTY_NAMES.contains(&stem), "{file}: `{stem}` says nothing");
        }
    }
}

#[test]
fn every_package_takes_the_lints_of_the_workspace() {
    for (folder, name, _) in MAP {
        let Ok(manifest) = std::fs::read_to_string(root().join(folder).join("Cargo.toml")) else {
            assert_eq!(name, "train", "{folder} has no Cargo.toml");
            continue;
        };
        // Other workspaces state their lints themselves.
        if !OTHER_WORKSPACES.contains(&folder) {
            assert!(
                manifest.contains("[lints]\nworkspace = true"),
                "{folder}/Cargo.toml does not take the workspace's lints, which deny it all"
            );
        }
    }
}
