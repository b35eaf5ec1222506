//! A real board, reached over ssh. The package must be installed on it; the file that names the board says how its button
//! is pressed and its lamp read from outside, because that is wiring of one's own (cross/devices/example.toml).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{Bench, Console, SCRIPT};
use crate::steps;

/// What a case may wait for: TensorRT may build its plans first.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a board may take from the last feed of its watchdog until it can be reached again.
const RESET: Duration = Duration::from_secs(300);
/// How often the lamp is read for one look.
const LOOKS: u32 = 100;
/// Where the recording is left on the board: in memory, and gone with the reset.
const RECORDING: &str = "/dev/shm/persona-hil.mkv";

/// The file that names a board.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Destination of ssh; keys and ports belong into ssh_config(5).
    ssh: String,
    /// Shell with the rights of root on the board.
    #[serde(default = "shell")]
    shell: String,
    /// What `--board` is given.
    #[serde(default = "board")]
    board: String,
    /// What `--watchdog` is given.
    #[serde(default = "watchdog")]
    watchdog: String,
    /// What `--input` is given.
    camera: String,
    /// Command, run on the board, that presses the button for 100 ms.
    press: String,
    /// Command, run on the board, that prints 1 when the lamp is lit and 0 when it is not.
    lamp: String,
}

fn shell() -> String {
    "sudo -n sh".into()
}

fn board() -> String {
    "auto".into()
}

fn watchdog() -> String {
    "/dev/watchdog0".into()
}

impl Device {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or a key is missing, unknown or empty.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| {
            format!(
                "{}: no such board; begin with cross/devices/example.toml",
                path.display()
            )
        })?;
        let device: Self = toml::from_str(&text).map_err(|error| {
            anyhow::anyhow!("{}: {}", path.display(), error.to_string().replace('\n', " "))
        })?;
        for (key, value) in [
            ("ssh", &device.ssh),
            ("camera", &device.camera),
            ("press", &device.press),
            ("lamp", &device.lamp),
        ] {
            ensure!(!value.trim().is_empty(), "{}: {key} is empty", path.display());
        }
        // ssh would take it for an option.
        ensure!(
            !device.ssh.starts_with('-'),
            "{}: ssh: {} is no destination",
            path.display(),
            device.ssh
        );
        Ok(device)
    }

    /// The script of the cases with this board's program. The service makes way for it until the board is started anew.
    fn script(&self) -> String {
        format!(
            "stty -echo 2>/dev/null\nexport PERSONA_MODELS=/usr/share/persona/models\n\
             systemctl stop persona.service\n\
             program() {{\nexec persona run --input {} --output {RECORDING} --overwrite --board {} --watchdog {}\n}}\n{SCRIPT}",
            quoted(&self.camera),
            quoted(&self.board),
            quoted(&self.watchdog),
        )
    }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A board with the script at work on it.
pub struct Remote {
    device: Device,
    ssh: PathBuf,
    console: Console,
    /// The kernel's name of the time since the board was started.
    boot: String,
}

