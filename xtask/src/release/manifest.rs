//! What a rendered manifest asks for: workloads to wait for, images to have.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_yaml::Value;

use crate::exit::{Exit, ExitWith};

/// Something that runs pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Kinds of workloads whose readiness is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// apps/v1.
    Deployment,
    /// apps/v1.
    StatefulSet,
    /// apps/v1.
    DaemonSet,
    /// batch/v1.
    Job,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

/// An image that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The reference as it stands there.
    pub image: String,
    /// `Always`, `IfNotPresent`, `Never`; absent means Kubernetes' default.
    pub policy: Option<String>,
    /// The object that names it, such as `Deployment dagster-daemon`.
    pub by: String,
}

impl Named {
    /// Whether the kubelet would ask a registry though the node holds the image.
    #[must_use]
    pub fn always_pulls(&self) -> bool {
        match self.policy.as_deref() {
            Some(policy) => policy == "Always",
            None => {
                self.image.ends_with(":latest")
                    || !self.image.rsplit('/').next().unwrap_or_default().contains([':', '@'])
            }
        }
    }
}

/// The workloads of a manifest; hooks are helm's own to wait for.
///
/// # Errors
/// The manifest is no YAML.
pub fn workloads(manifest: &str, namespace: &str) -> Result<Vec<Workload>> {
    let mut found = Vec::new();
    for object in objects(manifest)? {
        let kind = match (text(&object, &["apiVersion"]), text(&object, &["kind"])) {
            (Some("apps/v1"), Some("Deployment")) => Kind::Deployment,
            (Some("apps/v1"), Some("StatefulSet")) => Kind::StatefulSet,
            (Some("apps/v1"), Some("DaemonSet")) => Kind::DaemonSet,
            (Some("batch/v1"), Some("Job")) => Kind::Job,
            _ => continue,
        };
        if text(&object, &["metadata", "annotations", "helm.sh/hook"]).is_some() {
            continue;
        }
        let name = text(&object, &["metadata", "name"]).unwrap_or_default().to_owned();
        let namespace = text(&object, &["metadata", "namespace"]).unwrap_or(namespace).to_owned();
        found.push(Workload { kind, namespace, name });
    }
    found.sort();
    Ok(found)
}

/// The images that a manifest names, each with who names it first; `helm test` pods are left out.
///
/// # Errors
/// The manifest is no YAML.
pub fn images(manifest: &str) -> Result<Vec<Named>> {
    let mut found = BTreeMap::new();
    for object in objects(manifest)? {
        let hook = text(&object, &["metadata", "annotations", "helm.sh/hook"]).unwrap_or_default();
        if !hook.is_empty() && hook.split(',').all(|hook| hook.trim().starts_with("test")) {
            continue;
        }
        let kind = text(&object, &["kind"]).unwrap_or("object");
        let by = format!("{kind} {}", text(&object, &["metadata", "name"]).unwrap_or("without a name"));
        containers(&object, &mut |image, policy| {
            let named = Named { image: image.to_owned(), policy: policy.map(str::to_owned), by: by.clone() };
            // The strictest policy decides.
            let entry = found.entry(image.to_owned()).or_insert_with(|| named.clone());
            if named.always_pulls() && !entry.always_pulls() {
                *entry = named;
            }
        });
    }
    Ok(found.into_values().collect())
}

fn objects(manifest: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(manifest).map(|document| {
        Value::deserialize(document).context("read the rendered manifest").or_exit(Exit::Usage)
    });
    documents.filter(|value| !matches!(value, Ok(Value::Null))).collect()
}

fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(value, |value, key| value.get(*key))?.as_str()
}

/// Finds the containers at any depth: pod templates stand in custom resources too.
fn containers(value: &Value, found: &mut impl FnMut(&str, Option<&str>)) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                let is_list =
                    matches!(key.as_str(), Some("containers" | "initContainers" | "ephemeralContainers"));
                if let (true, Some(list)) = (is_list, value.as_sequence()) {
                    for container in list {
                        if let Some(image) = text(container, &["image"]).filter(|image| !image.is_empty()) {
                            found(image, text(container, &["imagePullPolicy"]));
                        }
                    }
                }
                containers(value, found);
            }
        }
        Value::Sequence(values) => values.iter().for_each(|value| containers(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {initContainers: [{image: "busybox:1.28"}], containers: [{image: "local/app:1", imagePullPolicy: IfNotPresent}]}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, namespace: other}
spec: {template: {spec: {containers: [{image: "local/app:1", imagePullPolicy: Always}]}}}
---
apiVersion: v1
kind: Pod
metadata: {name: check, annotations: {helm.sh/hook: test}}
spec: {containers: [{image: "never-needed:1"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: before, annotations: {helm.sh/hook: pre-install}}
spec: {template: {spec: {containers: [{image: hooked}]}}}
---
"#;

    #[test]
    fn finds_what_to_wait_for() {
        let names: Vec<String> =
            workloads(MANIFEST, "ns").unwrap().iter().map(|w| format!("{w} in {}", w.namespace)).collect();
        assert_eq!(names, ["Deployment web in ns", "Job migrate in other"]);
    }

    #[test]
    fn finds_images_of_hooks_but_not_of_tests() {
        let found = images(MANIFEST).unwrap();
        let names: Vec<&str> = found.iter().map(|named| named.image.as_str()).collect();
        assert_eq!(names, ["busybox:1.28", "hooked", "local/app:1"]);
        assert_eq!(found[0].by, "Deployment web");
    }

    #[test]
    fn the_strictest_pull_policy_decides() {
        let always: Vec<bool> = images(MANIFEST).unwrap().iter().map(Named::always_pulls).collect();
        assert_eq!(always, [false, true, true]);
    }
}
