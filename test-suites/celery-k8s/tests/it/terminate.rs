//! Terminating a run in the middle of a step.

use serde_json::json;
use suite_support::calm;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, executor};
use suite_support::{Launch, RunStatus, Suite};

use crate::{by_environment, in_s3};

#[tokio::test]
async fn terminating_a_run_in_the_middle_of_a_step_tears_its_resources_down_once() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let job = Launch::job("resource_job_celery_k8s");
    suite
        .with_run(job.config(executor(json!({}), &by_environment())), async |run| {
            // Where the resource's teardown leaves its proof.
            let proof = format!("resource_termination_test/{}", run.run_id);
            // The resource is there before the step starts.
            suite
                .dagster
                .await_event(&run.run_id, "its step to start", RUN_LIMIT, |event| event.is("STEP_START"))
                .await?;
            assert!(suite.dagster.run(&run.run_id).await?.can_terminate);
            assert_eq!(in_s3(&suite, &proof).await?, [""; 0]);

            suite.dagster.terminate(&run.run_id).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Canceled);
            assert!(!ended.can_terminate);
            suite.await_nothing_left_of(&run.run_id, CLUSTER_LIMIT).await?;

            let events = suite.dagster.events(&run.run_id).await?;
            let count = |wanted: &dyn Fn(&suite_support::dagster::Event) -> bool| {
                events.iter().filter(|event| wanted(event)).count()
            };
            let resource = "s3_resource_with_context_manager";
            for message in [format!("initializing {resource}"), format!("tearing down {resource}")] {
                assert_eq!(count(&|event| event.message.contains(&message)), 1, "{message}");
            }
            for kind in ["STEP_FAILURE", "RUN_CANCELING", "RUN_CANCELED"] {
                assert_eq!(count(&|event| event.is(kind)), 1, "{kind}");
            }
            assert_eq!(count(&|event| event.is("STEP_SUCCESS")), 0, "the step was let to its end");
            assert_eq!(in_s3(&suite, &proof).await?, [proof]);
            Ok(())
        })
        .await
}
