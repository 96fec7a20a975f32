//! A Kind cluster: created, or reused after a look at what it was made from.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::try_join_all;
use jiff::Timestamp;
use kind_client::{Address, CreateOptions, Kind, Node, Step, config};
use kube::Client;
use kube::config::Kubeconfig;
use tokio::time::timeout;

use super::clock::Clock;
use super::drift::{self, Memory, Origin};
pub(crate) use super::owner::{Owner, nobody_knows, owner};
use super::{Cluster, client, lock, nodes_ready, shares, write_private};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith, coded};
use crate::lease::Lease;
use crate::{fail, labels, text};

/// How long the API server of a node that was just started may take: by us, or with the machine.
const API_ANSWERS: Duration = Duration::from_secs(90);

/// How long others may look at a cluster whose lease is to be renewed.
const LOCKED: Duration = Duration::from_secs(15);
/// How long an API server may think about its own version.
const ANSWER: Duration = Duration::from_secs(10);

/// A cluster that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether the user named it: then one that is not ours is reused too.
    pub named: bool,
    /// The kind config.
    pub config: config::Cluster,
    /// The node image's reference.
    pub image: String,
    /// Whose it is when it has to be made.
    pub lease: Lease,
    /// The file that is locked while the cluster is looked at or made.
    pub lock: Utf8PathBuf,
    /// Where the run keeps its kubeconfig.
    pub kubeconfig: Utf8PathBuf,
}

impl Wanted {
    /// Where the cluster's kubeconfig is kept between runs.
    fn remembered(&self) -> Utf8PathBuf {
        lock::kubeconfig_of(&self.lock)
    }
}

/// Reads the kind config file.
///
/// # Errors
/// It cannot be read or does not fit: file, line and column; exit 2.
pub fn read_config(path: &Utf8Path) -> Result<config::Cluster> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}")).or_exit(Exit::Usage)?;
    config::Cluster::from_yaml(&text).map_err(|error| {
        let place = match (error.line(), error.column()) {
            (Some(line), Some(column)) => format!("{path}:{line}:{column}"),
            _ => path.to_string(),
        };
        coded(Exit::Usage, anyhow::Error::new(error).context(place))
    })
}

/// Creates the cluster or reuses the one of this name. `creating` is called just before creation starts, from
/// when on there may be something to remove. `beside` runs while a cluster that exists is looked at, and its result comes
/// with that cluster.
///
/// # Errors
/// It cannot be created, or the one that exists is not what is wanted; exit 3.
pub async fn ensure<T>(
    kind: &Kind,
    wanted: &Wanted,
    events: &Events,
    creating: impl FnOnce(),
    beside: impl AsyncFnOnce(Vec<Node>) -> T,
) -> Result<(Cluster, Option<T>)> {
    ensure_coded(kind, wanted, events, creating, beside).await.or_exit(Exit::Environment)
}

async fn ensure_coded<T>(
    kind: &Kind,
    wanted: &Wanted,
    events: &Events,
    creating: impl FnOnce(),
    beside: impl AsyncFnOnce(Vec<Node>) -> T,
) -> Result<(Cluster, Option<T>)> {
    let name = &wanted.name;
    let origin = Origin { image: wanted.image.clone(), config: wanted.config.to_yaml() };
    // Two runs that start at once must not take each other's cluster for one that was left half made.
    let _lock = lock::wait(&wanted.lock, events).await?;
    let nodes = kind_nodes(kind, name).await?;
    if !nodes.is_empty() {
        let (cluster, beside) =
            tokio::join!(reuse(kind, wanted, &origin, nodes.clone(), events), beside(nodes));
        if let Some(cluster) = cluster? {
            return Ok((cluster, Some(beside)));
        }
    }
    let step = events.step(Phase::Cluster, format!("create {name}"));
    creating();
    let mut config = wanted.config.clone();
    if config.nodes.is_empty() {
        config.nodes.push(config::Node::control_plane());
    }
    for node in &mut config.nodes {
        node.labels.insert(labels::CONFIG.to_owned(), origin.hash());
    }
    let options = CreateOptions {
        config: Some(config),
        image: Some(wanted.image.clone()),
        ..CreateOptions::new(name.clone(), wanted.kubeconfig.clone())
    };
    if let Some(folder) = wanted.kubeconfig.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    }
    kind.with_deadline(Duration::from_secs(600))
        .create_with(options, |line| {
            if let Some(Step::Started(text)) = Step::from_line(line) {
                step.progress(text);
            }
        })
        .await?;
    step.progress("wait for the nodes");
    let nodes = kind_nodes(kind, name).await?;
    let kubeconfig = kind.kubeconfig(name, Address::External).await?;
    let count = nodes.len();
    let mut cluster = connect(&kubeconfig, wanted, nodes).await?;
    let (takers, ()) =
        tokio::join!(nodes_ready(&cluster.client, name, count), shares::give(&cluster.client, events));
    let takers = takers?;
    let mut lease = wanted.lease.clone();
    // Making it may have taken longer than a lease lasts.
    lease.expires = lease.expires.map(|time| time.max(Timestamp::now() + crate::lease::TERM));
    remember(&cluster.nodes, &Memory { origin, lease: Some(lease) }).await?;
    cluster.nodes.retain(|node| takers.contains(node.name()));
    step.done(format!("{}, all Ready", text::count(count, "node")));
    Ok((cluster, None))
}

