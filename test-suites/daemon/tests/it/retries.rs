//! Retries of whole runs.

use suite_support::ask;
use suite_support::calm;
use suite_support::dagster::RunId;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Run, RunStatus, Suite};

use crate::{Since, launch};

async fn failed(suite: &Suite, run: &RunId) -> anyhow::Result<Run> {
    let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
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
    let run = suite.dagster.launch(&launch("failing_job").tag("dagster/max_retries", "1")).await?;
    failed(suite, &run.run_id).await?;
    let runs = since.workers(2).await?;
    let [first, second] = &runs[..] else { panic!("not one run and one retry but {runs:?}") };
    assert_eq!(first, &run.run_id);
    let retry = failed(suite, second).await?;
    assert_eq!(retry.tag("dagster/retry_number"), Some("1"));
    assert_eq!(retry.tag("dagster/parent_run_id"), Some(first.as_str()));
    assert_eq!(retry.tag("dagster/root_run_id"), Some(first.as_str()));
    let will_retry = tag(suite, second, "dagster/will_retry").await?;
    assert_eq!(will_retry, "false");
    // Not its tag `dagster/auto_retry_run_id`: Dagster's processes write a run's tags as a whole, and that one can be lost.
    let told = suite.dagster.events(first).await?;
    assert!(
        told.iter().any(|event| event.message == "Retrying the run"),
        "the run does not tell of its retry"
    );
    Ok(())
}
