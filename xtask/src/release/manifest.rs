//! What a rendered manifest names.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_yaml::Value;

use crate::exit::{Exit, ExitWith};

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

/// The documents of a manifest.
pub(crate) fn objects(manifest: &str) -> Result<Vec<Value>> {
    let documents = serde_yaml::Deserializer::from_str(manifest).map(|document| {
        Value::deserialize(document).context("read the rendered manifest").or_exit(Exit::Usage)
    });
    documents.filter(|value| !matches!(value, Ok(Value::Null))).collect()
}

/// The text at a path of keys.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
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
