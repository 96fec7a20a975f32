//! A change of workloads and ConfigMaps alone, brought to the cluster just before helm does it: helm takes a second to read and
//! write the release, in which their pods can start.
//!
//! What is applied is what helm applies right after it, under helm's own name, so its record is right and nothing rolls twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::select_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_yaml::Value;

use super::Texts;
use super::manifest::{objects, text};
use crate::helm::Install;
use crate::watch;

/// How long helm waits for a first container at most: it keeps a processor busy for as long, which the pods' starts have a use for.
const HEAD_START: Duration = Duration::from_secs(2);

/// Groups and kinds of version v1, in helm's order: what pods read, and what rolls its pods when its template changes.
const KINDS: [(&str, &str); 4] =
    [("", "ConfigMap"), ("apps", "DaemonSet"), ("apps", "Deployment"), ("apps", "StatefulSet")];

/// Applies the workloads and ConfigMaps that `rendered` changes of what was installed `before`, where it changes nothing else,
/// and gives the first container of a new pod a head start over helm. `begin` is now, by the cluster's clock.
///
/// # Errors
/// The API refuses one: helm will say why.
pub(super) async fn apply(
    client: &Client,
    manager: &str,
    install: &Install<'_>,
    rendered: &str,
    before: &Texts,
    begin: Timestamp,
) -> Result<usize> {
    let mut rolled = BTreeSet::new();
    let changed = changed(&before.rendered, &before.installed, rendered)?.unwrap_or_default();
    for (group, kind, object) in &changed {
        let mut object: DynamicObject = serde_yaml::from_value(object.clone())?;
        // What helm adds to each object (its pkg/action/validate.go, `setMetadataVisitor`).
        object.labels_mut().insert("app.kubernetes.io/managed-by".to_owned(), "Helm".to_owned());
        let release = [("name", install.name), ("namespace", install.namespace)];
        let release = release.map(|(key, value)| (format!("meta.helm.sh/release-{key}"), value.to_owned()));
        object.annotations_mut().extend(release);
        let namespace = object.metadata.namespace.clone().unwrap_or_else(|| install.namespace.to_owned());
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let name = object.name_any();
        api.patch(&name, &PatchParams::apply(manager), &Patch::Apply(&object))
            .await
            .with_context(|| format!("apply {kind} {name} ahead of helm"))?;
        if !group.is_empty() {
            rolled.insert(namespace);
        }
    }
    if !rolled.is_empty() {
        select_all(rolled.into_iter().map(|namespace| Box::pin(first_start(client, namespace, begin)))).await;
    }
    Ok(changed.len())
}

/// Waits until a container of a pod that was made since `begin` has started, and not for long.
async fn first_start(client: &Client, namespace: String, begin: Timestamp) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let started = |pod: &&Pod| {
        // Kubernetes tells whole seconds.
        let is_new = pod.creation_timestamp().is_some_and(|made| made.0.as_second() >= begin.as_second());
        let status = pod.status.iter();
        let containers =
            status.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
        let mut states = containers.flatten().flatten().filter_map(|container| container.state.as_ref());
        is_new && states.any(|state| state.waiting.is_none())
    };
    // That none has is not for helm to wait for.
    let _ = watch::until(pods, watcher::Config::default(), HEAD_START, |pods| {
        pods.values().find(started).map(drop)
    })
    .await;
}

/// An object of these: its group, its kind, itself.
type Changed = (&'static str, &'static str, Value);

