//! The emulated board: `qemu-system-aarch64 -M virt` with Debian's stock arm64 kernel, a PL061 GPIO controller with
//! button and lamp, vivid as the camera, an i6300esb watchdog.
//!
//! Its clock follows the instructions that it has run (`-icount`), not the clock of this machine, which other work may
//! keep from running it: however busy this machine is, a frame takes the board the same time, and its watchdog waits. So
//! what is measured from outside is measured by the clock of the board, too.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Bench, Console, Options, SCRIPT};
use crate::{build, setup, steps, sysroot::Sysroot};

/// What a case may wait for, by the clock of this machine, which may be busy.
const PATIENCE: Duration = Duration::from_secs(240);
/// One processor whose clock goes on by 2^3 ns with each instruction, and as this machine's while it has nothing to do:
/// a frame takes it about 2 s, and this machine about as long.
const PROCESSOR: [&str; 6] = ["-cpu", "cortex-a72", "-smp", "1", "-icount", "shift=3"];
/// Seconds of the board after which the watchdog bites, once it is no longer fed.
const HEARTBEAT: u32 = 10;
/// The data register of the GPIO controller with all lines unmasked (PL061, ARM DDI 0190B, 3.3.1).
const GPIO_DATA: &str = "xp /1wx 0x090303fc";
/// The lamp's line, as board/boards/emulated.toml says.
const LAMP: u32 = 1 << 1;
/// Says, among other things, how far this machine's clock is ahead of the board's.
const CLOCK: &str = "info jit";
/// For how long the lamp is looked at, by the clock of the board.
const LOOK: Duration = Duration::from_secs(4);
/// How long QMP's system_powerdown presses.
const PRESSED: Duration = Duration::from_millis(100);
/// Between the presses of a double press: bouncing ends after 20 ms, and the first one is short after 300 (docs/box.md).
const PAUSE: Duration = Duration::from_millis(50);
const CERTAIN: Duration = Duration::from_millis(270);

/// Modules of Debian's kernel that the board needs, beyond what is built in.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "vivid", "i6300esb"];
/// Options of those that need one: vivid is a webcam.
const MODULE_OPTIONS: [(&str, &str); 2] = [
    ("vivid", "n_devs=1 node_types=0x1 num_inputs=1 input_types=0"),
    ("i6300esb", "heartbeat="),
];

/// GStreamer plugins that the cases use: scanning them all would take longer than the cases.
const PLUGINS: [&str; 10] = [
    "coreelements",
    "matroska",
    "playback",
    "typefindfunctions",
    "video4linux2",
    "videoconvertscale",
    "videocrop",
    "videofilter",
    "videoparsersbad",
    "x264",
];

/// What is needed to boot.
pub struct Machine {
    cross: PathBuf,
    folder: PathBuf,
    machine: PathBuf,
    initramfs: PathBuf,
}

/// Packs busybox, the kernel's modules and the script that stands for an operating system.
fn initramfs(machine: &Path, folder: &Path) -> Result<PathBuf> {
    let kernel = kernel(machine)?;
    let tree = folder.join("initramfs");
    for name in ["bin", "modules", "proc", "sys", "dev", "cross"] {
        fs::create_dir_all(tree.join(name))?;
    }
    fs::copy(machine.join("bin/busybox"), tree.join("bin/busybox"))?;
    let library = Path::new("lib/modules").join(&kernel);
    steps::quietly(Command::new("depmod").arg("-b").arg(machine).arg(&kernel))?;
    let table = fs::read_to_string(machine.join(&library).join("modules.dep"))?;
    let mut script = String::from(BOOT);
    for path in load_order(&table, &MODULES)? {
        let name = Path::new(&path).file_name().unwrap_or_default();
        fs::copy(
            machine.join(&library).join(&path),
            tree.join("modules").join(name),
        )?;
        let name = name.to_string_lossy();
        let options = MODULE_OPTIONS
            .iter()
            .find(|(module, _)| name.split('.').next() == Some(module))
            .map_or(String::new(), |(module, options)| match *module {
                "i6300esb" => format!(" {options}{HEARTBEAT}"),
                _ => format!(" {options}"),
            });
        script.push_str(&format!("insmod /modules/{name}{options}\n"));
    }
    script.push_str(SERVE);
    script.push_str(SCRIPT);
    fs::write(tree.join("init"), script)?;
    steps::quietly(Command::new("chmod").arg("755").arg(tree.join("init")))?;
    let file = folder.join("initramfs.cpio");
    let mut pack = Command::new("sh");
    pack.current_dir(&tree);
    steps::quietly(pack.args(["-c", "find . | cpio --quiet -o -H newc > ../initramfs.cpio"]))?;
    Ok(file)
}

/// The first thing that runs.
const BOOT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
";

