//! Pods and Jobs of the cluster: waits by watching, each with a deadline, logs, and commands inside a container.

mod execute;
mod state;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, LogParams, Patch, PatchParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::expect::only;

pub use execute::{Executed, ask, execute, variable};
pub use state::{State, is_complete, is_finished, is_ready, is_running};

/// What stopped a question to the cluster from being answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("cannot {operation}")]
    Api {
        /// What was to be done.
        operation: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// What was awaited did not come in time.
    #[error("waited {} s in vain for {awaited}; last seen: {state}", .limit.as_secs())]
    TimedOut {
        /// What was awaited.
        awaited: String,
        /// How long.
        limit: Duration,
        /// The objects as they were then, and what hindered the watch.
        state: String,
    },
    /// A command inside a container did not run.
    #[error("cannot run {command} in pod {pod}: {reason}")]
    NotStarted {
        /// The command.
        command: String,
        /// The pod.
        pod: String,
        /// The API server's words.
        reason: String,
    },
    /// The connection to a command inside a container broke.
    #[error("cannot read the output of {command} in pod {pod}")]
    Output {
        /// The command.
        command: String,
        /// The pod.
        pod: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Which objects of a kind are meant.
#[derive(Debug, Clone)]
pub enum Select {
    /// All of them.
    All,
    /// The one of this name.
    Name(String),
    /// Those with these labels, as a label selector.
    Labels(String),
}

impl Select {
    fn config(&self) -> watcher::Config {
        match self {
            Self::All => watcher::Config::default(),
            Self::Name(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
            Self::Labels(selector) => watcher::Config::default().labels(selector),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all of the namespace"),
            Self::Name(name) => f.write_str(name),
            Self::Labels(selector) => write!(f, "those with {selector}"),
        }
    }
}

/// What a client of the cluster is made from: its kubeconfig alone. kube would take the environment's proxy for any server,
/// also for one on this machine; where a proxy is right, who deployed the suite has written it into the kubeconfig.
///
/// # Errors
/// The kubeconfig is of no use.
pub async fn config(kubeconfig: &Path) -> anyhow::Result<Config> {
    let file = kubeconfig.display();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).with_context(|| format!("read {file}"))?;
    let proxy = kubeconfig.clusters.iter().find_map(|named| named.cluster.as_ref()?.proxy_url.clone());
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.proxy_url = proxy.map(|url| url.parse()).transpose().context("understand the proxy")?;
    Ok(config)
}

/// Watches until the selected objects, as a whole, fulfil a condition, and returns them; `awaited` says in words what
/// it means.
///
/// # Errors
/// They do not within the limit; what hinders the watch itself is retried until then and told.
pub async fn await_objects<K>(
    api: Api<K>,
    select: &Select,
    awaited: &str,
    limit: Duration,
    fulfilled: impl Fn(&[K]) -> bool,
) -> Result<Vec<K>, Error>
where
    K: Resource + State + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut objects: Vec<K> = Vec::new();
    let mut hindrance = None;
    let search = async {
        let events = watcher(api, select.config()).default_backoff();
        pin_mut!(events);
        let mut complete = false;
        loop {
            match events.next().await {
                Some(Ok(event)) => complete = apply(&mut objects, event, complete),
                Some(Err(error)) => hindrance = Some(error),
                // A watcher starts anew instead of ending.
                None => unreachable!("a watcher has no end"),
            }
            if complete && fulfilled(&objects) {
                return;
            }
        }
    };
    let outcome = timeout(limit, search).await;
    match outcome {
        Ok(()) => Ok(objects),
        Err(_) => {
            let mut state = states(&objects);
            if let Some(error) = hindrance {
                state = format!("{state}; the watch failed: {error}");
            }
            Err(Error::TimedOut { awaited: format!("{awaited} ({select})"), limit, state })
        }
    }
}

/// Ends a pod at once, without a grace in which its programs could tidy up.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn kill(pods: &Api<Pod>, name: &str) -> Result<(), kube::Error> {
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.map(drop)
}

