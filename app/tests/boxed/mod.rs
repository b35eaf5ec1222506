//! `persona serve` at work.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A free TCP port of this machine.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The unit that runs the program on a box.
const UNIT: &str = include_str!("../../../cross/debian/persona.service");

/// How the unit has glibc keep memory.
fn memory() -> impl Iterator<Item = (&'static str, &'static str)> {
    let set = |line: &'static str| line.strip_prefix("Environment=")?.split_once('=');
    UNIT.lines()
        .filter_map(set)
        .filter(|(name, _)| name.starts_with("MALLOC_"))
}

/// `persona serve` in the background, stopped with the test.
pub struct Boxed {
    process: Child,
    port: u16,
    config: PathBuf,
}

impl Boxed {
    pub fn start(folder: &Path, port: u16, config: &str) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_persona")), folder, port, config)
    }

    /// A box whose files can have no more than so many blocks of 512 bytes: the disk takes no more. Writing gives an
    /// error rather than a signal (`setrlimit(2)`, RLIMIT_FSIZE).
    pub fn start_with_small_files(blocks: u32, folder: &Path, port: u16, config: &str) -> Self {
        let mut shell = Command::new("sh");
        shell
            .args([
                "-c",
                &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\""),
            ])
            .arg(env!("CARGO_BIN_EXE_persona"));
        Self::start_by(shell, folder, port, config)
    }

    fn start_by(mut program: Command, folder: &Path, port: u16, config: &str) -> Self {
        let path = folder.join("persona.toml");
        std::fs::write(&path, config).unwrap();
        let process = program
            .args(["serve", "--config"])
            .arg(&path)
            .env("STATE_DIRECTORY", folder)
            .envs(memory())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "nobody listens at port {port}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self {
            process,
            port,
            config: path,
        }
    }

    /// Writes another configuration and asks the box to read it, as `systemctl reload` does.
    pub fn reload(&self, config: &str) {
        std::fs::write(&self.config, config).unwrap();
        self.signal("-HUP");
    }

    fn signal(&self, name: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    pub fn address(&self, mount: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{mount}", self.port)
    }

    /// Asks it to stop, as the system does, and waits.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("-TERM");
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("persona serve does not stop");
    }
}

impl Drop for Boxed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A counter or gauge of the box whose page is at this port: the sum over its labels, of which `label` is one.
pub fn metric(page: u16, name: &str, label: &str) -> f64 {
    // The page comes last when a box starts.
    let until = Instant::now() + Duration::from_secs(30);
    let mut stream = loop {
        match std::net::TcpStream::connect(("127.0.0.1", page)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < until, "the page: {error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{page}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let of_name = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let lines: Vec<_> = text.lines().filter(of_name).collect();
    assert!(!lines.is_empty(), "{name} is not among the metrics");
    lines
        .iter()
        .filter(|line| line.contains(label))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A file with a password, as the program wants it.
pub fn password(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}
