//! Runs other programs: a deadline on each, its output kept, its whole process group ended when we go away.
//!
//! xshell builds and prints the commands; it cannot run them here, because its `run` blocks and knows no
//! deadline, and one Ctrl-C must let us finish in order instead of killing the children first.

use std::ffi::OsString;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::process::Command;

use crate::{env, text};

mod group;
mod lines;

pub use group::{Group, mark, mark_of_ours, reap};
use lines::{Lines, Tail, shown};

/// How long outputs are read on after a program's end.
const LINGER: Duration = Duration::from_secs(1);

type OnLine<'a> = Box<dyn FnMut(&str) + Send + 'a>;

/// A program about to run.
pub struct Run<'a> {
    command: Command,
    shown: String,
    deadline: Duration,
    stdin: Option<Vec<u8>>,
    on_line: Option<OnLine<'a>>,
    grace: Duration,
    keep_stdout: bool,
    marked: bool,
    alone: bool,
}

/// A program that did not end by its deadline and was ended.
#[derive(Debug)]
pub struct TimedOut(String);

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimedOut {}

/// What a program left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// The last lines of both its outputs, in the order they were read.
    pub tail: String,
    shown: String,
}

impl<'a> Run<'a> {
    /// Takes a command built by `xshell::cmd!`; it may take `deadline` at most.
    #[must_use]
    pub fn new(cmd: xshell::Cmd<'_>, deadline: Duration) -> Run<'a> {
        let shown = cmd.to_string();
        let command: std::process::Command = cmd.into();
        Run {
            command: command.into(),
            shown,
            deadline,
            stdin: None,
            on_line: None,
            grace: group::GRACE,
            keep_stdout: true,
            marked: true,
            alone: false,
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// For a cargo of our own, and for tests of other packages: takes away what the cargo that runs us has set about our
    /// package. Build scripts watch these variables, and would run anew for each of the two.
    #[must_use]
    pub fn as_cargo(mut self) -> Self {
        for name in env::Env::set_by_cargo() {
            self.command.env_remove(name);
        }
        self
    }

    /// Feeds `bytes` to standard input, which is otherwise empty.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// How long it may take to end when it is ended early; package managers must not be killed half-way.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// It goes on when we are killed, instead of being ended by the reaper.
    #[must_use]
    pub fn outlives_us(mut self) -> Self {
        self.marked = false;
        self
    }

    /// What it leaves running in its process group is ended when it has ended itself. Without this that is so only for what holds
    /// its outputs open: a program such as cargo may leave a server that others use.
    #[must_use]
    pub fn leaves_nothing(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Leaves standard output to `on_line`, instead of holding all of it in memory.
    #[must_use]
    pub fn forget_stdout(mut self) -> Self {
        self.keep_stdout = false;
        self
    }

    /// Calls `f` with each line of either output as it comes.
    #[must_use]
    pub fn on_line(mut self, f: impl FnMut(&str) + Send + 'a) -> Self {
        self.on_line = Some(Box::new(f));
        self
    }

    /// Runs it to its end, whatever its status.
    ///
    /// # Errors
    /// It cannot be started or does not end by its deadline.
    pub async fn output(mut self) -> Result<Output> {
        if !self.marked {
            self.command.env_remove(env::PROGRAM_OF);
        }
        let mark = mark_of_ours().filter(|_| self.marked);
        let mut child = Group::spawn_marked(&mut self.command, self.stdin.is_some(), mark)
            .map_err(|error| not_started(&self.shown, error))?;
        child.grace = self.grace;
        let stdin = child.child.stdin.take();
        let stdout = child.child.stdout.take().context("standard output was not captured")?;
        let stderr = child.child.stderr.take().context("standard error was not captured")?;
        let mut tail = Tail::default();
        let mut out: Vec<u8> = Vec::new();
        let bytes = self.stdin.take();
        let feed = async {
            if let (Some(mut pipe), Some(bytes)) = (stdin, bytes) {
                // A program that ends without reading its input says why by its status.
                let _ = tokio::io::AsyncWriteExt::write_all(&mut pipe, &bytes).await;
            }
        };
        let mut on_line = self.on_line.take();
        let read = async {
            let (mut stdout, mut stderr) = (Lines::new(stdout), Lines::new(stderr));
            loop {
                let (bytes, is_stdout) = tokio::select! {
                    bytes = stdout.next(), if !stdout.done => (bytes, true),
                    bytes = stderr.next(), if !stderr.done => (bytes, false),
                    else => break,
                };
                let Some(bytes) = bytes else { continue };
                if is_stdout && self.keep_stdout {
                    out.extend_from_slice(&bytes);
                }
                // Docker's classic builder colours errors also where no terminal is, and CI systems have cargo do so.
                let line = console::strip_ansi_codes(&shown(&bytes)).into_owned();
                if let Some(f) = &mut on_line {
                    f(&line);
                }
                tail.push(line);
            }
        };
        let ended = tokio::time::timeout(self.deadline, async {
            let streams = async { tokio::join!(feed, read) };
            tokio::pin!(streams);
            let process = &mut child.child;
            tokio::select! {
                _ = &mut streams => (process.wait().await, false),
                status = process.wait() => {
                    // What it left running may hold its outputs open for ever.
                    (status, tokio::time::timeout(LINGER, &mut streams).await.is_err())
                }
            }
        })
        .await;
        match ended {
            Ok((status, lingers)) => {
                let status = status.with_context(|| format!("wait for `{}`", self.shown))?;
                // While somebody is in the group its number is no other's; if nobody is, it is free only since a moment ago.
                if !lingers && !self.alone {
                    child.disarm();
                }
                let stdout = String::from_utf8_lossy(&out).into_owned();
                Ok(Output { status, stdout, tail: tail.text(), shown: self.shown })
            }
            Err(_) => {
                let limit = text::seconds(self.deadline);
                let text = format!("`{}` did not end within {limit}{}", self.shown, quoted(&tail.text()));
                Err(TimedOut(text).into())
            }
        }
    }

    /// Runs it; anything but status 0 is an error that shows the command, the status and the last output.
    ///
    /// # Errors
    /// As [`Run::output`], or its status is not 0.
    pub async fn success(self) -> Result<Output> {
        let output = self.output().await?;
        if !output.status.success() {
            return Err(output.into_error());
        }
        Ok(output)
    }
}

impl Output {
    /// The error of a program whose status is a failure.
    #[must_use]
    pub fn into_error(self) -> anyhow::Error {
        anyhow!("`{}` ended with {}{}", self.shown, text::status(self.status), quoted(&self.tail))
    }
}

fn quoted(tail: &str) -> String {
    if tail.trim().is_empty() {
        ", with no output".to_owned()
    } else {
        format!(":\n{}", text::indent(tail, "    "))
    }
}

fn not_started(shown: &str, error: std::io::Error) -> anyhow::Error {
    let program = shown.split_whitespace().next().unwrap_or(shown);
    if error.kind() == std::io::ErrorKind::NotFound {
        anyhow!("{program} is not installed or not on PATH (to run `{shown}`)")
    } else {
        anyhow::Error::new(error).context(format!("start `{shown}`"))
    }
}

/// The processor time that this process itself has used, without the programs that it ran.
#[must_use]
pub fn own_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let duration = |time: TimeVal| Duration::from_micros(time.num_microseconds().try_into().unwrap_or(0));
    duration(usage.user_time()) + duration(usage.system_time())
}

/// The most memory that this process itself has held at once, in bytes.
#[must_use]
pub fn own_peak_memory() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0 };
    // Linux tells it in KiB, macOS in bytes (getrusage(2)).
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    u64::try_from(usage.max_rss()).unwrap_or(0) * unit
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::unistd::Pid;
    use xshell::{Shell, cmd};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Whether a process ends soon; orphans are reaped by init, which may take a moment where init is a container's entry point.
    fn ends(pid: &str) -> bool {
        let pid = Pid::from_raw(pid.parse().unwrap());
        (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            nix::sys::signal::kill(pid, None).is_err() || state.contains(") Z ")
        })
    }