/// Lets a node take a pod whose scheduling gates keep it from that.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn ungate(pods: &Api<Pod>, name: &str) -> Result<(), kube::Error> {
    let open = Patch::Merge(json!({"spec": {"schedulingGates": null}}));
    pods.patch(name, &PatchParams::default(), &open).await.map(drop)
}

/// Changes the one Deployment that has these labels by a strategic merge.
///
/// # Errors
/// The API server refuses or does not answer.
///
/// # Panics
/// There is none, or several.
pub async fn change_deployment(
    all: &Api<Deployment>,
    labels: &str,
    patch: &Value,
) -> Result<(), kube::Error> {
    let found = all.list(&ListParams::default().labels(labels)).await?.items;
    let name = only(&found, labels).name_any();
    all.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
}

/// Brings the objects up to date; says whether all there are have been seen.
fn apply<K: Resource>(objects: &mut Vec<K>, event: watcher::Event<K>, complete: bool) -> bool {
    match event {
        watcher::Event::Init => {
            objects.clear();
            false
        }
        watcher::Event::InitDone => true,
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            match objects.iter_mut().find(|known| known.name_any() == object.name_any()) {
                Some(known) => *known = object,
                None => objects.push(object),
            }
            complete
        }
        watcher::Event::Delete(object) => {
            objects.retain(|known| known.name_any() != object.name_any());
            complete
        }
    }
}

fn states<K: State>(objects: &[K]) -> String {
    let states: Vec<_> = objects.iter().map(State::state).collect();
    if states.is_empty() { "none".to_owned() } else { states.join("; ") }
}

/// How long a log may be asked for in vain: the API server reads it from the kubelet, whose connections break on a busy machine.
const LOG_LIMIT: Duration = Duration::from_secs(30);
/// Between two attempts.
const LOG_PAUSE: Duration = Duration::from_secs(1);

/// What a container has written, all of it or the last lines; asked for again where no answer comes.
///
/// # Errors
/// The pod is gone, its container has not started, or there is no answer for half a minute.
pub async fn logs(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    last_lines: Option<i64>,
) -> Result<String, Error> {
    let end = Instant::now() + LOG_LIMIT;
    loop {
        match logs_now(pods, pod, container, last_lines).await {
            Err(Error::Api { source, .. }) if is_passing(&source) && Instant::now() < end => {
                sleep(LOG_PAUSE).await;
            }
            read => return read,
        }
    }
}

/// As [`logs`], asked for once.
///
/// # Errors
/// The pod is gone, its container has not started, or there is no answer.
pub async fn logs_now(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    last_lines: Option<i64>,
) -> Result<String, Error> {
    let params =
        LogParams { container: Some(container.to_owned()), tail_lines: last_lines, ..LogParams::default() };
    pods.logs(pod, &params).await.map_err(|source| Error::Api {
        operation: format!("read the log of {container} in pod {pod}"),
        source,
    })
}

/// Whether another attempt may go better: not when the API server has understood the question and refuses.
fn is_passing(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"phase": phase}})).unwrap()
    }

    #[test]
    fn knows_nothing_for_sure_before_the_first_list_is_whole() {
        let mut pods = Vec::new();
        assert!(!apply(&mut pods, watcher::Event::Init, false));
        assert!(!apply(&mut pods, watcher::Event::InitApply(pod("a", "Pending")), false));
        assert!(apply(&mut pods, watcher::Event::InitDone, false));
        assert_eq!(states(&pods), "pod a Pending");
    }

    #[test]
    fn follows_changes_and_deletions_by_name() {
        let mut pods = vec![pod("a", "Pending"), pod("b", "Running")];
        assert!(apply(&mut pods, watcher::Event::Apply(pod("a", "Running")), true));
        assert_eq!(states(&pods), "pod a Running; pod b Running");
        assert!(apply(&mut pods, watcher::Event::Delete(pod("b", "Running")), true));
        assert!(apply(&mut pods, watcher::Event::Apply(pod("c", "Pending")), true));
        assert_eq!(states(&pods), "pod a Running; pod c Pending");
    }

    #[test]
    fn forgets_all_when_the_watch_starts_anew() {
        let mut pods = vec![pod("a", "Running")];
        assert!(!apply(&mut pods, watcher::Event::Init, true));
        assert_eq!(states(&pods), "none");
    }
}
