//! The nodes of the cluster config.

use super::yaml::{is_default, nullable};
use super::{PatchJson6902, Port};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A node of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// What the node is for.
    #[serde(default, deserialize_with = "nullable")]
    pub role: Role,
    /// The node's image; the one for which kind was built if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The labels of the node in Kubernetes.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Folders and files of the host to be seen on the node.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub extra_mounts: Vec<Mount>,
    /// Ports of the node to be published on the host.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub extra_port_mappings: Vec<PortMapping>,
    /// Merge patches (RFC 7386) on kubeadm's config for this node, each a YAML document with its `kind`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kubeadm_config_patches: Vec<String>,
    /// JSON patches (RFC 6902) on kubeadm's config for this node.
    #[serde(
        default,
        rename = "kubeadmConfigPatchesJSON6902",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub kubeadm_config_patches_json6902: Vec<PatchJson6902>,
}

impl Node {
    /// A control plane with kind's defaults. In a cluster of one node it also runs Pods.
    #[must_use]
    pub fn control_plane() -> Self {
        Self::default()
    }

    /// A worker with kind's defaults.
    #[must_use]
    pub fn worker() -> Self {
        Self { role: Role::Worker, ..Self::default() }
    }
}

/// What a node is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs the Kubernetes control plane.
    #[default]
    ControlPlane,
    /// Runs Pods only.
    Worker,
}

/// A folder or file of the host to be seen on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// The path on the node.
    pub container_path: String,
    /// The path on the host of the container engine. A relative one counts from kind's working directory.
    pub host_path: String,
    /// Whether the node may only read it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// Whether SELinux has to relabel it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub selinux_relabel: bool,
    /// Whether mounts below it pass between host and node.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub propagation: MountPropagation,
}

/// Whether mounts below a [`Mount`] pass between host and node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// They do not.
    #[default]
    None,
    /// Those of the host appear on the node.
    HostToContainer,
    /// Those of either side appear on the other.
    Bidirectional,
}

/// A port of a node to be published on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The port on the node.
    pub container_port: u16,
    /// The port on the host.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub host_port: Port,
    /// The host's address to listen on; all of them if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_address: Option<String>,
    /// The protocol.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub protocol: Protocol,
}

/// The protocol of a [`PortMapping`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    #[default]
    #[serde(alias = "tcp")]
    Tcp,
    /// UDP
    #[serde(alias = "udp")]
    Udp,
    /// SCTP
    #[serde(alias = "sctp")]
    Sctp,
}
