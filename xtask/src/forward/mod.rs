//! Forwards: a pod's port at one address of 127.0.0.1 for as long as a run lasts, whichever pod serves it.
//!
//! `relay` takes connections; behind it are two ways, `direct` where the nodes are at hand and `api` everywhere. `pods`
//! knows which pods are ready, `prove` makes HTTP round trips before anybody relies on it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::either::Either;

use crate::cli::ForwardWay;
use crate::cluster::Cluster;
use crate::config::{Forward as Spec, Suite};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith};
use crate::ledger::Ledger;
use crate::namespaces::Namespaces;

mod api;
mod direct;
mod http1;
#[cfg(test)]
mod kubelet;
mod pods;
#[cfg(test)]
mod protocols;
mod prove;
mod relay;
mod spdy;
mod tunnel;
mod upgrade;

use api::Api;
use direct::Direct;
use pods::{Pods, Target};
use relay::{Dial, HOLD, Relay, Trouble};

/// How long a pod that does not take a connection may take to say so.
const REFUSAL: Duration = Duration::from_millis(500);

/// Where a forward leads, and what keeps the records of it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The cluster.
    pub cluster: &'a Cluster,
    /// The suite.
    pub suite: &'a Suite,
    /// The run's id.
    pub run: &'a str,
    /// The suite's namespaces.
    pub namespaces: &'a Namespaces,
    /// Which way was asked for.
    pub way: ForwardWay,
    /// What the run makes.
    pub ledger: &'a Ledger,
    /// Where to say what happens.
    pub events: &'a Events,
}

/// An open forward; dropping it closes its connections too.
#[derive(Debug)]
pub struct Forward {
    /// Its name.
    pub name: String,
    /// `http://127.0.0.1:<port>`, as long as it is open.
    pub url: String,
    /// What it was opened for.
    pub spec: Spec,
    pods: Pods,
    trouble: Trouble,
    /// The listener with its connections, the watch, the sessions.
    _tasks: JoinSet<()>,
}

/// A forward being opened; dropping it closes it.
pub struct Opening {
    name: String,
    spec: Spec,
    listener: TcpListener,
    pods: Pods,
    of_namespace: kube::Api<Pod>,
    /// Where it was asked for and may work, with the work of telling the nodes.
    direct: Option<Result<(Direct, AbortHandle)>>,
    tasks: JoinSet<()>,
}

/// Opens a forward once a pod is ready; whether it answers, [`Forward::prove`] finds out.
///
/// # Errors
/// As [`begin`] and [`Opening::finish`].
pub async fn open(place: Place<'_>, name: &str, spec: &Spec) -> Result<Forward> {
    begin(place, name, spec).await?.finish(place).await
}

/// Begins to open a forward, while its pods start: what can be done before one is ready is done meanwhile.
///
/// # Errors
/// No port can be listened on; exit 3.
pub async fn begin(place: Place<'_>, name: &str, spec: &Spec) -> Result<Opening> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listen on a free port of 127.0.0.1")
        .or_exit(Exit::Environment)?;
    let namespace = &place.namespaces.by_role[&spec.namespace];
    let of_namespace = kube::Api::namespaced(place.cluster.client.clone(), namespace);
    let mut tasks = JoinSet::new();
    let (pods, watching) = Pods::watch(of_namespace.clone(), &spec.selector);
    tasks.spawn(watching);
    let direct = match place.way {
        ForwardWay::Auto | ForwardWay::Direct if at_hand(place.cluster) => {
            let direct = Direct::new(place, name, spec).await;
            Some(direct.map(|direct| (direct.clone(), tasks.spawn(direct.follow(pods.clone())))))
        }
        _ => None,
    };
    Ok(Opening { name: name.to_owned(), spec: spec.clone(), listener, pods, of_namespace, direct, tasks })
}

