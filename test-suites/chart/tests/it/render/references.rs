//! What one object names is there under that name.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{LONGEST, releases};
use crate::helm::{Chart, render_as};
use crate::manifests::{id, name};

/// The names under a key in all of a value, such as those of the ConfigMaps that a pod's containers read.
fn named(value: &Value, key: &str, field: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = value[key][field].as_str().filter(|_| value[key]["optional"] != true) {
        found.insert(name.to_owned());
    }
    value.as_object().into_iter().flatten().for_each(|(_, inner)| named(inner, key, field, found));
    value.as_array().into_iter().flatten().for_each(|inner| named(inner, key, field, found));
}

#[tokio::test]
async fn what_a_pod_names_is_made_by_the_release_or_named_in_its_values() -> anyhow::Result<()> {
    // Made elsewhere, as the documents say; the code servers alone do not make the password.
    let elsewhere =
        BTreeSet::from(["instance-elsewhere", "workspace-elsewhere", "global-account", "database-password"]);
    for (what, manifests) in releases().await? {
        for (workload, pod) in manifests.pods() {
            for (kind, references) in [
                (
                    "ConfigMap",
                    [("configMapRef", "name"), ("configMap", "name"), ("configMapKeyRef", "name")].as_slice(),
                ),
                ("Secret", &[("secretRef", "name"), ("secret", "secretName"), ("secretKeyRef", "name")]),
            ] {
                let mut names = BTreeSet::new();
                references.iter().for_each(|(key, field)| named(pod, key, field, &mut names));
                let made = manifests.names(kind);
                for name in names.iter().map(String::as_str) {
                    let known = made.contains(&name) || elsewhere.contains(name);
                    assert!(known, "{what}: {workload} names the {kind} {name}, and there are {made:?}");
                }
            }
            let account = pod["spec"]["serviceAccountName"].as_str();
            let made = manifests.names("ServiceAccount");
            let known = account.is_none_or(|name| made.contains(&name) || elsewhere.contains(name));
            assert!(known, "{what}: {workload} is {account:?}, and there are {made:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_environment_names_config_maps_that_are_there() -> anyhow::Result<()> {
    for (what, manifests) in releases().await? {
        // The chart of the code servers is told no name of the chart above but a global one, and alone it has none above.
        if what.starts_with("code as") || what.starts_with("named as") {
            continue;
        }
        for map in manifests.of("ConfigMap") {
            if let Some(named) = map["data"]["DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP"].as_str() {
                assert!(manifests.names("ConfigMap").contains(&named), "{what}: {} names {named}", name(map));
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn each_service_and_each_workload_selects_its_own_pods() -> anyhow::Result<()> {
    for (what, manifests) in releases().await? {
        let pods = manifests.pods();
        let selected = |selector: &Value| -> Vec<&String> {
            let wanted = selector.as_object().cloned().unwrap_or_default();
            let matches =
                |pod: &Value| wanted.iter().all(|(key, value)| &pod["metadata"]["labels"][key] == value);
            pods.iter().filter(|(_, pod)| matches(pod)).map(|(workload, _)| workload).collect()
        };
        for service in manifests.of("Service") {
            let found = selected(&service["spec"]["selector"]);
            assert_eq!(found.len(), 1, "{what}: {} selects {found:?}", id(service));
        }
        for budget in manifests.of("PodDisruptionBudget") {
            let found = selected(&budget["spec"]["selector"]["matchLabels"]);
            assert_eq!(found.len(), 1, "{what}: {} selects {found:?}", id(budget));
        }
        for kind in ["Deployment", "StatefulSet"] {
            for workload in manifests.of(kind) {
                let found = selected(&workload["spec"]["selector"]["matchLabels"]);
                assert_eq!(found, [&id(workload)], "{what}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_database_and_celery_s_broker_are_services_of_the_release() -> anyhow::Result<()> {
    let mut brokers = 0;
    for (what, manifests) in releases().await? {
        let services = manifests.names("Service");
        let check = |host: &str| {
            // With the namespace where runs are in another one.
            let service = host.split('.').next().unwrap_or_default();
            let known = services.contains(&service) || host.ends_with(".elsewhere");
            assert!(known, "{what}: nobody serves {host}, there are {services:?}");
        };
        for instance in manifests.of("ConfigMap").filter_map(|map| map["data"]["dagster.yaml"].as_str()) {
            let instance: Value = serde_yaml::from_str(instance)?;
            check(instance["storage"]["postgres"]["postgres_db"]["hostname"].as_str().unwrap_or_default());
        }
        for secret in manifests.of("Secret") {
            for (_, url) in
                secret["data"].as_object().into_iter().flatten().filter(|(key, _)| key.ends_with("_URL"))
            {
                let url = String::from_utf8(STANDARD.decode(url.as_str().unwrap_or_default())?)?;
                let (_, rest) = url.split_once("://").unwrap_or_default();
                let host = rest.rsplit('@').next().and_then(|rest| rest.split([':', '/']).next());
                // rpc:// is the broker itself.
                host.into_iter().filter(|host| !host.is_empty()).for_each(check);
                brokers += 1;
            }
        }
    }
    assert!(brokers >= 12, "{brokers} addresses");
    Ok(())
}

#[tokio::test]
async fn the_webserver_and_the_daemon_find_the_database_and_the_code_servers() -> anyhow::Result<()> {
    for release in ["dagster".to_owned(), "r".repeat(LONGEST)] {
        let manifests = render_as(Chart::Dagster, &release, json!({"fullnameOverride": "dagster"})).await?;
        let host = &manifests.instance()["storage"]["postgres"]["postgres_db"]["hostname"];
        let services: BTreeMap<&str, &Value> =
            manifests.of("Service").map(|service| (name(service), service)).collect();
        let database = services.get(host.as_str().unwrap_or_default());
        assert!(database.is_some_and(|service| service["spec"]["selector"]["app"] == "postgresql"), "{host}");
        let workspace = manifests.file("dagster-workspace-yaml", "workspace.yaml");
        let server = &workspace["load_from"][0]["grpc_server"];
        let code = services.get(server["host"].as_str().unwrap_or_default());
        assert!(
            code.is_some_and(|service| service["spec"]["ports"][0]["port"] == server["port"]),
            "{server}"
        );
        let waiting: Vec<&Value> = manifests
            .of("Deployment")
            .map(|deployment| &deployment["spec"]["template"]["spec"]["initContainers"][0])
            .filter(|container| container["name"] == "check-db-ready")
            .collect();
        assert_eq!(waiting.len(), 2, "{waiting:?}");
        for container in waiting {
            assert_eq!(container["env"][0], json!({"name": "PGHOST", "value": host}));
        }
    }
    Ok(())
}
