//! Whether a workload is ready, as a pure function of the object.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, DeploymentCondition, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use kube::api::DynamicObject;

use super::verdict::is_ready;
use crate::text;

/// The update strategy by which pods stay as they are until somebody deletes them.
const ON_DELETE: &str = "OnDelete";

/// How far a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It runs as asked for.
    Ready,
    /// It is on its way: what is missing.
    Waiting(String),
    /// It will not get there: why.
    Failed(String),
}

/// Objects whose readiness is known.
pub(super) trait HasState {
    /// How far it is.
    fn state(&self) -> State;
}

/// What is waited for while an object's status is of an older specification.
pub(super) const UNSEEN: &str = "its controller has not seen it yet";

/// The first thing that is missing, in the order in which they come about.
fn first_missing(checks: impl IntoIterator<Item = (bool, String)>) -> State {
    checks.into_iter().find(|(holds, _)| !holds).map_or(State::Ready, |(_, missing)| State::Waiting(missing))
}

/// The controller has seen the specification that we see; before, its status speaks of an older one.
fn observed(observed: Option<i64>, generation: Option<i64>) -> (bool, String) {
    (observed.unwrap_or(0) >= generation.unwrap_or(0), UNSEEN.to_owned())
}

/// The condition by which a Deployment says that it gets no further. Pods that it may not make are its ReplicaSet's to tell of:
/// some may be made a moment later.
fn failure(conditions: &[DeploymentCondition]) -> Option<String> {
    let failed = conditions.iter().find(|condition| {
        (condition.type_.as_str(), condition.status.as_str()) == ("Progressing", "False")
    })?;
    let reason = failed.reason.as_deref().unwrap_or(&failed.type_);
    Some(format!("it gets no further: {reason}: {}", failed.message.as_deref().unwrap_or_default()))
}

impl HasState for Deployment {
    fn state(&self) -> State {
        let status = self.status.clone().unwrap_or_default();
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let updated = status.updated_replicas.unwrap_or(0);
        let available = status.available_replicas.unwrap_or(0);
        if status.observed_generation == self.metadata.generation
            && let Some(why) = failure(&status.conditions.clone().unwrap_or_default())
        {
            return State::Failed(why);
        }
        let older = usize::try_from(status.replicas.unwrap_or(0) - updated).unwrap_or(0);
        first_missing([
            observed(status.observed_generation, self.metadata.generation),
            (updated >= wanted, format!("{updated} of {wanted} pods are made")),
            (older == 0, format!("{} of an older revision still there", text::count(older, "pod"))),
            (available >= updated, format!("{available} of {updated} pods are available")),
        ])
    }
}

impl HasState for StatefulSet {
    fn state(&self) -> State {
        let status = self.status.clone().unwrap_or_default();
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = status.ready_replicas.unwrap_or(0);
        let updated = status.updated_replicas.unwrap_or(0);
        let renewed = wanted - kept_back(self);
        let rolling = status.update_revision != status.current_revision && updated < renewed;
        first_missing([
            observed(status.observed_generation, self.metadata.generation),
            (!rolling, format!("{updated} of {renewed} pods are of the new revision")),
            (ready >= wanted, format!("{ready} of {wanted} pods are ready")),
        ])
    }
}

/// How many pods of a StatefulSet stay of the old revision until somebody deletes them or moves the partition.
pub(super) fn kept_back(set: &StatefulSet) -> i32 {
    let Some(spec) = &set.spec else { return 0 };
    let wanted = spec.replicas.unwrap_or(1);
    let strategy = spec.update_strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some(ON_DELETE) {
        return wanted;
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    rolling.and_then(|rolling| rolling.partition).unwrap_or(0).clamp(0, wanted)
}

impl HasState for DaemonSet {
    fn state(&self) -> State {
        let status = self.status.clone().unwrap_or_default();
        let wanted = status.desired_number_scheduled;
        let updated = status.updated_number_scheduled.unwrap_or(0);
        let strategy = self.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref());
        let renewed = if strategy == Some(ON_DELETE) { 0 } else { wanted };
        let available = status.number_available.unwrap_or(0);
        first_missing([
            observed(status.observed_generation, self.metadata.generation),
            (updated >= renewed, format!("{updated} of {renewed} pods are made")),
            (available >= wanted, format!("{available} of {wanted} pods are available")),
        ])
    }
}

