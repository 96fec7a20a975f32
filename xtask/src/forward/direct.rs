//! The way to a pod past the API server: a NodePort Service of ours, reached by the node's address. For Kind on Linux,
//! where the nodes are containers of a network that this machine is in.
//!
//! Each pod has a Service of its own, because the nodes learn of a rollout up to a second later than we do: of a Service for
//! all of them they would still pass connections on to the address of a pod that has gone, where nobody answers or, by way of
//! the node's other routes, a stranger. A pod owns its Service, so the cluster removes both together. It is made with the pod
//! and led to it as soon as the pod has an address, so that the nodes know of it by the time it is ready.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::Place;
use super::pods::{Pods, Target};
use super::relay::Dial;
use crate::config::Forward as Spec;
use crate::labels;
use crate::ledger::{Ledger, Object};

/// How long a node may take to pass a connection on: it is on this machine.
const CONNECT: Duration = Duration::from_millis(500);
/// How long the nodes may take to know a new Service.
const PROGRAMMED: Duration = Duration::from_secs(5);
/// Between two looks whether they do, in the first moment and later; nothing tells.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN_LATER: Duration = Duration::from_millis(50);
/// How long the first moment is.
const MOMENT: Duration = Duration::from_secs(1);
/// Between two attempts to make a Service.
const SHOW_AGAIN: Duration = Duration::from_secs(1);

/// The ports on the nodes of the newest ready pod and of the newest that may become ready; clones share them.
#[derive(Clone)]
pub(super) struct Direct(Arc<Inner>);

struct Inner {
    client: Client,
    namespace: String,
    /// Where objects are written down that do not go with a namespace of ours.
    ledger: Option<Ledger>,
    labels: BTreeMap<String, String>,
    run: String,
    forward: String,
    port: u16,
    nodes: Vec<IpAddr>,
    seen: watch::Sender<Shown>,
}

/// What the nodes know.
#[derive(Default)]
struct Shown {
    /// By the pod's uid, where they pass connections on to it.
    pods: BTreeMap<String, Way>,
    /// By the pod's uid, why they do not.
    failures: BTreeMap<String, String>,
}

/// A way to a pod.
#[derive(Clone)]
struct Way {
    /// The pod's address, to which the nodes pass on.
    pod: IpAddr,
    /// The ports on the nodes.
    nodes: Arc<[SocketAddr]>,
}

impl Shown {
    /// Forgets the pods that are not `known`, which is told their address; gives whether there were any.
    fn forget(&mut self, known: impl Fn(&str, Option<IpAddr>) -> bool) -> bool {
        let before = self.pods.len();
        self.pods.retain(|uid, way| known(uid, Some(way.pod)));
        self.failures.retain(|uid, _| known(uid, None));
        self.pods.len() < before
    }
}

impl Direct {
    /// The way, with nothing made yet; [`Direct::follow`] does that.
    ///
    /// # Errors
    /// The nodes cannot be asked for their addresses.
    pub(super) async fn new(place: Place<'_>, name: &str, spec: &Spec) -> Result<Direct> {
        let client = place.cluster.client.clone();
        let nodes =
            Api::<Node>::all(client.clone()).list(&ListParams::default()).await.context("list the nodes")?;
        let of_kind = |node: &&Node| place.cluster.nodes.iter().any(|kind| kind.name() == node.name_any());
        let nodes: Vec<IpAddr> = nodes.items.iter().filter(of_kind).filter_map(internal_address).collect();
        if nodes.is_empty() {
            bail!("the nodes tell no address");
        }
        Ok(Direct(Arc::new(Inner {
            client,
            namespace: place.namespaces.by_role[&spec.namespace].clone(),
            ledger: (!place.namespaces.ours).then(|| place.ledger.clone()),
            labels: labels::of(place.run, &place.suite.name, &place.suite.variant),
            run: place.run.to_owned(),
            forward: name.to_owned(),
            port: spec.port,
            nodes,
            seen: watch::Sender::default(),
        })))
    }

