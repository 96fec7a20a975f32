//! The queue of runs.

use std::time::Duration;

use suite_support::calm;
use suite_support::dagster::Event;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunStatus, Suite};
use tokio::time::sleep;

use crate::{AT_ONCE, LONG, alone, working};

/// In this time the queue looks several times what it may take: each second, by this suite's values. A run that waits still was passed
/// over.
const LOOKS: Duration = Duration::from_secs(10);

/// The event of a run that is of this type; there is one.
pub(crate) async fn event(suite: &Suite, run: &Run, kind: &str) -> anyhow::Result<Event> {
    let mut events = suite.dagster.events(&run.run_id).await?;
    events.retain(|event| event.is(kind));
    assert_eq!(events.len(), 1, "{kind} of run {}", run.run_id);
    Ok(events.remove(0))
}

/// Ends a run that would go on, and by that makes room.
pub(crate) async fn end(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    suite.dagster.terminate(&run.run_id).await?;
    let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
    assert_eq!(ended.status, RunStatus::Canceled);
    Ok(())
}

pub(crate) async fn started(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    // Dagster writes a run's status after the event that it has started, and before the next one: until then it ends no run.
    let works = |event: &Event| event.is("STEP_START");
    suite.dagster.await_event(&run.run_id, "its first step", RUN_LIMIT, works).await?;
    Ok(())
}

#[tokio::test]
async fn a_run_waits_in_the_queue_until_its_limit_leaves_room() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(alone("limit", LONG), async |first| {
            started(&suite, first).await?;
            suite
                .with_run(alone("limit", 0), async |second| {
                    sleep(LOOKS).await;
                    assert_eq!(suite.dagster.run(&second.run_id).await?.status, RunStatus::Queued);
                    end(&suite, first).await?;
                    suite.succeeds(&second.run_id).await?;
                    let room = event(&suite, first, "RUN_CANCELED").await?;
                    let taken = event(&suite, second, "RUN_STARTING").await?;
                    assert!(room.is_before(&taken), "taken from the queue while the first went on");
                    event(&suite, second, "RUN_ENQUEUED").await?;
                    Ok(())
                })
                .await
        })
        .await
}

#[tokio::test]
async fn of_the_runs_in_the_queue_the_one_of_higher_priority_goes_first() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let ranked = |priority: &str| alone("priority", 0).tag("dagster/priority", priority);
    suite
        .with_run(alone("priority", LONG), async |holder| {
            started(&suite, holder).await?;
            // The lower one first, so that by age it would go before.
            suite
                .with_runs([ranked("-1"), ranked("1")], async |[low, high]| {
                    for run in [low, high] {
                        assert_eq!(suite.dagster.run(&run.run_id).await?.status, RunStatus::Queued);
                    }
                    end(&suite, holder).await?;
                    for run in [high, low] {
                        suite.succeeds(&run.run_id).await?;
                    }
                    let (high, low) = (
                        event(&suite, high, "RUN_STARTING").await?,
                        event(&suite, low, "RUN_STARTING").await?,
                    );
                    assert!(high.is_before(&low), "the lower priority went first");
                    Ok(())
                })
                .await
        })
        .await
}

#[tokio::test]
async fn a_run_more_than_the_instance_may_have_at_once_waits() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_runs([(); AT_ONCE + 1].map(|()| working(LONG)), async |runs| {
            let [going @ .., last] = runs;
            for run in going {
                started(&suite, run).await?;
            }
            // Runs of other tests count too, but these alone are as many as may be.
            assert_eq!(suite.dagster.run(&last.run_id).await?.status, RunStatus::Queued);
            end(&suite, &going[0]).await?;
            started(&suite, last).await?;
            let room = event(&suite, &going[0], "RUN_CANCELED").await?;
            let taken = event(&suite, last, "RUN_STARTING").await?;
            assert!(room.is_before(&taken), "taken from the queue while as many as may be went on");
            for run in going[1..].iter().chain([last]) {
                end(&suite, run).await?;
            }
            Ok(())
        })
        .await
}