/// Whether the nodes can be reached from here: they are known of Kind alone, and elsewhere than on Linux they are in a
/// virtual machine.
fn at_hand(cluster: &Cluster) -> bool {
    cfg!(target_os = "linux") && !cluster.nodes.is_empty()
}

impl Opening {
    /// Opens it once a pod is ready.
    ///
    /// # Errors
    /// No pod becomes ready, or its port takes no connection; exit 4. The way that was asked for does not work here; exit 3.
    pub async fn finish(self, place: Place<'_>) -> Result<Forward> {
        let Opening { name, spec, listener, mut pods, of_namespace, direct, mut tasks } = self;
        let step = place.events.step(Phase::Forward, format!("open {name}"));
        let what = || format!("forward {name}: {} on port {}", spec.selector, spec.port);
        let url = format!("http://{}", listener.local_addr()?);
        let namespace = &place.namespaces.by_role[&spec.namespace];
        let ready = first_ready(&mut pods, &of_namespace, namespace, &spec)
            .await
            .with_context(what)
            .or_exit(Exit::NotReady)?;

        let way = choose(place, &name, &spec, direct, &pods, &ready).await.with_context(what)?;
        step.done(way.describe());
        tasks.spawn(way.api.clone().keep_ahead(pods.clone()));
        let trouble = Trouble::default();
        let relay = Relay {
            name: name.clone(),
            selector: spec.selector.clone(),
            pods: pods.clone(),
            dial: way,
            trouble: trouble.clone(),
            events: place.events.clone(),
        };
        tasks.spawn(relay.run(listener));
        Ok(Forward { name, url, spec, pods, trouble, _tasks: tasks })
    }
}

/// The ready pods, once there is one.
async fn first_ready(
    pods: &mut Pods,
    of_namespace: &kube::Api<Pod>,
    namespace: &str,
    spec: &Spec,
) -> Result<std::sync::Arc<[Target]>> {
    let begun = Instant::now();
    let wait = spec.timeout.max(HOLD);
    // What was deployed is ready by now; a selector that matches nothing will hardly match later.
    let ready = match pods.ready(begun + HOLD).await {
        Err(seen) if seen.is_empty() && seen.error.is_none() => {
            return Err(pods::no_match(of_namespace, namespace, &spec.selector).await);
        }
        Err(_) => pods.ready(begun + wait).await,
        ready => ready,
    };
    ready.map_err(|seen| anyhow!(seen.why_none(&spec.selector, wait)))
}

/// The way that was asked for; else direct where it works.
async fn choose(
    place: Place<'_>,
    name: &str,
    spec: &Spec,
    direct: Option<Result<(Direct, AbortHandle)>>,
    pods: &Pods,
    ready: &[Target],
) -> Result<Way> {
    let namespace = &place.namespaces.by_role[&spec.namespace];
    let api = Api::new(place.cluster.client.clone(), namespace, spec.port);
    let direct = match (direct, place.way) {
        (Some(Ok((direct, following))), _) => {
            let reached = direct.reaches(pods.clone()).await;
            if reached.is_err() {
                following.abort();
            }
            reached.map(|()| direct)
        }
        (Some(Err(error)), _) => Err(error),
        (None, ForwardWay::Direct) => {
            let cluster = &place.cluster.name;
            Err(anyhow!("the nodes of {cluster} are not containers on this machine"))
        }
        (None, ForwardWay::Api | ForwardWay::Auto) => return Ok(Way { direct: None, api }),
    };
    match (direct, place.way) {
        (Ok(direct), _) => Ok(Way { direct: Some(direct), api }),
        (Err(error), ForwardWay::Direct) => match wrong_port(ready, spec.port) {
            Some(wrong) => Err(wrong).or_exit(Exit::NotReady),
            None => Err(error.context("--forward direct does not work here, --forward api does"))
                .or_exit(Exit::Environment),
        },
        (Err(error), _) => {
            let note = format!(
                "forward {name}: through the API server, because directly it does not work: {error:#}"
            );
            place.events.note(note);
            Ok(Way { direct: None, api })
        }
    }
}

