//! What kind fills in where the cluster config says nothing.

use super::{Cluster, IpFamily, Node};

impl Cluster {
    /// The config with what kind 0.33 fills in by itself, except for the nodes' images: each kind has its own.
    #[must_use]
    pub fn with_defaults(mut self) -> Self {
        self.name.get_or_insert_with(|| "kind".to_owned());
        if self.nodes.is_empty() {
            self.nodes.push(Node::control_plane());
        }
        let (address, pods, services) = match self.networking.ip_family {
            IpFamily::Ipv4 => ("127.0.0.1", "10.244.0.0/16", "10.96.0.0/16"),
            IpFamily::Ipv6 => ("::1", "fd00:10:244::/56", "fd00:10:96::/112"),
            IpFamily::Dual => {
                ("127.0.0.1", "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112")
            }
        };
        let networking = &mut self.networking;
        networking.api_server_address.get_or_insert_with(|| address.to_owned());
        networking.pod_subnet.get_or_insert_with(|| pods.to_owned());
        networking.service_subnet.get_or_insert_with(|| services.to_owned());
        self
    }
}
