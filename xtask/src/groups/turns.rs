//! Which groups are deployed at a time: as many as there are jobs, as the nodes have room for, and none that needs what
//! another has for itself.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::sync::Notify;

use super::claims::{Claims, Resources};
use super::{Place, Places};
use crate::events::Events;
use crate::exit::{Exit, coded};
use crate::text;

/// The turns of a run's groups.
pub struct Turns {
    /// Places for groups; one is left to a group until it is removed.
    places: Arc<Places>,
    /// Places beside these for groups whose tests wait more than they work; without them they take one of the others.
    beside: Option<Arc<Places>>,
    free: Resources,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Groups that are deployed, or about to be.
    deployed: Mutex<Vec<Deployed>>,
    /// Groups that have not come to that.
    waiting: AtomicUsize,
    changed: Notify,
}

struct Deployed {
    id: String,
    claims: Claims,
    /// Why it stays until the run's end, where it does.
    stays: Option<(Exit, &'static str)>,
}

impl State {
    fn deployed(&self) -> MutexGuard<'_, Vec<Deployed>> {
        self.deployed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A group's turn, until it is dropped.
pub struct Turn {
    id: String,
    state: Arc<State>,
    _place: Place,
}

impl Turn {
    /// Leaves what was deployed in place until the run's end, with all that it claims; `why` continues a sentence on it, and
    /// `exit` is what becomes of a group that needs the same.
    pub fn leave_in_place(&self, exit: Exit, why: &'static str) {
        for deployed in self.state.deployed().iter_mut().filter(|deployed| deployed.id == self.id) {
            deployed.stays = Some((exit, why));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut deployed = self.state.deployed();
        if !deployed.iter().any(|deployed| deployed.id == self.id) {
            // It has failed before it came to its turn.
            self.state.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        deployed.retain(|deployed| deployed.id != self.id || deployed.stays.is_some());
        drop(deployed);
        self.state.changed.notify_waiters();
    }
}

/// Stands in an error: a group is not deployed, because another has what it needs and stays.
#[derive(Debug)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not deployed")
    }
}

impl std::error::Error for Refused {}

/// What stands in a group's way.
enum Obstacle {
    /// It will go away.
    Passing(String),
    /// It stays.
    Lasting(Exit, String),
}

impl Turns {
    /// Turns for so many `groups`, as many of them at a time as there are `places`, and where there are places `beside` them as many more of
    /// those whose tests wait more than they work; in what the cluster has free now. Where that may not be asked, the scheduler alone
    /// knows.
    pub async fn new(
        client: &Client,
        groups: usize,
        places: Arc<Places>,
        beside: Option<Arc<Places>>,
    ) -> Turns {
        let free = match groups {
            0 | 1 => Resources::UNKNOWN,
            _ => free(client).await.unwrap_or_else(|error| {
                tracing::debug!("how much room the nodes have is not known: {error}");
                Resources::UNKNOWN
            }),
        };
        let state = State { waiting: groups.into(), ..State::default() };
        Turns { places, beside, free, state: Arc::new(state) }
    }

    /// Waits for a place for the group of this id, whose tests wait more than they work or do not.
    pub async fn take(&self, id: &str, waits: bool) -> Turn {
        let places = self.beside.as_ref().filter(|_| waits).unwrap_or(&self.places);
        Turn { id: id.to_owned(), state: self.state.clone(), _place: places.take().await }
    }

    /// Waits until nothing stands in the way of a deployment with these claims.
    ///
    /// # Errors
    /// What it needs is held by a deployment that stays: [`Refused`].
    pub async fn admit(&self, turn: &Turn, claims: &Claims, events: &Events) -> Result<()> {
        let mut told = false;
        loop {
            let changed = self.state.changed.notified();
            match self.obstacle(&turn.id, claims) {
                None => return Ok(()),
                Some(Obstacle::Lasting(exit, why)) => {
                    return Err(coded(exit, anyhow!(why)).context(Refused));
                }
                Some(Obstacle::Passing(why)) if !told => {
                    events.note(format!("{} waits: {why}", turn.id));
                    told = true;
                }
                Some(Obstacle::Passing(_)) => {}
            }
            changed.await;
        }
    }

    /// Whether a group is still to be deployed.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.state.waiting.load(Ordering::Relaxed) > 0
    }

