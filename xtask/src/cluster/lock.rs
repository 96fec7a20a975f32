//! The lock of a cluster: held while it is looked at or made, so that two runs of this machine do not take each other's for
//! one that was left half made.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::events::{Events, Phase};
use crate::exit::Exit;
use crate::{fail, text};

/// How long another run may take to make the cluster.
const LOCKED: Duration = Duration::from_secs(600);

/// The file that is locked while a cluster is looked at or made.
#[must_use]
pub fn file(cache: &Utf8Path, name: &str) -> Utf8PathBuf {
    cache.join("clusters").join(format!("{name}.lock"))
}

/// Whether another run looks at or makes the cluster at this moment.
#[must_use]
pub fn is_locked(cache: &Utf8Path, name: &str) -> bool {
    File::open(file(cache, name)).is_ok_and(|file| file.try_lock().is_err())
}

/// Waits until no other run of this machine looks at or makes the cluster; the kernel gives the lock back when we end.
pub(super) async fn wait(path: &Utf8Path, events: &Events) -> Result<File> {
    let file = open(path)?;
    if file.try_lock().is_ok() {
        return Ok(file);
    }
    let step = events.step(Phase::Cluster, "wait for another run that makes this cluster");
    if !lock_within(&file, LOCKED).await {
        fail!(
            Exit::Environment,
            "another run has been making the cluster for {}; end it, or name another cluster by --kind-cluster",
            text::seconds(LOCKED)
        );
    }
    step.done("");
    Ok(file)
}

/// Locks a file that others may give back in time; whether they did. Asked for again and again, because a lock that blocks
/// could not be given up at a signal.
async fn lock_within(file: &File, time: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + time;
    while file.try_lock().is_err() {
        if tokio::time::Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    true
}

/// The lock of a cluster, unless another run of this machine looks at or makes it.
pub(crate) fn take(cache: &Utf8Path, name: &str) -> Result<Option<File>> {
    let lock = open(&file(cache, name))?;
    let free = lock.try_lock().is_ok();
    Ok(free.then_some(lock))
}

/// As [`take`], from whoever gives it back in time.
pub(crate) async fn take_within(cache: &Utf8Path, name: &str, time: Duration) -> Result<Option<File>> {
    let lock = open(&file(cache, name))?;
    Ok(lock_within(&lock, time).await.then_some(lock))
}

fn open(path: &Utf8Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    }
    File::create(path).with_context(|| format!("write {path}"))
}

/// Where the kubeconfig of the cluster of a lock is kept between runs.
pub(super) fn kubeconfig_of(lock: &Utf8Path) -> Utf8PathBuf {
    lock.with_extension("kubeconfig")
}

/// Removes what is kept on this machine about a cluster that was deleted: its credentials and, with `never_again` for a name
/// that no other run will use, the lock that is held.
pub(crate) fn forget(cache: &Utf8Path, name: &str, never_again: bool, lock: File) {
    let path = file(cache, name);
    // They may not exist, and do no harm.
    let _ = std::fs::remove_file(kubeconfig_of(&path));
    if never_again {
        let _ = std::fs::remove_file(path);
    }
    drop(lock);
}
