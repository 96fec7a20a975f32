//! Schedules.

use std::collections::HashSet;
use std::time::Duration;

use suite_support::ask;
use suite_support::calm;
use suite_support::dagster::{Instigator, Tick};
use suite_support::{Run, RunId, Suite};

use crate::{DAEMON_LIMIT, REPOSITORY, Since};

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
    for run in each_tick_has_one_run(&since, &schedule, Duration::from_secs(60)).await? {
        assert_eq!(run.tag("dagster/schedule_name"), Some("each_minute"));
    }
    Ok(())
}

/// A schedule that was stopped has ticked once in each period from the epoch on, at least twice, and each time it has made one run, which
/// succeeds; its job has no others since then.
pub(crate) async fn each_tick_has_one_run(
    since: &Since<'_>,
    schedule: &Instigator,
    period: Duration,
) -> anyhow::Result<Vec<Run>> {
    let made = |ticks: &[Tick]| -> HashSet<RunId> {
        ticks.iter().flat_map(|tick| tick.run_ids.iter().cloned()).collect()
    };
    // A tick that had begun when the schedule was stopped makes its run all the same.
    let look = async || Ok((since.ticks(schedule).await?, since.launched().await?));
    let agree = |(ticks, launched): &(Vec<Tick>, HashSet<RunId>)| {
        ticks.iter().all(|tick| tick.status != "STARTED") && made(ticks) == *launched
    };
    let (ticks, _) = ask::until("each run to be of a tick that is done", DAEMON_LIMIT, look, agree).await?;
    assert!(ticks.len() >= 2, "{ticks:?}");
    let mut runs = Vec::new();
    for run in made(&ticks) {
        runs.push(since.suite.succeeds(&run).await?);
    }
    for tick in &ticks {
        assert_eq!((tick.timestamp % period.as_secs_f64(), tick.run_ids.len()), (0.0, 1), "{tick:?}");
    }
    let apart: Vec<_> = ticks.windows(2).map(|pair| pair[1].timestamp - pair[0].timestamp).collect();
    assert!(
        apart.iter().all(|seconds| *seconds == period.as_secs_f64()),
        "a tick was lost or repeated: {ticks:?}"
    );
    Ok(runs)
}
