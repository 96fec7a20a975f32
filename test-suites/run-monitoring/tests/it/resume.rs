//! Runs whose worker is lost: another takes its place, while the steps work on.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{DeleteParams, EvictParams};
use suite_support::cluster::{self, Select};
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunStatus, Suite};

use crate::limits::delete_steps;
use crate::slow;

/// Waits for the step of a run to work, has its worker lost, and sees another end the run without a second attempt of the
/// step.
async fn survives(lose: impl AsyncFnOnce(&Suite, &Run) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(slow(25), async |run| {
            suite.running_step(run).await?;
            lose(&suite, run).await?;
            let second = worker(&suite, run, 1).await?;
            assert_eq!(second.labels().get("dagster/run-id").map(String::as_str), Some(run.run_id.as_str()));
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Success);
            let events = suite.dagster.events(&run.run_id).await?;
            let attempts = events.iter().filter(|event| event.is("STEP_START")).count();
            assert_eq!(attempts, 1, "the step began so often");
            assert_eq!(suite.jobs_of(run, "step_worker").await?.len(), 1);
            Ok(())
        })
        .await
}

/// The Job of a run's worker after so many were lost, once it is made.
pub(crate) async fn worker(suite: &Suite, run: &Run, lost: u32) -> anyhow::Result<Job> {
    let select = Select::Name(format!("{}-{lost}", Suite::run_job_name(&run.run_id)));
    let what = "the run to be resumed";
    let jobs =
        cluster::await_objects(suite.user_jobs(), &select, what, RUN_LIMIT, |jobs| !jobs.is_empty()).await?;
    Ok(only(&jobs, "Job of the resumed run").clone())
}

#[tokio::test]
async fn a_run_whose_job_is_deleted_is_resumed() -> anyhow::Result<()> {
    survives(async |suite, run| {
        let job = Suite::run_job_name(&run.run_id);
        suite.user_jobs().delete(&job, &DeleteParams::background()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_run_whose_pod_is_killed_is_resumed() -> anyhow::Result<()> {
    survives(async |suite, run| {
        let pods = suite.pods_of(run, "run_worker").await?;
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        suite.user_pods().delete(&only(&pods, "pod of the run").name_any(), &at_once).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_run_whose_pod_is_evicted_is_resumed() -> anyhow::Result<()> {
    survives(async |suite, run| {
        let pods = suite.pods_of(run, "run_worker").await?;
        let pod = only(&pods, "pod of the run").name_any();
        suite.user_pods().evict(&pod, &EvictParams::default()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_run_that_loses_its_worker_too_often_fails() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(slow(600), async |run| {
            suite.running_step(run).await?;
            let background = DeleteParams::background();
            let first = Suite::run_job_name(&run.run_id);
            suite.user_jobs().delete(&first, &background).await?;
            // As often as the values allow.
            for lost in 1..=3 {
                let job = worker(&suite, run, lost).await?.name_any();
                suite.user_jobs().delete(&job, &background).await?;
            }
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let jobs = suite.jobs_of(run, "run_worker").await?;
            let names: Vec<_> = jobs.iter().map(ResourceExt::name_any).collect();
            assert!(!names.contains(&format!("{first}-4")), "{names:?}");
            delete_steps(&suite, run).await
        })
        .await
}
