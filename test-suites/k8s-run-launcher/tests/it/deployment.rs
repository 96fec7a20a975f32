//! What the chart is given for the pods and Services of the webserver, the daemon and the code server reaches them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use suite_support::Suite;
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::jobs::CLUSTER_LIMIT;

/// An annotation, and a label.
const MARK: &str = "dagster-integration-tests";
pub(crate) const WEBSERVER: &str = "component=dagster-webserver";
pub(crate) const DAEMON: &str = "component=dagster-daemon";
pub(crate) const CODE_SERVER: &str = "component=user-deployments";

async fn pod(pods: &Api<Pod>, labels: &str) -> anyhow::Result<Pod> {
    let mut found = pods.list(&ListParams::default().labels(labels)).await?.items;
    // A rollout's predecessor may be on its way out.
    found.retain(cluster::is_running);
    Ok(only(&found, labels).clone())
}

async fn deployment(suite: &Suite, namespace: &str, labels: &str) -> anyhow::Result<Deployment> {
    let all: Api<Deployment> = Api::namespaced(suite.client().clone(), namespace);
    let found = all.list(&ListParams::default().labels(labels)).await?.items;
    Ok(only(&found, labels).clone())
}

#[tokio::test]
async fn annotations_are_on_every_deployment_pod_and_service() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let (user, system) = (suite.contract.namespace("user")?, suite.contract.namespace("system")?);
    for (namespace, labels, expected) in [
        (system, WEBSERVER, "webserver-pod-annotation"),
        (system, DAEMON, "daemon-pod-annotation"),
        (user, CODE_SERVER, "ucd-1-pod-annotation"),
    ] {
        let of_deployment = deployment(&suite, namespace, labels).await?;
        let of_pod = pod(&Api::namespaced(suite.client().clone(), namespace), labels).await?;
        for annotations in [of_deployment.annotations(), of_pod.annotations()] {
            assert_eq!(annotations.get(MARK).map(String::as_str), Some(expected), "{labels}");
        }
    }
    for (namespace, labels, expected) in
        [(system, WEBSERVER, "webserver-svc-annotation"), (user, CODE_SERVER, "ucd-1-svc-annotation")]
    {
        let services: Api<Service> = Api::namespaced(suite.client().clone(), namespace);
        let mut services = services.list(&ListParams::default().labels(labels)).await?.items;
        // Beside the chart's own there may be those of a forward.
        services.retain(|service| service.annotations().contains_key(MARK));
        let service = only(&services, labels);
        assert_eq!(service.annotations().get(MARK).map(String::as_str), Some(expected), "{labels}");
        let manager = service.labels().get("app.kubernetes.io/managed-by").map(String::as_str);
        assert_eq!(manager, Some("Helm"), "{labels}");
    }
    Ok(())
}

#[tokio::test]
async fn labels_are_on_every_deployment_and_its_pods() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let (user, system) = (suite.contract.namespace("user")?, suite.contract.namespace("system")?);
    for (namespace, labels, key, of_deployment, of_pod) in [
        (system, WEBSERVER, MARK, "webserver-label", "webserver-pod-label"),
        (system, DAEMON, MARK, "daemon-label", "daemon-pod-label"),
        (user, CODE_SERVER, "layer", "location", "location"),
    ] {
        let deployment = deployment(&suite, namespace, labels).await?;
        assert_eq!(deployment.labels().get(key).map(String::as_str), Some(of_deployment), "{labels}");
        let pods: Api<Pod> = Api::namespaced(suite.client().clone(), namespace);
        let pod = pod(&pods, labels).await?;
        assert_eq!(pod.labels().get(key).map(String::as_str), Some(of_pod), "{labels}");
    }
    Ok(())
}

/// What a variable is in the only container of the only pod with these labels, as its process sees it; nothing where it is not set.
pub(crate) async fn variable(pods: &Api<Pod>, labels: &str, name: &str) -> anyhow::Result<Option<String>> {
    Ok(cluster::variable(pods, &pod(pods, labels).await?, name, CLUSTER_LIMIT).await?)
}

#[tokio::test]
async fn each_part_has_the_environment_that_it_was_given() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let (user, system) = (suite.user_pods(), suite.system_pods());
    let of_webserver = variable(&system, WEBSERVER, "TEST_SET_ENV_VAR").await?;
    assert_eq!(of_webserver.as_deref(), Some("test_webserver_env_var"));
    let of_daemon = variable(&system, DAEMON, "TEST_SET_ENV_VAR").await?;
    assert_eq!(of_daemon.as_deref(), Some("test_daemon_env_var"));
    assert_eq!(variable(&user, CODE_SERVER, "TEST_SET_ENV_VAR").await?, None);
    let of_map = variable(&user, CODE_SERVER, "TEST_DEPLOYMENT_ENV_VAR").await?;
    assert_eq!(of_map.as_deref(), Some("foobar"));
    let of_secret = variable(&user, CODE_SERVER, "WORD_FACTOR").await?;
    assert_eq!(of_secret.as_deref(), Some("2"));
    // A field of the pod.
    let name = pod(&user, CODE_SERVER).await?.name_any();
    assert_eq!(variable(&user, CODE_SERVER, "MY_POD_NAME").await?, Some(name));
    Ok(())
}
