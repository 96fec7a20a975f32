//! Watches a kind of object until its objects show what is awaited; never without a deadline.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// The objects by name, as the API server last told.
pub type Objects<K> = BTreeMap<String, K>;

/// What was seen when the time was over.
#[derive(Debug)]
pub struct Late<K> {
    /// The objects; empty also when none could be listed.
    pub objects: Objects<K>,
    /// The last error of the watch, if it was the watch that failed.
    pub error: Option<watcher::Error>,
}

/// Watches the objects of `api` until `decide` decides, which is asked after each change.
///
/// Lost connections and expired resource versions are resumed with a back-off.
///
/// # Errors
/// Nothing was decided within `deadline`: what was last seen.
pub async fn until<K, T>(
    api: Api<K>,
    config: watcher::Config,
    deadline: Duration,
    mut decide: impl FnMut(&Objects<K>) -> Option<T>,
) -> Result<T, Late<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut objects = Objects::new();
    let mut last_error = None;
    let watching = async {
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut listed = Objects::new();
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.insert(object.name_any(), object);
                    continue;
                }
                Ok(Event::InitDone) => objects = std::mem::take(&mut listed),
                Ok(Event::Apply(object)) => {
                    objects.insert(object.name_any(), object);
                }
                Ok(Event::Delete(object)) => {
                    objects.remove(&object.name_any());
                }
                Err(error) => {
                    last_error = Some(error);
                    continue;
                }
            }
            if let Some(decision) = decide(&objects) {
                return Some(decision);
            }
        }
        None
    };
    match tokio::time::timeout(deadline, watching).await {
        Ok(Some(decision)) => Ok(decision),
        Ok(None) | Err(_) => Err(Late { objects, error: last_error }),
    }
}
