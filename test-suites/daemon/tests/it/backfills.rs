//! Backfills.

use suite_support::Suite;
use suite_support::ask;
use suite_support::calm;

use crate::{DAEMON_LIMIT, REPOSITORY, Since};

#[tokio::test]
async fn a_backfill_runs_each_partition_once() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite.with_runs_of("lettered_job", each_partition_has_one(&suite)).await
}

async fn each_partition_has_one(suite: &Suite) -> anyhow::Result<()> {
    let partitions = ["a", "b", "c"];
    let since = Since::now(suite, "lettered_job").await?;
    let backfill = suite.dagster.launch_backfill(&REPOSITORY, "lettered_job", &partitions).await?;
    let mut ran = Vec::new();
    for run in since.workers(partitions.len()).await? {
        let ended = suite.succeeds(&run).await?;
        assert_eq!(ended.tag("dagster/backfill"), Some(backfill.as_str()));
        let partition = ended.tag("dagster/partition").unwrap_or_default().to_owned();
        let events = suite.dagster.events(&run).await?;
        let told = format!("partition {partition}");
        assert!(events.iter().any(|event| event.message == told), "its op was not given {partition}");
        ran.push(partition);
    }
    ran.sort();
    assert_eq!(ran, partitions);
    completed(suite, &backfill).await
}

async fn completed(suite: &Suite, backfill: &str) -> anyhow::Result<()> {
    // Dagster tells nobody of a backfill's end.
    let status = async || Ok(suite.dagster.backfill_status(backfill).await?);
    let ended = |status: &String| !["REQUESTED", "COMPLETING"].contains(&status.as_str());
    assert_eq!(ask::until("the backfill's end", DAEMON_LIMIT, status, ended).await?, "COMPLETED_SUCCESS");
    Ok(())
}