impl Remote {
    /// Starts the script on the board. `ssh` is the program that reaches it.
    ///
    /// # Errors
    /// When the board cannot be reached, or gives no root shell without a password.
    pub fn open(device: Device, ssh: &Path) -> Result<Self> {
        let boot = boot(&device, ssh).with_context(|| {
            format!(
                "{} cannot be reached, or `{}` asks for a password there",
                device.ssh, device.shell
            )
        })?;
        // A terminal, so that the program says how many frames have left.
        let program = Command::new(ssh)
            .args(["-tt", "-o", "BatchMode=yes", &device.ssh])
            .arg(format!("{} -c {}", device.shell, quoted(&device.script())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", ssh.display()))?;
        Ok(Self {
            console: Console::new(program, PATIENCE)?,
            ssh: ssh.to_owned(),
            device,
            boot,
        })
    }

    fn ask(&self, script: &str) -> Result<String> {
        ask(&self.device, &self.ssh, script)
    }
}

/// What a script prints on the board.
fn ask(device: &Device, ssh: &Path, script: &str) -> Result<String> {
    let mut command = Command::new(ssh);
    command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", &device.ssh]);
    command.arg(format!("{} -c {}", device.shell, quoted(script)));
    steps::output(command.stdin(Stdio::null()))
}

fn boot(device: &Device, ssh: &Path) -> Result<String> {
    ask(device, ssh, "cat /proc/sys/kernel/random/boot_id")
}

impl Bench for Remote {
    fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    fn press(&mut self) -> Result<()> {
        self.ask(&self.device.press).map(drop)
    }

    fn press_twice(&mut self) -> Result<bool> {
        // In one go: to reach the board takes longer than the pause.
        let press = &self.device.press;
        self.ask(&format!("{press}; sleep 0.1; {press}"))?;
        Ok(true)
    }

    fn share(&mut self) -> Result<u32> {
        let lamp = &self.device.lamp;
        let script = format!("n=0; while [ $n -lt {LOOKS} ]; do {lamp}; sleep 0.04; n=$((n + 1)); done");
        lit(&self.ask(&script)?)
    }

    fn wait_reset(&mut self) -> Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < RESET {
            if boot(&self.device, &self.ssh).is_ok_and(|boot| boot != self.boot) {
                return Ok(());
            }
            thread::sleep(Duration::from_secs(2));
        }
        anyhow::bail!("the board was not started anew within {} s", RESET.as_secs())
    }

    fn recording(&mut self) -> Result<PathBuf> {
        let folder = std::env::temp_dir().join(format!("persona-hil-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let file = folder.join("out.mkv");
        let mut command = Command::new(&self.ssh);
        command.args(["-o", "BatchMode=yes", &self.device.ssh]);
        command.arg(format!(
            "{} -c {}",
            self.device.shell,
            quoted(&format!("cat {RECORDING}"))
        ));
        steps::run(command.stdin(Stdio::null()).stdout(fs::File::create(&file)?))?;
        Ok(file)
    }
}

/// For which share of the lines, percent, the lamp was lit.
fn lit(said: &str) -> Result<u32> {
    let levels: Vec<_> = said.split_ascii_whitespace().collect();
    let wrong = levels.iter().find(|level| !matches!(**level, "0" | "1"));
    ensure!(wrong.is_none(), "lamp: {wrong:?} was printed, wanted 0 or 1");
    ensure!(!levels.is_empty(), "lamp: nothing was printed, wanted 0 or 1");
    let lit = levels.iter().filter(|level| **level == "1").count();
    Ok(u32::try_from(100 * lit / levels.len())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_example_is_a_board_and_a_wrong_file_is_refused() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("devices");
        let device = Device::read(&folder.join("example.toml")).unwrap();
        assert_eq!((&*device.shell, &*device.board), ("sudo -n sh", "auto"));
        let error = Device::read(&folder.join("none.toml")).unwrap_err().to_string();
        assert!(error.contains("begin with cross/devices/example.toml"), "{error}");

        let file = std::env::temp_dir().join(format!("persona-device-{}.toml", std::process::id()));
        let whole = "ssh = \"a@b\"\ncamera = \"c\"\npress = \"p\"\nlamp = \"l\"\n";
        for (text, words) in [
            (whole.replace("lamp", "lmap"), "unknown field `lmap`"),
            (whole.replace("lamp = \"l\"\n", ""), "missing field `lamp`"),
            (whole.replace("\"p\"", "\" \""), "press is empty"),
            (whole.replace("a@b", "-oProxyCommand=x"), "is no destination"),
        ] {
            fs::write(&file, text).unwrap();
            let error = Device::read(&file).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        fs::remove_file(&file).unwrap();
    }

    #[test]
    fn the_share_of_the_lamp_is_counted() {
        assert_eq!(lit("1\n0\n1\n1\n").unwrap(), 75);
        assert!(lit("").is_err());
        assert!(lit("1\nerror\n").is_err());
    }

    /// A board whose ssh is a shell of this machine: the script, the lamp and the recording travel as they would.
    #[test]
    fn a_board_is_driven_through_its_shell() {
        let folder = std::env::temp_dir().join(format!("persona-remote-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let program = |name: &str, script: &str| {
            let file = folder.join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        // What ssh does with its last argument; there is no service to stop here.
        let ssh = program(
            "ssh",
            &format!(
                "PATH='{}':$PATH\nfor last; do :; done\nexec sh -c \"$last\"",
                folder.display()
            ),
        );
        program("systemctl", "echo \"$@\" >&2");
        program(
            "persona",
            "printf 'state covering\\r'; printf ' 0 %%  7 frames, 9.9 fps, 0 faces\\r'; exec sleep 5",
        );
        let button = folder.join("it's pressed");
        let device = Device {
            ssh: "box".into(),
            shell: "sh".into(),
            board: board(),
            watchdog: watchdog(),
            camera: "/dev/video0".into(),
            press: format!("touch \"{}\"", button.display()),
            lamp: "echo $((n % 2))".into(),
        };
        let mut board = Remote::open(device, &ssh).unwrap();
        board.press().unwrap();
        assert!(button.is_file());
        assert!(board.press_twice().unwrap());
        assert_eq!(board.share().unwrap(), 50);
        board.console.say("record").unwrap();
        board.console.wait_frames(7).unwrap();
        drop(board);
        fs::remove_dir_all(&folder).unwrap();
    }
}