/// Why nobody serves `port`, where the pods themselves say so.
fn wrong_port(ready: &[Target], port: u16) -> Option<anyhow::Error> {
    let pod = ready.first()?;
    if pod.ports.is_empty() || ready.iter().any(|pod| pod.ports.contains(&port)) {
        return None;
    }
    let declared = pod.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Some(anyhow!(
        "nothing listens on port {port} of pod {}, whose containers declare {declared}; correct `port` in suite.yaml",
        pod.name
    ))
}

/// The ways to a pod: directly where that works and the nodes know of the pod what we know; else by the API.
#[derive(Clone)]
struct Way {
    direct: Option<Direct>,
    api: Api,
}

impl Way {
    fn describe(&self) -> String {
        match &self.direct {
            None => "through the API server".to_owned(),
            Some(direct) => format!("directly, {direct}"),
        }
    }
}

impl Dial for Way {
    type Upstream = Either<TcpStream, api::Upstream>;

    async fn dial(&self, pods: &[Target], attempt: usize) -> Result<Self::Upstream> {
        if let Some(direct) = &self.direct
            && let Ok(upstream) = direct.dial(pods, attempt).await
        {
            return Ok(Either::Left(upstream));
        }
        self.api.dial(pods, attempt).await.map(Either::Right)
    }
}

impl Forward {
    /// Waits until its probes hold; after a rollout the server is told to look again first, because what it knows may
    /// be of pods that are gone.
    ///
    /// # Errors
    /// One of them does not hold in time: its last answer; exit 4.
    pub async fn prove(&self, after_rollout: bool, events: &Events) -> Result<()> {
        let Forward { name, url, spec, .. } = self;
        let step = events.step(Phase::Forward, name.clone());
        let hopeless = || self.trouble.get().and_then(|_| wrong_port(&self.pods.seen().ready, spec.port));
        let proof = async {
            if spec.probes.is_empty() {
                return self.take_connection().await;
            }
            let proven = prove::prove(url, spec, after_rollout, hopeless, |why| step.progress(why)).await;
            proven.map_err(|error| match self.trouble.get() {
                Some(trouble) => anyhow!(trouble).context(error),
                None => error,
            })
        };
        proof
            .await
            .with_context(|| format!("forward {name}: {} on port {}", spec.selector, spec.port))
            .or_exit(Exit::NotReady)?;
        step.done(url.clone());
        Ok(())
    }

    /// Whether the pod takes a connection: all that can be said without a probe.
    async fn take_connection(&self) -> Result<()> {
        let address = self.url.trim_start_matches("http://");
        let mut connection = TcpStream::connect(address).await?;
        let mut answer = [0];
        if timeout(REFUSAL, connection.read(&mut answer)).await.is_err() && self.trouble.get().is_none() {
            return Ok(());
        }
        // Held for as long as any other.
        let _ = timeout(2 * HOLD, connection.read(&mut answer)).await;
        let Some(trouble) = self.trouble.get() else { return Ok(()) };
        Err(wrong_port(&self.pods.seen().ready, self.spec.port).unwrap_or_else(|| anyhow!(trouble)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ports: &[u16]) -> Target {
        Target { ports: ports.to_vec(), ..Target::placed("web-0", "u") }
    }

    #[test]
    fn a_port_that_no_pod_declares_is_named_with_those_that_are() {
        let wrong = wrong_port(&[pod(&[3000, 9090])], 80).unwrap().to_string();
        assert!(wrong.contains("port 80 of pod web-0") && wrong.contains("declare 3000, 9090"), "{wrong}");
        assert!(wrong.contains("correct `port` in suite.yaml"), "{wrong}");
        assert!(wrong_port(&[pod(&[3000]), pod(&[80])], 80).is_none());
        // To declare ports is optional.
        assert!(wrong_port(&[pod(&[])], 80).is_none());
        assert!(wrong_port(&[], 80).is_none());
    }
}
