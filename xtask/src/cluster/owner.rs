//! Whose a Kind cluster is, read from the files of its first node.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result};
use kind_client::Node;

use super::drift;
use crate::labels;

/// Where kind, and we, keep files on a node.
const FOLDER: &str = "/kind";
/// What kind writes for kubeadm as it begins to make a cluster, with the nodes' labels.
const KUBEADM: &str = "/kind/kubeadm.conf";

/// Whose a cluster is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// We made it, from this origin.
    Ours(String),
    /// We began to make it and were ended.
    HalfMade,
    /// Somebody else made it.
    Foreign,
}

/// Whose the cluster of these nodes is, by the files of one of them: also where that does not run.
///
/// # Errors
/// The node cannot be asked.
pub(crate) async fn owner(nodes: &[Node]) -> Result<Owner> {
    let Some(first) = nodes.iter().min_by_key(|node| node.name().to_owned()) else {
        return Ok(Owner::HalfMade);
    };
    // The label stands in kubeadm's configuration from the creation's start, the origin from its end.
    let script = format!(
        "cat {origin} 2>/dev/null || grep -qs {label} {KUBEADM} && [ ! -e {origin} ] && echo half-made; true",
        origin = drift::PATH,
        label = labels::CONFIG
    );
    let text = match first.exec(["sh", "-c", &script]).ensure_stdout().await {
        Ok(text) => text,
        // Only then, because every question takes its time.
        Err(error) => match first.is_running().await {
            Ok(false) => return owner_by_container(first).await,
            _ => return Err(error.into()),
        },
    };
    Ok(match text.trim() {
        "" => Owner::Foreign,
        "half-made" => Owner::HalfMade,
        // As it is: at the end of YAML a line break counts.
        _ => Owner::Ours(text),
    })
}

/// The same of a node that does not run, and perhaps cannot: its port on the host may be another's by now.
async fn owner_by_container(node: &Node) -> Result<Owner> {
    let folder = tempfile::tempdir().context("make a folder for the files of a node")?;
    node.copy_from(FOLDER, folder.path()).await?;
    owner_by_files(folder.path())
}

/// The same by a node's files, of which those that count lie below `root`.
fn owner_by_files(root: &Path) -> Result<Owner> {
    let read = |path: &str| {
        let file = root.join(path.trim_start_matches('/'));
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {path} of a node that does not run")),
        }
    };
    let begun = read(KUBEADM)?.is_some_and(|text| text.contains(labels::CONFIG));
    Ok(match read(drift::PATH)? {
        Some(text) if text.trim().is_empty() => Owner::Foreign,
        Some(text) => Owner::Ours(text),
        None if begun => Owner::HalfMade,
        None => Owner::Foreign,
    })
}

/// What to do about a cluster of which [`owner`] cannot say whose it is.
pub(crate) fn nobody_knows(name: &str) -> String {
    format!(
        "whose the Kind cluster {name} is cannot be found out; `kind delete cluster --name {name}` deletes it, whosever it is"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_does_not_run_says_by_its_files_whose_it_is() {
        let root = tempfile::tempdir().unwrap();
        let owner = || owner_by_files(root.path()).unwrap();
        assert_eq!(owner(), Owner::Foreign);
        let write = |path: &str, text: &str| std::fs::write(root.path().join(&path[1..]), text).unwrap();
        std::fs::create_dir(root.path().join(&FOLDER[1..])).unwrap();
        write(KUBEADM, "node-labels: tier=web");
        assert_eq!(owner(), Owner::Foreign);
        write(KUBEADM, &format!("node-labels: {}=0123", labels::CONFIG));
        assert_eq!(owner(), Owner::HalfMade);
        write(drift::PATH, "image: node:1\n");
        assert_eq!(owner(), Owner::Ours("image: node:1\n".to_owned()));
    }
}