/// The cluster's Kubernetes nodes: not the load balancer that kind puts before several control planes.
async fn kind_nodes(kind: &Kind, name: &str) -> Result<Vec<Node>> {
    let mut nodes = kind.nodes(name).await?;
    nodes.retain(|node| is_kubernetes(node.name()));
    Ok(nodes)
}

/// Whether kind gives this name to a node, and not to a load balancer.
pub(super) fn is_kubernetes(node: &str) -> bool {
    !node.ends_with("-external-load-balancer")
}

/// Reuses an existing cluster; nothing where it was one that we had begun to make, which is removed.
async fn reuse(
    kind: &Kind,
    wanted: &Wanted,
    origin: &Origin,
    nodes: Vec<Node>,
    events: &Events,
) -> Result<Option<Cluster>> {
    let name = &wanted.name;
    let step = events.step(Phase::Cluster, format!("reuse {name}"));
    let (running, owned) = tokio::join!(try_join_all(nodes.iter().map(Node::is_running)), owner(&nodes));
    let (running, owned) = (running?, owned?);
    let ours = matches!(owned, Owner::Ours(_));
    match owned {
        Owner::HalfMade => {
            step.progress("it was left half made; remove it");
            kind.delete(name, None).await?;
            step.done("it was left half made by an interrupted run; removed");
            return Ok(None);
        }
        Owner::Foreign if !wanted.named => fail!(
            Exit::Environment,
            "there is a Kind cluster {name} that k8s-test did not make; name another by --kind-cluster NAME, or name this one to use it as it is"
        ),
        Owner::Foreign => {
            let want = wanted.config.nodes.len().max(1);
            if nodes.len() != want {
                fail!(
                    Exit::Environment,
                    "the Kind cluster {name} is somebody else's and has another config: {}, and ci/kind.yaml wants {want}; name another by --kind-cluster NAME, or take it as it is by --cluster-provider kubeconfig --context kind-{name}",
                    text::count(nodes.len(), "node")
                );
            }
            events.warn(format!(
                "the Kind cluster {name} was not made by k8s-test; it is used as it is and never deleted"
            ));
        }
        Owner::Ours(remembered) => {
            let had = serde_yaml::from_str::<Memory>(&remembered).map(|memory| memory.origin);
            let unread = |_| vec![format!("what it was made from cannot be read from {}", drift::PATH)];
            let differences = had.map_or_else(unread, |had| had.differences(origin));
            if !differences.is_empty() {
                fail!(
                    Exit::Environment,
                    "the Kind cluster {name} was made from something else than ci/ says now:\n{}\n  remove it by `cargo xtask cluster down --kind-cluster {name}` to have it made anew, or name another by --kind-cluster NAME",
                    text::indent(&differences.join("\n"), "    ")
                );
            }
        }
    }
    let stopped = || nodes.iter().zip(&running).filter(|(_, running)| !**running).map(|(node, _)| node);
    for node in stopped() {
        step.progress(format!("start the stopped node {}", node.name()));
        start(node, name).await?;
    }
    let started = stopped().count();
    if started > 0 {
        // The load balancer of several control planes too: the API is reached through it.
        for node in kind.nodes(name).await? {
            if !node.is_running().await? {
                start(&node, name).await?;
            }
        }
    }
    let count = nodes.len();
    let mut cluster = match remembered(wanted, &nodes).await {
        Some(cluster) => cluster,
        None => {
            let kubeconfig = kind.kubeconfig(name, Address::External).await?;
            let cluster = connect(&kubeconfig, wanted, nodes).await?;
            step.progress("wait for the API server");
            answers(&cluster.client, name).await?;
            cluster
        }
    };
    let shares = async {
        if ours {
            shares::give(&cluster.client, events).await;
        }
    };
    let (takers, ()) = tokio::join!(nodes_ready(&cluster.client, name, count), shares);
    let takers = takers?;
    cluster.nodes.retain(|node| takers.contains(node.name()));
    let restarted =
        if started > 0 { format!(", {} started", text::count(started, "node")) } else { String::new() };
    step.done(format!("{}, all Ready{restarted}", text::count(count, "node")));
    Ok(Some(cluster))
}

async fn start(node: &Node, cluster: &str) -> Result<()> {
    node.start().await.with_context(|| {
        format!(
            "the Kind cluster {cluster} is stopped and cannot be started; remove it by `cargo xtask cluster down --kind-cluster {cluster}` to have it made anew"
        )
    })
}

