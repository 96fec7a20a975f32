//! The cluster under test: one of kind's, created or reused, or one of the user's.

use std::collections::BTreeSet;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::Discovery;
use kube::runtime::watcher;
use kube::{Api, Client, Config, ResourceExt};

use clock::Clock;

use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::text;
use crate::watch::{self, Late};

pub mod clock;
mod drift;
pub mod existing;
pub mod kind;
pub mod lock;
pub mod nodes;
mod owner;
mod proxy;
mod shares;

/// How long nodes may take to be Ready; a node that was stopped needs most of it.
const NODES_READY: Duration = Duration::from_secs(180);

/// The taint that kubeadm gives control planes (kubernetes.io/docs/reference/labels-annotations-taints).
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// A cluster that answers and whose nodes are Ready.
#[derive(Clone)]
pub struct Cluster {
    /// Its name for messages.
    pub name: String,
    /// A kubeconfig of the run's own.
    pub kubeconfig: Utf8PathBuf,
    /// A client of its API.
    pub client: Client,
    /// Its clock.
    pub clock: Clock,
    /// The containers of the nodes that take pods, where it is one of kind's on this machine.
    pub nodes: Vec<kind_client::Node>,
}

/// The kinds that a cluster knows.
///
/// # Errors
/// It cannot be asked.
pub(crate) async fn discover(client: &Client) -> kube::Result<Discovery> {
    // The older way asks each API service, and fails where one of them does not answer. A server that knows only that
    // answers with a list in which the newer one finds nothing.
    match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) if discovery.groups().next().is_some() => Ok(discovery),
        _ => Discovery::new(client.clone()).run().await,
    }
}

/// A client for a kubeconfig's current context.
pub(crate) async fn client(mut kubeconfig: Kubeconfig) -> Result<Client> {
    proxy::settle(&mut kubeconfig, &Env::proxies());
    let proxy = proxy::of(&kubeconfig);
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url =
        proxy.map(|url| url.parse::<http::Uri>()).transpose().context("understand the proxy")?;
    config.connect_timeout = Some(Duration::from_secs(10));
    Ok(Client::try_from(config)?)
}

/// Writes a file that only this user may read.
fn write_private(path: &Utf8Path, text: &str) -> Result<()> {
    use std::io::Write;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    }
    // Of an existing file the mode would stay as it is.
    let _ = std::fs::remove_file(path);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {path}"))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {path}"))
}

/// Waits until `count` nodes exist and all are Ready, and pods can be made in the default namespace.
///
/// Gives the names of the nodes that take pods: kubeadm taints a control plane that has workers, and what may not run there
/// needs no images there.
async fn nodes_ready(client: &Client, name: &str, count: usize) -> Result<BTreeSet<String>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let all = |nodes: &watch::Objects<Node>| {
        (nodes.len() >= count && nodes.values().all(is_ready)).then(|| takers(nodes.values()))
    };
    let takers = watch::until(nodes, watcher::Config::default(), NODES_READY, all)
        .await
        .map_err(|late| not_ready(name, count, &late))
        .or_exit(Exit::Environment)?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    let config = watcher::Config::default().fields("metadata.name=default");
    watch::until(accounts, config, Duration::from_secs(60), |found| (!found.is_empty()).then_some(()))
        .await
        .map_err(|_| anyhow!("cluster {name}: the ServiceAccount default of the namespace default did not appear within a minute; its controller manager may be down"))
        .or_exit(Exit::Environment)?;
    Ok(takers)
}

/// The names of the nodes that take pods without a toleration; of all nodes where none does.
fn takers<'a>(nodes: impl Iterator<Item = &'a Node> + Clone) -> BTreeSet<String> {
    let is_open = |node: &&Node| {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
        !taints
            .into_iter()
            .flatten()
            .any(|taint| taint.key == CONTROL_PLANE && taint.effect != "PreferNoSchedule")
    };
    let open: BTreeSet<String> = nodes.clone().filter(is_open).map(ResourceExt::name_any).collect();
    if open.is_empty() { nodes.map(ResourceExt::name_any).collect() } else { open }
}

fn not_ready(name: &str, count: usize, late: &Late<Node>) -> anyhow::Error {
    let mut lines: Vec<String> = late.objects.values().map(describe).collect();
    if late.objects.len() < count {
        lines.push(format!("{} of {count} nodes have registered", late.objects.len()));
    }
    if let Some(error) = &late.error {
        lines.push(format!("the API server's last error: {error}"));
    }
    anyhow!(
        "cluster {name}: not all nodes were Ready within {}:\n{}",
        text::seconds(NODES_READY),
        text::indent(&lines.join("\n"), "    ")
    )
}

fn is_ready(node: &Node) -> bool {
    condition(node).is_some_and(|condition| condition.0 == "True")
}

fn describe(node: &Node) -> String {
    match condition(node) {
        Some((status, reason)) => format!("{}: Ready is {status}: {reason}", node.name_any()),
        None => format!("{}: says nothing of Ready", node.name_any()),
    }
}

fn condition(node: &Node) -> Option<(&str, &str)> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
    Some((&ready.status, ready.message.as_deref().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(status: &str) -> Node {
        let text = format!(
            "metadata: {{name: n}}\nstatus: {{conditions: [{{type: Ready, status: \"{status}\", message: cni config uninitialized}}]}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    #[test]
    fn a_tainted_control_plane_takes_no_pods_unless_it_is_alone() {
        let tainted: Node = serde_yaml::from_str(
            "metadata: {name: control}\nspec: {taints: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]}",
        )
        .unwrap();
        let all = [tainted.clone(), node("True")];
        assert_eq!(takers(all.iter()), BTreeSet::from(["n".to_owned()]));
        assert_eq!(takers([tainted].iter()), BTreeSet::from(["control".to_owned()]));
    }

    #[test]
    fn only_true_is_ready() {
        assert!(is_ready(&node("True")));
        assert!(!is_ready(&node("Unknown")));
        assert!(!is_ready(&Node::default()));
    }

    #[test]
    fn a_late_node_is_explained() {
        let late = Late { objects: [("n".to_owned(), node("False"))].into(), error: None };
        let text = not_ready("k8s-test", 2, &late).to_string();
        assert!(text.contains("n: Ready is False: cni config uninitialized"), "{text}");
        assert!(text.contains("1 of 2 nodes have registered"), "{text}");
    }

    #[test]
    fn a_kubeconfig_is_private_even_where_it_was_not() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap().join("sub/kubeconfig");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "old").unwrap();
        write_private(&path, "new").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }
}
