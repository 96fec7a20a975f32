//! Schedules.

use suite_support::dagster::Schedule;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{RunId, RunStatus, Suite};

use crate::{REPOSITORY, workers};

#[tokio::test]
async fn a_schedule_makes_one_run_for_each_of_its_ticks() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite.with_runs_of("scheduled_job", each_tick_has_one(&suite)).await
}

async fn each_tick_has_one(suite: &Suite) -> anyhow::Result<()> {
    let schedule = suite.dagster.start_schedule(&REPOSITORY, "each_minute").await?;
    let made = workers(suite, "scheduled_job", 2).await;
    suite.dagster.stop_schedule(&schedule).await?;

    let made = made?;
    for run in &made {
        let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
        assert_eq!(ended.status, RunStatus::Success);
        assert_eq!(ended.tag("dagster/schedule_name"), Some("each_minute"));
    }
    have_one_for_each_tick(suite, &schedule, &made).await
}

/// A schedule has ticked each minute, and made one of these runs each time.
pub(crate) async fn have_one_for_each_tick(
    suite: &Suite,
    schedule: &Schedule,
    made: &[RunId],
) -> anyhow::Result<()> {
    let mut ticks = suite.dagster.ticks(schedule).await?;
    ticks.sort_by(|one, other| one.timestamp.total_cmp(&other.timestamp));
    let ran: Vec<_> = ticks.iter().flat_map(|tick| tick.run_ids.clone()).collect();
    assert_eq!(ran, made, "{ticks:?}");
    for tick in &ticks {
        assert_eq!((tick.timestamp % 60.0, tick.run_ids.len()), (0.0, 1), "{tick:?}");
    }
    let apart: Vec<_> = ticks.windows(2).map(|pair| pair[1].timestamp - pair[0].timestamp).collect();
    assert!(apart.iter().all(|seconds| *seconds == 60.0), "ticks are not a minute apart: {ticks:?}");
    Ok(())
}
