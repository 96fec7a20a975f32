//! Comparisons with messages that say what was found in the cluster.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};

use crate::dagster::Run;

/// The labels that Dagster puts on the Jobs and the pods of a run, and those of the launcher's configuration.
#[track_caller]
pub fn labels_of_run<K: Resource>(object: &K, run: &Run, component: &str) {
    let labels = object.labels();
    for (key, value) in [
        ("app.kubernetes.io/name", "dagster"),
        ("app.kubernetes.io/part-of", "dagster"),
        ("app.kubernetes.io/component", component),
        ("dagster/run-id", run.run_id.as_str()),
        ("dagster/job", run.job_name.as_str()),
        ("dagster/code-location", "user-code-deployment-1"),
        ("run_launcher_label_key", "run_launcher_label_value"),
    ] {
        let found = labels.get(key).map(String::as_str);
        assert_eq!(found, Some(value), "label {key} of {}, which has {labels:?}", object.name_any());
    }
}

/// The only container of a pod.
#[track_caller]
pub fn only_container(pod: &Pod) -> &Container {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let [container] = containers else {
        panic!("pod {} has not one container but {containers:?}", pod.name_any());
    };
    container
}

/// The only object of a list.
#[track_caller]
pub fn only<'a, K: Resource>(objects: &'a [K], what: &str) -> &'a K {
    let [object] = objects else {
        let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
        panic!("not one {what} but {}: {names:?}", names.len());
    };
    object
}

/// The names of the ConfigMaps and of the Secrets that a container has all of in its environment.
pub fn sources(container: &Container) -> (Vec<&str>, Vec<&str>) {
    let all = container.env_from.iter().flatten();
    let maps = all.clone().filter_map(|from| Some(from.config_map_ref.as_ref()?.name.as_str()));
    let secrets = all.filter_map(|from| Some(from.secret_ref.as_ref()?.name.as_str()));
    (maps.collect(), secrets.collect())
}

/// The names of the Secrets that a pod's images may be pulled with.
pub fn pull_secrets(pod: &Pod) -> Vec<&str> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|secret| secret.name.as_str()).collect()
}

/// No part of Celery is among these pods.
///
/// # Errors
/// They cannot be listed.
///
/// # Panics
/// One is.
pub async fn no_celery(pods: &Api<Pod>) -> Result<(), kube::Error> {
    let names = pods.list_metadata(&ListParams::default()).await?.items;
    let celery: Vec<_> =
        names.iter().map(ResourceExt::name_any).filter(|name| name.contains("celery")).collect();
    assert!(celery.is_empty(), "pods of Celery in a deployment that has none: {celery:?}");
    Ok(())
}
