//! Schedules.

use std::collections::HashSet;

use suite_support::calm;
use suite_support::dagster::{Instigator, Tick};
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunStatus, Suite};

use crate::{REPOSITORY, Since};

#[tokio::test]
async fn a_schedule_makes_one_run_for_each_of_its_ticks() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite.with_runs_of("scheduled_job", each_tick_has_one(&suite)).await
}

async fn each_tick_has_one(suite: &Suite) -> anyhow::Result<()> {
    let since = Since::now(suite, "scheduled_job").await?;
    let schedule = suite.dagster.start_schedule(&REPOSITORY, "each_minute").await?;
    suite.afterwards(since.workers(2), async || suite.dagster.stop_schedule(&schedule).await).await?;
    for run in each_tick_has_one_run(&since, &schedule).await? {
        assert_eq!(run.tag("dagster/schedule_name"), Some("each_minute"));
    }
    Ok(())
}

/// A schedule that was stopped has ticked each minute, at least twice, and each time it has made one run, which succeeds; its job has
/// no others since then.
pub(crate) async fn each_tick_has_one_run(
    since: &Since<'_>,
    schedule: &Instigator,
) -> anyhow::Result<Vec<Run>> {
    let none_under_way = |ticks: &[Tick]| ticks.iter().all(|tick| tick.status != "STARTED");
    let ticks = since.await_ticks(schedule, "no tick to be under way", none_under_way).await?;
    assert!(ticks.len() >= 2, "{ticks:?}");
    let mut made = Vec::new();
    for run in ticks.iter().flat_map(|tick| &tick.run_ids) {
        let ended = since.suite.dagster.await_end(run, RUN_LIMIT).await?;
        assert_eq!(ended.status, RunStatus::Success);
        made.push(ended);
    }
    let launched: HashSet<_> = since.workers(made.len()).await?.into_iter().collect();
    assert_eq!(launched, made.iter().map(|run| run.run_id.clone()).collect(), "{ticks:?}");
    for tick in &ticks {
        assert_eq!((tick.timestamp % 60.0, tick.run_ids.len()), (0.0, 1), "{tick:?}");
    }
    let apart: Vec<_> = ticks.windows(2).map(|pair| pair[1].timestamp - pair[0].timestamp).collect();
    assert!(apart.iter().all(|seconds| *seconds == 60.0), "ticks are not a minute apart: {ticks:?}");
    Ok(made)
}
