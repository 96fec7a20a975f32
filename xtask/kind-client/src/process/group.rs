//! Ends a program together with all that it has started.

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::time::Duration;
use tokio::process::Child;
use tokio::time::timeout;

/// The process group of a program that leads it. Killed when dropped, unless the program has ended.
pub(super) struct Group {
    id: Option<Pid>,
}

impl Group {
    /// The group of a child that was started as the leader of one.
    pub(super) fn of(child: &Child) -> Self {
        // 0 and 1 would mean our own group and, on some systems, everything.
        let id = child.id().and_then(|id| i32::try_from(id).ok()).filter(|id| *id > 1);
        Self { id: id.map(Pid::from_raw) }
    }

    /// The program has ended by itself. What it left behind on purpose, as a container engine may, stays; and
    /// the number may soon be another group's.
    pub(super) fn release(&mut self) {
        self.id = None;
    }

    /// Asks the group to end, and kills what is left of it when the program has gone or the grace is over.
    pub(super) async fn end(&mut self, child: &mut Child, grace: Duration) {
        self.signal(Signal::SIGTERM);
        _ = timeout(grace, child.wait()).await;
        self.signal(Signal::SIGKILL);
        // A process in an uninterruptible sleep outlives even that, and must not hold us.
        _ = timeout(grace, child.wait()).await;
        self.release();
    }

    fn signal(&self, signal: Signal) {
        // That nobody is left to get it is what we want; no other error can happen to a group of our own.
        _ = self.id.map(|id| killpg(id, signal));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}
