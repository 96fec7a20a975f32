//! What launching a run makes in the cluster, and how the run's end shows there.

use anyhow::Context;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::cluster;
use suite_support::expect::{labels_of_run, no_celery, only, only_container};
use suite_support::jobs::{RUN_LIMIT, in_process, words};
use suite_support::{Launch, RunStatus, Suite};

#[tokio::test]
async fn a_run_succeeds_in_a_job_and_pod_of_its_own() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    suite
        .with_run(Launch::job("demo_job").config(words(&json!(2))), async |run| {
            let ended = suite.succeeds(&run.run_id).await?;
            assert_eq!(ended.tag("dagster/image"), Some(image));

            let (job, pod) = suite.completed(run).await?;
            labels_of_run(&job, run, "run_worker");
            labels_of_run(&pod, run, "run_worker");
            let container = only_container(&pod);
            assert_eq!(container.image.as_deref(), Some(image));
            let log = cluster::logs(&suite.user_pods(), &pod.name_any(), &container.name, None).await?;
            assert!(log.contains("RUN_SUCCESS"), "the log of the run's pod does not tell its success");

            for pods in [suite.user_pods(), suite.system_pods()] {
                no_celery(&pods).await?;
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_celery_executor_is_refused() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("demo_job_celery_k8s").config(words(&json!(2))), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);

            let events = suite.dagster.events(&run.run_id).await?;
            let refusal = "This engine is only compatible with a CeleryK8sRunLauncher; configure the \
                           CeleryK8sRunLauncher on your instance to use it.";
            let told = events.iter().flat_map(|event| event.error_messages());
            let told: Vec<_> = told.filter(|message| message.ends_with(refusal)).collect();
            assert!(!told.is_empty(), "no event tells why the executor does not work");
            assert!(
                told.iter().all(|message| message.contains("DagsterUnmetExecutorRequirementsError")),
                "{told:?}"
            );

            assert!(!events.iter().any(|event| event.is("STEP_START")), "a step started all the same");
            let of_run = ListParams::default().labels(&format!("dagster/run-id={}", run.run_id));
            let jobs = suite.user_jobs().list(&of_run).await?.items;
            assert_eq!(only(&jobs, "Job of the run").name_any(), Suite::run_job_name(&run.run_id));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_failing_op_fails_the_run_and_not_its_job() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("always_fail_job").config(in_process(words(&json!(2)))), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);

            let events = suite.dagster.events(&run.run_id).await?;
            let failure = events.iter().find(|event| event.is("STEP_FAILURE"));
            let failure = failure.context("the run has no STEP_FAILURE")?;
            let messages: Vec<_> = failure.error_messages().collect();
            assert!(
                messages.iter().any(|message| message.ends_with("Exception: Op Exception Message")),
                "the op's exception is not among {messages:?}"
            );

            let (job, pod) = suite.completed(run).await?;
            let status = job.status.unwrap_or_default();
            assert_eq!((status.succeeded, status.failed.unwrap_or(0)), (Some(1), 0));
            let log =
                cluster::logs(&suite.user_pods(), &pod.name_any(), &only_container(&pod).name, None).await?;
            assert!(log.contains("RUN_FAILURE"), "the log of the run's pod does not tell its failure");
            assert!(!log.contains("RUN_SUCCESS"), "the log of the run's pod tells a success");
            Ok(())
        })
        .await
}
