//! Hardware in the loop: the box's program on an emulated board, its button pressed and its lamp read from outside.
//!
//! The emulated board is `qemu-system-aarch64 -M virt` with Debian's stock arm64 kernel: a PL061 GPIO controller with
//! button and lamp, vivid as the camera, an i6300esb watchdog. It shows that the program and its logic work on that
//! instruction set, kernel and GPIO interface. It is not a Jetson: no GPU, no CSI camera, no encoder, no timing.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::{
    build, setup,
    steps::{self, Steps},
    sysroot::Sysroot,
};

/// What `cargo xtask hil` is told.
#[derive(Args)]
pub struct Options {
    /// Boot the emulated board
    #[arg(long)]
    emulated: bool,
    /// On the emulated board: the front panel alone, without camera and networks
    #[arg(long)]
    panel: bool,
    /// Profile of cargo
    #[arg(long, default_value = "release")]
    profile: String,
}

/// Runs the cases on what was named.
///
/// # Errors
/// When a case fails.
pub fn run(root: &Path, options: &Options) -> Result<()> {
    let mut all = Steps::default();
    if options.emulated {
        emulated(root, options, &mut all)?;
    } else {
        all.skip("emulated board", "only with --emulated");
    }
    all.skip(
        "hardware",
        "no device was named; running the cases on a real board is not written yet",
    );
    all.finish()
}

/// What a case may wait for: emulation is 10 to 30 times slower than the machine, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(240);
/// Seconds after which the watchdog bites.
const HEARTBEAT: u32 = 15;
/// The data register of the GPIO controller with all lines unmasked (PL061, ARM DDI 0190B, 3.3.1).
const GPIO_DATA: &str = "xp /1wx 0x090303fc";
/// The lamp's line, as board/boards/emulated.toml says.
const LAMP: u32 = 1 << 1;
/// For how long the lamp is looked at: two of its longest patterns.
const LOOK: Duration = Duration::from_secs(4);

/// Modules of Debian's kernel that the board needs, beyond what is built in.
const MODULES: [&str; 5] = ["virtio_pci", "9pnet_virtio", "9p", "vivid", "i6300esb"];
/// Options of those that need one: a television's picture of 720x576 is the smallest that vivid gives by itself.
const MODULE_OPTIONS: [(&str, &str); 2] = [
    ("vivid", "n_devs=1 node_types=0x1 num_inputs=1 input_types=2"),
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

fn emulated(root: &Path, options: &Options, all: &mut Steps) -> Result<()> {
    setup::ensure_emulator()?;
    let sysroot = Sysroot::ensure(root)?;
    let machine = sysroot.machine()?;
    let cross = root.join("target/cross");
    let folder = cross.join("hil");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("plugins"))?;
    fs::copy(build::panel(root, &sysroot)?, folder.join("panel"))?;
    if !options.panel {
        program(root, options, &sysroot, &folder)?;
    }
    let initramfs = initramfs(&machine, &folder)?;

    let mut board = None;
    all.step("boots", || {
        let mut emulated = Emulated::boot(&machine, &initramfs, &cross, &folder)?;
        emulated.wait("HIL booted")?;
        board = Some(emulated);
        Ok(())
    });
    let Some(mut board) = board else { return Ok(()) };
    let mut well = true;
    // Each case begins in the state in which the one before ends.
    let mut case = |name: &str, work: &mut dyn FnMut(&mut Emulated) -> Result<()>| {
        if !well {
            return all.skip(name, "the case before failed");
        }
        all.step(name, || {
            let done = work(&mut board);
            well = done.is_ok();
            done
        });
    };
    for (run, name, end) in [("panel", "front panel", "stop"), ("record", "program", "finish")] {
        if run == "record" && options.panel {
            break;
        }
        case(&format!("{name}: covers at power-on"), &mut |board| {
            board.say(run)?;
            board.wait("picture black slate -> covered")?;
            board.lamp(50)
        });
        case(&format!("{name}: anonymizes"), &mut |board| {
            board.wait("state covering -> anonymizing")?;
            if run == "record" {
                board.wait("HIL frame")?;
            }
            board.lamp(90)
        });
        case(&format!("{name}: a press covers"), &mut |board| {
            board.press()?;
            board.wait("button pressed: picture anonymized -> covered")?;
            board.wait("short press: state anonymizing -> covering on request")?;
            board.lamp(10)
        });
        case(&format!("{name}: another press opens"), &mut |board| {
            board.press()?;
            board.wait("state covering on request -> anonymizing")?;
            board.lamp(90)
        });
        case(&format!("{name}: a double press makes a slate"), &mut |board| {
            board.press()?;
            thread::sleep(Duration::from_millis(200));
            board.press()?;
            board.wait("double press: state anonymizing -> shuttered")?;
            board.lamp(20)
        });
        case(&format!("{name}: ends"), &mut |board| {
            board.say(end)?;
            board.wait("HIL finished")
        });
    }
    if options.panel {
        return Ok(());
    }
    case("program: the lamp is off when it has ended", &mut |board| {
        board.lamp(0)
    });
    case("program: frames are what the state demands", &mut |_| {
        looks_are(&folder.join("out.mkv"))
    });
    case("program: a starved watchdog resets the board", &mut |board| {
        board.say("record")?;
        board.wait("HIL frame")?;
        board.say("starve")?;
        board.wait_event("WATCHDOG")
    });
    Ok(())
}

