//! How objects are called, and that the cluster takes that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::releases;
use crate::helm::{Chart, render, render_as};
use crate::manifests::{Manifests, id, name};
use crate::values::{document, merged};

#[tokio::test]
async fn a_release_s_name_is_part_of_its_objects_names() -> anyhow::Result<()> {
    for (release, values, webserver, daemon, code) in [
        (
            "dagster",
            json!({}),
            "dagster-dagster-webserver",
            "dagster-daemon",
            "dagster-dagster-user-deployments",
        ),
        (
            "my-dagster",
            json!({}),
            "my-dagster-dagster-webserver",
            "my-dagster-daemon",
            "my-dagster-dagster-user-deployments",
        ),
        (
            "other",
            json!({}),
            "other-dagster-webserver",
            "other-dagster-daemon",
            "other-dagster-user-deployments",
        ),
        (
            "other",
            json!({"nameOverride": "short"}),
            "other-dagster-webserver",
            "other-short-daemon",
            "other-dagster-user-deployments",
        ),
        (
            "other",
            json!({"fullnameOverride": "full"}),
            "other-dagster-webserver",
            "full-daemon",
            "other-dagster-user-deployments",
        ),
        (
            "other",
            json!({"global": {"fullnameOverride": "full"}}),
            "other-dagster-webserver",
            "full-daemon",
            "full",
        ),
        (
            "other",
            json!({"global": {"nameOverride": "short"}}),
            "other-dagster-webserver",
            "other-short-daemon",
            "other-short",
        ),
        (
            "other",
            json!({"dagsterWebserver": {"nameOverride": "web"}}),
            "other-web",
            "other-dagster-daemon",
            "other-dagster-user-deployments",
        ),
    ] {
        let manifests = render_as(Chart::Dagster, release, values.clone()).await?;
        let mut expected =
            [webserver.to_owned(), daemon.to_owned(), format!("{code}-k8s-example-user-code-1")];
        expected.sort();
        assert_eq!(manifests.names("Deployment"), expected, "{release} with {values}");
        assert_eq!(
            manifests.names("StatefulSet"),
            [format!("{release}-postgresql")],
            "{release} with {values}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn names_and_labels_are_no_longer_than_the_cluster_takes() -> anyhow::Result<()> {
    for (what, manifests) in releases().await? {
        let mut known = BTreeSet::new();
        for object in manifests.all() {
            let id = id(object);
            let namespace = object["metadata"]["namespace"].as_str();
            assert!(known.insert((id.clone(), namespace)), "{what}: {id} is there twice");
            let limit = match object["kind"].as_str().unwrap_or_default() {
                // They are parts of host names.
                "Service" | "Job" => 63,
                // The label of its pods that names the revision has ten more characters and a dash.
                "StatefulSet" => 52,
                _ => 253,
            };
            assert!(name(object).len() <= limit, "{what}: {id} is longer than {limit}");
            assert!(!name(object).ends_with('-'), "{what}: {id}");
            labels(object, &what, &id);
        }
    }
    Ok(())
}

/// Looks at the values of all labels in an object.
fn labels(value: &Value, what: &str, id: &str) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        if matches!(key.as_str(), "labels" | "matchLabels" | "selector") {
            for text in inner.as_object().into_iter().flatten().filter_map(|(_, text)| text.as_str()) {
                assert!(text.len() <= 63 && !text.ends_with('-'), "{what}: a label of {id}: {text}");
            }
        }
        labels(inner, what, id);
    }
    value.as_array().into_iter().flatten().for_each(|inner| labels(inner, what, id));
}

#[tokio::test]
async fn selectors_stay_the_same_whatever_labels_are_added() -> anyhow::Result<()> {
    // A cluster refuses to change them, so an upgrade that did would have to begin with a deletion.
    let selectors = |manifests: &Manifests| -> BTreeMap<String, Value> {
        let workloads = manifests.of("Deployment").chain(manifests.of("StatefulSet"));
        workloads.map(|workload| (id(workload), workload["spec"]["selector"].clone())).collect()
    };
    let full = document("full")?.values;
    let more = json!({
        "dagsterWebserver": {"labels": {"more": "labels"}, "deploymentLabels": {"more": "labels"}},
        "dagsterDaemon": {"labels": {"more": "labels"}},
        "postgresql": {"podLabels": {"more": "labels"}, "annotations": {"more": "annotations"}},
    });
    let before = selectors(&render(full.clone()).await?);
    assert_eq!(before, selectors(&render(merged(&full, &more)).await?));
    assert!(before.len() >= 5, "{before:?}");
    for (workload, selector) in before {
        assert!(!selector.to_string().contains("chart"), "{workload} is selected by its chart's version");
    }
    Ok(())
}
