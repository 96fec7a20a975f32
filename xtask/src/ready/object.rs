//! The kinds of objects that readiness is judged by.

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A namespace and a name in it; the namespace is empty for objects of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object.
    pub(super) fn of<K: Resource>(object: &K) -> Key {
        Key { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

/// The ConfigMap by which the cluster autoscaler says how it is.
/// See <https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md>.
pub(super) fn autoscaler_status() -> Key {
    Key::new("kube-system", "cluster-autoscaler-status")
}

/// A kind's name with its group, if it has one: two groups may have kinds of the same name.
pub(super) fn qualified_name(version: &str, kind: &str) -> String {
    match version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}"),
        None => kind.to_owned(),
    }
}

/// The name of an object's kind, with its group.
pub(super) fn qualified(object: &DynamicObject) -> String {
    object.types.as_ref().map_or_else(String::new, |types| qualified_name(&types.api_version, &types.kind))
}

macro_rules! objects {
    ($($kind:ident: $doc:literal),* $(,)?) => {
        /// An object as the API server told of it.
        #[derive(Clone, Debug)]
        pub enum Object {
            $(#[doc = $doc] $kind(Box<$kind>),)*
            /// A custom resource.
            Custom(Box<DynamicObject>),
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Object {
                Object::$kind(Box::new(object))
            }
        })*

        impl From<DynamicObject> for Object {
            fn from(object: DynamicObject) -> Object {
                Object::Custom(Box::new(object))
            }
        }

        impl Object {
            /// Its kind's name, with the group where it is a custom one's.
            #[must_use]
            pub fn kind(&self) -> String {
                match self {
                    $(Object::$kind(_) => stringify!($kind).to_owned(),)*
                    Object::Custom(object) => qualified(object),
                }
            }

            /// Where it is.
            #[must_use]
            pub fn key(&self) -> Key {
                match self {
                    $(Object::$kind(object) => Key::of(object.as_ref()),)*
                    Object::Custom(object) => Key {
                        namespace: object.namespace().unwrap_or_default(),
                        name: object.name_any(),
                    },
                }
            }

            /// When it was made.
            pub(super) fn made(&self) -> Option<jiff::Timestamp> {
                let time = match self {
                    $(Object::$kind(object) => object.creation_timestamp(),)*
                    Object::Custom(object) => object.creation_timestamp(),
                };
                time.map(|time| time.0)
            }

            /// Reads one from its JSON, with `apiVersion` and `kind`.
            ///
            /// # Errors
            /// It is no such object.
            pub fn parse(value: Value) -> Result<Object> {
                let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
                let group = value.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
                let read = match kind.as_str() {
                    $(stringify!($kind) if group == <$kind as k8s_openapi::Resource>::API_VERSION =>
                        serde_json::from_value(value).map(|object| Object::$kind(Box::new(object))),)*
                    _ => serde_json::from_value(value).map(|object| Object::Custom(Box::new(object))),
                };
                read.with_context(|| format!("read an object of kind {kind}"))
            }

            /// Its JSON, with `apiVersion` and `kind`.
            ///
            /// # Errors
            /// It cannot be written as JSON.
            pub fn json(&self) -> Result<Value> {
                Ok(match self {
                    $(Object::$kind(object) => serde_json::to_value(object)?,)*
                    Object::Custom(object) => serde_json::to_value(object)?,
                })
            }
        }
    };
}

objects! {
    Deployment: "apps/v1.",
    StatefulSet: "apps/v1.",
    DaemonSet: "apps/v1.",
    ReplicaSet: "apps/v1.",
    Job: "batch/v1.",
    Pod: "v1.",
    PersistentVolumeClaim: "v1.",
    Service: "v1.",
    Event: "v1.",
    Node: "v1.",
    EndpointSlice: "discovery.k8s.io/v1.",
}
