//! How a pod or a Job is, in a line for people and as conditions for waits.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, ContainerStatus, Pod};
use kube::ResourceExt;

/// An object that can say in a line how it is.
pub trait State {
    /// The line.
    fn state(&self) -> String;
}

impl State for Pod {
    fn state(&self) -> String {
        let status = self.status.as_ref();
        let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or("no phase yet");
        let mut parts = vec![format!("pod {} {phase}", self.name_any())];
        if self.metadata.deletion_timestamp.is_some() {
            parts.push("being deleted".to_owned());
        }
        if let Some(status) = status {
            parts.extend(status.reason.iter().cloned());
            parts.extend(unmet(self));
            let containers =
                status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            parts.extend(containers.filter_map(container_state));
        }
        parts.join(", ")
    }
}

/// Why a pod has no node.
fn unmet(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    scheduled.message.clone()
}

fn container_state(container: &ContainerStatus) -> Option<String> {
    let ContainerState { waiting, terminated, running } = container.state.as_ref()?;
    let told = if let Some(waiting) = waiting {
        let reason = waiting.reason.as_deref().unwrap_or("waiting");
        match waiting.message.as_deref() {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        }
    } else if let Some(terminated) = terminated {
        format!("exit {} {}", terminated.exit_code, terminated.reason.as_deref().unwrap_or_default())
    } else if running.is_some() && !container.ready {
        "running, not ready".to_owned()
    } else {
        "running".to_owned()
    };
    Some(format!("{}: {}", container.name, told.trim_end()))
}

impl State for ConfigMap {
    fn state(&self) -> String {
        format!("ConfigMap {}", self.name_any())
    }
}

impl State for Job {
    fn state(&self) -> String {
        let status = self.status.clone().unwrap_or_default();
        let mut parts = vec![format!(
            "Job {}: {} active, {} succeeded, {} failed",
            self.name_any(),
            status.active.unwrap_or(0),
            status.succeeded.unwrap_or(0),
            status.failed.unwrap_or(0)
        )];
        if self.metadata.deletion_timestamp.is_some() {
            parts.push("being deleted".to_owned());
        }
        let conditions = status.conditions.into_iter().flatten().filter(|c| c.status == "True");
        parts.extend(conditions.map(|c| match c.message {
            Some(message) if !message.is_empty() => format!("{}: {message}", c.type_),
            _ => c.type_,
        }));
        parts.join(", ")
    }
}

/// Whether a Job has ended well.
pub fn is_complete(job: &Job) -> bool {
    has_condition(job, "Complete")
}

/// Whether a Job has ended, well or not.
pub fn is_finished(job: &Job) -> bool {
    is_complete(job) || has_condition(job, "Failed")
}

fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

/// Whether a pod is there and works.
pub fn is_running(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running")
}

/// Whether a pod runs, and its containers say that they can do their work.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    is_running(pod) && conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn object<T: DeserializeOwned>(json: Value) -> T {
        serde_json::from_value(json).unwrap()
    }

    #[track_caller]
    fn check_pod(json: Value, expected: &str) {
        assert_eq!(object::<Pod>(json).state(), expected);
    }

    #[test]
    fn a_pod_without_node_says_why() {
        check_pod(
            json!({"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}]}}),
            "pod p Pending, 0/1 nodes are available: 1 Insufficient cpu.",
        );
    }

    #[test]
    fn a_container_without_image_says_so() {
        check_pod(
            json!({"metadata": {"name": "p"}, "status": {"phase": "Pending", "containerStatuses": [
                {"name": "dagster", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]}}),
            "pod p Pending, dagster: ErrImagePull: not found",
        );
    }

    #[test]
    fn an_ended_container_says_how() {
        check_pod(
            json!({"metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
                "status": {"phase": "Failed", "reason": "Evicted", "containerStatuses": [
                {"name": "dagster", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]}}),
            "pod p Failed, being deleted, Evicted, dagster: exit 137 OOMKilled",
        );
    }

    #[test]
    fn a_job_tells_its_counts_and_conditions() {
        let job: Job = object(json!({"metadata": {"name": "j"}, "status": {"failed": 1, "conditions": [
            {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]}}));
        assert_eq!(
            job.state(),
            "Job j: 0 active, 0 succeeded, 1 failed, Failed: Job has reached the specified backoff limit"
        );
        assert!(is_finished(&job) && !is_complete(&job));
    }

    #[test]
    fn a_job_is_complete_by_its_condition() {
        let job = |kind: &str, status: &str| -> Job {
            object(json!({"metadata": {"name": "j"}, "status": {"succeeded": 1, "conditions": [
                {"type": kind, "status": status}]}}))
        };
        assert!(is_complete(&job("Complete", "True")) && is_finished(&job("Complete", "True")));
        for going_on in [job("Complete", "False"), job("SuccessCriteriaMet", "True"), Job::default()] {
            assert!(!is_complete(&going_on) && !is_finished(&going_on));
        }
    }

    #[test]
    fn a_pod_that_is_being_deleted_does_not_run() {
        let pod = |deleted: Value| -> Pod {
            object(
                json!({"metadata": {"name": "p", "deletionTimestamp": deleted}, "status": {"phase": "Running"}}),
            )
        };
        assert!(is_running(&pod(Value::Null)));
        assert!(!is_running(&pod(json!("2026-01-01T00:00:00Z"))));
    }

    #[test]
    fn a_pod_is_ready_by_its_condition() {
        let pod = |phase: &str, status: &str| -> Pod {
            object(json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [
                {"type": "Ready", "status": status}]}}))
        };
        assert!(is_ready(&pod("Running", "True")));
        assert!(!is_ready(&pod("Running", "False")) && !is_ready(&pod("Succeeded", "True")));
    }
}
