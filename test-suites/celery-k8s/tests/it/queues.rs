//! Which worker takes a step, and which step it takes first.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::json;
use suite_support::calm;
use suite_support::cluster;
use suite_support::dagster::Event;
use suite_support::expect::{labels_of_run, only_container};
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, executor, words};
use suite_support::{Launch, Run, Suite};

use crate::{BUCKET, by_environment, in_s3, is_taken, slow, taker, workers};

/// Added to the priority of each of a run's steps.
const PRIORITY: &str = "dagster-celery/run_priority";

#[tokio::test]
async fn each_step_is_a_job_that_a_worker_of_its_queue_makes() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let image = suite.contract.image("dagster-test")?;
    let mut how = by_environment();
    how["job_image"] = json!(image);
    // A variable: the run's pod and those of its steps read it.
    let mut config = executor(words(&json!({"env": "ENV_FACTOR"})), &how);
    config["resources"] = json!({"io_manager": {"config": {"s3_bucket": BUCKET}}});
    suite
        .succeeded(Launch::job("two_queues_job_celery_k8s").config(config), async |run| {
            assert_eq!(run.tag("dagster/image"), Some(image));
            let (_, pod) = suite.completed(run).await?;
            let log = cluster::logs(&suite.user_pods(), &pod.name_any(), "dagster", None).await?;
            assert!(log.contains("RUN_SUCCESS"), "the log of the run's pod does not tell its success");

            let events = suite.dagster.events(&run.run_id).await?;
            let select = Suite::component_of_run(&run.run_id, "step_worker");
            let finished = |jobs: &[Job]| jobs.len() == 2 && jobs.iter().all(cluster::is_finished);
            let what = "two Jobs of steps to end";
            let jobs =
                cluster::await_objects(suite.user_jobs(), &select, what, CLUSTER_LIMIT, finished).await?;
            for (step, queue, count) in
                [("multiply_the_word", "dagster", 2), ("count_letters", "extra-queue-1", 1)]
            {
                let told: Vec<_> =
                    events.iter().filter(|event| event.step_key.as_deref() == Some(step)).collect();
                let submitted = format!("Submitting celery task for step \"{step}\" to queue \"{queue}\".");
                assert_eq!(told.iter().filter(|event| event.message == submitted).count(), 1, "{submitted}");
                let taken: Vec<_> = told.iter().filter(|event| is_taken(event)).collect();
                let [taken] = taken[..] else { panic!("{step} was not taken once but by {taken:?}") };
                let workers = workers(&suite, queue, count, RUN_LIMIT).await?;
                let workers: Vec<_> = workers.iter().map(ResourceExt::name_any).collect();
                assert!(
                    taker(taken).is_some_and(|name| workers.iter().any(|worker| worker == name)),
                    "{:?} took {step} from the queue {queue}, whose workers are {workers:?}",
                    taker(taken)
                );

                let job = jobs.iter().find(|job| job.labels().get("dagster/op").is_some_and(|op| op == step));
                let job = job.unwrap_or_else(|| panic!("{step} has no Job"));
                let made = format!("Executing step \"{step}\" in Kubernetes job {}.", job.name_any());
                assert_eq!(told.iter().filter(|event| event.message.ends_with(&made)).count(), 1, "{made}");
                labels_of_run(job, run, "step_worker");
                assert!(cluster::is_complete(job), "{} did not end well", job.name_any());
            }
            for pod in suite.pods_of(run, "step_worker").await? {
                assert_eq!(only_container(&pod).image.as_deref(), Some(image));
            }
            // What the one step has handed on to the other.
            let kept = in_s3(&suite, &format!("dagster/storage/{}/", run.run_id)).await?;
            assert!(
                kept.iter().any(|key| key.contains("/multiply_the_word/")),
                "in S3 of this run: {kept:?}"
            );
            Ok(())
        })
        .await
}

/// Waits until the slow step of a run is in its queue: the other one is submitted after it.
async fn is_queued(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    let next = |event: &Event| event.message.starts_with("Submitting celery task for step \"trailing_op\"");
    suite.dagster.await_event(&run.run_id, "its next step to be submitted", RUN_LIMIT, next).await?;
    Ok(())
}

/// The event that tells that the slow step of a run was taken from its queue.
async fn is_begun(suite: &Suite, run: &Run) -> anyhow::Result<Event> {
    let taken = |event: &Event| event.step_key.as_deref() == Some("slow_op") && is_taken(event);
    Ok(suite.dagster.await_event(&run.run_id, "its step to be taken", RUN_LIMIT, taken).await?)
}

#[tokio::test]
async fn of_the_steps_that_wait_for_a_worker_the_more_urgent_goes_first() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    // To RabbitMQ the highest number is the most urgent, to Redis the lowest: Celery passes it on as it is.
    let more_urgent = if suite.contract.variant() == "redis" { "-6" } else { "3" };
    let step = |seconds| slow("one_at_a_time_job_celery_k8s", seconds);
    suite
        .with_run(step(1000), async |first| {
            // It keeps the queue's only worker from all others.
            is_begun(&suite, first).await?;
            suite
                .with_run(step(0), async |ordinary| {
                    is_queued(&suite, ordinary).await?;
                    suite
                        .with_run(step(0).tag(PRIORITY, more_urgent), async |urgent| {
                            is_queued(&suite, urgent).await?;
                            suite.dagster.terminate(&first.run_id).await?;
                            let after = is_begun(&suite, ordinary).await?;
                            let before = is_begun(&suite, urgent).await?;
                            assert!(before.is_before(&after), "what came first into the queue went first");
                            // Their other steps would keep the worker from other tests, and one of those takes the broker away.
                            for run in [ordinary, urgent] {
                                suite.stop(&run.run_id).await?;
                            }
                            Ok(())
                        })
                        .await
                })
                .await
        })
        .await
}
