//! What a Kind cluster was made from, remembered on its first node, and how that differs from what is wanted.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::images::key::hex;
use crate::lease::Lease;

/// Where a node keeps it.
pub(super) const PATH: &str = "/kind/k8s-test.yaml";

/// What a node remembers of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Memory {
    /// What it was made from.
    #[serde(flatten)]
    pub(super) origin: Origin,
    /// Who made it, and until when it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Lease>,
}

/// What a cluster is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The node image's reference.
    pub(super) image: String,
    /// The kind config, as text.
    pub(super) config: String,
}

impl Origin {
    /// Short enough for a label's value.
    pub(super) fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.image);
        hash.update([0]);
        hash.update(&self.config);
        hex(&hash.finalize())[..16].to_owned()
    }

    /// How `wanted` differs from this, a line each; nothing where it does not.
    pub(super) fn differences(&self, wanted: &Origin) -> Vec<String> {
        let mut lines = Vec::new();
        if self.image != wanted.image {
            lines.push(format!("node image: it has {}, wanted is {}", self.image, wanted.image));
        }
        let (had, wants): (Vec<_>, Vec<_>) = (self.config.lines().collect(), wanted.config.lines().collect());
        lines.extend(
            had.iter()
                .filter(|line| !wants.contains(line))
                .map(|line| format!("config: only it has    `{}`", line.trim())),
        );
        lines.extend(
            wants
                .iter()
                .filter(|line| !had.contains(line))
                .map(|line| format!("config: only wanted is `{}`", line.trim())),
        );
        if lines.is_empty() && self != wanted {
            lines.push("config: the same lines in another order".to_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(image: &str, config: &str) -> Origin {
        Origin { image: image.to_owned(), config: config.to_owned() }
    }

    #[test]
    fn names_what_differs() {
        let had = origin("node:1", "nodes:\n- role: control-plane\n");
        let wanted = origin("node:2", "nodes:\n- role: control-plane\n- role: worker\n");
        let lines = had.differences(&wanted);
        assert_eq!(lines[0], "node image: it has node:1, wanted is node:2");
        assert_eq!(lines[1], "config: only wanted is `- role: worker`");
        assert_ne!(had.hash(), wanted.hash());
    }

    #[test]
    fn what_is_remembered_comes_back_as_it_was() {
        let made = origin("node:1", "kind: Cluster\nnodes:\n- role: control-plane\n");
        let text = serde_yaml::to_string(&made).unwrap();
        assert_eq!(serde_yaml::from_str::<Origin>(&text).unwrap(), made);
    }

    #[test]
    fn a_lease_is_remembered_and_is_no_difference() {
        let made = origin("node:1", "kind: Cluster\n");
        let lease = Lease {
            run: "r".to_owned(),
            owner: "me@here".to_owned(),
            expires: Some("2026-01-02T00:00:00Z".parse().unwrap()),
        };
        let memory = Memory { origin: made.clone(), lease: Some(lease) };
        let text = serde_yaml::to_string(&memory).unwrap();
        assert_eq!(serde_yaml::from_str::<Memory>(&text).unwrap(), memory);
        assert!(memory.origin.differences(&made).is_empty());
        // As clusters were remembered before there were leases.
        let text = serde_yaml::to_string(&made).unwrap();
        assert_eq!(serde_yaml::from_str::<Memory>(&text).unwrap(), Memory { origin: made, lease: None });
    }

    #[test]
    fn another_order_is_a_difference() {
        assert_eq!(origin("a", "x\ny\n").differences(&origin("a", "y\nx\n")).len(), 1);
        assert!(origin("a", "x").differences(&origin("a", "x")).is_empty());
    }
}
