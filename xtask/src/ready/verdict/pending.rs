//! What keeps pods from being made, placed on a node and given their volumes.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Resource, ResourceExt};

use super::{CauseKind, Finding, Look, State, after, missing};
use crate::ready::asked::{Item, Kind};
use crate::ready::cause::Cause;
use crate::ready::object::{Key, autoscaler_status};
use crate::ready::world::World;

/// How long the scheduler's first answer may be outdated by what is being made beside it.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a cause may show while nodes or volumes are being got ready.
const NODE_TIME: Duration = Duration::from_secs(30);

fn message(event: &Event) -> &str {
    event.message.as_deref().unwrap_or_default()
}

/// The newest event of these reasons.
fn newest<'a>(look: &Look<'a>, kind: &str, key: &Key, reasons: &[&str]) -> Option<&'a Event> {
    let events = look.world.events_of(kind, key);
    events.into_iter().rev().find(|event| reasons.contains(&event.reason.as_deref().unwrap_or_default()))
}

/// What a workload's controller says of the pods that it may not make, and what a Deployment says of itself.
pub(super) fn controller(look: &Look<'_>, item: &Item) -> Vec<Finding> {
    let mut found = Vec::new();
    if item.kind == Kind::Deployment
        && let Some(deployment) = look.world.deployments.get(&item.key)
        && deployment.spec.as_ref().is_some_and(|spec| spec.paused == Some(true))
    {
        let text = "it is paused, so its pods are not made anew".to_owned();
        found.push(Finding::fatal(Cause::new(CauseKind::Paused, text)));
    }
    if let Some(deployment) = look.world.deployments.get(&item.key).filter(|_| item.kind == Kind::Deployment)
        && let Some(failure) = deployment
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")
    {
        let since = failure.last_transition_time.as_ref().map(|time| time.0).max(look.world.begun);
        found.push(refused(look, item, failure.message.as_deref().unwrap_or_default(), since));
    }
    let (kind, key) = match item.kind {
        Kind::Deployment => match look.world.newest_replica_set(&item.key) {
            Some(set) => ("ReplicaSet", set),
            None => return found,
        },
        Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet | Kind::Job => {
            (item.kind.name(), item.key.clone())
        }
        _ => return found,
    };
    // One that is followed by a pod was overcome.
    let made = look.world.pods_of(kind, &key).filter_map(|(_, pod)| pod.meta().creation_timestamp.as_ref());
    let made = made.map(|time| time.0).max();
    if let Some(event) = newest(look, kind, &key, &["FailedCreate"])
        && look.world.last_time(event) >= made
    {
        let finding = refused(look, item, message(event), look.world.first_time(event));
        found.push(if look.world.is_fresh(event) { finding } else { Finding::open(finding.cause) });
    }
    found
}

/// What the API server says when it does not let a pod be made.
fn refused(look: &Look<'_>, item: &Item, said: &str, since: Option<Timestamp>) -> Finding {
    let has = |part: &str| said.contains(part);
    if let Some(name) = said.split("serviceaccount \"").nth(1).and_then(|rest| rest.split('"').next())
        && has("not found")
    {
        let cause =
            Cause::new(CauseKind::ServiceAccount, format!("the ServiceAccount {name} does not exist"));
        // The default one comes a moment after its namespace.
        let limit = if name == "default" {
            after(since, NODE_TIME)
        } else {
            missing::patience(look, "ServiceAccount", &Key::new(&item.key.namespace, name), since)
        };
        return Finding::until(cause.said(said), limit);
    }
    if has("exceeded quota") || has("failed quota") || has("LimitRange") || has("usage per ") {
        let cause = Cause::new(CauseKind::Quota, "a quota of the namespace does not let its pods be made");
        let going =
            look.world.pods.iter().any(|(at, pod)| {
                at.namespace == item.key.namespace && pod.meta().deletion_timestamp.is_some()
            });
        // What the pods that go hold is free in a moment.
        let limit = if going { None } else { after(since, SETTLE) };
        return Finding::until(cause.said(said), limit);
    }
    if has("failed calling webhook") {
        let text = "an admission webhook that must be asked before a pod is made gives no answer";
        return Finding::until(
            Cause::new(CauseKind::Admission, text).said(said),
            after(since, look.patience.missing),
        );
    }
    if has("denied the request") || has("violates PodSecurity") || has("ValidatingAdmissionPolicy") {
        let cause = Cause::new(CauseKind::Admission, "an admission policy does not let its pods be made");
        return Finding::fatal(cause.said(said));
    }
    if has("is forbidden: User") {
        let cause = Cause::new(CauseKind::Rbac, "its controller may not make its pods");
        return Finding::fatal(cause.said(said));
    }
    if has("is invalid") || has("no PriorityClass") || has("is forbidden") {
        let cause = Cause::new(CauseKind::Admission, "the API server does not accept its pods");
        return Finding::until(cause.said(said), after(since, SETTLE));
    }
    Finding::open(Cause::new(CauseKind::Admission, "its pods cannot be made").said(said))
}

