//! Steps that fail, by themselves or by the end of their process.

use anyhow::Context;
use kube::ResourceExt;
use suite_support::calm;
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Launch, RunStatus, Suite};

#[tokio::test]
async fn a_step_that_asks_for_it_is_tried_again_in_a_job_of_its_own() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .succeeded(Launch::job("retry_job_celery_k8s"), async |run| {
            let events = suite.dagster.events(&run.run_id).await?;
            let of_step =
                ["STEP_START", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_SUCCESS", "STEP_FAILURE"];
            let told: Vec<_> =
                events.iter().map(|event| event.kind()).filter(|kind| of_step.contains(kind)).collect();
            assert_eq!(told, ["STEP_START", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_SUCCESS"]);
            let jobs = suite.jobs_of(run, "step_worker").await?;
            let mut names: Vec<_> = jobs.iter().map(ResourceExt::name_any).collect();
            names.sort();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(names[1], format!("{}-1", names[0]));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_whose_process_breaks_down_is_failed_by_its_worker() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(Launch::job("hard_failer_job_celery_k8s"), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let jobs = suite.jobs_of(run, "step_worker").await?;
            let job = only(&jobs, "Job of a step");
            assert!(cluster::is_finished(job) && !cluster::is_complete(job), "the step's Job ended well");

            let events = suite.dagster.events(&run.run_id).await?;
            let failures: Vec<_> = events.iter().filter(|event| event.is("STEP_FAILURE")).collect();
            let [failure] = failures[..] else { panic!("not one STEP_FAILURE but {failures:?}") };
            assert_eq!(failure.step_key.as_deref(), Some("hard_fail"));
            // The step itself told of nothing but its start.
            let why = format!("Encountered failed job pods for job {} with status", job.name_any());
            let told = failure.error_messages().next().context("a failure without an error")?;
            assert!(told.contains("DagsterK8sError") && told.contains(&why), "{told}");
            Ok(())
        })
        .await
}
