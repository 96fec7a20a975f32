//! The ways by which images reach the nodes.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use kind_client::Targets;
use serde::Serialize;
use xshell::{Shell, cmd};

use super::field::{Field, ctr};
use super::registry::Registry;
use crate::cmd::Run;
use crate::docker::Docker;
use crate::images::LOCAL;

/// How long a delivery may take; gigabytes to three nodes on a small machine.
const DELIVERY: Duration = Duration::from_secs(60 * 60);

/// A way by which images reach the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Peer {
    /// `cargo xtask images load`, this very program.
    Ours,
    /// `kind load docker-image`.
    KindLoad,
    /// `docker push` to a registry on this machine, then `ctr images pull` on each node.
    Registry,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::Ours => "ours",
            Peer::KindLoad => "kind load",
            Peer::Registry => "registry",
        }
    }
}

/// What one delivery took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    pub(super) took: Duration,
    /// What the nodes were sent, where the peer says so.
    pub(super) bytes: Option<u64>,
    /// The most memory that its process has held at once, in bytes, where it says so.
    pub(super) memory: Option<u64>,
}

/// What the peers work with.
pub(super) struct Ways {
    /// This program.
    pub(super) program: PathBuf,
    pub(super) registry: Option<Registry>,
}

impl Ways {
    /// Those that can be measured here.
    pub(super) fn peers(&self) -> Vec<Peer> {
        let mut peers = vec![Peer::Ours, Peer::KindLoad];
        peers.extend(self.registry.as_ref().map(|_| Peer::Registry));
        peers
    }

    /// Makes the nodes and the registry as if no image of the benchmark had ever reached them.
    pub(super) async fn clear(&self, field: &Field) -> Result<()> {
        let hosts: Vec<&str> = self.registry.iter().map(|registry| registry.pull.as_str()).collect();
        field.clear(&hosts).await?;
        if let Some(registry) = &self.registry {
            registry.clear()?;
        }
        Ok(())
    }

    /// Brings `references` to the nodes and makes sure that they are there; only the former is timed.
    pub(super) async fn deliver(&self, peer: Peer, field: &Field, references: &[String]) -> Result<Delivery> {
        // What was written before is not to be written to the disk at the cost of this.
        tokio::task::spawn_blocking(nix::unistd::sync).await?;
        let start = Instant::now();
        let (mut bytes, mut memory) = (None, None);
        match peer {
            Peer::Ours => {
                let (sh, program, cluster) = (Shell::new()?, &self.program, &field.cluster);
                let command =
                    cmd!(sh, "{program} images load {references...} --kind-cluster {cluster} --json");
                let answer = Run::new(command, DELIVERY).success().await?.stdout;
                (bytes, memory) = (sent(&answer), peak_memory(&answer));
            }
            Peer::KindLoad => {
                let kind = field.kind.with_deadline(DELIVERY);
                kind.load_images(&field.cluster, references, &Targets::All).await?;
            }
            Peer::Registry => self.by_registry(field, references).await?,
        }
        let took = start.elapsed();
        let names = match (peer, &self.registry) {
            (Peer::Registry, Some(registry)) => {
                // Nobody would wait for that; after a failure the benchmark's end does it.
                for name in at(&registry.push, references) {
                    Docker.remove(&name).await?;
                }
                at(&registry.pull, references)
            }
            _ => references.to_vec(),
        };
        field.ensure_has(&names).await.with_context(|| format!("look at what {} did", peer.name()))?;
        Ok(Delivery { took, bytes, memory })
    }

    /// Has Docker compress the layers of an image, so that it can push changes alone.
    pub(super) async fn prepare(&self, field: &Field, reference: &str) -> Result<Delivery> {
        let start = Instant::now();
        let (sh, program, cluster) = (Shell::new()?, &self.program, &field.cluster);
        let command = cmd!(sh, "{program} images load {reference} --kind-cluster {cluster} --prepare");
        Run::new(command, DELIVERY).success().await?;
        Ok(Delivery { took: start.elapsed(), bytes: None, memory: None })
    }

    async fn by_registry(&self, field: &Field, references: &[String]) -> Result<()> {
        let registry = self.registry.as_ref().context("there is no registry")?;
        for (reference, name) in references.iter().zip(at(&registry.push, references)) {
            Docker.tag(reference, &name).await?;
            Docker.push(&name).await?;
        }
        let names = at(&registry.pull, references);
        try_join_all(field.nodes.iter().map(|node| async {
            for name in &names {
                ctr(node, &["images", "pull", "--plain-http", name]).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }
}

/// The references as names at a registry.
fn at(host: &str, references: &[String]) -> Vec<String> {
    references.iter().map(|reference| reference.replacen(LOCAL, host, 1)).collect()
}

/// The bytes that `images load --json` says it has sent to the nodes.
fn sent(json: &str) -> Option<u64> {
    let answer: serde_json::Value = serde_json::from_str(json).ok()?;
    answer["nodes"].as_array()?.iter().map(|node| node["bytes"].as_u64()).sum()
}

/// The memory that `images load --json` says it has held.
fn peak_memory(json: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(json).ok()?["peak_memory"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_keeps_its_name_at_a_registry() {
        assert_eq!(
            at("127.0.0.1:5000", &["k8s-test.local/bench-60:base".to_owned()]),
            ["127.0.0.1:5000/bench-60:base"]
        );
    }

    #[test]
    fn what_we_sent_is_the_sum_over_the_nodes() {
        assert_eq!(sent(r#"{"images": [], "nodes": [{"bytes": 3}, {"bytes": 4}]}"#), Some(7));
        assert_eq!(sent("no JSON"), None);
    }
}