/// Builds the program, fetches the networks, and puts both where the board finds them.
fn program(root: &Path, options: &Options, sysroot: &Sysroot, folder: &Path) -> Result<()> {
    let built = build::persona(root, sysroot, &options.profile)?;
    let models = root.join("target/cross/models");
    let mut fetch = Command::new("qemu-aarch64-static");
    fetch.arg("-L").arg(sysroot.path()).arg(&built.program);
    steps::run(fetch.args(["models", "fetch", "--models"]).arg(&models))?;
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

/// The recording's frames, decoded here: anonymized, covered, anonymized, covered for a moment, black.
fn looks_are(recording: &Path) -> Result<()> {
    const SIDE: usize = 64;
    let raw = recording.with_extension("gray");
    let mut decode = Command::new("gst-launch-1.0");
    decode
        .args(["--quiet", "filesrc"])
        .arg(format!("location={}", recording.display()));
    decode.args([
        "!",
        "matroskademux",
        "!",
        "avdec_h264",
        "!",
        "videoconvert",
        "!",
        "videoscale",
        "!",
    ]);
    decode.args([
        "video/x-raw,format=GRAY8,width=64,height=64,pixel-aspect-ratio=1/1",
        "!",
        "filesink",
    ]);
    decode.arg(format!("location={}", raw.display()));
    steps::quietly(&mut decode)?;
    let pixels = fs::read(&raw)?;
    let mut looks: Vec<_> = pixels.chunks_exact(SIDE * SIDE).map(look).collect();
    let frames = looks.len();
    looks.dedup();
    // Covered frames before the first open one and in the moment of a double press may fall between two frames.
    let begin = looks.iter().position(|look| *look != Look::Covered).unwrap_or(0);
    let mut looks = looks.split_off(begin);
    if looks.len() >= 2 && looks[looks.len() - 2] == Look::Covered {
        looks.remove(looks.len() - 2);
    }
    let wanted = [Look::Open, Look::Covered, Look::Open, Look::Black];
    ensure!(
        looks == wanted,
        "{frames} frames look like {looks:?}, wanted {wanted:?}"
    );
    println!("{frames} frames: {looks:?}");
    Ok(())
}

/// What a frame looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Open,
    Covered,
    Black,
}

