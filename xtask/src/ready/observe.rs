//! Watches on all that a release asks for and on what comes of it, as one stream of changes.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Node, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject};
use kube::core::{GroupVersionKind, PartialObjectMeta};
use kube::discovery::{self, Scope};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event as Told, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::asked::Asked;
use super::logs::last_lines;
use super::object::{Key, Object, autoscaler_status, qualified_name};
use super::world::{Change, LogOf};

/// How long a log may take to come: a verdict may wait for it.
const LOG_TIME: Duration = Duration::from_secs(2);
/// How long finding out about a custom kind may take.
const DISCOVERY: Duration = Duration::from_secs(5);

/// What a watch tells.
enum Said {
    Change(Change),
    /// Its first list is complete, or it cannot be had.
    Synced,
    /// It failed and will be tried again.
    Failed(String),
    /// Objects of this kind may not be looked at, or there is no such kind.
    Blind(String, String),
}

/// The watches of a release, and the logs asked for.
pub(super) struct Watching {
    client: Client,
    watches: SelectAll<BoxStream<'static, Said>>,
    logs: FuturesUnordered<BoxFuture<'static, Change>>,
    open: usize,
    /// Kinds to tell of first.
    blind: Vec<String>,
    /// Why a watch failed last.
    pub(super) error: Option<String>,
}

impl Watching {
    /// Watches the namespaces of what was asked for.
    pub(super) async fn new(client: &Client, asked: &Asked) -> Watching {
        let mut watches = SelectAll::new();
        let mut blind = Vec::new();
        for namespace in asked.namespaces() {
            watches.push(watch::<Deployment>(client, namespace));
            watches.push(watch::<StatefulSet>(client, namespace));
            watches.push(watch::<DaemonSet>(client, namespace));
            watches.push(watch::<ReplicaSet>(client, namespace));
            watches.push(watch::<Job>(client, namespace));
            watches.push(watch::<Pod>(client, namespace));
            watches.push(watch::<PersistentVolumeClaim>(client, namespace));
            watches.push(watch::<Service>(client, namespace));
            watches.push(watch::<Event>(client, namespace));
            watches.push(watch::<EndpointSlice>(client, namespace));
            watches.push(names::<ConfigMap>(client, namespace));
            watches.push(names::<Secret>(client, namespace));
            watches.push(names::<ServiceAccount>(client, namespace));
        }
        watches.push(watch_all(Api::<Node>::all(client.clone()), "Node"));
        watches.push(autoscaler(client));
        for (version, kind, namespace) in asked.customs() {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let gvk = GroupVersionKind::gvk(group, version, kind);
            let found = tokio::time::timeout(DISCOVERY, discovery::pinned_kind(client, &gvk)).await;
            let name = qualified_name(&gvk.api_version(), kind);
            let Ok(Ok((resource, capabilities))) = found else {
                blind.push(name);
                continue;
            };
            let api: Api<DynamicObject> = match capabilities.scope {
                Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
                Scope::Cluster => Api::all_with(client.clone(), &resource),
            };
            watches.push(watch_all(api, &name));
        }
        let open = watches.len();
        Watching { client: client.clone(), watches, logs: FuturesUnordered::new(), open, blind, error: None }
    }

    /// Whether all watches have told what there was when they began.
    pub(super) fn is_synced(&self) -> bool {
        self.open == 0
    }

    /// The next change; a log that was asked for is one too.
    pub(super) async fn next(&mut self) -> Option<Change> {
        if let Some(kind) = self.blind.pop() {
            return Some(Change::Blind(kind));
        }
        loop {
            let said = tokio::select! {
                said = self.watches.next() => said?,
                Some(log) = self.logs.next() => return Some(log),
            };
            match said {
                Said::Change(change) => {
                    self.error = None;
                    return Some(change);
                }
                Said::Synced => {
                    self.open -= 1;
                    if self.open == 0 {
                        return None;
                    }
                }
                Said::Failed(error) => self.error = Some(error),
                Said::Blind(kind, error) => {
                    tracing::debug!("{error}");
                    return Some(Change::Blind(kind));
                }
            }
        }
    }

    /// Asks for logs; each comes as a change, empty where it cannot be had.
    pub(super) fn want(&mut self, logs: Vec<LogOf>) {
        for of in logs {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), &of.pod.namespace);
            self.logs.push(
                async move {
                    let text = tokio::time::timeout(LOG_TIME, read_log(&pods, &of)).await.unwrap_or_default();
                    Change::Log(of, text)
                }
                .boxed(),
            );
        }
    }
}

async fn read_log(pods: &Api<Pod>, of: &LogOf) -> String {
    // Of a container that waits for its next attempt, the last attempt's log is the current one.
    for previous in [true, false] {
        let params = last_lines(&of.container, previous);
        let running = pods.get_opt(&of.pod.name).await.ok().flatten().is_some_and(|pod| {
            super::world::containers(&pod).iter().any(|(status, _)| {
                let now = status.state.as_ref().and_then(|state| state.running.as_ref()).is_some();
                status.name == of.container && now
            })
        });
        if running != previous {
            continue;
        }
        if let Ok(text) = pods.logs(&of.pod.name, &params).await {
            return text;
        }
    }
    String::new()
}

fn watch<K>(client: &Client, namespace: &str) -> BoxStream<'static, Said>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
{
    watch_all(Api::<K>::namespaced(client.clone(), namespace), &K::kind(&()))
}

