//! Runs programs so that none outlives its deadline, its caller or its cancellation.

mod group;
mod quote;
mod supervise;
mod tail;

pub(crate) use supervise::Supervised;

use crate::{Cause, Failure};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Empty};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a program may run, and what ends it before.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) deadline: Duration,
    pub(crate) grace: Duration,
    pub(crate) cancel: CancellationToken,
}

/// A program with its arguments, ready to be run.
#[derive(Debug)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) limits: Limits,
    /// What to do if the program is missing.
    pub(crate) remedy: &'static str,
    /// What stands before the program when the command is shown: variables that it needs.
    pub(crate) prefix: String,
}

impl Invocation {
    /// Runs the program and drops its output.
    pub(crate) async fn ensure_success(&self) -> Result<(), Failure> {
        self.capture(None::<Empty>, &mut tokio::io::sink(), |_| {}).await
    }

    /// Runs the program and returns its output.
    pub(crate) async fn ensure_stdout(&self) -> Result<String, Failure> {
        let mut output = Vec::new();
        self.capture(None::<Empty>, &mut output, |_| {}).await?;
        self.utf8(output)
    }

    /// Runs the program with `input` on its standard input, copies its standard output to `output`, and gives
    /// each line of its standard error to `on_line`.
    pub(crate) async fn capture(
        &self,
        input: Option<impl AsyncRead + Unpin>,
        output: &mut (impl AsyncWrite + Unpin),
        on_line: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let (sender, lines) = mpsc::channel(64);
        let mut process = self.launch(stdin, Some(sender))?;
        process.lines = Some(lines);
        process.finish(self, input, output, on_line).await
    }

    /// Starts the program with pipes to its standard input and from its standard output.
    pub(crate) fn spawn(&self) -> Result<Supervised, Failure> {
        self.launch(Stdio::piped(), None)
    }

    fn launch(&self, stdin: Stdio, lines: Option<mpsc::Sender<String>>) -> Result<Supervised, Failure> {
        if self.limits.cancel.is_cancelled() {
            return Err(self.failure(Cause::Cancelled));
        }
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        match command.spawn() {
            Ok(child) => Ok(Supervised::new(child, &self.limits, lines)),
            Err(source) => Err(self.failure(match source.kind() {
                io::ErrorKind::NotFound => Cause::NotFound { remedy: self.remedy, source },
                io::ErrorKind::PermissionDenied => Cause::NotPermitted(source),
                _ => Cause::Io(source),
            })),
        }
    }

    pub(crate) fn utf8(&self, output: Vec<u8>) -> Result<String, Failure> {
        String::from_utf8(output).map_err(|err| self.not_understood(err.utf8_error().to_string()))
    }

    pub(crate) fn not_understood(&self, what: impl Into<String>) -> Failure {
        self.failure(Cause::NotUnderstood(what.into()))
    }

    pub(crate) fn failure(&self, cause: Cause) -> Failure {
        let words = std::iter::once(self.program.as_os_str()).chain(self.args.iter().map(AsRef::as_ref));
        let words: Vec<String> = words.map(|word| quote::word(&word.to_string_lossy())).collect();
        Failure { command: format!("{}{}", self.prefix, words.join(" ")).into(), cause, tail: Box::default() }
    }
}
