//! Retries of whole runs.

use std::time::Duration;

use anyhow::Context;
use suite_support::ask;
use suite_support::calm;
use suite_support::dagster::{Error, Event, RunId};
use suite_support::jobs::CLUSTER_LIMIT;
use suite_support::{Run, RunStatus, Suite};

use crate::{DAEMON_LIMIT, Since, launch};

/// What a run says when another takes its place.
const RETRIED: &str = "Retrying the run";

/// What it says when none can.
const NOT_RETRIED: &str = "Failed to retry run";

/// In this time the daemon, which looks each 30 s, has said so.
const RETRY_LIMIT: Duration = Duration::from_secs(90);

/// How many failed runs it may forget: those whose failure it reads before their status follows
/// (dagster-io/dagster#33741).
const FORGOTTEN: usize = 2;

async fn failed(suite: &Suite, run: &RunId) -> anyhow::Result<Run> {
    // It may wait in the queue.
    let ended = suite.dagster.await_end(run, DAEMON_LIMIT).await?;
    assert_eq!(ended.status, RunStatus::Failure);
    Ok(ended)
}

/// A tag that Dagster adds when the run has its status already, and tells nobody.
async fn tag(suite: &Suite, run: &RunId, key: &str) -> anyhow::Result<String> {
    let seen = async || Ok(suite.dagster.run(run).await?);
    let tagged = |run: &Run| run.tag(key).is_some();
    let run = ask::until(&format!("the tag {key}"), CLUSTER_LIMIT, seen, tagged).await?;
    Ok(run.tag(key).unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_run_that_fails_is_tried_again_as_often_as_its_tag_says() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite.with_runs_of("failing_job", is_tried_once_more(&suite)).await
}

async fn is_tried_once_more(suite: &Suite) -> anyhow::Result<()> {
    let since = Since::now(suite, "failing_job").await?;
    let (first, second) = retried(suite).await?;
    let retry = failed(suite, &second).await?;
    assert_eq!(retry.tag("dagster/retry_number"), Some("1"));
    assert_eq!(retry.tag("dagster/parent_run_id"), Some(first.as_str()));
    let will_retry = tag(suite, &second, "dagster/will_retry").await?;
    assert_eq!(will_retry, "false");
    for run in since.launched().await? {
        let run = suite.dagster.run(&run).await?;
        let again = run.run_id != second && run.tag("dagster/root_run_id") == Some(first.as_str());
        assert!(!again, "it was tried again more than once: {}", run.run_id);
    }
    Ok(())
}

/// A run that has failed, with the one that takes its place; one that the daemon has forgotten gives way to the next.
///
/// Not by its tag `dagster/auto_retry_run_id`: Dagster's processes write a run's tags as a whole, and that one can be lost.
async fn retried(suite: &Suite) -> anyhow::Result<(RunId, RunId)> {
    let mut forgotten = 0;
    loop {
        let run = suite.dagster.launch(&launch("failing_job").tag("dagster/max_retries", "1")).await?.run_id;
        failed(suite, &run).await?;
        let told = |event: &Event| [RETRIED, NOT_RETRIED].iter().any(|said| event.message.starts_with(said));
        match suite.dagster.await_event_after_end(&run, "its retry", RETRY_LIMIT, told).await {
            Ok(event) => {
                assert!(!event.message.starts_with(NOT_RETRIED), "Dagster could not retry {run}: {event}");
                let retry = event.detail("new run").with_context(|| format!("no run is named: {event}"))?;
                return Ok((run, RunId::from(retry)));
            }
            Err(Error::TimedOut { .. }) => forgotten += 1,
            Err(error) => return Err(error.into()),
        }
        assert!(forgotten <= FORGOTTEN, "{forgotten} failed runs were not tried again; the last is {run}");
        eprintln!("the daemon has forgotten run {run}");
    }
}
