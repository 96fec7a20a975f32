//! Terminating a run in the middle of a step.

use suite_support::calm;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, Run, RunStatus, Suite};

/// Where the resource's teardown leaves its proof.
const BUCKET: &str = "dagster-scratch-80542c2";

/// The objects that the run's resource has left in S3, as its listing tells of them.
async fn left_in_s3(suite: &Suite, run: &Run) -> anyhow::Result<Vec<String>> {
    let prefix = format!("resource_termination_test/{}", run.run_id);
    let url = format!("{}/{BUCKET}?list-type=2&prefix={prefix}", suite.contract.url("s3")?);
    let listing = reqwest::get(&url).await?.error_for_status()?.text().await?;
    let keys = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
    Ok(keys.map(str::to_owned).collect())
}

#[tokio::test]
async fn terminating_a_run_in_the_middle_of_a_step_tears_its_resources_down_once() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(Launch::job("resource_job_celery_k8s"), async |run| {
            // The resource is there before the step starts.
            suite
                .dagster
                .await_event(&run.run_id, "its step to start", RUN_LIMIT, |event| event.is("STEP_START"))
                .await?;
            assert!(suite.dagster.run(&run.run_id).await?.can_terminate);
            assert_eq!(left_in_s3(&suite, run).await?, [""; 0]);

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
            let expected = format!("resource_termination_test/{}", run.run_id);
            assert_eq!(left_in_s3(&suite, run).await?, [expected]);
            Ok(())
        })
        .await
}
