//! The pods behind a forward, kept known by one watch for as long as it is open.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout_at};

use crate::ready::verdict::is_ready;
use crate::watch::{self, Objects};

/// The pods of a selector; clones share the watch.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    seen: Receiver<Seen>,
}

/// What the watch has told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The pods that are ready, the newest first.
    pub(super) ready: Arc<[Target]>,
    /// Those that may become ready, the newest first.
    pub(super) coming: Arc<[Target]>,
    /// Of those that are not ready, which and why not.
    pub(super) unready: Vec<String>,
    /// Why they cannot be watched at this moment.
    pub(super) error: Option<String>,
}

/// A pod that connections go to, or soon may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its name.
    pub(super) name: String,
    /// Its id: a StatefulSet gives the next pod the same name.
    pub(super) uid: String,
    /// Whether a node was chosen for it.
    pub(super) is_placed: bool,
    /// Its address in the cluster, once it has one.
    pub(super) address: Option<IpAddr>,
    /// The ports that its containers declare; declaring them is optional.
    pub(super) ports: Vec<u16>,
}

#[cfg(test)]
impl Target {
    /// One that a node was chosen for.
    pub(super) fn placed(name: &str, uid: &str) -> Target {
        let (name, uid) = (name.to_owned(), uid.to_owned());
        Target { name, uid, is_placed: true, address: None, ports: Vec::new() }
    }
}

impl Pods {
    /// The pods and the work of keeping them known, which is the caller's to run.
    pub(super) fn watch(api: Api<Pod>, selector: &str) -> (Pods, impl Future<Output = ()> + use<>) {
        let (sender, seen) = channel(Seen::default());
        let config = watcher::Config::default().labels(selector);
        let events = watcher::watcher(api, config).backoff(watch::Again::default());
        let work = async move {
            let mut pods = Objects::new();
            watch::follow(events, &mut pods, |pods| tell(&sender, pods)).await;
        };
        (Pods { seen }, work)
    }

    /// Pods that are as `seen` says; the test's end is what changes them.
    #[cfg(test)]
    pub(super) fn of(seen: Seen) -> (Pods, Sender<Seen>) {
        let (sender, seen) = channel(seen);
        (Pods { seen }, sender)
    }

    /// What is known now.
    pub(super) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits for the next change.
    pub(super) async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            // The watch has ended with the forward, which ends us too.
            std::future::pending::<()>().await;
        }
    }

    /// The address of the pod of this id, once it has one.
    pub(super) async fn address(&mut self, uid: &str) -> IpAddr {
        loop {
            match self.seen().of(uid).and_then(|pod| pod.address) {
                Some(address) => return address,
                None => self.changed().await,
            }
        }
    }

    /// The ready pods, once there is one; at `deadline` what is known.
    pub(super) async fn ready(&mut self, deadline: Instant) -> Result<Arc<[Target]>, Seen> {
        let ready = async {
            let seen = self.seen.wait_for(|seen| !seen.ready.is_empty()).await;
            seen.map(|seen| seen.ready.clone())
        };
        match timeout_at(deadline, ready).await {
            Ok(Ok(ready)) => Ok(ready),
            // The watch has ended with the forward, which ends us too.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => Err(self.seen()),
        }
    }
}

impl Seen {
    /// The pod of this id, if it is ready or may become so.
    pub(super) fn of(&self, uid: &str) -> Option<&Target> {
        self.ready.iter().chain(self.coming.iter()).find(|pod| pod.uid == uid)
    }

    /// Whether no pod matches.
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.unready.is_empty()
    }

    /// Why there is nothing to connect to.
    pub(super) fn why_none(&self, selector: &str, waited: Duration) -> String {
        let waited = waited.as_secs();
        match (&self.error, self.unready.as_slice()) {
            (Some(error), []) => format!("the pods of the selector {selector} cannot be watched: {error}"),
            (None, []) => format!("no pod matches the selector {selector}"),
            (_, unready) => format!(
                "no pod of the selector {selector} was ready within {waited} s: {}",
                unready.join("; ")
            ),
        }
    }
}

