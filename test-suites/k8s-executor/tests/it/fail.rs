//! Steps that fail or are ended.

use kube::ResourceExt;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, RunStatus, Suite};

#[tokio::test]
async fn a_step_that_asks_for_it_is_tried_again_in_a_job_of_its_own() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("retry_job_k8s"), async |run| {
            suite.succeeds(&run.run_id).await?;
            let events = suite.dagster.events(&run.run_id).await?;
            let of_step =
                ["STEP_START", "STEP_UP_FOR_RETRY", "STEP_RESTARTED", "STEP_SUCCESS", "STEP_FAILURE"];
            let told: Vec<_> =
                events.iter().map(|event| event.kind()).filter(|kind| of_step.contains(kind)).collect();
            // Each attempt is told by its own pod.
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
async fn terminating_a_run_ends_the_step_that_works() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("slow_job_k8s"), async |run| {
            suite.running_step(run).await?;
            assert!(suite.dagster.run(&run.run_id).await?.can_terminate);

            suite.dagster.terminate(&run.run_id).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Canceled);
            assert!(!ended.can_terminate);
            let events = suite.dagster.events(&run.run_id).await?;
            assert!(!events.iter().any(|event| event.is("STEP_SUCCESS")), "the step was let to its end");
            Ok(suite.await_nothing_left_of(&run.run_id, CLUSTER_LIMIT).await?)
        })
        .await
}
