//! Which groups are deployed at a time: as many as there are jobs, as the nodes have room for, and none that needs what
//! another has for itself.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::claims::{Claims, Resources};
use crate::events::Events;
use crate::exit::{Exit, coded};
use crate::text;

/// The turns of a run's groups.
pub struct Turns {
    /// Places for groups; one is left to a group until it is removed.
    places: Arc<Semaphore>,
    free: Resources,
    /// Groups that have not come to their turn.
    waiting: AtomicUsize,
    deployed: Arc<Deployed>,
}

#[derive(Default)]
struct Deployed {
    now: Mutex<Vec<(String, Claims)>>,
    /// Failed ones, which stay for whoever wants to look.
    stay: Mutex<Vec<String>>,
    changed: Notify,
}

impl Deployed {
    fn now(&self) -> MutexGuard<'_, Vec<(String, Claims)>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stay(&self) -> MutexGuard<'_, Vec<String>> {
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group's turn, until it is dropped.
pub struct Turn {
    id: String,
    deployed: Arc<Deployed>,
    _place: OwnedSemaphorePermit,
}

impl Turn {
    /// Leaves what was deployed in place, with all that it claims.
    pub fn leave_in_place(&self) {
        self.deployed.stay().push(self.id.clone());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.deployed.stay().contains(&self.id) {
            self.deployed.now().retain(|(id, _)| *id != self.id);
        }
        self.deployed.changed.notify_waiters();
    }
}

impl Turns {
    /// Turns for so many `groups`, at most `places` of them at a time, in what the cluster has free now; where that may not be
    /// asked, the scheduler alone knows.
    pub async fn new(client: &Client, groups: usize, places: usize) -> Turns {
        let free = match groups {
            0 | 1 => Resources::UNKNOWN,
            _ => free(client).await.unwrap_or_else(|error| {
                tracing::debug!("how much room the nodes have is not known: {error}");
                Resources::UNKNOWN
            }),
        };
        let places = Arc::new(Semaphore::new(places.max(1)));
        Turns { places, free, waiting: groups.into(), deployed: Arc::default() }
    }

    /// Waits for a place for the group of this id.
    ///
    /// # Errors
    /// Never; a run that ends drops it.
    pub async fn take(&self, id: &str) -> Result<Turn> {
        let place = self.places.clone().acquire_owned().await?;
        Ok(Turn { id: id.to_owned(), deployed: self.deployed.clone(), _place: place })
    }

    /// Waits until nothing stands in the way of what `manifests` deploy.
    ///
    /// # Errors
    /// A manifest is no YAML, exit 2; or what it needs is held by a deployment that failed and stays, exit 4.
    pub async fn admit(&self, turn: &Turn, manifests: &[&str], events: &Events) -> Result<()> {
        let mut claims = Claims::default();
        for manifest in manifests {
            claims.add(manifest)?;
        }
        let mut told = false;
        loop {
            let changed = self.deployed.changed.notified();
            let Some((obstacle, of)) = self.obstacle(&turn.id, &claims) else { return Ok(()) };
            if of.is_some_and(|of| self.deployed.stay().contains(&of)) {
                return Err(coded(
                    Exit::NotReady,
                    anyhow::anyhow!("not deployed: {obstacle}, which failed and stays for you to look at"),
                ));
            }
            if !told {
                events.note(format!("{} waits: {obstacle}", turn.id));
                told = true;
            }
            changed.await;
        }
    }

    /// Whether a group is still to be deployed.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// What stands in the way, and whose it is; without an obstacle the claims are the group's from now on.
    fn obstacle(&self, id: &str, claims: &Claims) -> Option<(String, Option<String>)> {
        let mut now = self.deployed.now();
        for (other, theirs) in &*now {
            if let Some(both) = claims.sole.intersection(&theirs.sole).next() {
                return Some((format!("{both} belongs to {other}"), Some(other.clone())));
            }
        }
        let asked = now.iter().fold(Resources::default(), |sum, (_, theirs)| sum.plus(theirs.asks));
        let left = self.free.minus(asked);
        // One that fits nowhere is for the scheduler to refuse, with its words.
        if !now.is_empty() && !left.holds(claims.asks) {
            let show = |of: Resources| format!("{} m of processors and {}", of.cpu, text::bytes(of.memory));
            return Some((format!("it asks for {}, free are {}", show(claims.asks), show(left)), None));
        }
        now.push((id.to_owned(), claims.clone()));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

/// What the nodes can give and no pod has asked for.
async fn free(client: &Client) -> Result<Resources, kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::all(client.clone());
    let all = ListParams::default();
    let unended = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let (nodes, pods) = tokio::try_join!(nodes.list(&all), pods.list(&unended))?;
    let has = nodes.items.iter().filter_map(|node| node.status.as_ref()?.allocatable.as_ref());
    let has = has.fold(Resources::default(), |sum, all| sum.plus(resources(Some(all))));
    let containers = pods.items.iter().filter_map(|pod| pod.spec.as_ref()).flat_map(|spec| &spec.containers);
    let asked = containers.fold(Resources::default(), |sum, container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        sum.plus(resources(requests))
    });
    Ok(has.minus(asked))
}

fn resources(quantities: Option<&std::collections::BTreeMap<String, Quantity>>) -> Resources {
    Resources::of(|key| Some(quantities?.get(key)?.0.clone()))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn turns(places: usize, memory: u64) -> Turns {
        let free = Resources { cpu: 4000, memory };
        Turns {
            places: Arc::new(Semaphore::new(places)),
            free,
            waiting: AtomicUsize::new(2),
            deployed: Arc::default(),
        }
    }

    fn pod(memory: u64) -> String {
        format!("kind: Pod\nspec: {{containers: [{{resources: {{requests: {{memory: {memory}}}}}}}]}}\n")
    }

    const ROLE: &str = "kind: ClusterRole\nmetadata: {name: reader}\n";

    #[tokio::test]
    async fn groups_that_share_nothing_are_deployed_at_once_up_to_the_places() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one").await.unwrap();
        let two = turns.take("two").await.unwrap();
        turns.admit(&one, &[&pod(MIB)], &events).await.unwrap();
        assert!(turns.is_awaited());
        turns.admit(&two, &[&pod(MIB)], &events).await.unwrap();
        assert!(!turns.is_awaited());
        assert!(turns.take("three").now_or_never().is_none());
        drop(one);
        assert!(turns.take("three").now_or_never().is_some());
    }

    #[tokio::test]
    async fn one_of_two_that_need_the_same_waits_for_the_other() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one").await.unwrap();
        let two = turns.take("two").await.unwrap();
        turns.admit(&one, &[ROLE], &events).await.unwrap();
        assert!(turns.admit(&two, &[ROLE], &events).now_or_never().is_none());
        let (admitted, ()) = tokio::join!(turns.admit(&two, &[ROLE], &events), async { drop(one) });
        admitted.unwrap();
    }

    #[tokio::test]
    async fn one_that_finds_no_room_waits_and_the_first_never_does() {
        let turns = turns(2, 10 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one").await.unwrap();
        let two = turns.take("two").await.unwrap();
        turns.admit(&one, &[&pod(20 * MIB)], &events).await.unwrap();
        assert!(turns.admit(&two, &[&pod(MIB)], &events).now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_a_failed_group_holds_is_waited_for_by_nobody() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one").await.unwrap();
        turns.admit(&one, &[ROLE], &events).await.unwrap();
        one.leave_in_place();
        drop(one);
        let two = turns.take("two").await.unwrap();
        let error = turns.admit(&two, &[ROLE], &events).await.unwrap_err();
        assert!(error.to_string().contains("the ClusterRole reader belongs to one, which failed"), "{error}");
    }
}
