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
    let path = suite.contract.artifacts().join("broker.lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    tokio::task::spawn_blocking(move || {
        lock(&file).with_context(|| format!("lock {}", path.display()))?;
        Ok(file)
    })
    .await?
}
