//! Who may do what: what launching and following runs takes, in the namespaces where that is done, and nothing else.

use serde_json::{Value, json};

use crate::helm::{Chart, NAMESPACE, render, render_as};
use crate::manifests::{Manifests, name};
use crate::values::documents;

/// The rights of the system and of the runs, verb by verb: the calls that dagster_k8s and dagster_celery_k8s 0.29 make, by their sources.
pub(crate) fn rules() -> Value {
    with_pods(&["create", "get", "list", "delete"])
}

/// The rights of the system where runs have other accounts than its own: only a run reads its own pod or starts one.
pub(crate) fn rules_elsewhere() -> Value {
    with_pods(&["list", "delete"])
}

fn with_pods(verbs: &[&str]) -> Value {
    json!([
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create", "list", "delete"]},
        {"apiGroups": ["batch"], "resources": ["jobs/status"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": verbs},
        {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
    ])
}

/// Roles and bindings as (name, namespace, rules) and (name, namespace, role, subjects).
#[track_caller]
fn check(manifests: &Manifests, name: &str, namespace: &Value, accounts: &[&str]) {
    let role = manifests.one("Role", &format!("{name}-role"));
    let elsewhere = namespace.as_str().is_some_and(|namespace| namespace != NAMESPACE);
    let rules = if elsewhere { rules_elsewhere() } else { rules() };
    assert_eq!(role["rules"], rules, "{name}-role");
    let binding = manifests.one("RoleBinding", &format!("{name}-rolebinding"));
    for object in [role, binding] {
        assert_eq!(&object["metadata"]["namespace"], namespace, "{}", object["metadata"]);
    }
    let to = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": format!("{name}-role")});
    assert_eq!(binding["roleRef"], to);
    let subjects: Vec<Value> = accounts
        .iter()
        .map(|account| json!({"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}))
        .collect();
    assert_eq!(binding["subjects"], json!(subjects), "{name}-rolebinding");
}

#[tokio::test]
async fn the_system_and_the_runs_may_launch_and_follow_runs() -> anyhow::Result<()> {
    let manifests = render(json!({})).await?;
    check(&manifests, "dagster", &json!(NAMESPACE), &["dagster"]);
    let code = "dagster-dagster-user-deployments-user-deployments";
    check(&manifests, code, &Value::Null, &[code]);
    assert_eq!(manifests.names("Role").len(), 2);
    assert_eq!(manifests.names("ServiceAccount"), ["dagster", code]);
    for (deployment, account) in [
        ("dagster-daemon", "dagster"),
        ("dagster-dagster-webserver", "dagster"),
        ("dagster-dagster-user-deployments-k8s-example-user-code-1", code),
    ] {
        assert_eq!(manifests.pod(deployment)["spec"]["serviceAccountName"], account, "{deployment}");
    }
    assert_eq!(manifests.instance()["run_launcher"]["config"]["service_account_name"], "dagster");
    Ok(())
}

#[tokio::test]
async fn the_rights_follow_the_runs_into_their_namespace() -> anyhow::Result<()> {
    let runs = json!({"jobNamespace": "runs"});
    let by_celery = json!({
        "runLauncher": {"type": "CeleryK8sRunLauncher", "config": {"celeryK8sRunLauncher": runs}},
        "rabbitmq": {"enabled": true},
    });
    for values in [json!({"runLauncher": {"config": {"k8sRunLauncher": runs}}}), by_celery] {
        let manifests = render(values).await?;
        check(&manifests, "dagster", &json!(NAMESPACE), &["dagster"]);
        check(&manifests, &format!("{NAMESPACE}-dagster"), &json!("runs"), &["dagster"]);
        assert_eq!(manifests.names("Role").len(), 3);
    }
    // Nothing starts beside the system when its code servers are elsewhere too.
    let elsewhere = json!({
        "runLauncher": {"config": {"k8sRunLauncher": runs}},
        "dagster-user-deployments": {"enableSubchart": false},
    });
    let manifests = render(elsewhere).await?;
    check(&manifests, &format!("{NAMESPACE}-dagster"), &json!("runs"), &["dagster"]);
    assert_eq!(manifests.names("Role").len(), 1);
    Ok(())
}

#[tokio::test]
async fn every_account_of_a_code_server_is_bound_once() -> anyhow::Result<()> {
    let server = |name: &str, account: Value| json!({"name": name, "port": 3030, "image": {"repository": "code", "pullPolicy": "Never"}, "serviceAccount": account});
    let values = json!({"deployments": [
        server("first", json!({"name": "own", "create": true})),
        server("second", json!({"name": "own"})),
        server("third", json!({})),
    ]});
    let manifests = render_as(Chart::UserDeployments, "code", values).await?;
    let name = "code-dagster-user-deployments-user-deployments";
    check(&manifests, name, &Value::Null, &[name, "own"]);
    assert_eq!(manifests.names("ServiceAccount"), [name, "own"]);
    Ok(())
}

#[tokio::test]
async fn without_rbac_nobody_gets_rights() -> anyhow::Result<()> {
    let off = json!({"rbacEnabled": false, "dagster-user-deployments": {"rbacEnabled": false}});
    let manifests = render(off).await?;
    for kind in ["Role", "RoleBinding"] {
        assert!(manifests.names(kind).is_empty(), "{:?}", manifests.names(kind));
    }
    assert_eq!(manifests.names("ServiceAccount").len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_account_that_is_made_elsewhere_is_used_and_not_made() -> anyhow::Result<()> {
    let manifests = render(json!({"global": {"serviceAccountName": "there"}})).await?;
    assert!(manifests.names("ServiceAccount").is_empty());
    for (workload, pod) in
        manifests.pods().into_iter().filter(|(workload, _)| workload.starts_with("Deployment"))
    {
        assert_eq!(pod["spec"]["serviceAccountName"], "there", "{workload}");
    }
    for binding in manifests.of("RoleBinding") {
        assert_eq!(binding["subjects"].as_array().map(Vec::len), Some(1), "{}", name(binding));
        assert_eq!(binding["subjects"][0]["name"], "there", "{}", name(binding));
    }
    Ok(())
}

#[tokio::test]
async fn nobody_gets_rights_of_the_whole_cluster_or_by_a_wildcard() -> anyhow::Result<()> {
    for document in documents()? {
        let manifests = render_as(document.chart, "dagster", document.values).await?;
        for object in manifests.all() {
            let kind = object["kind"].as_str().unwrap_or_default();
            assert!(!kind.starts_with("Cluster"), "{}: {}", document.name, crate::manifests::id(object));
        }
        for role in manifests.of("Role") {
            assert!(!role["rules"].to_string().contains('*'), "{}: {role}", document.name);
        }
        for (workload, pod) in manifests.pods() {
            let spec = &pod["spec"];
            for own in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(spec[own].is_null(), "{}: {workload} has {own}", document.name);
            }
            assert!(!pod.to_string().contains("privileged"), "{}: {workload} is privileged", document.name);
        }
    }
    Ok(())
}