fn look(pixels: &[u8]) -> Look {
    let mean = pixels.iter().map(|&p| f64::from(p)).sum::<f64>() / pixels.len() as f64;
    let spread = pixels.iter().map(|&p| (f64::from(p) - mean).abs()).sum::<f64>() / pixels.len() as f64;
    match (spread < 3.0, mean < 12.0) {
        (false, _) => Look::Open,
        (true, false) => Look::Covered,
        (true, true) => Look::Black,
    }
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

/// What runs when the modules are there: takes words from the console, each the name of a function.
const SERVE: &str = r#"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose cross /cross
root=/cross/sysroot
mkdir -p $root/proc $root/sys $root/dev $root/tmp $root/mnt
for folder in proc sys dev; do mount -o bind /$folder $root/$folder; done
mount -t tmpfs tmp $root/tmp
mount -o bind /cross $root/mnt
record() {
    HOME=/tmp GST_PLUGIN_SYSTEM_PATH=/mnt/hil/plugins GST_REGISTRY=/tmp/registry.bin GST_REGISTRY_FORK=no \
        PERSONA_MODELS=/mnt/models chroot $root /mnt/hil/persona run --input /dev/video0 --output /mnt/hil/out.mkv --overwrite --timeout 600 \
        --board auto --watchdog /dev/watchdog0 &
    persona=$!
    # The recording grows once frames leave.
    (while [ "$(stat -c %s $root/mnt/hil/out.mkv.part 2>/dev/null || echo 0)" -lt 4096 ]; do sleep 1; done; echo HIL frame) &
}
panel() { chroot $root /mnt/hil/panel auto & panel=$!; }
stop() { kill $panel; wait $panel; echo HIL finished; }
finish() { kill -INT $persona; wait $persona; echo HIL finished $?; sync; }
starve() { kill -STOP $persona; }
echo HIL booted
while read -r word; do $word; done
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
struct Emulated {
    qemu: Child,
    console: ChildStdin,
    lines: Receiver<String>,
    monitor: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Emulated {
    fn boot(machine: &Path, initramfs: &Path, cross: &Path, folder: &Path) -> Result<Self> {
        // A socket's path has 108 bytes at most; the repository's may be longer.
        let sockets = std::env::temp_dir().join(format!("persona-hil-{}", std::process::id()));
        fs::create_dir_all(&sockets)?;
        let socket = sockets.join("qmp");
        let mut qemu = Command::new("qemu-system-aarch64");
        qemu.args(["-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "2048"]);
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
            cross.display()
        ));
        qemu.arg("-kernel")
            .arg(machine.join("boot").join(format!("vmlinuz-{}", kernel(machine)?)));
        qemu.arg("-initrd").arg(initramfs);
        qemu.args(["-append", "console=ttyAMA0 quiet loglevel=4 panic=1"]);
        let errors = fs::File::create(folder.join("qemu.log"))?;
        let mut qemu = qemu
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("qemu-system-aarch64 cannot be started")?;
        let (console, output) = (qemu.stdin.take(), qemu.stdout.take());
        let (send, lines) = channel();
        let output = BufReader::new(output.context("the console is a pipe")?);
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                eprintln!("  {line}");
                if send.send(line).is_err() {
                    return;
                }
            }
        });
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
            qemu,
            console: console.context("the console is a pipe")?,
            lines,
            monitor: BufReader::new(stream),
            events: Vec::new(),
        };
        board.command("qmp_capabilities", json!({}))?;
        Ok(board)
    }

    /// Calls a function of the script on the board.
    fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.console, "{word}")?;
        Ok(self.console.flush()?)
    }

    /// Waits for words on the console.
    fn wait(&mut self, words: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let rest = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(rest) {
                Ok(line) if line.contains(words) => return Ok(()),
                Ok(_) => (),
                Err(_) => bail!("the board never says: {words}"),
            }
        }
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

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.monitor.read_line(&mut line)? > 0, "qemu has ended");
        let message: Value = serde_json::from_str(&line)?;
        if let Some(event) = message["event"].as_str() {
            self.events.push(event.to_owned());
        }
        Ok(message)
    }

    fn wait_event(&mut self, event: &str) -> Result<()> {
        self.monitor.get_ref().set_read_timeout(Some(PATIENCE))?;
        while !self.events.iter().any(|seen| seen == event) {
            self.message()
                .with_context(|| format!("qemu never reports {event}"))?;
        }
        Ok(())
    }

    /// Presses the button for 100 ms, as qemu does.
    fn press(&mut self) -> Result<()> {
        self.command("system_powerdown", json!({})).map(drop)
    }

    /// Looks at the lamp until it is lit for this share of the time, in percent, give or take 8.
    fn lamp(&mut self, wanted: u32) -> Result<()> {
        let mut seen = Vec::new();
        let until = Instant::now() + PATIENCE / 4;
        while Instant::now() < until {
            let share = self.share()?;
            if share.abs_diff(wanted) <= 8 {
                println!("the lamp is lit for {share} % of the time, as {wanted} % wants");
                return Ok(());
            }
            seen.push(share);
        }
        bail!("the lamp is lit for {seen:?} % of the time, wanted {wanted} %");
    }

    /// For which share of [`LOOK`] the lamp is lit, percent.
    fn share(&mut self) -> Result<u32> {
        let begin = Instant::now();
        let (mut lit, mut looks) = (0, 0);
        while begin.elapsed() < LOOK {
            let said = self.command("human-monitor-command", json!({ "command-line": GPIO_DATA }))?;
            lit += u32::from(register(said.as_str().unwrap_or_default())? & LAMP != 0);
            looks += 1;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(100 * lit / looks)
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        // It has ended by itself after the watchdog.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
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
    fn looks_are_told_apart() {
        assert_eq!(look(&[1; 64]), Look::Black);
        assert_eq!(look(&[40; 64]), Look::Covered);
        let bars: Vec<u8> = (0..64).map(|i| if i % 16 < 8 { 20 } else { 200 }).collect();
        assert_eq!(look(&bars), Look::Open);
    }

    #[test]
    fn the_lamp_is_where_the_board_file_says() {
        let file = include_str!("../../board/boards/emulated.toml");
        let lamp = file.split("[lamp]").nth(1).unwrap();
        let offset = lamp
            .lines()
            .find_map(|line| line.strip_prefix("offset = "))
            .unwrap();
        assert_eq!(LAMP, 1 << offset.parse::<u32>().unwrap());
    }
}
