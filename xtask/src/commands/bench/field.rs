//! The nodes that images are brought to: emptied before each measurement, looked into after it.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use kind_client::{Kind, Node};
use tokio::time::Instant;

use super::images;

/// How long a node may take to forget an image.
const FORGETS: Duration = Duration::from_secs(30);

/// A cluster to bring images to.
pub(super) struct Field {
    pub(super) kind: Kind,
    pub(super) cluster: String,
    pub(super) nodes: Vec<Node>,
    /// Whether the nodes have crictl, by which `kind load` finds out what they have.
    pub(super) crictl: bool,
}

/// A line of `ctr images ls`.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    reference: &'a str,
    digest: &'a str,
}

impl Field {
    /// The nodes of a cluster.
    pub(super) async fn new(kind: &Kind, cluster: &str, nodes: Vec<Node>) -> Result<Field> {
        let first = nodes.first().with_context(|| format!("the Kind cluster {cluster} has no nodes"))?;
        let crictl = first.exec(["sh", "-c", "command -v crictl || exit 1"]).is_success().await?;
        Ok(Field { kind: kind.clone(), cluster: cluster.to_owned(), nodes, crictl })
    }

    /// Removes everything of the benchmark's images from the nodes; `registries` are the hosts of further names.
    pub(super) async fn clear(&self, registries: &[&str]) -> Result<()> {
        try_join_all(self.nodes.iter().map(|node| self.clear_node(node, registries))).await?;
        Ok(())
    }

    /// Makes sure that every node has an image of each of these names.
    pub(super) async fn ensure_has(&self, references: &[String]) -> Result<()> {
        for node in &self.nodes {
            let list = ctr(node, &["images", "ls", "--quiet"]).await?;
            let names: BTreeSet<&str> = list.lines().collect();
            if let Some(missing) = references.iter().find(|reference| !names.contains(reference.as_str())) {
                bail!("{} does not have {missing}, although bringing it there succeeded", node.name());
            }
        }
        Ok(())
    }

    async fn clear_node(&self, node: &Node, registries: &[&str]) -> Result<()> {
        let list = ctr(node, &["images", "ls"]).await?;
        let lines: Vec<Line<'_>> = lines(&list).collect();
        let ours: BTreeSet<&str> =
            lines.iter().filter(|line| is_ours(line.reference, registries)).map(|line| line.digest).collect();
        if ours.is_empty() {
            return Ok(());
        }
        // What has to be gone: the manifests, and what they name.
        let mut gone: BTreeSet<String> = ours.iter().map(|digest| (*digest).to_owned()).collect();
        for digest in &ours {
            gone.extend(digests(&ctr(node, &["content", "get", digest]).await?));
        }
        let mut references = vec!["images", "rm", "--sync"];
        for line in &lines {
            let mut is_ours = ours.contains(line.digest);
            // An import also leaves a name for the archive's index, which holds on to all images in it.
            if !is_ours && line.reference.starts_with("import-") {
                let index = ctr(node, &["content", "get", line.digest]).await?;
                is_ours = ours.iter().any(|digest| index.contains(digest));
            }
            if is_ours {
                references.push(line.reference);
            }
        }
        ctr(node, &references).await?;
        let deadline = Instant::now() + FORGETS;
        // What the kubelet sees follows the removal a little later, and cannot be watched.
        loop {
            let seen = match self.crictl {
                true => node.exec(["crictl", "images"]).ensure_stdout().await?,
                false => String::new(),
            };
            let content = ctr(node, &["content", "ls", "--quiet"]).await?;
            if !seen.contains("/bench-") && !content.lines().any(|digest| gone.contains(digest)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{} does not forget the benchmark's images within {} s; look at `ctr -n k8s.io images ls` and `leases ls` there",
                    node.name(),
                    FORGETS.as_secs()
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// This machine's address in the nodes' network.
    pub(super) async fn bridge(&self) -> Result<Ipv4Addr> {
        let node = self.nodes.first().context("the cluster has no nodes")?;
        let routes = node.exec(["ip", "-4", "route", "show", "default"]).ensure_stdout().await?;
        let via = routes.split_whitespace().skip_while(|word| *word != "via").nth(1);
        via.and_then(|address| address.parse().ok())
            .with_context(|| format!("{} has no default route to this machine: {routes}", node.name()))
    }

    /// The node's containerd, for the record.
    pub(super) async fn containerd(&self) -> Result<String> {
        let node = self.nodes.first().context("the cluster has no nodes")?;
        Ok(node.exec(["containerd", "--version"]).ensure_stdout().await?.trim().to_owned())
    }
}

/// Runs ctr on what Kubernetes sees.
pub(super) async fn ctr(node: &Node, args: &[&str]) -> Result<String> {
    let all = ["ctr", "--namespace", "k8s.io"].iter().chain(args);
    Ok(node.exec(all).ensure_stdout().await?)
}

fn is_ours(reference: &str, registries: &[&str]) -> bool {
    let of_registry =
        |host: &&str| reference.strip_prefix(host).is_some_and(|rest| rest.starts_with("/bench-"));
    reference.starts_with(&images::prefix()) || registries.iter().any(of_registry)
}

/// The digests that a manifest or an index names.
fn digests(json: &str) -> impl Iterator<Item = String> {
    json.split('"').filter(|text| text.starts_with("sha256:")).map(str::to_owned)
}

fn lines(list: &str) -> impl Iterator<Item = Line<'_>> {
    list.lines().skip(1).filter_map(|line| {
        let mut words = line.split_whitespace();
        let reference = words.next()?;
        Some(Line { reference, digest: words.find(|word| word.starts_with("sha256:"))? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_what_they_name() {
        let list = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            k8s-test.local/bench-60:base application/x sha256:aa 57.2 MiB linux/amd64 -\n\
            sha256:bb application/x sha256:aa 57.2 MiB linux/amd64 -\n";
        let expected = [("k8s-test.local/bench-60:base", "sha256:aa"), ("sha256:bb", "sha256:aa")]
            .map(|(reference, digest)| Line { reference, digest });
        assert_eq!(lines(list).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_manifest_names_its_layers_and_configuration() {
        let manifest =
            r#"{"config": {"digest":"sha256:aa"}, "layers": [{"size": 1, "digest": "sha256:bb"}]}"#;
        assert_eq!(digests(manifest).collect::<Vec<_>>(), ["sha256:aa", "sha256:bb"]);
    }

    #[test]
    fn only_the_benchmarks_own_names_are_ours() {
        let registries = ["172.18.0.1:5000"];
        assert!(is_ours("k8s-test.local/bench-60:base", &registries));
        assert!(is_ours("172.18.0.1:5000/bench-60:base", &registries));
        assert!(!is_ours("172.18.0.1:5001/bench-60:base", &registries));
        assert!(!is_ours("k8s-test.local/dagster-test:1", &registries));
    }
}
