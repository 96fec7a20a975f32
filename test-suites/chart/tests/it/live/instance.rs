//! Dagster takes each instance configuration that is rendered, and knows each key of its classes.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::{Value, json};
use suite_support::Suite;
use suite_support::cluster::{self, Select};
use suite_support::jobs::RUN_LIMIT;

use crate::helm::render_as;
use crate::values::documents;

/// What Dagster is asked, in Python.
const SCRIPT: &str = include_str!("takes_instances.py");
/// The modules of the documents' own classes, and of those for stores whose packages the image has not.
const AWAY: [&str; 6] = [
    "coordinators",
    "dagster_azure.blob.compute_log_manager",
    "dagster_gcp.gcs.compute_log_manager",
    "launchers",
    "managers",
    "schedulers",
];

#[tokio::test]
async fn dagster_takes_the_instance_of_every_document() -> anyhow::Result<()> {
    let mut instances = BTreeMap::new();
    for document in documents()? {
        let manifests = render_as(document.chart, "dagster", document.values).await?;
        let texts = manifests.of("ConfigMap").filter_map(|map| map["data"]["dagster.yaml"].as_str());
        instances.extend(texts.map(|text| (document.name.clone(), text.to_owned())));
    }
    let suite = Suite::connect().await?;
    let pods: Api<Pod> = Api::namespaced(suite.client().clone(), suite.contract.namespace("runs")?);
    let pod = serde_json::from_value(json!({
        "metadata": {"generateName": "takes-instances-"},
        "spec": {"restartPolicy": "Never", "containers": [{
            "name": "dagster",
            "image": suite.contract.image("dagster-test")?,
            "command": ["python", "-c", SCRIPT],
            "env": [{"name": "INSTANCES", "value": serde_json::to_string(&instances)?}],
        }]},
    }))?;
    let name = pods.create(&PostParams::default(), &pod).await?.name_any();
    let ended = |pods: &[Pod]| {
        let phase = pods.first().and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    cluster::await_objects(pods.clone(), &Select::Name(name.clone()), "its end", RUN_LIMIT, ended).await?;
    let log = cluster::logs(&pods, &name, "dagster", None).await?;
    let told: Value = log
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("Dagster did not judge: {log}"))?;
    assert_eq!(told, json!({"faults": {}, "away": AWAY}));
    pods.delete(&name, &DeleteParams::default()).await?;
    Ok(())
}