impl HasState for ReplicaSet {
    fn state(&self) -> State {
        let status = self.status.clone().unwrap_or_default();
        let wanted = self.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let available = status.available_replicas.unwrap_or(0);
        first_missing([
            observed(status.observed_generation, self.metadata.generation),
            (available >= wanted, format!("{available} of {wanted} pods are available")),
        ])
    }
}

impl HasState for Pod {
    fn state(&self) -> State {
        let status = self.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some("Succeeded") => State::Ready,
            Some("Failed") => {
                let (reason, message) =
                    (status.reason.unwrap_or_default(), status.message.unwrap_or_default());
                State::Failed(format!("it failed: {reason}: {message}"))
            }
            _ => first_missing([(is_ready(self), "it is not ready yet".to_owned())]),
        }
    }
}

impl HasState for Job {
    fn state(&self) -> State {
        // It waits for whoever resumes it, which is nothing of the release.
        if self.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
            return State::Ready;
        }
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let holds = |name: &str| {
            conditions.iter().find(|condition| condition.type_ == name && condition.status == "True")
        };
        if let Some(failed) = holds("Failed") {
            let reason = failed.reason.clone().unwrap_or_default();
            return State::Failed(format!(
                "it failed: {reason}: {}",
                failed.message.clone().unwrap_or_default()
            ));
        }
        let active = usize::try_from(status.active.unwrap_or(0)).unwrap_or(0);
        let done = holds("Complete").is_some() || holds("SuccessCriteriaMet").is_some();
        first_missing([(done, format!("{} at work", text::count(active, "pod")))])
    }
}

