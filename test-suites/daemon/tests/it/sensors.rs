//! Sensors.

use std::time::{SystemTime, UNIX_EPOCH};

use suite_support::calm;
use suite_support::dagster::Instigator;
use suite_support::{Run, Suite};

use crate::{REPOSITORY, Since};

#[tokio::test]
async fn a_run_that_a_sensor_asks_for_again_is_made_once() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite.with_runs_of("sensed_job", each_key_has_one(&suite)).await
}

async fn each_key_has_one(suite: &Suite) -> anyhow::Result<()> {
    let since = Since::now(suite, "sensed_job").await?;
    let asker = unique_asker();
    let sensor = start_keyed_sensor(suite, "keyed_sensor", &asker, 0).await?;
    // The second is of the third look, so the first was asked for at all three.
    let stop = async || suite.dagster.stop_sensor(&sensor).await;
    suite.afterwards(since.workers(2), stop).await?;
    for run in each_key_has_one_run(&since, &asker).await? {
        assert_eq!(run.tag("dagster/sensor_name"), Some("keyed_sensor"));
    }
    Ok(())
}

/// The first part of a sensor's keys: Dagster makes one run for a key for all time, and this may not be the first time that the test runs.
pub(crate) fn unique_asker() -> String {
    format!("{:?}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Has a keyed sensor ask under keys that begin so, with so many looks behind it; of a negative number, its third look is later by these.
pub(crate) async fn start_keyed_sensor(
    suite: &Suite,
    name: &str,
    asker: &str,
    looks: i32,
) -> anyhow::Result<Instigator> {
    suite.dagster.set_cursor(&REPOSITORY, name, &format!("{asker} {looks}")).await?;
    Ok(suite.dagster.start_sensor(&REPOSITORY, name).await?)
}

/// The runs of the job since then are those that a keyed sensor asks for until its third look, one for each key, and they succeed.
pub(crate) async fn each_key_has_one_run(since: &Since<'_>, asker: &str) -> anyhow::Result<Vec<Run>> {
    let made = since.workers(2).await?;
    let mut runs = Vec::new();
    for run in &made {
        runs.push(since.suite.succeeds(run).await?);
    }
    // One that waited for a place has come since.
    assert_eq!(since.launched().await?, made.into_iter().collect(), "a run was made after these");
    let mut keys: Vec<_> =
        runs.iter().map(|run| run.tag("dagster/run_key").unwrap_or_default().to_owned()).collect();
    // They come by the second in which they were launched, which may be the same.
    keys.sort();
    assert_eq!(keys, ["at each look", "at the third look"].map(|when| format!("{asker} {when}")));
    Ok(runs)
}
