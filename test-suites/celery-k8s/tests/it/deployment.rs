//! The workers' Deployments and Flower, as the chart was told to make them.

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;
use suite_support::Suite;
use suite_support::ask;
use suite_support::calm;
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};

use crate::workers;

/// Each queue with the number of its workers.
const QUEUES: [(&str, usize); 5] =
    [("dagster", 2), ("extra-queue-1", 1), ("one-at-a-time", 1), ("acks-early", 1), ("acks-late", 1)];

/// The Deployment of a queue's workers.
async fn deployment(suite: &Suite, queue: &str) -> Result<Deployment, kube::Error> {
    suite.system_deployments().get(&format!("dagster-celery-workers-{queue}")).await
}

#[tokio::test]
async fn each_queue_has_as_many_workers_as_asked_for_with_its_own_labels() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    for (queue, count) in QUEUES {
        let deployment = deployment(&suite, queue).await?;
        let spec = deployment.spec.context("a Deployment without a spec")?;
        assert_eq!(spec.replicas, i32::try_from(count).ok(), "{queue}");
        let labels = spec.template.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
        let label = labels.get("celery-label-key").map(String::as_str);
        assert_eq!(label, (queue == "extra-queue-1").then_some("celery-label-value"), "{queue}");
        // A worker that another test has killed is replaced.
        for pod in workers(&suite, queue, count, RUN_LIMIT).await? {
            let labels = pod.metadata.labels.unwrap_or_default();
            assert_eq!(labels.get("celery-label-key").map(String::as_str), label, "{queue}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_has_the_environment_and_the_annotations_that_it_was_given() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    for (queue, count) in QUEUES {
        assert_eq!(mark(&deployment(&suite, queue).await?), Some("celery-pod-annotation"), "{queue}");
        for pod in workers(&suite, queue, count, RUN_LIMIT).await? {
            assert_eq!(mark(&pod), Some("celery-pod-annotation"), "{queue}");
        }
    }
    for pod in workers(&suite, "dagster", 2, RUN_LIMIT).await? {
        for (variable, expected) in [
            ("TEST_SET_ENV_VAR", Some("test_celery_env_var")),
            ("TEST_ENV_VAR", Some("foobar")),
            ("TEST_SECRET_ENV_VAR", Some("foobar")),
            // The code server's.
            ("WORD_FACTOR", None),
        ] {
            let value = cluster::variable(&suite.system_pods(), &pod, variable, CLUSTER_LIMIT).await?;
            assert_eq!(value.as_deref(), expected, "{variable} in {}", pod.name_any());
        }
    }
    Ok(())
}

/// The annotation that the values give to what the chart makes.
fn mark(object: &impl ResourceExt) -> Option<&str> {
    object.annotations().get("dagster-integration-tests").map(String::as_str)
}

#[tokio::test]
async fn flower_has_the_annotations_that_it_was_given() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let namespace = suite.contract.namespace("system")?;
    let flower = ListParams::default().labels("component=flower");
    let deployments = suite.system_deployments().list(&flower).await?.items;
    assert_eq!(mark(only(&deployments, "Deployment of Flower")), Some("flower-annotation"));
    for pod in suite.system_pods().list(&flower).await?.items {
        assert_eq!(mark(&pod), Some("flower-annotation"));
    }
    let services: Api<Service> = Api::namespaced(suite.client().clone(), namespace);
    let services = services.list(&flower).await?.items;
    // Beside the chart's own there may be those of a forward.
    assert!(services.iter().any(|service| mark(service) == Some("flower-svc-annotation")), "{services:?}");
    Ok(())
}

#[tokio::test]
async fn flower_shows_each_worker() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let shown_and_hidden = async || {
        let mut hidden = Vec::new();
        for (queue, count) in QUEUES {
            hidden.extend(workers(&suite, queue, count, RUN_LIMIT).await?.iter().map(ResourceExt::name_any));
        }
        let shown = online(&suite).await?;
        hidden.retain(|name| !shown.iter().any(|worker| worker.ends_with(&format!("@{name}"))));
        Ok((shown, hidden))
    };
    // It goes by the workers' heartbeats: one that is late is shown a moment later, and nobody tells when.
    let all = |(_, hidden): &(Vec<String>, Vec<String>)| hidden.is_empty();
    ask::until("all workers in Flower (shown, hidden)", RUN_LIMIT, shown_and_hidden, all).await?;
    Ok(())
}

/// The workers that Flower shows as online, by name.
async fn online(suite: &Suite) -> anyhow::Result<Vec<String>> {
    let url = format!("{}/workers?refresh=1&json=1", suite.contract.url("flower")?);
    let answer = reqwest::get(&url).await?.error_for_status()?;
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    let all = answer["data"].as_array().with_context(|| format!("no list of workers in {answer}"))?;
    let online = all.iter().filter(|worker| worker["status"] == true);
    Ok(online.filter_map(|worker| worker["hostname"].as_str()).map(str::to_owned).collect())
}
