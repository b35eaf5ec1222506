//! Running other programs, and telling how long the steps took.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Runs a command to its end with the terminal as its own.
///
/// # Errors
/// When it cannot be started or does not succeed; the message is the command line.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be started", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command to its end and gives what it printed on standard output; its messages go to the terminal.
///
/// # Errors
/// As [`run`].
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{} cannot be started", line(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})", line(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} did not print text", line(command)))
}

/// Runs a command to its end and shows what it printed only if it fails: a terminal that is written to takes time too.
///
/// # Errors
/// As [`run`], with the command's messages.
pub fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{} cannot be started", line(command)))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            line(command),
            output.status,
            messages.trim()
        );
    }
    Ok(())
}

/// Whether a command can be started and succeeds; what it prints is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A `cargo` that works on this repository.
pub fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    cargo
}

/// Unpacks one wheel, given as pip's requirement with its hash, into `folder`; does nothing where that is there already.
/// What was interrupted is begun anew.
///
/// # Errors
/// When pip fails or the folder cannot be written.
pub fn wheel(folder: &Path, requirement: &str, size: &str) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let (name, _) = requirement.split_once(' ').context("a wheel has a hash")?;
    let partial = folder.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let requirements = partial.join("requirements.txt");
    fs::write(&requirements, requirement)?;
    eprintln!("fetching {name}: {size}, once");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]);
    pip.args([
        "--no-deps",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "--target",
    ]);
    run(pip.arg(&partial).arg("--requirement").arg(&requirements)).with_context(|| format!("{name}: pip"))?;
    fs::rename(&partial, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Builds the program `persona` in the given profile and gives the path of the executable.
///
/// # Errors
/// When the build fails.
pub fn build_persona(root: &Path, profile: &str) -> Result<PathBuf> {
    let mut build = cargo(root);
    build.args([
        "build",
        "--package",
        "app",
        "--bin",
        "persona",
        "--profile",
        profile,
    ]);
    build.arg("--message-format=json-render-diagnostics");
    output(&mut build)?
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo built `persona` without naming its executable")
}

fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    format!("`{line}`")
}

/// How a step ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Steps that are all run, whatever becomes of the others, with a table at the end.
#[derive(Default)]
pub struct Steps {
    done: Vec<(String, Outcome, Duration)>,
}

impl Steps {
    /// Runs one step.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        eprintln!("\n── {name}");
        let begin = Instant::now();
        let outcome = match work() {
            Ok(()) => Outcome::Passed,
            Err(error) => {
                eprintln!("{name}: {error:#}");
                Outcome::Failed(format!("{error:#}"))
            }
        };
        self.done.push((name.to_owned(), outcome, begin.elapsed()));
    }

    /// Notes a step that cannot or shall not run, and why.
    pub fn skip(&mut self, name: &str, reason: impl Into<String>) {
        self.done
            .push((name.to_owned(), Outcome::Skipped(reason.into()), Duration::ZERO));
    }

    /// Prints the table.
    ///
    /// # Errors
    /// When a step failed.
    pub fn finish(self) -> Result<()> {
        println!("\n{self}");
        let failed = self.count(|outcome| matches!(outcome, Outcome::Failed(_)));
        if failed > 0 {
            bail!("{failed} of {} steps failed", self.done.len());
        }
        Ok(())
    }

    fn count(&self, wanted: impl Fn(&Outcome) -> bool) -> usize {
        self.done.iter().filter(|(_, outcome, _)| wanted(outcome)).count()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome, duration) in &self.done {
            let (word, reason) = match outcome {
                Outcome::Passed => ("passed", ""),
                Outcome::Failed(reason) => ("FAILED", reason.as_str()),
                Outcome::Skipped(reason) => ("skipped", reason.as_str()),
            };
            let line = format!("{word:8} {:>7.1} s  {name:28} {reason}", duration.as_secs_f64());
            writeln!(f, "{}", line.trim_end())?;
        }
        write!(
            f,
            "{} passed, {} failed, {} skipped in {:.0} s",
            self.count(|outcome| matches!(outcome, Outcome::Passed)),
            self.count(|outcome| matches!(outcome, Outcome::Failed(_))),
            self.count(|outcome| matches!(outcome, Outcome::Skipped(_))),
            self.done
                .iter()
                .map(|(_, _, duration)| duration.as_secs_f64())
                .sum::<f64>(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_does_not_stop_the_others_and_fails_the_whole() {
        let mut steps = Steps::default();
        steps.step("first", || bail!("broken"));
        steps.step("second", || Ok(()));
        steps.skip("third", "not asked for");
        let table = steps.to_string();
        assert!(table.contains("FAILED       0.0 s  first"), "{table}");
        assert!(table.ends_with("1 passed, 1 failed, 1 skipped in 0 s"), "{table}");
        assert_eq!(steps.finish().unwrap_err().to_string(), "1 of 3 steps failed");
    }

    #[test]
    fn a_failing_command_is_named() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
        assert_eq!(output(Command::new("echo").arg("a")).unwrap(), "a\n");
        assert!(!succeeds(&mut Command::new("no-such-program-here")));
    }
}
