//! Runs that take longer than they may.

use anyhow::Context;
use serde_json::json;
use suite_support::dagster::Event;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, in_process, words};
use suite_support::{Launch, RunStatus, Suite, monitoring};

#[tokio::test]
async fn a_run_whose_pod_cannot_start_fails_when_the_start_takes_too_long() -> anyhow::Result<()> {
    let launch = Launch::job("demo_job").config(words(&json!(2)));
    monitoring::fails_to_start(&Suite::connect().await?, launch, 180).await
}

#[tokio::test]
async fn a_run_that_takes_longer_than_its_tag_allows_is_ended() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // A worker that heeds the daemon's SIGTERM may still report that it was canceled, before or after the daemon reports the failure:
    // whoever comes last is believed. This one is deaf long before its time is over.
    let launch = Launch::job("deaf_job").config(in_process(json!({}))).tag("dagster/max_runtime", "60");
    suite
        .with_run(launch, async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            let told = events.iter().any(|event| event.message.contains("maximum runtime of 60"));
            assert!(told, "no event tells of the limit");
            let start = events.iter().find(|event| event.is("RUN_START")).context("no RUN_START")?;
            let end = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            let after = end.since(start).context("events without times")?;
            assert!(after.as_secs() >= 60, "it was ended after {after:?}");
            // Its pod too, which did not heed it.
            Ok(suite.await_nothing_left_of(&run.run_id, CLUSTER_LIMIT).await?)
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