/// A custom resource is judged by the conditions that most controllers set; one without any is ready as it is.
/// See <https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md>.
pub(super) fn custom(object: &DynamicObject) -> State {
    let data = &object.data;
    let observed = data.pointer("/status/observedGeneration").and_then(serde_json::Value::as_i64);
    if observed.is_some() && observed < object.metadata.generation {
        return State::Waiting(UNSEEN.to_owned());
    }
    let Some(conditions) = data.pointer("/status/conditions").and_then(serde_json::Value::as_array) else {
        return State::Ready;
    };
    let text = |condition: &serde_json::Value, key: &str| {
        condition.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let find = |names: &[&str], status: &str| {
        conditions
            .iter()
            .find(|one| names.contains(&text(one, "type").as_str()) && text(one, "status") == status)
    };
    if let Some(failed) = find(&["Stalled", "Failed"], "True") {
        return State::Failed(format!("{}: {}", text(failed, "reason"), text(failed, "message")));
    }
    let ready = ["Ready", "Available", "Established", "Synced", "Reconciled"];
    match find(&ready, "False").or_else(|| find(&ready, "Unknown")) {
        Some(missing) => {
            State::Waiting(format!("it is not {} yet: {}", text(missing, "type"), text(missing, "message")))
        }
        None => State::Ready,
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    #[track_caller]
    fn check<K: HasState + DeserializeOwned>(text: &str, expected: &str) {
        let object: K = serde_yaml::from_str(text).unwrap();
        let shown = match object.state() {
            State::Ready => "ready".to_owned(),
            State::Waiting(why) => format!("waiting: {why}"),
            State::Failed(why) => format!("failed: {why}"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn pods_that_stay_of_the_old_revision_are_not_waited_for() {
        let set = |strategy: &str, updated: u32| {
            format!(
                "metadata: {{generation: 2}}\nspec: {{replicas: 3, updateStrategy: {strategy}}}\nstatus: {{observedGeneration: 2, readyReplicas: 3, updatedReplicas: {updated}, updateRevision: b, currentRevision: a}}\n"
            )
        };
        check::<StatefulSet>(
            &set("{type: RollingUpdate}", 0),
            "waiting: 0 of 3 pods are of the new revision",
        );
        check::<StatefulSet>(&set("{type: OnDelete}", 0), "ready");
        let partition = "{type: RollingUpdate, rollingUpdate: {partition: 2}}";
        check::<StatefulSet>(&set(partition, 0), "waiting: 0 of 1 pods are of the new revision");
        check::<StatefulSet>(&set(partition, 1), "ready");
        let daemons = "metadata: {generation: 2}\nspec: {updateStrategy: {type: OnDelete}}\nstatus: {observedGeneration: 2, desiredNumberScheduled: 1, numberAvailable: 1, updatedNumberScheduled: 0}\n";
        check::<DaemonSet>(daemons, "ready");
        check::<Job>("spec: {suspend: true}\n", "ready");
    }

    #[test]
    fn a_deployment_of_an_unseen_generation_is_not_ready() {
        check::<Deployment>(
            "{metadata: {generation: 2}, spec: {replicas: 1, selector: {}, template: {}}, status: {observedGeneration: 1, replicas: 1, updatedReplicas: 1, availableReplicas: 1}}",
            "waiting: its controller has not seen it yet",
        );
    }

    #[test]
    fn a_deployment_waits_for_its_old_pods_to_go() {
        check::<Deployment>(
            "{metadata: {generation: 1}, spec: {replicas: 1, selector: {}, template: {}}, status: {observedGeneration: 1, replicas: 2, updatedReplicas: 1, availableReplicas: 2}}",
            "waiting: 1 pod of an older revision still there",
        );
    }

    #[test]
    fn a_deployment_is_ready_when_its_pods_are_available() {
        let text = |available: i32| {
            format!(
                "{{metadata: {{generation: 1}}, spec: {{replicas: 2, selector: {{}}, template: {{}}}}, status: {{observedGeneration: 1, replicas: 2, updatedReplicas: 2, availableReplicas: {available}}}}}"
            )
        };
        check::<Deployment>(&text(1), "waiting: 1 of 2 pods are available");
        check::<Deployment>(&text(2), "ready");
    }

    #[test]
    fn a_new_object_without_status_is_not_ready() {
        check::<Deployment>(
            "{metadata: {generation: 1}, spec: {selector: {}, template: {}}}",
            "waiting: its controller has not seen it yet",
        );
        check::<StatefulSet>(
            "{metadata: {generation: 1}, spec: {selector: {}, serviceName: s, template: {}}}",
            "waiting: its controller has not seen it yet",
        );
        check::<DaemonSet>(
            "{metadata: {generation: 1}, spec: {selector: {}, template: {}}}",
            "waiting: its controller has not seen it yet",
        );
    }

    #[test]
    fn a_stateful_set_counts_ready_pods_of_the_new_revision() {
        let text = |ready: i32, current: &str| {
            format!(
                "{{metadata: {{generation: 3}}, spec: {{replicas: 1, selector: {{}}, serviceName: s, template: {{}}}}, status: {{observedGeneration: 3, replicas: 1, readyReplicas: {ready}, currentRevision: {current}, updateRevision: b}}}}"
            )
        };
        check::<StatefulSet>(&text(1, "a"), "waiting: 0 of 1 pods are of the new revision");
        check::<StatefulSet>(&text(0, "b"), "waiting: 0 of 1 pods are ready");
        check::<StatefulSet>(&text(1, "b"), "ready");
    }

    #[test]
    fn a_deployment_that_may_not_make_pods_yet_is_waited_for() {
        check::<Deployment>(
            "{metadata: {generation: 1}, spec: {selector: {}, template: {}}, status: {observedGeneration: 1, conditions: [{type: ReplicaFailure, status: 'True', reason: FailedCreate, message: exceeded quota}]}}",
            "waiting: 0 of 1 pods are made",
        );
    }

    #[test]
    fn a_job_ends_either_way() {
        check::<Job>("{status: {active: 1}}", "waiting: 1 pod at work");
        check::<Job>("{status: {conditions: [{type: Complete, status: 'True'}]}}", "ready");
        check::<Job>(
            "{status: {conditions: [{type: Failed, status: 'True', reason: BackoffLimitExceeded, message: too often}]}}",
            "failed: it failed: BackoffLimitExceeded: too often",
        );
    }
}