/// What runs when the modules are there. Emulation is slow: a frame may take seconds, so it has no deadline and waits for
/// no other frame.
const SERVE: &str = r#"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose cross /cross
root=/cross/sysroot
mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/mnt
for folder in proc sys dev; do mount -o bind /$folder $root/$folder; done
mount -t tmpfs tmp $root/tmp
mount -o bind /cross $root/mnt
export HOME=/tmp GST_PLUGIN_SYSTEM_PATH=/mnt/hil/plugins GST_REGISTRY=/tmp/registry.bin GST_REGISTRY_FORK=no
export PERSONA_MODELS=/mnt/models
program() {
    exec chroot $root /mnt/hil/persona run --input /dev/video0 --size 320x180 --output /mnt/hil/out.mkv --overwrite \
        --deadline 0 --look-ahead 0 --timeout 600 --board auto --watchdog /dev/watchdog0
}
panel() { chroot $root /mnt/hil/panel auto & panel=$!; }
stop() { kill $panel; wait $panel; echo HIL finished 0; }
"#;

fn kernel(machine: &Path) -> Result<String> {
    let entry = fs::read_dir(machine.join("lib/modules"))?
        .next()
        .context("the machine has no kernel")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Paths of the modules and of everything that they need, in the order in which they are loaded.
fn load_order(table: &str, modules: &[&str]) -> Result<Vec<String>> {
    let mut order: Vec<String> = Vec::new();
    for module in modules {
        let line = table
            .lines()
            .find_map(|line| {
                let (path, needs) = line.split_once(':')?;
                let name = Path::new(path).file_name()?.to_str()?;
                (name.split('.').next() == Some(module)).then_some((path, needs))
            })
            .with_context(|| format!("the kernel has no module {module}"))?;
        // modules.dep(5): what is needed comes after what needs it.
        for path in line.1.split_ascii_whitespace().rev().chain([line.0]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

/// A board in qemu.
pub struct Emulated {
    console: Console,
    monitor: BufReader<UnixStream>,
    events: Vec<String>,
    recording: PathBuf,
    begin: Instant,
}

impl Emulated {
    /// Unpacks what the board boots, and builds what it runs.
    ///
    /// # Errors
    /// When something cannot be fetched or built.
    pub fn prepare(root: &Path, options: &Options) -> Result<Machine> {
        setup::ensure_emulator()?;
        let sysroot = Sysroot::ensure(root)?;
        let machine = sysroot.machine()?;
        let cross = root.join("target/cross");
        let folder = cross.join("hil");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("plugins"))?;
        if options.panel {
            fs::copy(build::panel(root, &sysroot)?, folder.join("panel"))?;
        } else {
            program(root, options, &sysroot, &folder)?;
        }
        Ok(Machine {
            initramfs: initramfs(&machine, &folder)?,
            cross,
            folder,
            machine,
        })
    }

    /// Switches the board on.
    ///
    /// # Errors
    /// When qemu cannot be started.
    pub fn boot(machine: &Machine) -> Result<Self> {
        // A socket's path has 108 bytes at most; the repository's may be longer.
        let sockets = std::env::temp_dir().join(format!("persona-hil-{}", std::process::id()));
        fs::create_dir_all(&sockets)?;
        let socket = sockets.join("qmp");
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-M", "virt", "-m", "2048"]).args(PROCESSOR);
        qemu.args([
            "-display",
            "none",
            "-nodefaults",
            "-no-reboot",
            "-serial",
            "stdio",
        ]);
        qemu.args(["-device", "i6300esb", "-action", "watchdog=reset"]);
        qemu.arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", socket.display()));
        qemu.arg("-virtfs").arg(format!(
            "local,path={},mount_tag=cross,security_model=none,multidevs=remap",
            machine.cross.display()
        ));
        let kernel = format!("vmlinuz-{}", kernel(&machine.machine)?);
        qemu.arg("-kernel").arg(machine.machine.join("boot").join(kernel));
        qemu.arg("-initrd").arg(&machine.initramfs);
        qemu.args(["-append", "console=ttyAMA0 quiet loglevel=4 panic=1"]);
        let errors = fs::File::create(machine.folder.join("qemu.log"))?;
        let qemu = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("qemu-system-aarch64 cannot be started")?;
        let console = Console::new(qemu, PATIENCE)?;
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if begin.elapsed() > PATIENCE => return Err(error).context("qemu's monitor"),
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        };
        let _ = fs::remove_dir_all(&sockets);
        let mut board = Self {
            console,
            monitor: BufReader::new(stream),
            events: Vec::new(),
            recording: machine.folder.join("out.mkv"),
            begin,
        };
        board.command("qmp_capabilities", json!({}))?;
        Ok(board)
    }

    /// Sends a command to qemu (QEMU Machine Protocol) and gives what it returns.
    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let command = json!({ "execute": name, "arguments": arguments });
        writeln!(self.monitor.get_mut(), "{command}")?;
        loop {
            let message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("qemu refuses {name}: {error}");
            }
            if let Some(value) = message.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// What qemu's other monitor says, the one for people (Human Monitor Protocol).
    fn ask(&mut self, line: &str) -> Result<String> {
        let said = self.command("human-monitor-command", json!({ "command-line": line }))?;
        Ok(said.as_str().unwrap_or_default().to_owned())
    }

    /// The clock of the board, milliseconds from some moment before it was switched on.
    fn now(&mut self) -> Result<i64> {
        let said = self.ask(CLOCK)?;
        Ok(millis(self.begin.elapsed()) - ahead(&said)?)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.monitor.read_line(&mut line)? > 0, "qemu has ended");
        let message: Value = serde_json::from_str(&line)?;
        if let Some(event) = message["event"].as_str() {
            self.events.push(event.to_owned());
        }
        Ok(message)
    }
}

impl Bench for Emulated {
    fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    fn press(&mut self) -> Result<()> {
        self.command("system_powerdown", json!({})).map(drop)
    }

    fn press_twice(&mut self) -> Result<bool> {
        let begin = self.now()?;
        self.press()?;
        let pressed = self.now()?;
        while self.now()? < pressed + millis(PRESSED + PAUSE) {
            thread::sleep(Duration::from_millis(5));
        }
        self.press()?;
        Ok(self.now()? - begin <= millis(PRESSED + CERTAIN))
    }

    fn share(&mut self) -> Result<u32> {
        let begin = self.now()?;
        let (mut last, mut lit) = (begin, 0);
        while last - begin < millis(LOOK) {
            let said = self.ask(GPIO_DATA)?;
            let now = self.now()?;
            if register(&said)? & LAMP != 0 {
                lit += now - last;
            }
            last = now;
            thread::sleep(Duration::from_millis(5));
        }
        Ok(u32::try_from(100 * lit / (last - begin))?)
    }

    fn wait_reset(&mut self) -> Result<()> {
        self.monitor.get_ref().set_read_timeout(Some(PATIENCE))?;
        while !self.events.iter().any(|seen| seen == "WATCHDOG") {
            self.message()
                .context("qemu never reports that the watchdog bit")?;
        }
        Ok(())
    }

    fn recording(&mut self) -> Result<PathBuf> {
        Ok(self.recording.clone())
    }
}

fn program(root: &Path, options: &Options, sysroot: &Sysroot, folder: &Path) -> Result<()> {
    let built = build::persona(root, sysroot, &options.profile)?;
    build::models(root, sysroot, &built)?;
    for plugin in PLUGINS {
        let file = format!("libgst{plugin}.so");
        let installed = sysroot
            .path()
            .join("usr/lib/aarch64-linux-gnu/gstreamer-1.0")
            .join(&file);
        fs::copy(&installed, folder.join("plugins").join(&file))
            .with_context(|| format!("cannot copy {}", installed.display()))?;
    }
    fs::copy(&built.program, folder.join("persona"))?;
    Ok(())
}

/// A time in milliseconds.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The milliseconds out of what `info jit` prints: `Host - Guest clock  -382 ms`.
fn ahead(said: &str) -> Result<i64> {
    let value = said.split_once("Host - Guest clock");
    let value = value.and_then(|(_, rest)| rest.split_ascii_whitespace().next()?.parse().ok());
    value.with_context(|| format!("qemu's monitor says {said:?}"))
}

/// The value out of what `xp` prints: `00000000090303fc: 0x00000002`.
fn register(said: &str) -> Result<u32> {
    let value = said.split_once("0x").map(|(_, digits)| digits.trim());
    let value = value.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    value.with_context(|| format!("qemu's monitor says {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let table =
            "kernel/a.ko: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko:\n";
        let order = load_order(table, &["b", "a", "d"]).unwrap();
        assert_eq!(
            order,
            ["kernel/c.ko", "kernel/b.ko", "kernel/a.ko", "kernel/d.ko"]
        );
        assert!(
            load_order(table, &["e"])
                .unwrap_err()
                .to_string()
                .contains("no module e")
        );
    }

    #[test]
    fn the_register_is_read_out_of_the_monitor() {
        assert_eq!(register("00000000090303fc: 0x0000000a\r\n").unwrap(), 10);
        assert!(register("unknown command").is_err());
    }

    #[test]
    fn the_clocks_are_read_out_of_the_monitor() {
        let said = "Translation buffer state:\r\n...\r\nHost - Guest clock  -382 ms\r\n";
        assert_eq!(ahead(said).unwrap(), -382);
        assert!(ahead("Translation buffer state:\r\n").is_err());
    }

    #[test]
    fn the_lamp_is_where_the_board_file_says() {
        let file = include_str!("../../../board/boards/emulated.toml");
        let lamp = file.split("[lamp]").nth(1).unwrap();
        let offset = lamp
            .lines()
            .find_map(|line| line.strip_prefix("offset = "))
            .unwrap();
        assert_eq!(LAMP, 1 << offset.parse::<u32>().unwrap());
    }
}
