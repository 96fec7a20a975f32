//! Sensors.

use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunId, RunStatus, Suite};

use crate::{REPOSITORY, afterwards, workers};

#[tokio::test]
async fn a_run_that_a_sensor_asks_for_again_is_made_once() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite.with_runs_of("sensed_job", each_key_has_one(&suite)).await
}

async fn each_key_has_one(suite: &Suite) -> anyhow::Result<()> {
    let sensor = suite.dagster.start_sensor(&REPOSITORY, "keyed_sensor").await?;
    // The second is of the third look, so the first was asked for at all three.
    let made = afterwards(workers(suite, "sensed_job", 2), suite.dagster.stop_sensor(&sensor)).await?;
    for run in each_key_has_one_run(suite, &made).await? {
        assert_eq!(run.tag("dagster/sensor_name"), Some("keyed_sensor"));
    }
    Ok(())
}

/// These are the runs that a keyed sensor asks for until its third look, one for each key, and they succeed.
pub(crate) async fn each_key_has_one_run(suite: &Suite, made: &[RunId]) -> anyhow::Result<Vec<Run>> {
    let mut runs = Vec::new();
    for run in made {
        let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
        assert_eq!(ended.status, RunStatus::Success);
        runs.push(ended);
    }
    let mut keys: Vec<_> =
        runs.iter().map(|run| run.tag("dagster/run_key").unwrap_or_default().to_owned()).collect();
    // They come by the second in which they were launched, which may be the same.
    keys.sort();
    assert_eq!(keys, ["asked for at each look", "asked for at the third look"]);
    Ok(runs)
}