fn tell(seen: &Sender<Seen>, pods: Result<&Objects<Pod>, watcher::Error>) -> ControlFlow<()> {
    match pods {
        Ok(pods) => drop(seen.send_replace(look(pods))),
        // What was known stays: a server that restarts takes no pod away.
        Err(error) => {
            let error = crate::exit::message(&anyhow::Error::new(error));
            seen.send_modify(|seen| seen.error = Some(error));
        }
    }
    if seen.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

fn look(pods: &Objects<Pod>) -> Seen {
    let (ready, others): (Vec<&Pod>, Vec<&Pod>) = pods.values().partition(|pod| is_ready(pod));
    let unready = others.iter().map(|pod| format!("pod {} {}", pod.name_any(), why_not(pod))).collect();
    let coming = others.into_iter().filter(|pod| is_coming(pod)).collect();
    Seen { ready: newest_first(ready), coming: newest_first(coming), unready, error: None }
}

fn newest_first(mut pods: Vec<&Pod>) -> Arc<[Target]> {
    pods.sort_by_key(|pod| std::cmp::Reverse(created(pod)));
    let targets = pods.into_iter().map(|pod| Target {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        is_placed: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()),
        address: address(pod),
        ports: ports(pod),
    });
    targets.collect()
}

fn is_coming(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn created(pod: &Pod) -> Option<Timestamp> {
    pod.creation_timestamp().map(|time| time.0)
}

fn ports(pod: &Pod) -> Vec<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

fn condition(pod: &Pod) -> Option<(&str, &str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|one| one.type_ == "Ready")?;
    Some((&ready.status, ready.message.as_deref().or(ready.reason.as_deref()).unwrap_or_default()))
}

fn why_not(pod: &Pod) -> String {
    match condition(pod) {
        _ if pod.metadata.deletion_timestamp.is_some() => "is being deleted".to_owned(),
        Some((_, why)) if !why.is_empty() => format!("is not ready ({why})"),
        _ => "is not ready".to_owned(),
    }
}

