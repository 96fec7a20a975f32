//! What a chart renders to, as objects.

use std::collections::BTreeMap;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// The objects of a rendered chart, those of its hooks among them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Manifests(Vec<Value>);

impl Manifests {
    /// Reads helm's output.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
        let documents: Vec<Value> =
            documents.collect::<Result<_, _>>().context("read what helm has rendered")?;
        Ok(Self(documents.into_iter().filter(|document| !document.is_null()).collect()))
    }

    /// All objects.
    pub(crate) fn all(&self) -> &[Value] {
        &self.0
    }

    /// The objects of a kind.
    pub(crate) fn of<'a>(&'a self, kind: &str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |object| object["kind"] == kind)
    }

    /// The names of the objects of a kind, in order.
    pub(crate) fn names(&self, kind: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self.of(kind).map(name).collect();
        names.sort_unstable();
        names
    }

    /// The object of a kind and name.
    #[track_caller]
    pub(crate) fn one(&self, kind: &str, wanted: &str) -> &Value {
        let mut found = self.of(kind).filter(|object| name(object) == wanted);
        match (found.next(), found.next()) {
            (Some(object), None) => object,
            (None, _) => panic!("no {kind} {wanted} among {:?}", self.names(kind)),
            _ => panic!("more than one {kind} {wanted}"),
        }
    }

    /// What a workload's pods are made from, by kind and name; the pod of `helm test` is its own.
    pub(crate) fn pods(&self) -> BTreeMap<String, &Value> {
        let pods = self.0.iter().filter_map(|object| {
            let pod = match object["kind"].as_str()? {
                "Deployment" | "StatefulSet" | "Job" => &object["spec"]["template"],
                "Pod" => object,
                _ => return None,
            };
            Some((id(object), pod))
        });
        pods.collect()
    }

    /// What the pods of a Deployment are made from.
    #[track_caller]
    pub(crate) fn pod(&self, deployment: &str) -> &Value {
        &self.one("Deployment", deployment)["spec"]["template"]
    }

    /// The first container of a Deployment's pods.
    #[track_caller]
    pub(crate) fn container(&self, deployment: &str) -> &Value {
        &self.pod(deployment)["spec"]["containers"][0]
    }

    /// A file in a ConfigMap, read as YAML.
    #[track_caller]
    pub(crate) fn file(&self, config_map: &str, file: &str) -> Value {
        let text = self.one("ConfigMap", config_map)["data"][file].as_str();
        let text = text.unwrap_or_else(|| panic!("the ConfigMap {config_map} has no {file}"));
        serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{file} is no YAML: {error}\n{text}"))
    }

    /// The `dagster.yaml` of the release `dagster`.
    #[track_caller]
    pub(crate) fn instance(&self) -> Value {
        self.file("dagster-instance", "dagster.yaml")
    }

    /// The same without the checksums, in which every value leaves its trace.
    pub(crate) fn without_checksums(mut self) -> Self {
        self.0.iter_mut().for_each(drop_checksums);
        self
    }

    /// Every text and number in it, what Secrets hold in the clear.
    pub(crate) fn told(&self) -> String {
        let mut told = String::new();
        for object in &self.0 {
            tell(object, object["kind"] == "Secret", &mut told);
        }
        told
    }
}

/// An object's name.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// An object's kind and name.
pub(crate) fn id(object: &Value) -> String {
    format!("{} {}", object["kind"].as_str().unwrap_or_default(), name(object))
}

fn drop_checksums(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.starts_with("checksum/"));
            map.values_mut().for_each(drop_checksums);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_checksums),
        _ => {}
    }
}

fn tell(value: &Value, secret: bool, told: &mut String) {
    match value {
        Value::Object(map) => map.values().for_each(|value| tell(value, secret, told)),
        Value::Array(items) => items.iter().for_each(|value| tell(value, secret, told)),
        Value::String(text) => {
            told.push_str(text);
            told.push('\n');
            if let Some(hidden) = STANDARD.decode(text).ok().filter(|_| secret) {
                told.push_str(&String::from_utf8_lossy(&hidden));
                told.push('\n');
            }
        }
        other => told.push_str(&format!("{other}\n")),
    }
}
