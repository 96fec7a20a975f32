//! A daemon that is killed.

use kube::ResourceExt;
use kube::api::ListParams;
use suite_support::cluster::{self, Select, is_ready};
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{RunStatus, Suite};

use crate::queue::{end, started};
use crate::schedules::have_one_for_each_tick;
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
    suite
        .with_runs([alone("restart", LONG), alone("restart", 0)], async |[first, waiting]| {
            started(suite, first).await?;
            let schedule = suite.dagster.start_schedule(&REPOSITORY, "each_minute_of_restart").await?;
            let sensor = suite.dagster.start_sensor(&REPOSITORY, "keyed_sensor_of_restart").await?;
            workers(suite, "restart_job", 1).await?;
            let replaced = replace_daemon(suite).await;
            // The sensor's third look, which it counts from before the restart.
            let sensed = workers(suite, "restart_job", 2).await;
            suite.dagster.stop_sensor(&sensor).await?;
            // Stopped when it has just ticked once more, and not in the middle of a tick.
            let job = "restart_scheduled_job";
            let scheduled =
                async { workers(suite, job, workers(suite, job, 1).await?.len() + 1).await }.await;
            suite.dagster.stop_schedule(&schedule).await?;
            replaced?;

            assert_eq!(suite.dagster.run(&waiting.run_id).await?.status, RunStatus::Queued);
            end(suite, first).await?;
            let ended = suite.dagster.await_end(&waiting.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Success);
            for run in [first, waiting] {
                assert!(suite.jobs_of(run, "run_worker").await?.len() <= 1, "it was launched again");
            }
            let mut keys = Vec::new();
            for run in &sensed? {
                let ended = suite.dagster.await_end(run, RUN_LIMIT).await?;
                assert_eq!(ended.status, RunStatus::Success);
                keys.push(ended.tag("dagster/run_key").unwrap_or_default().to_owned());
            }
            assert_eq!(keys, ["asked for at each look", "asked for at the third look"]);
            have_one_for_each_tick(suite, &schedule, &scheduled?).await
        })
        .await
}