/// What changes, in helm's order, where it is nothing but workloads and ConfigMaps, nothing comes or goes, helm has no hook to run
/// before, and what the chart rendered to was what helm installed: one that draws something at random renders anew for helm.
fn changed(before: &str, installed: &str, now: &str) -> Result<Option<Vec<Changed>>> {
    let (before, installed, now) = (by_key(before)?, by_key(installed)?, by_key(now)?);
    let (Some(before), Some(installed), Some(now)) = (before, installed, now) else {
        return Ok(None);
    };
    if before != installed || !now.keys().eq(installed.keys()) {
        return Ok(None);
    }
    let mut changed = Vec::new();
    for (key, object) in now.into_iter().filter(|(key, object)| installed[key] != *object) {
        let version = |group: &str| if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
        let place = KINDS.iter().position(|(group, kind)| version(group) == key.0 && *kind == key.1);
        let Some(place) = place else { return Ok(None) };
        changed.push((place, object));
    }
    changed.sort_by_key(|(place, _)| *place);
    let with_kind = |(place, object): (usize, Value)| (KINDS[place].0, KINDS[place].1, object);
    Ok(Some(changed.into_iter().map(with_kind).collect()))
}

/// apiVersion, kind, namespace and name.
type Key = (String, String, String, String);

/// The objects of a manifest without those of `helm test`; nothing where it has other hooks, or an object without a name.
fn by_key(manifest: &str) -> Result<Option<BTreeMap<Key, Value>>> {
    let mut found = BTreeMap::new();
    for object in objects(manifest)? {
        let hooks = text(&object, &["metadata", "annotations", "helm.sh/hook"]).unwrap_or_default();
        if !hooks.is_empty() {
            if hooks.split(',').all(|hook| hook.trim().starts_with("test")) {
                continue;
            }
            return Ok(None);
        }
        let part = |path: &[&str]| text(&object, path).unwrap_or_default().to_owned();
        let name = part(&["metadata", "name"]);
        if name.is_empty() {
            return Ok(None);
        }
        let key = (part(&["apiVersion"]), part(&["kind"]), part(&["metadata", "namespace"]), name);
        found.insert(key, object);
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str =
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {image: 'app:1'}\n";
    const MAP: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: map}\ndata: {a: '1'}\n";
    const SERVICE: &str = "---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {port: 1}\n";
    const TEST: &str =
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: check, annotations: {helm.sh/hook: test}}\n";

    /// The names of what is applied ahead.
    fn ahead(before: &str, installed: &str, now: &str) -> Option<Vec<String>> {
        let changed = changed(before, installed, now).unwrap()?;
        let name = |(.., object): &Changed| text(object, &["metadata", "name"]).unwrap().to_owned();
        Some(changed.iter().map(name).collect())
    }

    #[test]
    fn a_new_image_goes_ahead_of_helm() {
        let (rendered, installed) = (format!("{WEB}{MAP}{TEST}"), format!("{MAP}---\n{WEB}"));
        assert_eq!(ahead(&rendered, &installed, &rendered), Some(vec![]));
        assert_eq!(
            ahead(&rendered, &installed, &rendered.replace("app:1", "app:2")),
            Some(vec!["web".to_owned()])
        );
        let now = rendered.replace("app:1", "app:2").replace("a: '1'", "a: '2'");
        assert_eq!(ahead(&rendered, &installed, &now), Some(vec!["map".to_owned(), "web".to_owned()]));
    }

    #[test]
    fn what_is_more_than_workloads_is_left_to_helm() {
        let before = format!("{WEB}{MAP}{SERVICE}");
        let with = |now: &str| ahead(&before, &before, now);
        let service = before.replace("app:1", "app:2").replace("port: 1", "port: 2");
        assert_eq!(with(&service), None, "another kind");
        assert_eq!(with(WEB), None, "an object goes");
        assert_eq!(with(&format!("{before}{}", MAP.replace("name: map", "name: new"))), None, "one comes");
        let hook = TEST.replace("hook: test", "hook: pre-upgrade");
        assert_eq!(with(&format!("{before}{hook}")), None, "a hook comes first");
    }

    #[test]
    fn what_renders_to_something_else_each_time_is_left_to_helm() {
        let installed = WEB.replace("app:1", "app:random");
        assert_eq!(ahead(WEB, &installed, &WEB.replace("app:1", "app:2")), None);
    }
}
