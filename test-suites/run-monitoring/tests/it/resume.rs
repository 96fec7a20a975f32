//! Runs whose worker is lost: another takes its place, while the steps work on.

use anyhow::{Context, bail};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, EvictParams};
use serde_json::json;
use suite_support::cluster::{self, Select};
use suite_support::dagster::Event;
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Launch, Run, RunStatus, Suite, monitoring};

use crate::slow;

/// Waits for the step of a run to work, has its worker lost, and sees another end the run without a second attempt of the
/// step.
async fn survives(
    launch: Launch,
    lose: impl AsyncFnOnce(&Suite, &Run) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(launch, async |run| {
            suite.running_step(run).await?;
            lose(&suite, run).await?;
            worker(&suite, run, 1).await?;
            ends_after_one_attempt(&suite, run).await
        })
        .await
}

/// Waits for the end of a run that has lost a worker, which a second one brings about.
async fn ends_after_one_attempt(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    suite.succeeds(&run.run_id).await?;
    let events = suite.dagster.events(&run.run_id).await?;
    let attempts = events.iter().filter(|event| event.is("STEP_START")).count();
    assert_eq!(attempts, 1, "the step began so often");
    assert_eq!(suite.jobs_of(run, "step_worker").await?.len(), 1);
    let second = worker(suite, run, 1).await?;
    assert_eq!(second.labels().get("dagster/run-id").map(String::as_str), Some(run.run_id.as_str()));
    Ok(())
}

/// The Job of a run's worker after so many were lost, once it is made.
pub(crate) async fn worker(suite: &Suite, run: &Run, lost: u32) -> anyhow::Result<Job> {
    let name = format!("{}-{lost}", Suite::run_job_name(&run.run_id));
    let (select, what) = (Select::Name(name.clone()), "the run to be resumed");
    let jobs = cluster::await_objects(suite.user_jobs(), &select, what, RUN_LIMIT, |jobs| !jobs.is_empty());
    let failure = async {
        let failed = |event: &Event| event.is("RUN_FAILURE");
        let end = suite.dagster.await_event(&run.run_id, "its failure", RUN_LIMIT, failed).await.ok()?;
        // It may have been resumed, and have failed then.
        suite.user_jobs().get_opt(&name).await.ok()?.is_none().then_some(end)
    };
    let jobs = tokio::select! {
        jobs = jobs => jobs?,
        Some(end) = failure => bail!("it failed instead of being resumed: {end}"),
    };
    Ok(only(&jobs, "Job of the resumed run").clone())
}

#[tokio::test]
async fn a_run_whose_job_is_deleted_is_resumed() -> anyhow::Result<()> {
    survives(slow(25), async |suite, run| {
        let job = Suite::run_job_name(&run.run_id);
        suite.user_jobs().delete(&job, &DeleteParams::background()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_run_whose_pod_is_killed_is_resumed() -> anyhow::Result<()> {
    survives(slow(25), async |suite, run| {
        let pods = suite.pods_of(run, "run_worker").await?;
        Ok(cluster::kill(&suite.user_pods(), &only(&pods, "pod of the run").name_any()).await?)
    })
    .await
}

#[tokio::test]
async fn a_run_whose_pod_is_evicted_is_resumed() -> anyhow::Result<()> {
    survives(slow(25), async |suite, run| {
        let pods = suite.pods_of(run, "run_worker").await?;
        let pod = only(&pods, "pod of the run").name_any();
        suite.user_pods().evict(&pod, &EvictParams::default()).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_run_whose_pod_runs_out_of_memory_is_resumed() -> anyhow::Result<()> {
    survives(monitoring::with_little_memory(slow(25)), monitoring::fill_memory).await
}

/// Draining a node evicts its pods and keeps the next ones off it. A node that is cordoned would keep off those of all
/// suites; a gate keeps off this run's alone, until a node is to take them.
#[tokio::test]
async fn a_run_whose_node_is_drained_is_resumed_once_when_a_node_takes_it() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let gates = json!({"pod_spec_config": {"scheduling_gates": [{"name": "dagster.io/no-node"}]}});
    suite
        .with_run(slow(25).tag("dagster-k8s/config", gates.to_string()), async |run| {
            let first = Suite::run_job_name(&run.run_id);
            let pod = gated(&suite, &first).await?;
            cluster::ungate(&suite.user_pods(), &pod).await?;
            suite.running_step(run).await?;
            suite.user_pods().evict(&pod, &EvictParams::default()).await?;
            let second = worker(&suite, run, 1).await?.name_any();
            let pod = gated(&suite, &second).await?;
            // While no node takes the worker, the step works on, and the daemon does not count it as another loss.
            let done = "the step to end without a worker";
            suite.dagster.await_event(&run.run_id, done, RUN_LIMIT, |event| event.is("STEP_SUCCESS")).await?;
            assert_eq!(gated(&suite, &second).await?, pod);
            cluster::ungate(&suite.user_pods(), &pod).await?;
            ends_after_one_attempt(&suite, run).await?;
            let jobs = suite.jobs_of(run, "run_worker").await?;
            let mut names: Vec<_> = jobs.iter().map(ResourceExt::name_any).collect();
            names.sort();
            assert_eq!(names, [first, second]);
            Ok(())
        })
        .await
}

/// The name of a Job's only pod, once that is there and waits for its gates.
async fn gated(suite: &Suite, job: &str) -> anyhow::Result<String> {
    let select = Select::Labels(format!("job-name={job}"));
    let waits = |pods: &[Pod]| pods.len() == 1 && pods.iter().all(is_gated);
    let what = "a pod that no node takes";
    let pods = cluster::await_objects(suite.user_pods(), &select, what, RUN_LIMIT, waits).await?;
    Ok(only(&pods, "pod of the Job").name_any())
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
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
            let events = suite.dagster.events(&run.run_id).await?;
            let end = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            assert!(end.message.contains("maximum attempts to resume the run: 3"), "{end}");
            let jobs = suite.jobs_of(run, "run_worker").await?;
            let names: Vec<_> = jobs.iter().map(ResourceExt::name_any).collect();
            assert!(!names.contains(&format!("{first}-4")), "{names:?}");
            suite.delete_steps(run).await
        })
        .await
}
