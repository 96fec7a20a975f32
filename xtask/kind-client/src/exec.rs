//! Commands run on a node, with streams to and from them.

use crate::process::{Invocation, Supervised};
use crate::{Cause, Error, Failure, Kind};
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Empty};
use tokio::process::{ChildStdin, ChildStdout};

/// A command to run on a node: see [`Node::exec`](crate::Node::exec).
///
/// `R` is what the command reads as its standard input. Without it the input is empty.
#[must_use = "nothing runs before one of the `ensure` methods, `is_success` or `spawn`"]
pub struct Exec<R = Empty> {
    kind: Kind,
    node: String,
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Option<R>,
}

impl Exec {
    pub(crate) fn new(kind: Kind, node: String, argv: Vec<OsString>) -> Self {
        Self { kind, node, argv, env: Vec::new(), stdin: None }
    }

    /// Gives the command `stdin` to read, to its end.
    pub fn stdin<R: AsyncRead + Unpin + Send>(self, stdin: R) -> Exec<R> {
        Exec { kind: self.kind, node: self.node, argv: self.argv, env: self.env, stdin: Some(stdin) }
    }

    /// Starts the command and hands out its streams.
    ///
    /// # Errors
    /// [`Error::Exec`] if the container engine cannot be started. That the command itself fails is told by
    /// [`Running::wait`].
    pub fn spawn(self) -> Result<Running, Error> {
        let command = match self.invocation(true) {
            Ok(command) => command,
            Err(source) => return Err(Error::Exec { node: self.node, source }),
        };
        match command.spawn() {
            Ok(mut process) => Ok(Running {
                stdin: process.stdin.take(),
                stdout: process.stdout.take(),
                node: self.node,
                command,
                process,
            }),
            Err(source) => Err(Error::Exec { node: self.node, source }),
        }
    }
}

impl<R: AsyncRead + Unpin + Send> Exec<R> {
    /// Sets a variable for the command. Its value shows in the host's process list and in errors.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long the command may take, from its start.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.kind = self.kind.with_deadline(deadline);
        self
    }

    /// Runs the command and drops its output.
    ///
    /// # Errors
    /// [`Error::Exec`] if the command cannot be run, or ends with a status other than 0.
    pub async fn ensure_success(self) -> Result<(), Error> {
        self.ensure_stdout_to(&mut tokio::io::sink()).await
    }

    /// Runs the command and returns its output, which is held in memory.
    ///
    /// # Errors
    /// As [`Exec::ensure_success`], and if the output is not UTF-8.
    pub async fn ensure_stdout(self) -> Result<String, Error> {
        let node = self.node.clone();
        let run = async {
            let command = self.invocation(self.stdin.is_some())?;
            let mut output = Vec::new();
            command.capture(self.stdin, &mut output, |_| {}).await?;
            command.utf8(output)
        };
        run.await.map_err(|source| Error::Exec { node, source })
    }

    /// Runs the command and copies its output to `output`, which gets flushed but not shut down.
    ///
    /// # Errors
    /// As [`Exec::ensure_success`], and if `output` fails. Part of the output has then been written.
    pub async fn ensure_stdout_to(self, output: &mut (impl AsyncWrite + Unpin + Send)) -> Result<(), Error> {
        let node = self.node.clone();
        let run = async {
            let command = self.invocation(self.stdin.is_some())?;
            command.capture(self.stdin, output, |_| {}).await
        };
        run.await.map_err(|source| Error::Exec { node, source })
    }

    /// Runs the command, drops its output, and tells whether it ended with 0.
    ///
    /// # Errors
    /// [`Error::Exec`] if the command cannot be run: also if the engine has no such node, or the node no such
    /// program (statuses 125 to 127).
    pub async fn is_success(self) -> Result<bool, Error> {
        match self.ensure_success().await {
            Ok(()) => Ok(true),
            Err(err) => match err.failure().status().and_then(|status| status.code()) {
                Some(1..125) => Ok(false),
                _ => Err(err),
            },
        }
    }

    fn invocation(&self, has_stdin: bool) -> Result<Invocation, Failure> {
        // The node's container is privileged, yet a command in it is so only if it asks to be: kind does the
        // same for its own commands.
        let mut args: Vec<OsString> = vec!["exec".into(), "--privileged".into()];
        if has_stdin {
            args.push("-i".into());
        }
        for (name, value) in &self.env {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            args.extend(["-e".into(), variable]);
        }
        args.push(self.node.clone().into());
        args.extend(self.argv.iter().cloned());
        let command = self.kind.container(args);
        if self.argv.is_empty() {
            return Err(command.failure(Cause::Argument("the command for the node is empty".into())));
        }
        Ok(command)
    }
}

impl<R> fmt::Debug for Exec<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("node", &self.node).field("argv", &self.argv).finish_non_exhaustive()
    }
}

/// A command that runs on a node. Dropping it ends the engine's program.
///
/// The deadline and the cancellation hold meanwhile: when one of them ends the program, writing gives
/// [`BrokenPipe`](std::io::ErrorKind::BrokenPipe) and reading gives the end, and [`Running::wait`] tells why.
#[derive(Debug)]
pub struct Running {
    /// The command's standard input: shut it down, drop it, or leave it to [`Running::wait`] to close it.
    pub stdin: Option<ChildStdin>,
    /// The command's standard output. It has to be read, or the command stops when the pipe is full;
    /// [`Running::wait`] drops what is left here.
    pub stdout: Option<ChildStdout>,
    node: String,
    command: Invocation,
    process: Supervised,
}

impl Running {
    /// Closes the input, unless it was taken, and waits for the command's end.
    ///
    /// # Errors
    /// [`Error::Exec`] if the command ends with a status other than 0, or is ended.
    pub async fn wait(mut self) -> Result<(), Error> {
        drop(self.stdin.take());
        self.process.stdout = self.stdout.take();
        let ended = self.process.finish(&self.command, None::<Empty>, &mut tokio::io::sink(), |_| {}).await;
        ended.map_err(|source| Error::Exec { node: self.node, source })
    }
}