/// How long no node may fit a pod: where nodes may be added, until whoever adds them has had the time to say so.
fn no_node(look: &Look<'_>, key: &Key) -> Duration {
    let refused = newest(look, "Pod", key, &["NotTriggerScaleUp"]).is_some();
    if !refused && may_grow(look) { look.patience.resources } else { SETTLE }
}

/// Whether there is anybody who adds nodes when pods find none.
fn may_grow(look: &Look<'_>) -> bool {
    let World { nodes, events, .. } = look.world;
    let by_name = |name: &str| ["cluster-autoscaler", "karpenter"].contains(&name);
    look.world.has("ConfigMap", &autoscaler_status()) == Some(true)
        || nodes.values().any(|node| node.labels().contains_key("karpenter.sh/nodepool"))
        || events.values().any(|event| {
            let source = event.source.as_ref().and_then(|source| source.component.as_deref());
            source.or(event.reporting_component.as_deref()).is_some_and(by_name)
        })
}

/// Why the scheduler has no node for a pod.
pub(super) fn scheduling(look: &Look<'_>, key: &Key, pod: &Pod) -> Option<Finding> {
    let status = pod.status.as_ref()?;
    if status.reason.as_deref() == Some("Evicted") {
        let text = "the node has ended its pod to save itself";
        return Some(Finding::open(
            Cause::new(CauseKind::Evicted, text).said(status.message.clone().unwrap_or_default()),
        ));
    }
    let condition = status.conditions.as_ref()?.iter().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let said = condition.message.clone().unwrap_or_default();
    let since = condition.last_transition_time.as_ref().map(|time| time.0);
    if newest(look, "Pod", key, &["TriggeredScaleUp", "Nominated"]).is_some() {
        let text = "a node for it is being added";
        return Some(Finding::open(Cause::new(CauseKind::Resources, text).said(said)));
    }
    if let Some(claim) = said.split("persistentvolumeclaim \"").nth(1).and_then(|rest| rest.split('"').next())
        && said.contains("not found")
    {
        let cause =
            Cause::new(CauseKind::ClaimMissing, format!("the PersistentVolumeClaim {claim} does not exist"));
        // A StatefulSet's claims are made beside its pods; the scheduler looks again.
        let there = look.world.claims.contains_key(&Key::new(&key.namespace, claim));
        let limit = if there { None } else { after(since, SETTLE) };
        return Some(Finding::until(cause.said(said.clone()), limit));
    }
    if said.contains("unbound immediate PersistentVolumeClaims") {
        let claims = claims_of(pod).into_iter().map(|name| Key::new(&key.namespace, name));
        let known = claims
            .filter_map(|key| claim(look, &key))
            .min_by_key(|finding| finding.doomed_at.unwrap_or(Timestamp::MAX));
        let text = "its PersistentVolumeClaim is not bound yet";
        return Some(known.unwrap_or_else(|| Finding::open(Cause::new(CauseKind::Claim, text).said(&said))));
    }
    let has = |part: &str| said.contains(part);
    Some(if has("Insufficient ") {
        let never = too_big(look, pod);
        let text = match &never {
            Some(resource) => format!("it asks for more {resource} than any node has in all"),
            None => "no node has enough left of what it asks for".to_owned(),
        };
        let time = if never.is_some() { no_node(look, key) } else { look.patience.resources };
        Finding::until(Cause::new(CauseKind::Resources, text).said(said), after(since, time))
    } else if has("node.kubernetes.io/") || has("cloudprovider.kubernetes.io/") {
        // Nodes that are starting or in distress carry these themselves.
        let cause = Cause::new(CauseKind::Taint, "no node is ready to take it");
        Finding::until(cause.said(said), after(since, look.patience.resources))
    } else if has("volume node affinity conflict") {
        let cause = Cause::new(CauseKind::Unschedulable, "the node of its volume does not take it");
        Finding::until(cause.said(said), after(since, look.patience.resources))
    } else if has("node affinity/selector") || has("node selector") || has("node affinity") {
        let cause = Cause::new(CauseKind::NodeSelector, "no node has the labels that it asks for");
        Finding::until(cause.said(said), after(since, no_node(look, key)))
    } else if has("untolerated taint") || has("taint") {
        let cause = Cause::new(CauseKind::Taint, "the nodes have taints that it does not tolerate");
        Finding::until(cause.said(said), after(since, no_node(look, key)))
    } else {
        let cause = Cause::new(CauseKind::Unschedulable, "the scheduler finds no node for it");
        Finding::until(cause.said(said), after(since, look.patience.resources))
    })
}

