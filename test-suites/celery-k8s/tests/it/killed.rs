//! A worker is killed while it follows a step. Celery lets it say that a task is done either when it begins, as is the default, or when it is done.

use anyhow::Context;
use kube::ResourceExt;
use suite_support::calm;
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Run, RunStatus, Suite};

use crate::{is_taken, slow, taker};

/// How long the steps take: longer than it may take from when they are seen to work until their worker is killed.
const SECONDS: u32 = 20;

/// Waits for the step of a run to work, and kills the worker that follows it, which is its queue's; gives the worker's name.
async fn kill_worker(suite: &Suite, run: &Run, queue: &str) -> anyhow::Result<String> {
    suite.running_step(run).await?;
    let events = suite.dagster.events(&run.run_id).await?;
    let worker = events.iter().find(|event| is_taken(event)).and_then(taker).context("nobody took it")?;
    assert!(worker.starts_with(&format!("dagster-celery-workers-{queue}-")), "{worker} took it");
    cluster::kill(&suite.system_pods(), worker).await?;
    Ok(worker.to_owned())
}

#[tokio::test]
async fn a_step_whose_worker_is_killed_ends_and_its_run_does_not() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(slow("acks_early_job_celery_k8s", SECONDS), async |lost| {
            let killed = kill_worker(&suite, lost, "acks-early").await?;
            let success = |event: &suite_support::dagster::Event| event.is("STEP_SUCCESS");
            let what = "its step to end";
            let success = suite.dagster.await_event(&lost.run_id, what, RUN_LIMIT, success).await?;
            // In the time that the next worker takes for a step that starts later, it or another would have told the run.
            suite
                .succeeded(slow("acks_early_job_celery_k8s", 0), async |later| {
                    let events = suite.dagster.events(&later.run_id).await?;
                    let taken = events.iter().find(|event| is_taken(event));
                    assert!(taken.is_some_and(|taken| success.is_before(taken)), "it was taken too early");
                    let by = taken.and_then(taker).map(str::to_owned);
                    assert!(by.is_some() && by.as_deref() != Some(killed.as_str()), "taken by {by:?}");
                    Ok(())
                })
                .await?;
            let now = suite.dagster.run(&lost.run_id).await?;
            assert_eq!(now.status, RunStatus::Started);
            let events = suite.dagster.events(&lost.run_id).await?;
            assert_eq!(events.iter().filter(|event| is_taken(event)).count(), 1, "taken so often");
            // It would wait for ever.
            Ok(suite.dagster.terminate(&lost.run_id).await?)
        })
        .await
}

#[tokio::test]
async fn a_step_whose_worker_is_killed_is_followed_on_where_workers_confirm_late() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .with_run(slow("acks_late_job_celery_k8s", SECONDS), async |run| {
            let killed = kill_worker(&suite, run, "acks-late").await?;
            suite.succeeds(&run.run_id).await?;

            let events = suite.dagster.events(&run.run_id).await?;
            let takers: Vec<_> = events.iter().filter(|event| is_taken(event)).filter_map(taker).collect();
            // With Redis it may have been given to the same worker once more, before that was killed.
            assert!(takers.first() == Some(&killed.as_str()), "taken by {takers:?}");
            assert!(takers.last() != Some(&killed.as_str()), "taken by {takers:?}");
            // The same Job, which began its step once.
            let jobs = suite.jobs_of(run, "step_worker").await?;
            let job = only(&jobs, "Job of a step").name_any();
            let kept =
                format!("Did not create Kubernetes job {job} for step slow_op since job name already exists");
            assert!(events.iter().any(|event| event.message.contains(&kept)), "no event tells: {kept}");
            assert_eq!(events.iter().filter(|event| event.is("STEP_START")).count(), 1, "steps begun");
            Ok(())
        })
        .await
}