    #[tokio::test]
    async fn a_failure_shows_command_status_and_tail() {
        let sh = Shell::new().unwrap();
        let script = "echo to-out; echo to-err >&2; exit 3";
        let error = Run::new(cmd!(sh, "sh -c {script}"), SOON).success().await.unwrap_err().to_string();
        assert!(error.contains("ended with status 3"), "{error}");
        assert!(error.contains("to-out") && error.contains("to-err"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let sh = Shell::new().unwrap();
        let error = Run::new(cmd!(sh, "no-such-program-here"), SOON).output().await.unwrap_err().to_string();
        assert!(error.starts_with("no-such-program-here is not installed"), "{error}");
    }

    #[tokio::test]
    async fn the_deadline_ends_grandchildren_too() {
        let sh = Shell::new().unwrap();
        let script = "sleep 600 & echo $!; wait";
        let mut pid = String::new();
        let error = Run::new(cmd!(sh, "sh -c {script}"), Duration::from_millis(300))
            .on_line(|line| pid = line.to_owned())
            .output()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("did not end within"), "{error}");
        reap();
        assert!(ends(&pid), "the grandchild {pid} is alive");
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_without_its_outputs_is_ended_where_it_is_to_leave_nothing() {
        let sh = Shell::new().unwrap();
        let script = "sleep 600 > /dev/null 2>&1 & echo $!";
        let output = Run::new(cmd!(sh, "sh -c {script}"), SOON).leaves_nothing().success().await.unwrap();
        reap();
        assert!(ends(output.stdout.trim()), "{} is alive", output.stdout);
    }

    #[tokio::test]
    async fn what_a_program_leaves_running_is_ended_and_not_waited_for() {
        let sh = Shell::new().unwrap();
        let script = "sleep 600 & echo done";
        let start = Instant::now();
        let output = Run::new(cmd!(sh, "sh -c {script}"), SOON).success().await.unwrap();
        assert_eq!(output.stdout, "done\n");
        assert!(start.elapsed() < SOON / 2);
        reap();
    }

    #[tokio::test]
    async fn input_is_fed_and_output_of_any_size_is_read() {
        let sh = Shell::new().unwrap();
        let input = vec![b'x'; 3 << 20];
        let output = Run::new(cmd!(sh, "cat"), SOON).stdin(input).success().await.unwrap();
        assert_eq!(output.stdout.matches('x').count(), 3 << 20);
    }

    #[tokio::test]
    async fn a_line_of_any_length_is_kept_as_it_is() {
        let sh = Shell::new().unwrap();
        // One byte, so that a cut at a round number falls into a character.
        let line = format!("x{}", "é".repeat(3 << 19));
        let mut pieces = 0;
        let output = Run::new(cmd!(sh, "cat"), SOON)
            .stdin(line.clone())
            .on_line(|_| pieces += 1)
            .success()
            .await
            .unwrap();
        assert!(output.stdout == line, "it was changed");
        assert!(pieces > 1, "a program without line ends would fill the memory");
    }
}