fn claims_of(pod: &Pod) -> Vec<&str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str())).collect()
}

/// The resource of which a pod asks for more than the biggest node has.
fn too_big(look: &Look<'_>, pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    ["cpu", "memory"].into_iter().find(|name| {
        let asked: f64 = spec
            .containers
            .iter()
            .filter_map(|one| one.resources.as_ref()?.requests.as_ref()?.get(*name))
            .filter_map(amount)
            .sum();
        let nodes = look.world.nodes.values();
        let has = nodes.filter_map(|node| amount(node.status.as_ref()?.allocatable.as_ref()?.get(*name)?));
        has.reduce(f64::max).is_some_and(|most| asked > most)
    })
}

/// A quantity as a number; Kubernetes' own notation, <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
fn amount(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+'));
    let number: f64 = text[..text.len() - unit.len()].parse().ok()?;
    let factor = match unit {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        _ => return None,
    };
    Some(number * factor)
}

/// A claim that waits for its first pod has all it asks for.
pub(super) fn claim_state(look: &Look<'_>, key: &Key, claim: &PersistentVolumeClaim) -> State {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let waits = newest(look, "PersistentVolumeClaim", key, &["WaitForFirstConsumer"]).is_some();
    match phase {
        "Bound" => State::Ready,
        "Lost" => State::Failed("the volume that it was bound to is gone".to_owned()),
        _ if waits && self::claim(look, key).is_none() => State::Ready,
        _ => State::Waiting("it is not bound to a volume yet".to_owned()),
    }
}

/// Why a claim is not bound.
pub(super) fn claim(look: &Look<'_>, key: &Key) -> Option<Finding> {
    let events = look.world.events_of("PersistentVolumeClaim", key);
    let event = events
        .into_iter()
        .rev()
        .find(|event| matches!(event.reason.as_deref(), Some("ProvisioningFailed" | "FailedBinding")))
        .filter(|event| look.world.is_fresh(event))?;
    let said = message(event);
    let since = look.world.first_time(event);
    let name = &key.name;
    if said.contains("storageclass") && said.contains("not found") {
        let class = said.split('"').nth(1).unwrap_or_default();
        let text =
            format!("the PersistentVolumeClaim {name} names the StorageClass {class}, which does not exist");
        return Some(Finding::until(
            Cause::new(CauseKind::StorageClass, text).said(said),
            after(since, SETTLE),
        ));
    }
    if said.contains("no storage class is set") {
        let text = format!("the PersistentVolumeClaim {name} names no StorageClass, and no volume fits it");
        return Some(Finding::until(
            Cause::new(CauseKind::StorageClass, text).said(said),
            after(since, SETTLE),
        ));
    }
    let text = format!("no volume could be made for the PersistentVolumeClaim {name}");
    Some(Finding::until(Cause::new(CauseKind::Claim, text).said(said), after(since, look.patience.resources)))
}

