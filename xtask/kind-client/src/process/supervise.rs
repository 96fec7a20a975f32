//! Watches a running program: its end, its deadline, its cancellation, its standard error.

use super::group::Group;
use super::tail::Tail;
use super::{Invocation, Limits};
use crate::{Cause, Failure};
use std::io;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

const BUFFER: usize = 128 * 1024;
/// How long the standard error of an ended program is read on, should another process still hold it.
const LINGER: Duration = Duration::from_secs(1);

/// A running program. Ended when dropped.
///
/// A task of its own watches it, since whoever drops a future cannot wait for the grace.
#[derive(Debug)]
pub(crate) struct Supervised {
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) lines: Option<mpsc::Receiver<String>>,
    watch: Watch,
    end: JoinHandle<End>,
    _cancel_on_drop: DropGuard,
}

/// How a program ended, and the last that it said.
#[derive(Debug)]
struct End {
    outcome: Result<ExitStatus, Cause>,
    tail: Box<[String]>,
}

/// The limits of a program that runs.
#[derive(Clone, Debug)]
struct Watch {
    allowed: Duration,
    until: Instant,
    grace: Duration,
    cancel: CancellationToken,
}

impl Watch {
    /// Waits until a limit is reached.
    async fn reached(&self) -> Cause {
        tokio::select! {
            () = self.cancel.cancelled() => Cause::Cancelled,
            () = sleep_until(self.until) => Cause::Deadline(self.allowed),
        }
    }
}

impl Supervised {
    pub(super) fn new(mut child: Child, limits: &Limits, lines: Option<mpsc::Sender<String>>) -> Self {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let cancel = limits.cancel.child_token();
        let now = Instant::now();
        // A deadline that no clock can hold is none.
        let century = Duration::from_secs(100 * 365 * 24 * 60 * 60);
        let until = now.checked_add(limits.deadline).unwrap_or_else(|| now + century);
        let watch = Watch { allowed: limits.deadline, until, grace: limits.grace, cancel: cancel.clone() };
        let end = tokio::spawn(supervise(child, stderr, watch.clone(), lines));
        Self { stdin, stdout, lines: None, watch, end, _cancel_on_drop: cancel.drop_guard() }
    }

    /// Serves the program's streams until it has ended and all of its output is copied.
    pub(crate) async fn finish(
        &mut self,
        command: &Invocation,
        input: Option<impl AsyncRead + Unpin>,
        output: &mut (impl AsyncWrite + Unpin),
        mut on_line: impl FnMut(&str),
    ) -> Result<(), Failure> {
        let mut fed = pin!(feed(input, self.stdin.take()));
        let mut copied = pin!(copy(self.stdout.take(), output));
        let (mut feeding, mut copying, mut running) = (true, true, true);
        while running || copying || self.lines.is_some() {
            tokio::select! {
                end = &mut self.end, if running => {
                    let End { outcome, tail } = joined(end);
                    let cause = match outcome {
                        Ok(status) if status.success() => None,
                        Ok(status) => Some(Cause::Status(status)),
                        Err(cause) => Some(cause),
                    };
                    if let Some(cause) = cause {
                        while let Some(line) = self.lines.as_mut().and_then(|lines| lines.try_recv().ok()) {
                            on_line(&line);
                        }
                        return Err(Failure { tail, ..command.failure(cause) });
                    }
                    // A program may succeed without having read its input, which may have no end.
                    (running, feeding) = (false, false);
                }
                line = next(&mut self.lines), if self.lines.is_some() => match line {
                    Some(line) => on_line(&line),
                    None => self.lines = None,
                },
                result = &mut fed, if feeding => {
                    feeding = false;
                    if let Err(cause) = result {
                        self.stop(running).await;
                        return Err(command.failure(cause));
                    }
                }
                result = &mut copied, if copying => {
                    copying = false;
                    if let Err(err) = result {
                        self.stop(running).await;
                        return Err(command.failure(Cause::Stream(err)));
                    }
                }
                // The program's own limits are watched by the task; these are of what comes after its end.
                cause = self.watch.reached(), if !running => return Err(command.failure(cause)),
            }
        }
        Ok(())
    }

    async fn stop(&mut self, is_running: bool) {
        self.watch.cancel.cancel();
        if is_running {
            joined((&mut self.end).await);
        }
    }
}

async fn next(lines: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    lines.as_mut()?.recv().await
}

fn joined(end: Result<End, tokio::task::JoinError>) -> End {
    end.unwrap_or_else(|err| match err.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // The runtime shuts down, and has dropped the task and with it the program.
        Err(_) => End { outcome: Err(Cause::Cancelled), tail: Box::default() },
    })
}

async fn supervise(
    mut child: Child,
    stderr: Option<ChildStderr>,
    watch: Watch,
    lines: Option<mpsc::Sender<String>>,
) -> End {
    let mut group = Group::of(&child);
    let mut tail = Tail::default();
    let outcome = {
        let mut life = pin!(async {
            tokio::select! {
                status = child.wait() => {
                    group.release();
                    status.map_err(Cause::Io)
                }
                cause = watch.reached() => {
                    group.end(&mut child, watch.grace).await;
                    Err(cause)
                }
            }
        });
        let mut read = pin!(async {
            if let Some(stderr) = stderr {
                tail.read(stderr, lines).await;
            }
        });
        // The standard error has to be read meanwhile: a program may wait for that before it ends.
        tokio::select! {
            outcome = &mut life => {
                _ = timeout(LINGER, read).await;
                outcome
            }
            () = &mut read => life.await,
        }
    };
    End { outcome, tail: tail.into_lines() }
}

/// Writes `input` to the program, and closes the pipe at its end.
async fn feed(input: Option<impl AsyncRead + Unpin>, pipe: Option<ChildStdin>) -> Result<(), Cause> {
    let (Some(mut input), Some(mut pipe)) = (input, pipe) else { return Ok(()) };
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = input.read(&mut buffer).await.map_err(Cause::Stream)?;
        if length == 0 {
            return Ok(());
        }
        match pipe.write_all(&buffer[..length]).await {
            Ok(()) => {}
            // The program wants no more; whether that is right, its status tells.
            Err(err) if err.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(err) => return Err(Cause::Io(err)),
        }
    }
}

async fn copy(pipe: Option<ChildStdout>, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    if let Some(pipe) = pipe {
        tokio::io::copy_buf(&mut BufReader::with_capacity(BUFFER, pipe), output).await?;
    }
    output.flush().await
}
