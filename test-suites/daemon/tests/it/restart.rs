//! A daemon that is killed.

use kube::ResourceExt;
use kube::api::ListParams;
use suite_support::cluster::{self, Select, is_ready};
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{RunStatus, Suite};

use crate::queue::{end, started};
use crate::schedules::each_tick_has_one_run;
use crate::{DAEMON_LIMIT, LONG, REPOSITORY, alone, workers};

const DAEMON: &str = "component=dagster-daemon";

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
    suite.with_runs_of("restart_job", forgets_and_repeats_nothing(&suite)).await
}

async fn forgets_and_repeats_nothing(suite: &Suite) -> anyhow::Result<()> {
    let schedule = suite.dagster.start_schedule(&REPOSITORY, "each_minute_of_restart").await?;
    let sensor = suite.dagster.start_sensor(&REPOSITORY, "keyed_sensor_of_restart").await?;
    let seen = async {
        workers(suite, "restart_job", 1).await?;
        the_queue_is_kept(suite).await?;
        // The sensor's third look, which it counts from before the restart.
        let sensed = workers(suite, "restart_job", 2).await?;
        // Once more after the restart.
        let job = "restart_scheduled_job";
        workers(suite, job, workers(suite, job, 1).await?.len() + 1).await?;
        anyhow::Ok(sensed)
    }
    .await;
    suite.dagster.stop_sensor(&sensor).await?;
    suite.dagster.stop_schedule(&schedule).await?;
    let mut keys = Vec::new();
    for run in &seen? {
        let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
        assert_eq!(ended.status, RunStatus::Success);
        keys.push(ended.tag("dagster/run_key").unwrap_or_default().to_owned());
    }
    keys.sort();
    assert_eq!(keys, ["asked for at each look", "asked for at the third look"]);
    each_tick_has_one_run(suite, &schedule, "restart_scheduled_job").await.map(drop)
}

/// Replaces the daemon while a run waits in its queue. Its holder ends before anything else is awaited that needs room there: another
/// test may hold the rest of it, and wait for this one's.
async fn the_queue_is_kept(suite: &Suite) -> anyhow::Result<()> {
    suite
        .with_runs([alone("restart", LONG), alone("restart", 0)], async |[first, waiting]| {
            started(suite, first).await?;
            replace_daemon(suite).await?;
            assert_eq!(suite.dagster.run(&waiting.run_id).await?.status, RunStatus::Queued);
            end(suite, first).await?;
            let ended = suite.dagster.await_end(&waiting.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Success);
            for run in [first, waiting] {
                assert!(suite.jobs_of(run, "run_worker").await?.len() <= 1, "it was launched again");
            }
            Ok(())
        })
        .await
}