    /// What stands in the way; without an obstacle the claims are the group's from now on.
    fn obstacle(&self, id: &str, claims: &Claims) -> Option<Obstacle> {
        let mut deployed = self.state.deployed();
        for other in &*deployed {
            if let Some(both) = claims.sole.intersection(&other.claims.sole).next() {
                let why = format!("{both} belongs to {}", other.id);
                return Some(match other.stays {
                    Some((exit, stays)) => Obstacle::Lasting(exit, format!("{why}, {stays}")),
                    None => Obstacle::Passing(why),
                });
            }
        }
        let asked = deployed.iter().fold(Resources::default(), |sum, other| sum.plus(other.claims.asks));
        let left = self.free.minus(asked);
        // Where nobody will make room, it is for the scheduler to refuse, with its words.
        if deployed.iter().any(|other| other.stays.is_none()) && !left.holds(claims.asks) {
            let show = |of: Resources| format!("{} m of processors and {}", of.cpu, text::bytes(of.memory));
            let why = format!("it asks for {}, free are {}", show(claims.asks), show(left));
            return Some(Obstacle::Passing(why));
        }
        deployed.push(Deployed { id: id.to_owned(), claims: claims.clone(), stays: None });
        self.state.waiting.fetch_sub(1, Ordering::Relaxed);
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
        let state = State { waiting: AtomicUsize::new(2), ..State::default() };
        Turns { places: Places::new(places), beside: None, free, state: Arc::new(state) }
    }

    fn pod(memory: u64) -> String {
        format!("kind: Pod\nspec: {{containers: [{{resources: {{requests: {{memory: {memory}}}}}}}]}}\n")
    }

    fn claims(manifest: &str) -> Claims {
        Claims::of(&[manifest], &[]).unwrap()
    }

    const ROLE: &str = "kind: ClusterRole\nmetadata: {name: reader}\n";

    #[tokio::test]
    async fn groups_that_share_nothing_are_deployed_at_once_up_to_the_places() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one", false).await;
        let two = turns.take("two", false).await;
        turns.admit(&one, &claims(&pod(MIB)), &events).await.unwrap();
        assert!(turns.is_awaited());
        turns.admit(&two, &claims(&pod(MIB)), &events).await.unwrap();
        assert!(!turns.is_awaited());
        assert!(turns.take("three", false).now_or_never().is_none());
        drop(one);
        assert!(turns.take("three", false).now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_group_whose_tests_wait_takes_no_place_from_those_whose_work() {
        let turns = Turns { beside: Some(Places::new(1)), ..turns(1, 100 * MIB) };
        let _works = turns.take("works", false).await;
        let waits = turns.take("waits", true).await;
        assert!(turns.take("works too", false).now_or_never().is_none());
        assert!(turns.take("waits too", true).now_or_never().is_none());
        drop(waits);
        assert!(turns.take("waits too", true).now_or_never().is_some());
        let turns = Turns { beside: None, ..turns };
        assert!(turns.take("waits too", true).now_or_never().is_none(), "with --jobs");
    }

    #[tokio::test]
    async fn one_of_two_that_need_the_same_waits_for_the_other() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one", false).await;
        let two = turns.take("two", false).await;
        turns.admit(&one, &claims(ROLE), &events).await.unwrap();
        assert!(turns.admit(&two, &claims(ROLE), &events).now_or_never().is_none());
        let claims = claims(ROLE);
        let (admitted, ()) = tokio::join!(turns.admit(&two, &claims, &events), async { drop(one) });
        admitted.unwrap();
    }

    #[tokio::test]
    async fn one_that_finds_no_room_waits_for_those_that_will_go() {
        let turns = turns(2, 10 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one", false).await;
        let two = turns.take("two", false).await;
        turns.admit(&one, &claims(&pod(20 * MIB)), &events).await.unwrap();
        assert!(turns.admit(&two, &claims(&pod(MIB)), &events).now_or_never().is_none());
        one.leave_in_place(Exit::TestsFailed, "whose tests failed");
        drop(one);
        turns.admit(&two, &claims(&pod(MIB)), &events).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_group_that_stays_holds_is_waited_for_by_nobody() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        let one = turns.take("one", false).await;
        turns.admit(&one, &claims(ROLE), &events).await.unwrap();
        one.leave_in_place(Exit::TestsFailed, "whose tests failed");
        drop(one);
        let two = turns.take("two", false).await;
        let error = turns.admit(&two, &claims(ROLE), &events).await.unwrap_err();
        assert!(error.is::<Refused>() && Exit::of(&error) == Exit::TestsFailed, "{error:?}");
        let error = crate::exit::message(&error);
        assert!(error.contains("the ClusterRole reader belongs to one, whose tests failed"), "{error}");
    }

    #[tokio::test]
    async fn one_that_fails_before_its_turn_is_not_awaited() {
        let turns = turns(2, 100 * MIB);
        let events = Events::new(Vec::new());
        drop(turns.take("one", false).await);
        let two = turns.take("two", false).await;
        turns.admit(&two, &claims(ROLE), &events).await.unwrap();
        assert!(!turns.is_awaited());
    }
}