    /// Keeps the nodes knowing of the newest ready pod and of the newest that may become ready; the caller runs it.
    pub(super) async fn follow(self, mut pods: Pods) {
        let mut showing = JoinSet::new();
        let mut at_work: BTreeMap<String, AbortHandle> = BTreeMap::new();
        loop {
            let seen = pods.seen();
            // Of a new pod that will not be the first to become ready nothing has to be known.
            let wanted: Vec<&Target> = seen.ready.first().into_iter().chain(seen.coming.first()).collect();
            // A pod whose sandbox is made anew keeps its uid and gets another address.
            let known = |uid: &str, address: Option<IpAddr>| {
                seen.of(uid).is_some_and(|pod| address.is_none() || pod.address == address)
            };
            self.0.seen.send_if_modified(|shown| shown.forget(known));
            at_work.retain(|uid, work| {
                let keep = wanted.iter().any(|pod| pod.uid == *uid);
                if !keep {
                    work.abort();
                }
                keep
            });
            for pod in wanted {
                if !at_work.contains_key(&pod.uid) && !self.0.seen.borrow().pods.contains_key(&pod.uid) {
                    let work = self.clone().show(pod.clone(), pods.clone());
                    at_work.insert(pod.uid.clone(), showing.spawn(work));
                }
            }
            tokio::select! {
                () = pods.changed() => {}
                Some(_) = showing.join_next() => at_work.retain(|_, work| !work.is_finished()),
            }
        }
    }

    /// Waits until the nodes pass connections on to one of the pods that are ready.
    ///
    /// # Errors
    /// Why they do not in time.
    pub(super) async fn reaches(&self, mut pods: Pods) -> Result<()> {
        let mut shown = self.0.seen.subscribe();
        let reached = async {
            loop {
                let ready = pods.seen().ready;
                if ready.iter().any(|pod| shown.borrow_and_update().pods.contains_key(&pod.uid)) {
                    return;
                }
                tokio::select! {
                    () = pods.changed() => {}
                    _ = shown.changed() => {}
                }
            }
        };
        if timeout(PROGRAMMED, reached).await.is_ok() {
            return Ok(());
        }
        let failure = self.0.seen.borrow().failures.values().next().cloned();
        bail!(failure.unwrap_or_else(|| "the nodes gave no port".to_owned()))
    }

    /// Makes the Service of `pod`, or takes the one that is there, and waits until the nodes pass connections on; before it
    /// is ready that takes as long as its program takes to listen.
    async fn show(self, pod: Target, mut pods: Pods) {
        let port = self.insist(&pod, || self.service(&pod)).await;
        let nodes: Arc<[SocketAddr]> = self.0.nodes.iter().map(|node| SocketAddr::new(*node, port)).collect();
        let mut led_to = None;
        for attempt in 0.. {
            let address = pods.address(&pod.uid).await;
            let since = match led_to {
                Some((to, since)) if to == address => since,
                _ => {
                    self.insist(&pod, || self.endpoint(&pod, address)).await;
                    Instant::now()
                }
            };
            led_to = Some((address, since));
            match connect(&nodes, attempt).await {
                Ok(_) => break,
                Err(error) => self.failed(&pod, &error),
            }
            sleep(if since.elapsed() < MOMENT { LOOK_AGAIN } else { LOOK_AGAIN_LATER }).await;
        }
        let Some((address, _)) = led_to else { return };
        self.0.seen.send_modify(|shown| {
            shown.failures.remove(&pod.uid);
            shown.pods.insert(pod.uid.clone(), Way { pod: address, nodes });
        });
    }