async fn connect(text: &str, wanted: &Wanted, nodes: Vec<Node>) -> Result<Cluster> {
    let name = &wanted.name;
    write_private(&wanted.kubeconfig, text)?;
    let kubeconfig =
        Kubeconfig::from_yaml(text).with_context(|| format!("read kind's kubeconfig of {name}"))?;
    let client = client(kubeconfig).await?;
    // Only a shortcut for the next run.
    let _ = write_private(&wanted.remembered(), text);
    let clock = Clock::default();
    Ok(Cluster { name: name.clone(), kubeconfig: wanted.kubeconfig.clone(), client, clock, nodes })
}

/// The cluster by the kubeconfig of an earlier run, where its API server still takes it: asking kind takes longer than all
/// the rest. One that was made anew under the name has other certificates.
async fn remembered(wanted: &Wanted, nodes: &[Node]) -> Option<Cluster> {
    let kubeconfig = std::fs::read_to_string(wanted.remembered()).ok()?;
    let cluster = connect(&kubeconfig, wanted, nodes.to_vec()).await.ok()?;
    timeout(ANSWER, cluster.client.apiserver_version()).await.ok()?.ok()?;
    Some(cluster)
}

/// Waits until the API server answers. That a node runs says nothing of when it was started: with the machine the engine
/// starts its nodes, and they run for seconds before they answer.
async fn answers(client: &Client, name: &str) -> Result<()> {
    let deadline = tokio::time::Instant::now() + API_ANSWERS;
    loop {
        let error = match timeout(ANSWER, client.apiserver_version()).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => anyhow::Error::new(error),
            Err(_) => anyhow!("it took the connection and said nothing for {}", text::seconds(ANSWER)),
        };
        if tokio::time::Instant::now() > deadline {
            return Err(error.context(format!(
                "the API server of the Kind cluster {name} has not answered for {}; remove it by `cargo xtask cluster down --kind-cluster {name}` to have it made anew",
                text::seconds(API_ANSWERS)
            )));
        }
        // A server that does not listen yet cannot be watched.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// The lease in what a cluster of ours remembers; nothing where it was made before there were any.
pub(crate) fn lease(remembered: &str) -> Option<Lease> {
    serde_yaml::from_str::<Memory>(remembered).ok()?.lease
}

/// Moves the expiry of a cluster of ours that has one, unless others look at the cluster all the time: who makes it anew or
/// deletes it must not be crossed, and there is another renewal soon.
///
/// # Errors
/// Its node cannot be asked.
pub(crate) async fn renew(kind: &Kind, cache: &Utf8Path, name: &str, expires: Timestamp) -> Result<()> {
    let Some(_lock) = lock::take_within(cache, name, LOCKED).await? else { return Ok(()) };
    let nodes = kind_nodes(kind, name).await?;
    let Owner::Ours(text) = owner(&nodes).await? else { return Ok(()) };
    let Ok(mut memory) = serde_yaml::from_str::<Memory>(&text) else { return Ok(()) };
    match &mut memory.lease {
        Some(Lease { expires: Some(time), .. }) if *time < expires => *time = expires,
        _ => return Ok(()),
    }
    remember(&nodes, &memory).await
}

async fn remember(nodes: &[Node], memory: &Memory) -> Result<()> {
    let Some(first) = nodes.iter().min_by_key(|node| node.name().to_owned()) else { return Ok(()) };
    let text = serde_yaml::to_string(memory)?;
    // Whole or not at all: an empty one would say that the cluster is somebody else's.
    let script = format!("cat > {0}.new && mv {0}.new {0}", drift::PATH);
    first.exec(["sh", "-c", &script]).stdin(text.as_bytes()).ensure_success().await?;
    Ok(())
}

/// Deletes a cluster that we made.
///
/// # Errors
/// It is somebody else's, or kind fails; exit 3.
pub async fn delete(kind: &Kind, name: &str) -> Result<()> {
    let nodes = kind.nodes(name).await.or_exit(Exit::Environment)?;
    let owner = owner(&nodes).await.with_context(|| nobody_knows(name)).or_exit(Exit::Environment)?;
    if owner == Owner::Foreign {
        fail!(
            Exit::Environment,
            "the Kind cluster {name} was not made by k8s-test, so it is not deleted; `kind delete cluster --name {name}` does it"
        );
    }
    kind.delete(name, None).await.or_exit(Exit::Environment)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_api_server_that_does_not_listen_yet_is_waited_for() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let config = kube::Config::new(format!("http://{address}").parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let server = async {
            tokio::time::sleep(Duration::from_millis(600)).await;
            let (mut stream, _) = TcpListener::bind(address).await.unwrap().accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let keys =
                ["major", "minor", "gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion"];
            let keys = keys.iter().chain(&["compiler", "platform"]).map(|key| format!(r#""{key}": "1""#));
            let body = format!("{{{}}}", keys.collect::<Vec<_>>().join(","));
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
            let text = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let (answer, ()) = tokio::join!(answers(&client, "test"), server);
        answer.unwrap();
    }
}
