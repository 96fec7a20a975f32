//! A daemon that is killed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::calm;
use suite_support::cluster::{self, Select, is_ready};
use suite_support::expect::only;
use suite_support::{RunStatus, Suite};
use tokio::time::sleep;

use crate::queue::{end, event, started};
use crate::schedules::each_tick_has_one_run;
use crate::sensors::{each_key_has_one_run, start_keyed_sensor, unique_asker};
use crate::{DAEMON_LIMIT, LONG, REPOSITORY, Since, alone};

const DAEMON: &str = "component=dagster-daemon";

/// How much later than this machine's the nodes' clock may tell that a minute is full.
const CLOCKS: Duration = Duration::from_secs(3);

/// From one tick of the schedule to the next. Dagster makes up for one that was missed and not for more
/// (dagster/_scheduler/scheduler.py): in this time another daemon has to be at work.
const PERIOD: Duration = Duration::from_secs(120);

/// Before a tick the daemon is not killed: it might be launching the tick's run.
const BEFORE_TICK: Duration = Duration::from_secs(15);

/// The sensor looks each 5 s, so that its third look from 0 comes after two minutes of a daemon: when there is another.
const LOOKS_BEFORE: i32 = -24;

/// Kills the daemon, and brings another when the schedule had to tick without one.
async fn replace_daemon(suite: &Suite, scheduled: &Since<'_>) -> anyhow::Result<()> {
    let pods = suite.system_pods();
    let found = pods.list(&ListParams::default().labels(DAEMON)).await?.items;
    let daemon = only(&found, "daemon");
    cluster::kill(&pods, &daemon.name_any()).await?;
    let missed = next_tick()?;
    let deployments = suite.system_deployments();
    let replicas = async |count: i32| {
        cluster::change_deployment(&deployments, DAEMON, &json!({"spec": {"replicas": count}})).await
    };
    let select = Select::Labels(DAEMON.to_owned());
    let away = async {
        // After the kill: before, it would be told to end, and have time for that. Its replacement is gone before it has begun.
        replicas(0).await?;
        cluster::await_objects(pods.clone(), &select, "no daemon", DAEMON_LIMIT, <[_]>::is_empty).await?;
        let before = scheduled.launched().await?;
        // Nobody tells of a tick that does not come.
        sleep((missed + CLOCKS).saturating_sub(since_the_epoch()?)).await;
        assert_eq!(scheduled.launched().await?, before, "there was a run without a daemon");
        anyhow::Ok(())
    };
    suite.afterwards(away, async || replicas(1).await).await?;
    let another = |pods: &[_]| matches!(pods, [pod] if is_ready(pod) && pod.uid() != daemon.uid());
    cluster::await_objects(pods, &select, "a new daemon", DAEMON_LIMIT, another).await?;
    Ok(())
}

fn since_the_epoch() -> anyhow::Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// When the schedule ticks next, since the epoch.
fn next_tick() -> anyhow::Result<Duration> {
    Ok(PERIOD * (u32::try_from(since_the_epoch()?.as_secs() / PERIOD.as_secs())? + 1))
}

#[tokio::test]
async fn a_daemon_that_is_killed_forgets_nothing_and_repeats_nothing() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::alone(&suite).await?;
    suite.with_runs_of("restart_job", forgets_and_repeats_nothing(&suite)).await
}

async fn forgets_and_repeats_nothing(suite: &Suite) -> anyhow::Result<()> {
    let since = Since::now(suite, "restart_scheduled_job").await?;
    let asker = unique_asker();
    let schedule = suite.dagster.start_schedule(&REPOSITORY, "of_restart").await?;
    let ticked = async {
        the_queue_and_a_sensor_go_on(suite, &since, &asker).await?;
        // One before the kill, the one that was missed, and one at its time.
        since.more_ticks(&schedule, 2).await
    };
    suite.afterwards(ticked, async || suite.dagster.stop_schedule(&schedule).await).await?;
    each_tick_has_one_run(&since, &schedule, PERIOD).await.map(drop)
}

/// Replaces the daemon while a run waits in its queue and a sensor counts its looks.
///
/// It is killed when it launches nothing: a run that it has begun to launch and has made no Job for stays as it is until the monitoring
/// fails it. So the run of a tick has its Job before, then the sensor's first.
async fn the_queue_and_a_sensor_go_on(
    suite: &Suite,
    scheduled: &Since<'_>,
    asker: &str,
) -> anyhow::Result<()> {
    let since = Since::now(suite, "restart_job").await?;
    suite
        .with_runs([alone("restart", LONG), alone("restart", 0)], async |[first, waiting]| {
            started(suite, first).await?;
            let ticks = scheduled.launched().await?.len() + 1;
            scheduled.workers(ticks).await?;
            let sensor = start_keyed_sensor(suite, "keyed_sensor_of_restart", asker, LOOKS_BEFORE).await?;
            let body = async {
                since.workers(1).await?;
                if since_the_epoch()? + BEFORE_TICK > next_tick()? {
                    scheduled.workers(ticks + 1).await?;
                }
                assert_eq!(since.launched().await?.len(), 1, "the sensor's third look came before the kill");
                replace_daemon(suite, scheduled).await?;
                // The new one is at work, and might launch what waits.
                since.more_ticks(&sensor, since.ticks(&sensor).await?.len()).await?;
                assert_eq!(suite.dagster.run(&waiting.run_id).await?.status, RunStatus::Queued);
                end(suite, first).await?;
                suite.succeeds(&waiting.run_id).await?;
                // There is one of each: it was not launched again.
                event(suite, first, "RUN_STARTING").await?;
                let (room, taken) = (
                    event(suite, first, "RUN_CANCELED").await?,
                    event(suite, waiting, "RUN_STARTING").await?,
                );
                assert!(room.is_before(&taken), "taken from the queue while the first went on");
                // The second is asked for by a look that the new daemon counts on.
                since.workers(2).await
            };
            let stop = async || suite.dagster.stop_sensor(&sensor).await;
            suite.afterwards(body, stop).await.map(drop)
        })
        .await?;
    each_key_has_one_run(&since, asker).await.map(drop)
}
