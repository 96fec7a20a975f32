//! Process groups: what a child starts ends with it, and a reaper finds it where we cannot end it any more.

use std::process::Stdio;
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::env;

/// How long an ended process group may take before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Reapers of ended process groups, joined before the program exits.
static REAPERS: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// The run that programs are started for.
static MARK: RwLock<Option<String>> = RwLock::new(None);

/// Programs that are started from now on are those of `run`, by which its reaper finds them.
pub fn mark(run: &str) {
    *MARK.write().unwrap_or_else(PoisonError::into_inner) = Some(run.to_owned());
}

/// The run that programs are started for, if there is one.
#[must_use]
pub fn mark_of_ours() -> Option<String> {
    MARK.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A child in a process group of its own, which is ended when this is dropped before [`Group::disarm`].
#[derive(Debug)]
pub struct Group {
    /// The child itself.
    pub child: Child,
    group: Option<Pid>,
    pub(super) grace: Duration,
}

impl Group {
    /// Starts `command` with both outputs piped, and standard input empty or piped.
    ///
    /// # Errors
    /// The operating system's.
    pub fn spawn(command: &mut Command, pipe_stdin: bool) -> std::io::Result<Group> {
        Group::spawn_marked(command, pipe_stdin, mark_of_ours())
    }

    pub(super) fn spawn_marked(
        command: &mut Command,
        pipe_stdin: bool,
        mark: Option<String>,
    ) -> std::io::Result<Group> {
        command.envs(mark.map(|mark| (env::PROGRAM_OF, mark)));
        let child = command
            .stdin(if pipe_stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok(Group { child, group, grace: GRACE })
    }

    /// The group has ended by itself, or may go on; leave it alone (its number may be another's soon).
    pub fn disarm(&mut self) {
        self.group = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(group) = self.group.take() else { return };
        if killpg(group, Signal::SIGTERM).is_err() {
            return;
        }
        let grace = self.grace;
        let reaper = std::thread::spawn(move || {
            let deadline = Instant::now() + grace;
            // Nobody tells us when a group is empty, so look until it is.
            while Instant::now() < deadline && killpg(group, None).is_ok() {
                std::thread::sleep(Duration::from_millis(20));
                // A child that has ended counts until it is waited for, which tokio does only while it has a runtime.
                let _ = waitpid(group, Some(WaitPidFlag::WNOHANG));
            }
            let _ = killpg(group, Signal::SIGKILL);
        });
        REAPERS.lock().unwrap_or_else(PoisonError::into_inner).push(reaper);
    }
}

/// Waits until every process group that was ended is gone; a few seconds at most.
pub fn reap() {
    let reapers = std::mem::take(&mut *REAPERS.lock().unwrap_or_else(PoisonError::into_inner));
    for reaper in reapers {
        let _ = reaper.join();
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Runtime;

    use super::*;

    #[test]
    fn a_group_that_ends_when_told_to_is_not_waited_for_any_longer() {
        let runtime = Runtime::new().unwrap();
        let mut command = Command::new("sleep");
        let mut group = runtime.block_on(async { Group::spawn(command.arg("600"), false) }).unwrap();
        group.grace = Duration::from_secs(60);
        drop(runtime);
        let start = Instant::now();
        drop(group);
        reap();
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    }
}
