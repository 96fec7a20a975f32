//! Dagster's Celery run launcher and executor, from outside: what becomes of steps that go to queues, and of a run whose worker or broker is lost.

mod by_hand;
mod deployment;
mod fail;
mod killed;
mod monitoring;
mod queues;
mod steps;
mod terminate;
mod without_broker;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use suite_support::cluster::{self, Select};
use suite_support::dagster::Event;
use suite_support::{Launch, Suite};

/// The bucket that is there from the start.
const BUCKET: &str = "dagster-scratch-80542c2";

/// A run of one step, which goes to the queue of its job and takes so long.
fn slow(job: &str, seconds: u32) -> Launch {
    Launch::job(job).config(json!({"ops": {"slow_op": {"config": {"seconds": seconds}}}}))
}

/// An executor's configuration that the run's pod reads from its environment: the chart says there where runs and steps belong.
fn by_environment() -> Value {
    json!({
        "job_namespace": {"env": "DAGSTER_K8S_PIPELINE_RUN_NAMESPACE"},
        "env_config_maps": ["dagster-pipeline-env"],
    })
}

/// The keys in the bucket that begin so, as its listing tells of them.
async fn in_s3(suite: &Suite, prefix: &str) -> anyhow::Result<Vec<String>> {
    let url = format!("{}/{BUCKET}?list-type=2&prefix={prefix}", suite.contract.url("s3")?);
    let listing = reqwest::get(&url).await?.error_for_status()?.text().await?;
    let keys = listing.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
    Ok(keys.map(str::to_owned).collect())
}

/// All pods of the release, Celery's workers among them.
fn of_release() -> Select {
    Select::Labels("app.kubernetes.io/instance=dagster".to_owned())
}

/// Those of these pods that work on a queue.
fn of_queue<'a>(pods: &'a [Pod], queue: &str) -> Vec<&'a Pod> {
    let prefix = format!("dagster-celery-workers-{queue}-");
    pods.iter().filter(|pod| pod.name_any().starts_with(&prefix)).collect()
}

/// The workers of a queue, once there are so many and each of them takes steps.
async fn workers(suite: &Suite, queue: &str, count: usize, limit: Duration) -> anyhow::Result<Vec<Pod>> {
    let ready = |pods: &[Pod]| {
        let workers = of_queue(pods, queue);
        workers.len() == count && workers.into_iter().all(cluster::is_ready)
    };
    let what = format!("{count} workers of the queue {queue} to be ready");
    let pods = cluster::await_objects(suite.system_pods(), &of_release(), &what, limit, ready).await?;
    Ok(of_queue(&pods, queue).into_iter().cloned().collect())
}

/// Whether an event tells that a worker took a step from its queue.
fn is_taken(event: &Event) -> bool {
    event.message.ends_with("picked up by Celery")
}

/// The worker that took a step from its queue, by the name of its pod.
fn taker(event: &Event) -> Option<&str> {
    event.detail("Celery worker Kubernetes Pod name")
}
