//! What Dagster's run monitoring does, whichever launcher the runs have.

use anyhow::Context;
use serde_json::json;

use crate::jobs::RUN_LIMIT;
use crate::{Launch, RunStatus, Suite};

/// Launches a run whose pod cannot start, and sees it fail after so many seconds and not before.
///
/// # Errors
/// It cannot be launched, or does not end.
///
/// # Panics
/// It ends otherwise.
pub async fn fails_to_start(suite: &Suite, launch: Launch, seconds: u64) -> anyhow::Result<()> {
    let missing =
        json!({"container_config": {"env_from": [{"config_map_ref": {"name": "non-existent-config-map"}}]}});
    suite
        .with_run(launch.tag("dagster-k8s/config", missing.to_string()), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            assert!(!events.iter().any(|event| event.is("RUN_START")), "the run started all the same");
            let failure = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            let why = format!("taking longer than {seconds} seconds to start");
            assert!(failure.message.contains(&why), "{failure}");
            // As configured, and not as long as a run may take.
            let launched = events.first().context("no event")?;
            let after = failure.since(launched).context("events without times")?;
            assert!(after.as_secs() >= seconds, "it failed after {after:?}");
            Ok(())
        })
        .await
}
