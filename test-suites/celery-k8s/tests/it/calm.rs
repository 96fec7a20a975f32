//! Which tests may run beside each other: all may, but one that takes the broker away wants to be alone.

use std::fs::File;

use anyhow::Context;
use suite_support::Suite;

/// Until it is dropped, nobody takes the broker away.
pub(crate) async fn beside_others(suite: &Suite) -> anyhow::Result<File> {
    locked(suite, File::lock_shared).await
}

/// Until it is dropped, no other test of the deployment does anything.
pub(crate) async fn alone(suite: &Suite) -> anyhow::Result<File> {
    locked(suite, File::lock).await
}

/// The kernel gives a lock back with its process, however that ends; the engine limits how long a test may wait.
async fn locked(suite: &Suite, lock: fn(&File) -> std::io::Result<()>) -> anyhow::Result<File> {
    // Who waits to be alone holds the door meanwhile: else those that need not be would go on taking turns before it.
    let (door, broker) = (made(suite, "door.lock")?, made(suite, "broker.lock")?);
    tokio::task::spawn_blocking(move || {
        if door.try_lock().is_err() {
            println!("waits until a test that wants to be alone has been");
            door.lock().context("lock the door")?;
        }
        lock(&broker).context("lock the broker")?;
        Ok(broker)
    })
    .await?
}

fn made(suite: &Suite, name: &str) -> anyhow::Result<File> {
    let path = suite.contract.artifacts().join(name);
    File::create(&path).with_context(|| format!("make {}", path.display()))
}
