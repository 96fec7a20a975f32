//! A daemon that is killed.

use kube::ResourceExt;
use kube::api::ListParams;
use suite_support::calm;
use suite_support::cluster::{self, Select, is_ready};
use suite_support::dagster::Tick;
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{RunId, RunStatus, Suite};

use crate::queue::{end, event, started};
use crate::schedules::each_tick_has_one_run;
use crate::sensors::{each_key_has_one_run, start_keyed_sensor, unique_asker};
use crate::{DAEMON_LIMIT, LONG, REPOSITORY, Since, alone};

const DAEMON: &str = "component=dagster-daemon";

/// The sensor looks each 5 s, so that its third look from 0 comes about a minute after its first: when there is another daemon.
const LOOKS_BEFORE: i32 = -9;

async fn replace_daemon(suite: &Suite) -> anyhow::Result<()> {
    let pods = suite.system_pods();
    let found = pods.list(&ListParams::default().labels(DAEMON)).await?.items;
    let daemon = only(&found, "daemon");
    cluster::kill(&pods, &daemon.name_any()).await?;
    let another = |pods: &[_]| matches!(pods, [pod] if is_ready(pod) && pod.uid() != daemon.uid());
    let select = Select::Labels(DAEMON.to_owned());
    cluster::await_objects(pods, &select, "a new daemon", DAEMON_LIMIT, another).await?;
    Ok(())
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
    let schedule = suite.dagster.start_schedule(&REPOSITORY, "each_minute_of_restart").await?;
    let ticked = async {
        let sensed = the_queue_and_a_sensor_go_on(suite, &since, &asker).await?;
        // Once more, now that there is another daemon.
        let before = since.ticks(&schedule).await?.len();
        let again = |ticks: &[Tick]| ticks.len() > before.max(1);
        since.await_ticks(&schedule, "another tick of the schedule", again).await?;
        Ok(sensed)
    };
    let stop = async || suite.dagster.stop_schedule(&schedule).await;
    let sensed = suite.afterwards(ticked, stop).await?;
    each_key_has_one_run(suite, &asker, &sensed).await?;
    each_tick_has_one_run(&since, &schedule).await.map(drop)
}

/// Replaces the daemon while a run waits in its queue and a sensor counts its looks, and gives the runs that the sensor asks for.
///
/// It is killed when it launches nothing: a run that it has begun to launch and has made no Job for stays as it is until the monitoring
/// fails it. So the schedule's run, which comes with the minute, and the sensor's first have their Jobs before.
async fn the_queue_and_a_sensor_go_on(
    suite: &Suite,
    scheduled: &Since<'_>,
    asker: &str,
) -> anyhow::Result<Vec<RunId>> {
    let since = Since::now(suite, "restart_job").await?;
    let mut sensed = Vec::new();
    suite
        .with_runs([alone("restart", LONG), alone("restart", 0)], async |[first, waiting]| {
            started(suite, first).await?;
            scheduled.workers(1).await?;
            let sensor = start_keyed_sensor(suite, "keyed_sensor_of_restart", asker, LOOKS_BEFORE).await?;
            let body = async {
                since.workers(1).await?;
                replace_daemon(suite).await?;
                assert_eq!(suite.dagster.run(&waiting.run_id).await?.status, RunStatus::Queued);
                end(suite, first).await?;
                let ended = suite.dagster.await_end(&waiting.run_id, RUN_LIMIT).await?;
                assert_eq!(ended.status, RunStatus::Success);
                for run in [first, waiting] {
                    // There is one: it was not launched again.
                    event(suite, run, "RUN_STARTING").await?;
                }
                // The second is asked for by a look that the new daemon counts on.
                since.workers(2).await
            };
            let stop = async || suite.dagster.stop_sensor(&sensor).await;
            sensed = suite.afterwards(body, stop).await?;
            Ok(())
        })
        .await?;
    Ok(sensed)
}
