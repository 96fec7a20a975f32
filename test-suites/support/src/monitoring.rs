//! What Dagster's run monitoring does, whichever launcher the runs have.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;

use crate::cluster::{self, Select};
use crate::expect::{only, only_container};
use crate::jobs::CLUSTER_LIMIT;
use crate::{Launch, Run, RunStatus, Suite};

/// By the signal 9, which the kernel sends to who has filled the memory.
const KILLED: i32 = 128 + 9;

/// The same run, with a worker whose memory [`fill_memory`] can fill.
pub fn with_little_memory(launch: Launch) -> Launch {
    let small = json!({
        "container_config": {
            "resources": {"limits": {"memory": "512Mi"}},
            "volume_mounts": [{"name": "memory", "mount_path": "/memory"}],
        },
        "pod_spec_config": {"volumes": [{"name": "memory", "empty_dir": {"medium": "Memory"}}]},
    });
    launch.tag("dagster-k8s/config", small.to_string())
}

/// Has the worker of a run killed by the kernel: without a signal before, at which Dagster would end the run by itself. That is
/// what a pod gets which is deleted, also without grace.
///
/// # Errors
/// The worker does not end by that.
///
/// # Panics
/// The run has not one worker.
pub async fn fill_memory(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    let pods = suite.pods_of(run, "run_worker").await?;
    let pod = only(&pods, "pod of the run");
    // A file in memory counts for the container and for no process, so the kernel ends the greatest: the run's.
    let fill = ["sh", "-c", "head -c 1G /dev/zero > /memory/file"];
    let (pods, name, container) = (suite.user_pods(), pod.name_any(), &only_container(pod).name);
    let filled = cluster::execute(&pods, &name, container, &fill, CLUSTER_LIMIT).await;
    let killed = |pods: &[Pod]| pods.iter().any(is_killed);
    let what = format!("the run's pod to run out of memory, which was filled with the result {filled:?}");
    cluster::await_objects(pods, &Select::Name(name), &what, CLUSTER_LIMIT, killed).await?;
    Ok(())
}

fn is_killed(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let mut states = statuses.into_iter().flatten().filter_map(|status| status.state.as_ref());
    // The reason is no evidence: where another process of the container was ended it is OOMKilled too, and where the container's end
    // was heard of before its lack of memory it is Error.
    states.any(|state| state.terminated.as_ref().is_some_and(|end| end.exit_code == KILLED))
}

/// Launches a run whose pod cannot start, and sees it fail after so many seconds and not before.
///
/// # Errors
/// It cannot be launched, or does not end.
///
/// # Panics
/// It ends otherwise.
pub async fn fails_to_start(suite: &Suite, launch: Launch, seconds: u64) -> anyhow::Result<()> {
    let missing =
        json!({"container_config": {"env_from": [{"config_map_ref": {"name": "non-existent-config-map"}}]}});
    suite
        .with_run(launch.tag("dagster-k8s/config", missing.to_string()), async |run| {
            let limit = Duration::from_secs(seconds) + CLUSTER_LIMIT;
            let ended = suite.dagster.await_end(&run.run_id, limit).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            assert!(!events.iter().any(|event| event.is("RUN_START")), "the run started all the same");
            let failure = events.iter().find(|event| event.is("RUN_FAILURE")).context("no RUN_FAILURE")?;
            let why = format!("taking longer than {seconds} seconds to start");
            assert!(failure.message.contains(&why), "{failure}");
            // As configured, and not as long as a run may take.
            let launched = events.first().context("no event")?;
            let after = failure.since(launched).context("events without times")?;
            assert!(after.as_secs() >= seconds, "it failed after {after:?}");
            Ok(())
        })
        .await
}
