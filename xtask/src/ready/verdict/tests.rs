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

#[test]
fn a_pod_without_a_controller_is_awaited_until_it_is_ready_or_has_ended_well() {
    const ALONE: &str = "{apiVersion: v1, kind: Pod, metadata: {name: web-0}}";
    let with = |status: Value| {
        let mut pod = pod(json!({"ready": status["ready"] == true}));
        pod["status"]["phase"] = status["phase"].clone();
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": status["condition"]}]);
        pod["spec"]["restartPolicy"] = json!("Never");
        judged(&world(&[pod]), ALONE, "")
    };
    assert!(matches!(judged(&world(&[]), ALONE, ""), Verdict::Wait { .. }));
    assert!(matches!(with(json!({"phase": "Running", "condition": "False"})), Verdict::Wait { .. }));
    let ready = json!({"phase": "Running", "condition": "True", "ready": true});
    assert_eq!(with(ready), Verdict::Ready);
    assert_eq!(with(json!({"phase": "Succeeded", "condition": "False"})), Verdict::Ready);

    let mut failed = ended(1);
    failed["spec"]["restartPolicy"] = json!("Never");
    failed["status"]["phase"] = json!("Failed");
    let mut world = world(&[failed]);
    let of = |attempt: &str| crate::ready::world::LogOf {
        pod: Key::new("ns", "web-0"),
        container: "c".to_owned(),
        attempt: attempt.to_owned(),
    };
    world.apply(at(2), Change::Log(of("1"), "no such table".to_owned()));
    let Verdict::Doomed(cause) = judged(&world, ALONE, "") else { panic!("it is awaited") };
    assert_eq!((cause.kind, cause.log.as_deref()), (CauseKind::Crash, Some("no such table")));
}

#[test]
fn a_replica_set_without_a_deployment_is_awaited() {
    const SEVERAL: &str = "{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: several}}";
    let with = |available: u32| {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "several", "namespace": "ns"},
            "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": 2, "availableReplicas": available},
        });
        judged(&world(&[set]), SEVERAL, "")
    };
    assert!(matches!(with(1), Verdict::Wait { cause, .. } if cause.text.contains("1 of 2")));
    assert_eq!(with(2), Verdict::Ready);
}

#[test]
fn services_that_select_no_pod_are_told_of() {
    let service = |name: &str, selector: Value| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns"},
            "spec": {"selector": selector},
        })
    };
    let world = world(&[
        service("typo", json!({"controller-revision-hash": "b"})),
        service("good", json!({"controller-revision-hash": "a"})),
        service("by-hand", json!({})),
        pod(json!({})),
    ]);
    let manifest = ["typo", "good", "by-hand"]
        .map(|name| format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}}}"))
        .join("\n---\n");
    let asked = Asked::read(&manifest, "ns").unwrap();
    let told = without_pods(&world, &asked.items);
    let told: Vec<_> = told.iter().map(|(item, labels)| (item.key.name.as_str(), labels.as_str())).collect();
    assert_eq!(told, [("typo", "controller-revision-hash=b")]);
}

#[test]
fn what_an_earlier_hook_of_its_name_did_says_nothing_of_a_hook() {
    const HOOK: &str =
        "{apiVersion: v1, kind: Pod, metadata: {name: web-0, annotations: {helm.sh/hook: pre-upgrade}}}";
    let hooks = Asked::hooks(HOOK, "ns").unwrap();
    let made = |second: i64| {
        let mut pod = ended(1);
        pod["metadata"]["ownerReferences"] = json!([]);
        pod["metadata"]["creationTimestamp"] = json!(at(second).to_string());
        Change::Applied(Object::parse(pod).unwrap())
    };
    assert!(made(1).is_of_earlier(&hooks.items, at(5)));
    assert!(!made(6).is_of_earlier(&hooks.items, at(5)));
}
