//! Putting the package into NVIDIA's root file system, and NVIDIA's own tool to flash it.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{package, steps};

/// What `cargo xtask flash` is told.
#[derive(Args)]
pub struct Options {
    /// NVIDIA's folder Linux_for_Tegra, with its sample root file system unpacked and apply_binaries.sh done
    #[arg(long, value_name = "DIR")]
    l4t: PathBuf,
    /// NVIDIA's name of the board, without .conf
    #[arg(long, default_value = "jetson-orin-nano-devkit")]
    board: String,
    /// What to flash: internal, or external (NVMe, USB)
    #[arg(long, default_value = "internal")]
    storage: String,
    /// Prepare the root file system and print the command, flash nothing
    #[arg(long)]
    prepare: bool,
    /// The package of `cargo xtask package`
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
}

/// NVIDIA's tool, in its folder.
const TOOL: &str = "tools/kernel_flash/l4t_initrd_flash.sh";

/// Prepares, and flashes a board that is in recovery mode.
///
/// # Errors
/// When NVIDIA's tool or root file system is not there, with what to do; when the tool fails.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let tool = options.l4t.join(TOOL);
    ensure!(
        tool.is_file(),
        "{}: NVIDIA's flashing tool is not here. Download the Jetson Linux driver package and its sample root file \
         system from NVIDIA, unpack both, run apply_binaries.sh in Linux_for_Tegra, and give that folder as --l4t",
        tool.display()
    );
    let config = options.l4t.join(format!("{}.conf", options.board));
    ensure!(
        config.is_file(),
        "{}: NVIDIA knows no such board",
        config.display()
    );
    let rootfs = options.l4t.join("rootfs");
    ensure!(
        rootfs.join("etc/passwd").is_file(),
        "{}: the sample root file system is not unpacked here",
        rootfs.display()
    );
    let package = options.package.clone().unwrap_or_else(|| package::path(root));
    ensure!(
        package.is_file(),
        "{}: no package; run cargo xtask package, or give --package FILE",
        package.display()
    );
    overlay(&package, &rootfs)?;
    let mut flash = Command::new("sudo");
    flash.current_dir(&options.l4t).arg(format!("./{TOOL}"));
    flash.args([&options.board, &options.storage]);
    if options.prepare {
        println!(
            "in {}, with the board in recovery mode:\n{flash:?}",
            options.l4t.display()
        );
        return Ok(());
    }
    steps::run(&mut flash)
}

/// Unpacks the package over the root file system, and enables its service as `systemctl enable` does. The user is made
/// when the board boots, by systemd-sysusers.
fn overlay(package: &Path, rootfs: &Path) -> Result<()> {
    steps::quietly(Command::new("dpkg-deb").arg("-x").arg(package).arg(rootfs))?;
    let wants = rootfs.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    let link = wants.join("persona.service");
    match symlink("/usr/lib/systemd/system/persona.service", &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot enable the service in {}", link.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(l4t: &Path, package: &Path) -> Options {
        Options {
            l4t: l4t.to_owned(),
            board: "jetson-orin-nano-devkit".into(),
            storage: "internal".into(),
            prepare: true,
            package: Some(package.to_owned()),
        }
    }

    #[test]
    fn what_is_missing_is_named_and_the_overlay_is_made() {
        let folder = std::env::temp_dir().join(format!("persona-flash-{}", std::process::id()));
        let (l4t, tree) = (folder.join("Linux_for_Tegra"), folder.join("tree"));
        let (package, run) = (folder.join("persona.deb"), |l4t: &Path, package: &Path| {
            super::run(&folder, &options(l4t, package)).map_err(|error| error.to_string())
        });
        let file = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(
            run(&l4t, &package)
                .unwrap_err()
                .contains("flashing tool is not here")
        );
        file(&l4t.join(TOOL), "");
        assert!(run(&l4t, &package).unwrap_err().contains("knows no such board"));
        file(&l4t.join("jetson-orin-nano-devkit.conf"), "");
        assert!(run(&l4t, &package).unwrap_err().contains("is not unpacked"));
        file(&l4t.join("rootfs/etc/passwd"), "");
        assert!(run(&l4t, &package).unwrap_err().contains("no package"));
        file(&tree.join("usr/bin/persona"), "program");
        let control = "Package: persona\nVersion: 1\nArchitecture: arm64\nMaintainer: x <x@localhost>\nDescription: x\n";
        file(&tree.join("DEBIAN/control"), control);
        steps::quietly(Command::new("dpkg-deb").arg("--build").arg(&tree).arg(&package)).unwrap();
        // Twice: a second flash finds the first one's files.
        for _ in 0..2 {
            run(&l4t, &package).unwrap();
        }
        let rootfs = l4t.join("rootfs");
        assert_eq!(
            fs::read_to_string(rootfs.join("usr/bin/persona")).unwrap(),
            "program"
        );
        let link = rootfs.join("etc/systemd/system/multi-user.target.wants/persona.service");
        assert_eq!(
            fs::read_link(link).unwrap(),
            Path::new("/usr/lib/systemd/system/persona.service")
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
