//! Terminating a run ends what it has in the cluster.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::batch::v1::Job;
use serde_json::json;
use suite_support::cluster::{self, Select};
use suite_support::expect::{labels_of_run, only};
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, in_process};
use suite_support::{Launch, RunStatus, Suite};

#[tokio::test]
async fn terminating_a_run_cancels_it_and_removes_its_pods() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("slow_job_k8s"), async |run| {
            suite
                .dagster
                .await_event(&run.run_id, "its slow step to start", RUN_LIMIT, |event| event.is("STEP_START"))
                .await?;
            assert!(suite.dagster.run(&run.run_id).await?.can_terminate);
            // The step has a pod of its own, beside that of the run.
            let running = |pods: &[_]| pods.len() == 2 && pods.iter().all(cluster::is_running);
            let select = Suite::of_run(&run.run_id);
            let wait =
                cluster::await_objects(suite.user_pods(), &select, "two pods to run", CLUSTER_LIMIT, running);
            suite.while_it_goes(run, wait).await?;

            suite.dagster.terminate(&run.run_id).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Canceled);
            assert!(!ended.can_terminate);
            Ok(suite.await_nothing_left_of(&run.run_id, CLUSTER_LIMIT).await?)
        })
        .await
}

#[tokio::test]
async fn terminating_a_run_deletes_the_job_its_op_made() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // A Job of an earlier run may be there still, in a namespace that was kept.
    let unique = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let job_name = format!("execute-k8s-job-{unique:x}");
    let config = in_process(json!({"ops": {"slow_execute_k8s_op": {"config": {
        "image": suite.contract.image("dagster-test")?,
        "namespace": suite.user_namespace(),
        "k8s_job_name": job_name,
    }}}}));
    suite
        .with_run(Launch::job("slow_execute_k8s_op_job").config(config), async |run| {
            let name = Select::Name(job_name.clone());
            let active =
                |jobs: &[Job]| jobs.iter().any(|job| job.status.as_ref().and_then(|s| s.ready) == Some(1));
            let wait =
                cluster::await_objects(suite.user_jobs(), &name, "the op's Job to run", RUN_LIMIT, active);
            let jobs = suite.while_it_goes(run, wait).await?;
            labels_of_run(only(&jobs, "Job of the op"), run, "k8s_job_op");
            assert!(suite.dagster.run(&run.run_id).await?.can_terminate);

            suite.dagster.terminate(&run.run_id).await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Canceled);
            assert!(!ended.can_terminate);
            Ok(suite.await_nothing_left_of(&run.run_id, CLUSTER_LIMIT).await?)
        })
        .await
}
