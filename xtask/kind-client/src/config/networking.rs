//! The network of the cluster config.

use super::Port;
use super::yaml::{is_default, nullable};
use serde::{Deserialize, Serialize};

/// The network of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Networking {
    /// The versions of IP.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub ip_family: IpFamily,
    /// The API server's port on the host.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub api_server_port: Port,
    /// The API server's address on the host; the loopback if none. Anything else opens it to other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_server_address: Option<String>,
    /// The CIDR of the Pods' addresses; one of each family, joined by a comma, in a dual-stack cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_subnet: Option<String>,
    /// The CIDR of the Services' addresses; as for Pods in a dual-stack cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_subnet: Option<String>,
    /// Leaves out kind's network plugin. Nodes are not ready until another one is installed.
    #[serde(
        default,
        rename = "disableDefaultCNI",
        deserialize_with = "nullable",
        skip_serializing_if = "is_default"
    )]
    pub disable_default_cni: bool,
    /// How kube-proxy works.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub kube_proxy_mode: ProxyMode,
    /// The DNS search domains of the nodes; those of the host if none. An empty list means no domains.
    #[serde(default, rename = "dnsSearch", skip_serializing_if = "Option::is_none")]
    pub dns_search: Option<Vec<String>>,
}

/// The versions of IP in a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 alone.
    #[default]
    Ipv4,
    /// IPv6 alone.
    Ipv6,
    /// Both.
    Dual,
}

/// How kube-proxy works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyMode {
    /// By iptables.
    #[default]
    Iptables,
    /// By IPVS.
    Ipvs,
    /// By nftables. From kind 0.24.
    Nftables,
    /// Not at all: there is no kube-proxy.
    None,
}
