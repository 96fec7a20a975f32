//! Jobs that end late or badly.

use serde_json::json;
use suite_support::cluster;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, RunStatus, Suite};

use crate::{COMPONENT, only_job, says, shell};

#[tokio::test]
async fn a_job_that_ends_within_its_timeout_succeeds() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(shell(&suite, "echo HI", json!({"timeout": 600}))?, async |run| {
            assert_eq!(says(&suite, &only_job(&suite, run).await?, "dagster").await?, ["HI"]);
            Ok(())
        })
        .await
}

/// The run fails with one of these in its error, and its Job is deleted.
async fn fails(suite: &Suite, launch: Launch, why: &[&str]) -> anyhow::Result<()> {
    suite
        .with_run(launch, async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            assert!(events.iter().any(|event| event.is("STEP_START")), "the op did not even start");
            let told: Vec<_> = events.iter().flat_map(|event| event.error_messages()).collect();
            let expected = |message: &&str| why.iter().any(|why| message.contains(why));
            assert!(told.iter().any(expected), "none of {why:?} is among {told:?}");
            let made = events.iter().any(|event| event.message.contains("Creating Kubernetes job"));
            assert!(made, "no event tells of the Job's creation");
            let select = Suite::component_of_run(&run.run_id, COMPONENT);
            let jobs = suite.user_jobs();
            cluster::await_objects(jobs, &select, "the op's Job to go", CLUSTER_LIMIT, <[_]>::is_empty)
                .await?;
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_job_that_takes_longer_than_its_timeout_is_deleted() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // Dagster looks at its clock when the program writes something or ends.
    fails(&suite, shell(&suite, "sleep 12", json!({"timeout": 5}))?, &["Timed out"]).await
}

#[tokio::test]
async fn a_job_that_fails_is_deleted() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // Dagster looks at the pod and at the Job; which of them it finds failed first is a matter of moments.
    let why = ["Encountered failed job pods", "terminated but some containers exited with errors"];
    fails(&suite, shell(&suite, "sleep 5; exit 1", json!({}))?, &why).await
}

#[tokio::test]
async fn a_container_that_may_be_restarted_is_waited_for() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let own = json!({
        "container_config": {"volume_mounts": [{"name": "counter", "mount_path": "/counter"}]},
        "pod_spec_config": {
            "restart_policy": "OnFailure",
            "volumes": [{"name": "counter", "empty_dir": {}}],
        },
        "job_spec_config": {"backoff_limit": 5, "parallelism": 2, "completions": 2},
    });
    let script = "echo x >>/counter/starts; [ $(wc -l </counter/starts) -ge 3 ] && echo HI";
    suite
        .succeeded(shell(&suite, script, own)?, async |run| {
            let job = only_job(&suite, run).await?;
            assert!(cluster::is_complete(&job));
            assert_eq!(says(&suite, &job, "dagster").await?, ["HI", "HI"]);
            Ok(())
        })
        .await
}
