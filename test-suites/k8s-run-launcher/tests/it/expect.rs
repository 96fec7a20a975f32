//! Comparisons with messages that say what was found in the cluster.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{Resource, ResourceExt};
use suite_support::Run;

/// The labels that Dagster puts on the Jobs and the pods of a run, and those of the launcher's configuration.
#[track_caller]
pub(crate) fn labels_of_run<K: Resource>(object: &K, run: &Run, component: &str) {
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
pub(crate) fn only_container(pod: &Pod) -> &Container {
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let [container] = containers else {
        panic!("pod {} has not one container but {containers:?}", pod.name_any());
    };
    container
}

/// The only object of a list.
#[track_caller]
pub(crate) fn only<'a, K: Resource>(objects: &'a [K], what: &str) -> &'a K {
    let [object] = objects else {
        let names: Vec<_> = objects.iter().map(ResourceExt::name_any).collect();
        panic!("not one {what} but {}: {names:?}", names.len());
    };
    object
}
