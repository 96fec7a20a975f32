//! What nodes say that they hold, before anything is brought to them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::join_all;
use kind_client::{Kind, Node};

use super::engine::Store;
use super::{Held, Inventory, Wanted, lacking};
use crate::cluster::nodes;

/// What nodes say that they hold.
pub struct Looked {
    pub(super) at: Instant,
    pub(super) held: BTreeMap<String, (Result<Held>, Duration)>,
}

/// The nodes of a Kind cluster that take pods, asked what they hold as [`look`] does; none where there is no such cluster.
///
/// # Errors
/// As [`nodes::ask`].
pub async fn look_at_cluster(kind: &Kind, cluster: &str, names: &[String]) -> Result<(Vec<Node>, Looked)> {
    let at = Instant::now();
    let asked = nodes::ask(kind, cluster, async |node: Node| look(&[node], names).await.held).await?;
    let (nodes, held): (Vec<Node>, Vec<_>) = asked.into_iter().unzip();
    Ok((nodes, Looked { at, held: held.into_iter().flatten().collect() }))
}

impl Looked {
    /// What they are known to hold at this moment.
    #[must_use]
    pub fn known(held: Inventory) -> Looked {
        let held = held.into_iter().map(|(node, held)| (node, (Ok(held), Duration::ZERO)));
        Looked { at: Instant::now(), held: held.collect() }
    }

    /// Whether each of them has said that it has all of `wanted`.
    #[must_use]
    pub fn has(&self, wanted: &[Wanted]) -> bool {
        self.held.values().all(|(held, _)| held.as_ref().is_ok_and(|held| lacking(held, wanted).is_empty()))
    }
}

/// Asks `nodes` what they hold, for a delivery that follows soon: of images of ours, or of these full names.
pub async fn look(nodes: &[Node], names: &[String]) -> Looked {
    look_at(nodes, names).await
}

pub(super) async fn look_at<S: Store>(nodes: &[S], names: &[String]) -> Looked {
    let ask = async |node: &S| {
        let start = Instant::now();
        (node.name().to_owned(), (node.held(names).await, start.elapsed()))
    };
    let at = Instant::now();
    Looked { at, held: join_all(nodes.iter().map(ask)).await.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Image;

    #[test]
    fn what_one_node_lacks_is_not_had() {
        let had = "NAME k8s-test.local/a:1\nREF\nk8s-test.local/a:1 type sha256:aa 1 MiB linux/amd64 -\nDIGEST\n\
            sha256:aa 1B 3 minutes containerd.io/gc.ref.content.config=sha256:c0\n";
        let looked = |answers: [&str; 2]| {
            let held = answers.map(Held::parse);
            Looked::known(["one", "two"].map(str::to_owned).into_iter().zip(held).collect())
        };
        let image = Image { id: "sha256:c0".to_owned(), ..Image::default() };
        let wanted = [Wanted::new("k8s-test.local/a:1", image).unwrap()];
        assert!(looked([had, had]).has(&wanted));
        assert!(!looked([had, ""]).has(&wanted));
        assert!(!looked([had, &had.replace("sha256:c0", "sha256:c1")]).has(&wanted));
        let silent = BTreeMap::from([("one".to_owned(), (Err(anyhow::anyhow!("silent")), Duration::ZERO))]);
        assert!(!Looked { at: Instant::now(), held: silent }.has(&wanted));
    }
}
