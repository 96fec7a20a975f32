//! Pods of runs and steps, as the launcher, the code location, tags, executors and ops configure them.

mod layers;
mod run_pod;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};
use suite_support::Launch;
use suite_support::jobs::{in_process, words};

/// The tag by which a run, a job or an op configures its pod.
const TAG: &str = "dagster-k8s/config";

/// A short run in one pod, which is configured so by a tag.
fn tagged(config: &Value) -> Launch {
    Launch::job("demo_job").config(in_process(words(&json!(2)))).tag(TAG, config.to_string())
}

/// What a variable of a container is, the last of that name counts; nothing where it comes from elsewhere or is not set.
fn variable<'a>(container: &'a Container, name: &str) -> Option<&'a str> {
    let mut all = container.env.iter().flatten().filter(|variable| variable.name == name);
    all.next_back()?.value.as_deref()
}

/// Where a container has volumes.
fn mounts(container: &Container) -> Vec<&str> {
    container.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect()
}

/// How long a pod may take to end, in seconds.
fn grace(pod: &Pod) -> Option<i64> {
    pod.spec.as_ref()?.termination_grace_period_seconds
}

fn account(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref())
}
