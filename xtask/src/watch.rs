//! Watches a kind of object: until its objects show what is awaited, never without a deadline; or as long as somebody
//! cares.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// The pauses between attempts to watch again, from the first on.
const AGAIN: Duration = Duration::from_millis(250);
/// The longest of them: a run's few watches burden no API server, and what waits for one that was away should not wait for us.
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// Pauses that double up to a second; kube's own go up to half a minute.
#[derive(Clone, Debug)]
pub struct Again(Duration);

impl Default for Again {
    fn default() -> Again {
        Again(AGAIN)
    }
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (2 * pause).min(AGAIN_MAX);
        Some(pause)
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        *self = Again::default();
    }
}

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
    let stream = watcher(api, config).backoff(Again::default());
    let watching = follow(stream, &mut objects, |seen| match seen {
        Ok(objects) => decide(objects).map_or(ControlFlow::Continue(()), ControlFlow::Break),
        Err(error) => {
            last_error = Some(error);
            ControlFlow::Continue(())
        }
    });
    match tokio::time::timeout(deadline, watching).await {
        Ok(Some(decision)) => Ok(decision),
        Ok(None) | Err(_) => Err(Late { objects, error: last_error }),
    }
}

/// Keeps `objects` as `events` tell and shows them after each change, and each error; until `see` breaks.
///
/// While the objects are listed anew, those known before stay.
pub async fn follow<K, T>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    objects: &mut Objects<K>,
    mut see: impl FnMut(Result<&Objects<K>, watcher::Error>) -> ControlFlow<T>,
) -> Option<T>
where
    K: Resource,
{
    let mut events = pin!(events);
    let mut listed = Objects::new();
    while let Some(event) = events.next().await {
        let error = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed.insert(object.name_any(), object);
                continue;
            }
            Ok(Event::InitDone) => {
                *objects = std::mem::take(&mut listed);
                None
            }
            Ok(Event::Apply(object)) => {
                objects.insert(object.name_any(), object);
                None
            }
            Ok(Event::Delete(object)) => {
                objects.remove(&object.name_any());
                None
            }
            Err(error) => Some(error),
        };
        if let ControlFlow::Break(end) = see(error.map_or(Ok(&*objects), Err)) {
            return Some(end);
        }
    }
    None
}
