//! Verdicts on a few objects that no recording has.

use serde_json::{Value, json};

use super::*;
use crate::ready::object::Object;
use crate::ready::world::Change;

const WEB: &str = "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: web}}\n";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).unwrap()
}

/// What is known once these objects have been seen, one in each second.
fn world(objects: &[Value]) -> World {
    let mut world = World::since(at(0));
    for (second, object) in objects.iter().enumerate() {
        world.apply(at(second as i64), Change::Applied(Object::parse(object.clone()).unwrap()));
    }
    world
}

/// The verdict on the first thing of `release` ten seconds after, with what was applied beside it.
fn judged(world: &World, release: &str, beside: &str) -> Verdict {
    let release = Asked::read(release, "ns").unwrap();
    let mut asked = Asked::read(beside, "ns").unwrap();
    asked.extend(&release);
    judge(world, &asked, &release.items, &Patience::default(), at(10)).remove(0).1
}

fn set(more: Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "ns", "uid": "s"},
    });
    set.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    set
}

/// The set's pod, whose container is so.
fn pod(container: Value) -> Value {
    let mut status = json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 1});
    status.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-0", "namespace": "ns", "uid": "p", "labels": {"controller-revision-hash": "a"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "s"}],
        },
        "spec": {"containers": [{"name": "c"}]},
        "status": {"containerStatuses": [status]},
    })
}

fn ended(attempt: u32) -> Value {
    let ended = json!({"containerID": attempt.to_string(), "exitCode": 1, "reason": "Error", "startedAt": at(0).to_string(), "finishedAt": at(1).to_string()});
    pod(json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": ended}}))
}

#[test]
fn a_program_may_wait_for_a_fixture_that_is_starting() {
    let world = world(&[set(json!({})), ended(1), ended(2), ended(3)]);
    let database = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: database}}";
    assert!(matches!(judged(&world, WEB, ""), Verdict::Doomed(_)));
    assert!(matches!(judged(&world, WEB, database), Verdict::Wait { .. }));
}

#[test]
fn a_fixture_may_make_what_is_missing() {
    let waiting = json!({"reason": "CreateContainerConfigError", "message": "secret \"tls\" not found"});
    let world = world(&[set(json!({})), pod(json!({"state": {"waiting": waiting}}))]);
    let maker = "
apiVersion: batch/v1
kind: Job
metadata: {name: certificates}
spec: {template: {spec: {serviceAccountName: maker}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: maker}
rules: [{apiGroups: [''], resources: [secrets], verbs: [create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: maker}
roleRef: {kind: Role, name: maker}
subjects: [{kind: ServiceAccount, name: maker}]
";
    assert!(matches!(judged(&world, WEB, ""), Verdict::Doomed(_)));
    assert!(matches!(judged(&world, WEB, maker), Verdict::Wait { until: None, .. }));
}

#[test]
fn kinds_of_one_name_are_told_apart_by_their_groups() {
    let service = |group: &str, ready: &str| {
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "Service", "metadata": {"name": "web", "namespace": "ns"},
            "status": {"conditions": [{"type": "Ready", "status": ready, "message": "not yet"}]},
        })
    };
    let world = world(&[service("serving.knative.dev", "False"), service("other.example.com", "True")]);
    let named = |group: &str| format!("{{apiVersion: {group}/v1, kind: Service, metadata: {{name: web}}}}");
    assert!(matches!(judged(&world, &named("serving.knative.dev"), ""), Verdict::Wait { .. }));
    assert_eq!(judged(&world, &named("other.example.com"), ""), Verdict::Ready);
}

#[test]
fn a_rollout_that_waits_for_a_broken_pod_of_before_is_stuck() {
    let rolling = |policy: &str| {
        let broken = json!({"waiting": {"reason": "ErrImageNeverPull", "message": "no such image"}});
        world(&[
            set(json!({
                "spec": {"replicas": 1, "podManagementPolicy": policy, "selector": {}, "serviceName": "", "template": {}},
                "status": {"replicas": 1, "updateRevision": "b", "currentRevision": "a"},
            })),
            pod(json!({"state": broken})),
        ])
    };
    let Verdict::Doomed(cause) = judged(&rolling("OrderedReady"), WEB, "") else { panic!("it waits") };
    assert_eq!(cause.kind, CauseKind::Rollout);
    assert!(cause.text.contains("stuck at the pod web-0"), "{}", cause.text);
    // All pods at once are made anew, whatever they were.
    let Verdict::Wait { cause, .. } = judged(&rolling("Parallel"), WEB, "") else { panic!("it is given up") };
    assert_eq!(cause.kind, CauseKind::Unfinished);
}
