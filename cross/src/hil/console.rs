//! What a board says and is told: lines of a terminal.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A program whose input and output are the terminal of a board.
pub struct Console {
    program: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Frames that have left, as `persona run` last said.
    frames: u64,
    patience: Duration,
}

impl Console {
    /// Takes the pipes of a program that was started. `patience` is how long the board may take for whatever is waited for.
    ///
    /// # Errors
    /// When its input or output is no pipe.
    pub fn new(mut program: Child, patience: Duration) -> Result<Self> {
        let (input, output) = (program.stdin.take(), program.stdout.take());
        Ok(Self {
            program,
            input: input.context("the console is a pipe")?,
            lines: lines(output.context("the console is a pipe")?),
            frames: 0,
            patience,
        })
    }

    /// Calls a function of the script on the board.
    ///
    /// # Errors
    /// When the console has ended.
    pub fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.input, "{word}")?;
        Ok(self.input.flush()?)
    }

    /// Waits for words.
    ///
    /// # Errors
    /// When they are not said in time.
    pub fn wait(&mut self, words: &str) -> Result<()> {
        self.wait_any(&[words]).map(drop)
    }

    /// Waits for one of several words, and gives them.
    ///
    /// # Errors
    /// When none are said in time.
    pub fn wait_any<'a>(&mut self, words: &[&'a str]) -> Result<&'a str> {
        let until = Instant::now() + self.patience;
        while let Some(line) = self.line(until) {
            if let Some(said) = words.iter().find(|words| line.contains(**words)) {
                return Ok(said);
            }
        }
        bail!("the board never says: {}", words.join(", or "))
    }

    /// How many frames have left, as the program said before the words that were last waited for.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Waits until this many frames have left.
    ///
    /// # Errors
    /// When they do not come in time.
    pub fn wait_frames(&mut self, wanted: u64) -> Result<()> {
        let until = Instant::now() + self.patience;
        while self.frames < wanted {
            if self.line(until).is_none() {
                bail!("only {} frames have left, wanted {wanted}", self.frames);
            }
        }
        Ok(())
    }

    fn line(&mut self, until: Instant) -> Option<String> {
        let rest = until.saturating_duration_since(Instant::now());
        let line = self.lines.recv_timeout(rest).ok()?;
        self.frames = frames(&line).unwrap_or(self.frames);
        Some(line)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// The lines as they come. A terminal begins each with a carriage return, and a progress bar rewrites its own with one.
fn lines(output: ChildStdout) -> Receiver<String> {
    let (send, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\r').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line)
                .replace(ERASE, "")
                .trim()
                .to_owned();
            // A progress bar comes 20 times a second, and a line of the log where it happens to stand.
            let said = if frames(&line).is_some() {
                line.split_once(" faces").map_or("", |(_, rest)| rest)
            } else {
                &line
            };
            if !said.is_empty() {
                eprintln!("  {said}");
            }
            if send.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// What a progress bar begins with: erase in line (ECMA-48, 8.3.41).
const ERASE: &str = "\u{1b}[2K";

/// The number in what `persona run` shows while it works: `... 12 frames, 3.1 fps, 0 faces`.
fn frames(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" frames, ")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn shell(script: &str) -> Console {
        let mut program = Command::new("sh");
        program
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Console::new(program.spawn().unwrap(), Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn words_are_said_and_heard() {
        let mut console = shell(r#"printf 'booted\r\n'; while read word; do printf "did $word\r\n"; done"#);
        console.wait("booted").unwrap();
        console.say("press").unwrap();
        console.wait("did press").unwrap();
    }

    #[test]
    fn what_was_said_first_is_told() {
        let mut console = shell(r"printf 'boot\r\none\r\ntwo\r\n'");
        assert_eq!(console.wait_any(&["two", "one"]).unwrap(), "one");
        assert_eq!(console.wait_any(&["two", "one"]).unwrap(), "two");
    }

    #[test]
    fn frames_are_counted_from_the_progress_bar() {
        let mut console = shell(
            r#"for n in 0 1 1 3; do printf "\r\033[2K| .. 0 %%  $n frames, 0.1 fps, 0 faces"; done; echo"#,
        );
        console.wait_frames(3).unwrap();
        assert_eq!(console.frames(), 3);
        assert!(
            console
                .wait_frames(4)
                .unwrap_err()
                .to_string()
                .contains("only 3 frames")
        );
    }

    #[test]
    fn a_board_that_has_ended_says_nothing() {
        let error = shell("true").wait("booted").unwrap_err().to_string();
        assert_eq!(error, "the board never says: booted");
    }
}
