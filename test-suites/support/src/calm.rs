//! Which tests of a suite and variant may run beside each other: all may, but one that takes away what the others need wants to be alone. Such
//! a suite shares its deployment with no other, whose tests would know nothing of the locks.

use std::fs::File;

use anyhow::Context;

use crate::Suite;

/// Until what it gives is dropped, no test that wants to be alone does anything.
///
/// # Errors
/// The files of the locks cannot be made or locked.
pub async fn beside_others(suite: &Suite) -> anyhow::Result<File> {
    locked(suite, File::lock_shared).await
}

/// Until what it gives is dropped, no other test of the suite does anything that has asked for calm.
///
/// # Errors
/// As [`beside_others`].
pub async fn alone(suite: &Suite) -> anyhow::Result<File> {
    locked(suite, File::lock).await
}

/// The kernel gives a lock back with its process, however that ends; the engine limits how long a test may wait.
async fn locked(suite: &Suite, lock: fn(&File) -> std::io::Result<()>) -> anyhow::Result<File> {
    // Who waits to be alone holds the door meanwhile: else those that need not be would go on taking turns before it.
    let (door, calm) = (made(suite, "door.lock")?, made(suite, "calm.lock")?);
    tokio::task::spawn_blocking(move || {
        if door.try_lock().is_err() {
            println!("waits until a test that wants to be alone has been");
            door.lock().context("lock the door")?;
        }
        lock(&calm).context("lock the calm")?;
        Ok(calm)
    })
    .await?
}

fn made(suite: &Suite, name: &str) -> anyhow::Result<File> {
    let path = suite.contract.artifacts().join(name);
    File::create(&path).with_context(|| format!("make {}", path.display()))
}
