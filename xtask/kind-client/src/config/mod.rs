//! The cluster config, `kind.x-k8s.io/v1alpha4`, as types.
//!
//! They read and write what kind reads. An unknown field or value is refused, as kind refuses it, but with its
//! line and column.
//!
//! What is not set stays unset, so that the kind that runs fills in its own defaults;
//! [`Cluster::with_defaults`] shows them.

mod defaults;
mod networking;
mod node;
mod port;
mod yaml;

pub use networking::{IpFamily, Networking, ProxyMode};
pub use node::{Mount, MountPropagation, Node, PortMapping, Protocol, Role};
pub use port::Port;
pub use yaml::ParseError;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yaml::{is_default, nullable};

/// The config of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Always `Cluster`.
    pub kind: Kind,
    /// Always `kind.x-k8s.io/v1alpha4`.
    pub api_version: ApiVersion,
    /// The cluster's name, `kind` if none. [`CreateOptions::name`](crate::CreateOptions::name) takes
    /// precedence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The nodes; a single control plane if empty.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub nodes: Vec<Node>,
    /// The cluster's network.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub networking: Networking,
    /// Kubernetes' feature gates, for all of its components.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub feature_gates: BTreeMap<String, bool>,
    /// The API server's `--runtime-config`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub runtime_config: BTreeMap<String, String>,
    /// Merge patches (RFC 7386) on kubeadm's config, each a YAML document with its `kind`. Those of a node
    /// come after.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kubeadm_config_patches: Vec<String>,
    /// JSON patches (RFC 6902) on kubeadm's config. Those of a node come after.
    #[serde(
        default,
        rename = "kubeadmConfigPatchesJSON6902",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub kubeadm_config_patches_json6902: Vec<PatchJson6902>,
    /// Merge patches on containerd's config, each a TOML document.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub containerd_config_patches: Vec<String>,
    /// JSON patches (RFC 6902) on containerd's config, each a YAML or JSON document.
    #[serde(
        default,
        rename = "containerdConfigPatchesJSON6902",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub containerd_config_patches_json6902: Vec<String>,
}

impl Cluster {
    /// A cluster of these nodes, with kind's defaults.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self { nodes, ..Self::default() }
    }
}

/// The kind of a [`Cluster`] document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// `Cluster`
    #[default]
    Cluster,
}

/// The version of a [`Cluster`] document.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// `kind.x-k8s.io/v1alpha4`
    #[default]
    #[serde(rename = "kind.x-k8s.io/v1alpha4")]
    V1Alpha4,
}

/// A JSON patch (RFC 6902) on one object of kubeadm's config.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchJson6902 {
    /// The object's API group.
    #[serde(default)]
    pub group: String,
    /// The object's API version, without the group.
    #[serde(default)]
    pub version: String,
    /// The object's kind.
    pub kind: String,
    /// The patch, a YAML or JSON document.
    pub patch: String,
}