fn watch_all<K>(api: Api<K>, kind: &str) -> BoxStream<'static, Said>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Into<Object> + 'static,
{
    told(watcher(api, watcher::Config::default()), kind, Into::into)
}

/// Watches which objects of a kind there are; what they hold is nobody's business.
fn names<K>(client: &Client, namespace: &str) -> BoxStream<'static, Said>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    K: Clone + DeserializeOwned + Debug + Send + 'static,
{
    let api = Api::<PartialObjectMeta<K>>::namespaced(client.clone(), namespace);
    told(watcher(api, watcher::Config::default()), &K::kind(&()), name_of)
}

/// Watches whether there is a cluster autoscaler: it keeps its status in a ConfigMap. That this may not be looked at says
/// nothing of other ConfigMaps.
fn autoscaler(client: &Client) -> BoxStream<'static, Said> {
    let Key { namespace, name } = autoscaler_status();
    let api = Api::<PartialObjectMeta<ConfigMap>>::namespaced(client.clone(), &namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    told(watcher(api, config), &name, name_of)
}

/// An object of which nothing but its name is known.
fn name_of<K>(meta: PartialObjectMeta<K>) -> Object
where
    K: Resource<DynamicType = ()>,
{
    let mut object = DynamicObject::new(&meta.name_any(), &ApiResource::erase::<K>(&()));
    object.metadata.namespace = meta.namespace();
    Object::Custom(Box::new(object))
}

/// Whether trying again is of no use.
fn is_refused(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return false;
    };
    matches!(status.code, 401 | 403 | 404 | 405)
}

/// The changes of one kind; what a new list no longer has is gone.
fn told<K: Send + 'static>(
    watch: impl Stream<Item = watcher::Result<Told<K>>> + Send + 'static,
    kind: &str,
    object: impl Fn(K) -> Object + Send + 'static,
) -> BoxStream<'static, Said> {
    let kind = kind.to_owned();
    let mut known: BTreeMap<Key, u64> = BTreeMap::new();
    let mut list = 0;
    let mut synced = false;
    watch
        .backoff(crate::watch::Again::default())
        .map(move |told| {
            let mut said = Vec::new();
            let mut sync = |said: &mut Vec<Said>| {
                if !std::mem::replace(&mut synced, true) {
                    said.push(Said::Synced);
                }
            };
            match told {
                Ok(Told::Init) => list += 1,
                Ok(Told::InitApply(told) | Told::Apply(told)) => {
                    let object = object(told);
                    known.insert(object.key(), list);
                    said.push(Said::Change(Change::Applied(object)));
                }
                Ok(Told::Delete(told)) => {
                    let key = object(told).key();
                    known.remove(&key);
                    said.push(Said::Change(Change::Gone(kind.clone(), key)));
                }
                Ok(Told::InitDone) => {
                    let gone: Vec<Key> =
                        known.iter().filter(|(_, seen)| **seen != list).map(|(key, _)| key.clone()).collect();
                    for key in gone {
                        known.remove(&key);
                        said.push(Said::Change(Change::Gone(kind.clone(), key)));
                    }
                    sync(&mut said);
                }
                Err(error) => {
                    let text = format!("the watch on {kind} objects failed: {error}");
                    if is_refused(&error) {
                        said.push(Said::Blind(kind.clone(), text));
                        sync(&mut said);
                    } else {
                        said.push(Said::Failed(text));
                    }
                }
            }
            futures::stream::iter(said)
        })
        .flatten()
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name, "namespace": "ns"}})).unwrap()
    }

    async fn shown(events: Vec<watcher::Result<Told<Pod>>>) -> Vec<String> {
        let said = told(futures::stream::iter(events), "Pod", Into::into);
        said.map(|said| match said {
            Said::Change(Change::Applied(object)) => format!("+{}", object.key().name),
            Said::Change(Change::Gone(_, key)) => format!("-{}", key.name),
            Said::Change(other) => format!("{other:?}"),
            Said::Synced => "synced".to_owned(),
            Said::Failed(_) => "failed".to_owned(),
            Said::Blind(..) => "blind".to_owned(),
        })
        .collect()
        .await
    }

    #[tokio::test]
    async fn what_went_while_the_watch_was_broken_is_gone() {
        let events = vec![
            Ok(Told::Init),
            Ok(Told::InitApply(pod("a"))),
            Ok(Told::InitApply(pod("b"))),
            Ok(Told::InitDone),
            Ok(Told::Delete(pod("a"))),
            // 410 Gone: the watcher lists anew.
            Ok(Told::Init),
            Ok(Told::InitApply(pod("c"))),
            Ok(Told::InitDone),
        ];
        assert_eq!(shown(events).await, ["+a", "+b", "synced", "-a", "+c", "-b"]);
    }

    #[tokio::test]
    async fn a_kind_that_may_not_be_listed_holds_up_nobody() {
        let refused = || {
            let status = kube::core::Status::failure("forbidden", "Forbidden").with_code(403);
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status.boxed())))
        };
        assert_eq!(shown(vec![refused(), refused()]).await, ["blind", "synced", "blind"]);
        // One that is only away for a moment is waited for.
        assert_eq!(shown(vec![Err(watcher::Error::NoResourceVersion)]).await, ["failed"]);
    }
}