/// Why a pod's volumes or its network cannot be had.
pub(super) fn mounts(look: &Look<'_>, key: &Key) -> Option<Finding> {
    let event = newest(
        look,
        "Pod",
        key,
        &["FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"],
    )?;
    let said = message(event);
    // The kubelet's view of a pod's first second; it tries again.
    if said.contains("failed to sync") || said.contains("not registered") {
        return None;
    }
    let since = look.world.first_time(event);
    if event.reason.as_deref() == Some("FailedCreatePodSandBox") {
        let cause = Cause::new(CauseKind::Sandbox, "the node cannot make its pod's sandbox");
        return Some(Finding::open(cause.said(said)));
    }
    if let Some(missing) = missing::read(said) {
        return Some(missing::finding(look, &key.namespace, &missing, said, since));
    }
    let volume =
        said.split("for volume \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("of it");
    let cause = Cause::new(CauseKind::Mount, format!("the volume {volume} cannot be mounted")).said(said);
    // A path of the node that is of the wrong type stays so.
    let fatal = said.contains("hostPath type check failed");
    Some(if fatal { Finding::until(cause, after(since, SETTLE)) } else { Finding::open(cause) })
}

/// The cause for a workload whose own status says that it failed.
pub(super) fn failed(look: &Look<'_>, item: &Item, why: String) -> Cause {
    let mut cause = if why.contains("DeadlineExceeded") && item.kind == Kind::Job {
        Cause::new(CauseKind::JobDeadline, "it did not end within its activeDeadlineSeconds").said(why)
    } else if item.kind == Kind::Job {
        Cause::new(CauseKind::JobFailed, "its pods failed more often than its backoffLimit allows").said(why)
    } else if item.kind == Kind::Pod {
        Cause::new(CauseKind::Crash, "a container of it has failed, and it starts none again").said(why)
    } else if matches!(item.kind, Kind::Custom(..)) {
        Cause::new(CauseKind::Custom, "its own conditions say that it has failed").said(why)
    } else if item.kind == Kind::Claim {
        Cause::new(CauseKind::Claim, "its volume is lost").said(why)
    } else if why.contains("ProgressDeadlineExceeded") {
        Cause::new(CauseKind::Unfinished, "it made no progress within its progressDeadlineSeconds").said(why)
    } else {
        let since = Some(Timestamp::MIN);
        return refused(look, item, &why, since).cause;
    };
    // The last of a Job's pods tells what they failed at.
    let pods = look.world.pods_of(item.kind.name(), &item.key);
    let last = pods.max_by_key(|(_, pod)| pod.meta().creation_timestamp.as_ref().map(|time| time.0));
    if let Some((key, pod)) = last {
        for (status, _) in super::containers(pod) {
            if let Some(attempt) = look.world.attempts(key, &status.name).last() {
                cause.log = attempt.log.clone().filter(|log| !log.trim().is_empty());
                return cause.at(&key.name, Some(&status.name));
            }
        }
        cause.pod = Some(key.name.clone());
    }
    cause
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Verdict, judge};
    use super::*;
    use crate::ready::asked::Asked;
    use crate::ready::object::Object;
    use crate::ready::patience::Patience;
    use crate::ready::world::Change;

    /// What is said of a pod whose node selector no node has, a moment after two seconds; with these objects beside it.
    fn without_a_node(beside: &[Value]) -> Verdict {
        let asked =
            Asked::read("{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web}}", "ns").unwrap();
        let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "ns", "uid": "s"}});
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "p", "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s"}]},
            "status": {"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": "2026-01-01T00:00:00Z",
                "message": "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
            }]},
        });
        let begun = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut world = World::since(begun);
        for object in [set, pod].iter().chain(beside) {
            world.apply(begun, Change::Applied(Object::parse(object.clone()).unwrap()));
        }
        let now = "2026-01-01T00:00:02.1Z".parse().unwrap();
        judge(&world, &asked, &asked.items, &Patience::default(), now).remove(0).1
    }

    fn event(reason: &str, by: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": reason, "namespace": "ns"}, "reason": reason,
            "involvedObject": {"kind": "Pod", "name": "web-0", "namespace": "ns", "uid": "p"}, "source": {"component": by},
        })
    }

    #[test]
    fn a_pod_without_a_node_is_given_up_unless_nodes_are_added() {
        let status = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cluster-autoscaler-status", "namespace": "kube-system"}});
        let pool = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {"karpenter.sh/nodepool": "default"}}});
        let waits = |beside: &[Value]| matches!(without_a_node(beside), Verdict::Wait { .. });
        assert!(!waits(&[]));
        assert!(waits(std::slice::from_ref(&status)) && waits(&[pool]));
        assert!(waits(&[event("TriggeredScaleUp", "cluster-autoscaler")]));
        // Who adds nodes has said that there is none to add.
        assert!(!waits(&[status, event("NotTriggerScaleUp", "cluster-autoscaler")]));
        assert!(!waits(&[event("FailedScheduling", "default-scheduler")]));
    }

    #[test]
    fn quantities_are_numbers() {
        let amount = |text: &str| amount(&Quantity(text.to_owned()));
        assert_eq!(amount("250m"), Some(0.25));
        assert_eq!(amount("2"), Some(2.0));
        assert_eq!(amount("1Gi"), Some(1_073_741_824.0));
        assert_eq!(amount("64Mi"), Some(67_108_864.0));
        assert_eq!(amount("x"), None);
    }
}