    /// Does `what` for `pod` until it succeeds.
    async fn insist<T, F>(&self, pod: &Target, what: impl Fn() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match what().await {
                Ok(done) => return done,
                Err(error) => self.failed(pod, &error),
            }
            sleep(SHOW_AGAIN).await;
        }
    }

    fn failed(&self, pod: &Target, error: &anyhow::Error) {
        tracing::debug!("forward {}: pod {} is not on the nodes: {error:#}", self.0.forward, pod.name);
        self.0.seen.send_modify(|shown| {
            shown.failures.insert(pod.uid.clone(), format!("{error:#}"));
        });
    }

    /// Applies the Service of `pod`; gives its port on the nodes.
    async fn service(&self, pod: &Target) -> Result<u16> {
        let spec = json!({"type": "NodePort", "ports": [self.port()]});
        let service = json!({"metadata": self.metadata(pod), "spec": spec});
        let service: Service = self.apply(service).await?;
        let port = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()?.first()?.node_port);
        port.and_then(|port| u16::try_from(port).ok())
            .with_context(|| format!("the Service {} has no port on the nodes", service.name_any()))
    }

    /// Applies the one endpoint of the Service of `pod`.
    async fn endpoint(&self, pod: &Target, address: IpAddr) -> Result<()> {
        let mut metadata = self.metadata(pod);
        metadata["labels"]["kubernetes.io/service-name"] = metadata["name"].clone();
        metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = "k8s-test.local".into();
        let slice = json!({
            "metadata": metadata,
            "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [address.to_string()], "conditions": {"ready": true}}],
            "ports": [self.port()],
        });
        self.apply::<EndpointSlice>(slice).await.map(drop)
    }

    fn port(&self) -> Value {
        json!({"name": "forward", "port": self.0.port, "protocol": "TCP"})
    }

    fn metadata(&self, pod: &Target) -> Value {
        json!({
            "name": object_name(&self.0.run, &self.0.forward, &pod.uid),
            "labels": self.0.labels,
            "annotations": {labels::FORWARD: self.0.forward},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}],
        })
    }

    async fn apply<K>(&self, mut object: Value) -> Result<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + DeserializeOwned + Serialize + fmt::Debug,
    {
        let Inner { client, namespace, ledger, run, .. } = &*self.0;
        object["apiVersion"] = K::api_version(&()).into();
        object["kind"] = K::kind(&()).into();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if let Some(ledger) = ledger {
            let (resource, namespace) = (ApiResource::erase::<K>(&()), Some(namespace.clone()));
            let object = Object { resource, namespace, name: name.clone() };
            ledger.record(|made| {
                if !made.objects.contains(&object) {
                    made.objects.push(object);
                }
            });
        }
        let params = PatchParams::apply(&labels::field_manager(run)).force();
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        let applied = api.patch(&name, &params, &Patch::Apply(&object)).await;
        applied.with_context(|| format!("apply the {} {name} in the namespace {namespace}", K::kind(&())))
    }
}

async fn connect(addresses: &[SocketAddr], attempt: usize) -> Result<TcpStream> {
    let address = addresses[attempt % addresses.len()];
    let connected = timeout(CONNECT, TcpStream::connect(address)).await;
    let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let upstream =
        connected.map_err(|error| anyhow!("no connection by the node's port {address}: {error}"))?;
    upstream.set_nodelay(true)?;
    Ok(upstream)
}

impl fmt::Display for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.0.nodes.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        write!(f, "by the address {}", nodes.join(" or "))
    }
}

impl Dial for Direct {
    type Upstream = TcpStream;

    async fn dial(&self, pods: &[Target], attempt: usize) -> Result<TcpStream> {
        let shown = {
            let shown = self.0.seen.borrow();
            pods.iter().find_map(|pod| shown.pods.get(&pod.uid).cloned())
        };
        match shown {
            Some(way) => connect(&way.nodes, attempt).await,
            None => Err(anyhow!("the nodes do not know the ready pods yet")),
        }
    }
}

fn internal_address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().filter(|one| one.type_ == "InternalIP").find_map(|one| one.address.parse().ok())
}

/// A name that two runs in one namespace do not share and that a deployment's forward gets again.
fn object_name(run: &str, forward: &str, pod: &str) -> String {
    let hash = Sha256::digest(format!("{run}/{forward}/{pod}"));
    let hash: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("k8s-test-forward-{hash}")
}