/// What a selector that matches nothing could have meant: the labels of the pods that are there.
pub(super) async fn no_match(api: &Api<Pod>, namespace: &str, selector: &str) -> anyhow::Error {
    let pods = match api.list(&ListParams::default()).await {
        Ok(pods) => pods.items,
        Err(error) => return anyhow!("the pods of the namespace {namespace} cannot be listed: {error}"),
    };
    let keys: Vec<&str> = selector.split(',').filter_map(|part| part.split(['=', '!']).next()).collect();
    let known = pods.iter().flat_map(ResourceExt::labels);
    let like = known.filter(|(key, _)| keys.iter().any(|wanted| wanted.trim() == *key));
    let mut labels: Vec<String> = like.map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort_unstable();
    labels.dedup();
    let there = match (pods.len(), labels.as_slice()) {
        (0, _) => "; the namespace has no pods".to_owned(),
        (n, []) => format!("; none of its {n} pods has such a label"),
        (_, labels) => crate::text::suggestion(selector, labels.iter().map(String::as_str)),
    };
    anyhow!(
        "no pod in the namespace {namespace} matches the selector {selector}{there}\n  correct `selector` in suite.yaml, or what the chart labels its pods with"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api;

    fn pod(name: &str, created: u32, more: &str, ready: &str) -> Pod {
        serde_yaml::from_str(&format!(
            "metadata: {{name: {name}, uid: u-{name}, creationTimestamp: '2026-01-01T00:00:{created:02}Z'{more}}}\nspec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}\nstatus: {{conditions: [{{type: Ready, status: '{ready}', message: probe failed}}]}}"
        ))
        .unwrap()
    }

    fn objects(pods: Vec<Pod>) -> Objects<Pod> {
        pods.into_iter().map(|pod| (pod.name_any(), pod)).collect()
    }

    #[test]
    fn the_newest_ready_pod_comes_first_and_one_that_is_going_is_not_ready() {
        let seen = look(&objects(vec![
            pod("a", 1, "", "True"),
            pod("b", 3, ", deletionTimestamp: '2026-01-01T00:00:00Z'", "True"),
            pod("c", 2, "", "True"),
            pod("d", 4, "", "False"),
        ]));
        let ready: Vec<&str> = seen.ready.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(ready, ["c", "a"]);
        assert_eq!(seen.ready[0].ports, [80]);
        assert_eq!(seen.unready, ["pod b is being deleted", "pod d is not ready (probe failed)"]);
    }

    #[test]
    fn a_pod_may_become_ready_unless_it_has_ended_or_is_going() {
        let with = |name: &str, created, more: &str, phase: &str| {
            let mut pod = pod(name, created, more, "False");
            pod.status.as_mut().unwrap().phase = Some(phase.to_owned());
            pod
        };
        let seen = look(&objects(vec![
            with("a", 1, "", "Running"),
            with("b", 3, ", deletionTimestamp: '2026-01-01T00:00:00Z'", "Running"),
            with("c", 4, "", "Failed"),
            with("d", 2, "", "Pending"),
        ]));
        let coming: Vec<&str> = seen.coming.iter().map(|pod| pod.name.as_str()).collect();
        assert_eq!(coming, ["d", "a"]);
    }

    #[tokio::test]
    async fn pods_stay_known_while_the_watch_is_broken() {
        let (sender, receiver) = channel(look(&objects(vec![pod("a", 1, "", "True")])));
        let mut pods = Pods { seen: receiver };
        let error = watcher::Error::NoResourceVersion;
        assert!(tell(&sender, Err(error)).is_continue());
        assert!(pods.seen().error.is_some());
        let ready = pods.ready(Instant::now()).await.unwrap();
        assert_eq!(ready[0].name, "a");
    }

    #[tokio::test]
    async fn without_a_ready_pod_the_reason_is_told() {
        let (_sender, receiver) = channel(look(&objects(vec![pod("a", 1, "", "False")])));
        let seen = Pods { seen: receiver }.ready(Instant::now()).await.unwrap_err();
        let why = seen.why_none("app=a", Duration::from_secs(5));
        assert_eq!(
            why,
            "no pod of the selector app=a was ready within 5 s: pod a is not ready (probe failed)"
        );
        assert_eq!(Seen::default().why_none("app=a", Duration::ZERO), "no pod matches the selector app=a");
    }

    /// What is said of a selector that matches none of the namespace's pods.
    async fn unmatched(selector: &str, labels: &[&str]) -> String {
        let (client, mut server) = fake_api::client();
        let pods: Vec<Pod> = labels
            .iter()
            .map(|labels| {
                serde_yaml::from_str(&format!("metadata: {{name: p, labels: {{{labels}}}}}")).unwrap()
            })
            .collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
        tokio::spawn(async move {
            let (_, send) = server.next_request().await.unwrap();
            send.send_response(fake_api::answer(http::StatusCode::OK, &list));
        });
        no_match(&Api::namespaced(client, "ns"), "ns", selector).await.to_string()
    }

    #[tokio::test]
    async fn a_selector_that_matches_nothing_is_compared_with_the_labels_that_are_there() {
        let near = unmatched("component=webservr", &["component: webserver", "component: daemon"]).await;
        assert!(near.contains("matches the selector component=webservr"), "{near}");
        assert!(near.contains("did you mean `component=webserver`?"), "{near}");
        let other = unmatched("component=webserver", &["app: web", "app: worker"]).await;
        assert!(other.contains("none of its 2 pods has such a label"), "{other}");
        let none = unmatched("component=webserver", &[]).await;
        assert!(none.contains("the namespace has no pods"), "{none}");
        assert!(none.contains("correct `selector` in suite.yaml"), "{none}");
    }
}
