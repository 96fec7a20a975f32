//! When the containers of new pods have started: as the API server shows it, and before that as containerd logs it on the node.
//! The kubelet looks at its containers once a second, so the two are up to a second apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::future::{join_all, try_join_all};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kind_client::Node;
use kube::api::ListParams;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::{text, watch};

/// How long a container may take to start after a save, on a slow machine.
const STARTS: Duration = Duration::from_secs(300);

/// The pods of some namespaces, without those that were there at first.
pub(super) struct NewPods {
    client: Client,
    /// By namespace the names of the pods that were there.
    known: BTreeMap<String, BTreeSet<String>>,
    /// Containers that were seen to run, with the time.
    seen: Mutex<Vec<(Timestamp, String)>>,
}

/// When a container had started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// By containerd's log.
    pub logged: Timestamp,
    /// By the API server.
    pub shown: Timestamp,
}

impl NewPods {
    pub(super) async fn of(client: &Client, namespaces: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut known = BTreeMap::new();
        for namespace in namespaces {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            let list = pods.list_metadata(&ListParams::default()).await?;
            known.insert(namespace, list.items.iter().map(ResourceExt::name_any).collect());
        }
        Ok(NewPods { client: client.clone(), known, seen: Mutex::default() })
    }

    /// Notes when a container of each new pod is seen to run, until it is dropped; gives why it cannot go on.
    pub(super) async fn watch(&self) -> anyhow::Error {
        let watches = self.known.iter().map(async |(namespace, known)| {
            let mut known = known.clone();
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            let watching = watch::until(pods, watcher::Config::default(), STARTS, |pods| {
                for pod in pods.values() {
                    let Some(container) = running(pod) else { continue };
                    if known.insert(pod.name_any()) {
                        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.push((Timestamp::now(), container));
                    }
                }
                None::<()>
            });
            let _ = watching.await;
        });
        join_all(watches).await;
        anyhow!("the change was not deployed within {}", text::seconds(STARTS))
    }

    /// The starts that were seen; `begin` is before the first.
    pub(super) async fn starts(self, nodes: &[Node], begin: Timestamp) -> Result<Vec<Start>> {
        // A second more, because journalctl takes whole ones.
        let since = format!("@{}", begin.as_second() - 1);
        let command = ["journalctl", "--unit", "containerd", "--output", "cat", "--since", &since];
        let logs = nodes.iter().map(async |node| node.exec(command).ensure_stdout().await);
        let logs = try_join_all(logs).await?;
        let logged: BTreeMap<&str, Timestamp> =
            logs.iter().flat_map(|log| log.lines()).filter_map(started).collect();
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        let start = |(shown, container): (Timestamp, String)| {
            let logged = logged.get(container.as_str()).copied().with_context(|| {
                format!("no node's log of containerd says that the container {container} has started")
            })?;
            Ok(Start { logged, shown })
        };
        seen.into_iter().map(start).collect()
    }
}

/// The id of a container of the pod that runs.
fn running(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status =
        statuses.iter().find(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))?;
    let id = status.container_id.as_deref()?;
    Some(id.strip_prefix("containerd://").unwrap_or(id).to_owned())
}

/// The container that by this line of containerd's log has started, and when.
fn started(line: &str) -> Option<(&str, Timestamp)> {
    let (time, message) = line.strip_prefix("time=\"")?.split_once('"')?;
    let (_, rest) = message.split_once("msg=\"StartContainer for \\\"")?;
    let (container, rest) = rest.split_once("\\\"")?;
    rest.starts_with(" returns successfully").then_some((container, time.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_when_a_container_has_started() {
        let line = |text: &str| format!(r#"time="2026-11-28T05:51:42.787204791Z" level=info msg="{text}""#);
        let start = line(r#"StartContainer for \"ab12\""#);
        let end = line(r#"StartContainer for \"ab12\" returns successfully"#);
        assert_eq!(started(&start), None);
        assert_eq!(started(&end), Some(("ab12", "2026-11-28T05:51:42.787204791Z".parse().unwrap())));
        assert_eq!(started(&line("CreateContainer within sandbox")), None);
        assert_eq!(started(""), None);
    }
}
