//! What the daemon does about runs of Celery's launcher whose pods do not start or do not stay; it cannot resume them.

use anyhow::Context;
use kube::ResourceExt;
use serde_json::json;
use suite_support::calm;
use suite_support::expect::only;
use suite_support::jobs::{RUN_LIMIT, words};
use suite_support::{Launch, RunStatus, Suite, monitoring};

#[tokio::test]
async fn a_run_whose_pod_is_killed_fails() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(monitoring::with_little_memory(Launch::job("resource_job_celery_k8s")), async |run| {
            suite.running_step(run).await?;
            monitoring::fill_memory(&suite, run).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            let failure = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            let why = format!("Marking run {} as failed", run.run_id);
            assert!(failure.message.contains(&why), "{failure}");
            let job = Suite::run_job_name(&run.run_id);
            assert_eq!(only(&suite.jobs_of(run, "run_worker").await?, "Job of the run").name_any(), job);
            suite.delete_steps(run).await
        })
        .await
}

#[tokio::test]
async fn a_run_whose_pod_cannot_start_fails_when_the_start_takes_too_long() -> anyhow::Result<()> {
    let launch = Launch::job("demo_job_celery_k8s").config(words(&json!(2)));
    monitoring::fails_to_start(&Suite::connect().await?, launch, 180).await
}
