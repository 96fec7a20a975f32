//! Runs that take longer than they may.

use anyhow::Context;
use serde_json::json;
use suite_support::dagster::Event;
use suite_support::jobs::{RUN_LIMIT, in_process};
use suite_support::{Launch, RunStatus, Suite};

use crate::slow;

#[tokio::test]
async fn a_run_whose_pod_cannot_start_fails_when_the_start_takes_too_long() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let missing =
        json!({"container_config": {"env_from": [{"config_map_ref": {"name": "non-existent-config-map"}}]}});
    let launch = Launch::job("demo_job").config(suite_support::jobs::words(&json!(2)));
    suite
        .with_run(launch.tag("dagster-k8s/config", missing.to_string()), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            assert!(!events.iter().any(|event| event.is("RUN_START")), "the run started all the same");
            let failure = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            let why = "taking longer than 100 seconds to start";
            assert!(failure.message.contains(why), "{failure}");
            // As configured, and not as long as a run may take.
            let launched = events.first().context("no event")?;
            let after = failure.since(launched).context("events without times")?;
            assert!(after.as_secs() >= 100, "it failed after {after:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_run_that_takes_longer_than_its_tag_allows_is_ended() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(slow(600).tag("dagster/max_runtime", "10"), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            let told = events.iter().any(|event| event.message.contains("maximum runtime of 10"));
            assert!(told, "no event tells of the limit");
            delete_steps(&suite, run).await
        })
        .await
}

#[tokio::test]
async fn a_run_that_does_not_end_when_told_to_is_marked_as_canceled() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("deaf_job").config(in_process(json!({}))), async |run| {
            let deaf = |event: &Event| event.message.contains("SIGTERM is ignored");
            suite.dagster.await_event(&run.run_id, "its step to be deaf", RUN_LIMIT, deaf).await?;
            suite.dagster.terminate(&run.run_id).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Canceled);
            let events = suite.dagster.events(&run.run_id).await?;
            let told = events.iter().find(|event| event.is("RUN_CANCELING")).context("no RUN_CANCELING")?;
            let end = events.iter().find(|event| event.is("RUN_CANCELED")).context("no RUN_CANCELED")?;
            assert!(end.message.contains("taking longer than 12 seconds to cancel"), "{end}");
            let after = end.since(told).context("events without times")?;
            assert!(after.as_secs() >= 12, "it was marked after {after:?}");
            Ok(())
        })
        .await
}

/// Ends the steps of a run: one that could be resumed leaves them alone when it ends.
pub(crate) async fn delete_steps(suite: &Suite, run: &suite_support::Run) -> anyhow::Result<()> {
    let background = kube::api::DeleteParams::background();
    for job in suite.jobs_of(run, "step_worker").await? {
        let name = kube::ResourceExt::name_any(&job);
        match suite.user_jobs().delete(&name, &background).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}
