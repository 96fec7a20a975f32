//! Retries of whole runs.

use suite_support::dagster::RunId;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunStatus, Suite};

use crate::{launch, workers};

async fn failed(suite: &Suite, run: &RunId) -> anyhow::Result<Run> {
    let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
    assert_eq!(ended.status, RunStatus::Failure);
    Ok(ended)
}

#[tokio::test]
async fn a_run_that_fails_is_tried_again_as_often_as_its_tag_says() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(launch("failing_job").tag("dagster/max_retries", "1"), async |run| {
            failed(&suite, &run.run_id).await?;
            let runs = workers(&suite, "failing_job", 2).await?;
            let [first, second] = &runs[..] else { panic!("not one run and one retry but {runs:?}") };
            assert_eq!(first, &run.run_id);
            let retry = failed(&suite, second).await?;
            assert_eq!(retry.tag("dagster/retry_number"), Some("1"));
            assert_eq!(retry.tag("dagster/parent_run_id"), Some(first.as_str()));
            assert_eq!(retry.tag("dagster/root_run_id"), Some(first.as_str()));
            // Dagster decides when a run fails, and writes down how.
            assert_eq!(retry.tag("dagster/will_retry"), Some("false"));
            let first = suite.dagster.run(first).await?;
            assert_eq!(first.tag("dagster/auto_retry_run_id"), Some(second.as_str()));
            Ok(())
        })
        .await
}
