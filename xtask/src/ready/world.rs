//! What is known of the objects that matter, and the little history that their present state does not tell.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStatus, Event, Node, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde::{Deserialize, Serialize};

use super::asked::Item;
use super::object::{self, Key, Object};
use super::state::{HasState, State};

/// Something new.
#[derive(Clone, Debug)]
pub enum Change {
    /// An object is there or has changed.
    Applied(Object),
    /// An object of this kind is gone.
    Gone(String, Key),
    /// Objects of this kind may not be looked at, or there is no such kind.
    Blind(String),
    /// The end of what a container's attempt has written.
    Log(LogOf, String),
}

impl Change {
    /// Whether it is of a Job or pod of the same name as one of `items`, or of a pod of such a Job, that was made before a time.
    pub(super) fn is_of_earlier(&self, items: &[Item], time: Timestamp) -> bool {
        let Change::Applied(object) = self else { return false };
        let namespace = object.key().namespace;
        let is_named =
            |name: &str| items.iter().any(|item| item.key.namespace == namespace && item.key.name == name);
        let is_one = match object {
            Object::Job(job) => is_named(&job.name_any()),
            Object::Pod(pod) => {
                let mut owners = pod.owner_references().iter();
                is_named(&pod.name_any()) || owners.any(|owner| owner.kind == "Job" && is_named(&owner.name))
            }
            _ => false,
        };
        is_one && object.made().is_some_and(|made| made < time)
    }
}

/// A container's attempt whose log is wanted or known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOf {
    /// The pod.
    pub pod: Key,
    /// The container.
    pub container: String,
    /// The attempt's container id.
    pub attempt: String,
}

/// A container's program that ended.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) id: String,
    pub(super) started: Option<Timestamp>,
    pub(super) ended: Option<Timestamp>,
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) log: Option<String>,
}

/// Why a container waits, and since when it was seen to.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    class: &'static str,
    pub(super) since: Timestamp,
}

/// All that is known.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub(super) deployments: BTreeMap<Key, Deployment>,
    pub(super) stateful_sets: BTreeMap<Key, StatefulSet>,
    pub(super) daemon_sets: BTreeMap<Key, DaemonSet>,
    pub(super) replica_sets: BTreeMap<Key, ReplicaSet>,
    pub(super) jobs: BTreeMap<Key, Job>,
    pub(super) pods: BTreeMap<Key, Pod>,
    pub(super) claims: BTreeMap<Key, PersistentVolumeClaim>,
    pub(super) services: BTreeMap<Key, Service>,
    pub(super) events: BTreeMap<Key, Event>,
    pub(super) nodes: BTreeMap<Key, Node>,
    pub(super) slices: BTreeMap<Key, EndpointSlice>,
    pub(super) customs: BTreeMap<(String, Key), DynamicObject>,
    attempts: BTreeMap<(Key, String), Vec<Attempt>>,
    waiting: BTreeMap<(Key, String), Waiting>,
    first_seen: BTreeMap<Key, Timestamp>,
    /// When the wait began: what was said before may be about what has been mended since.
    pub(super) begun: Option<Timestamp>,
    /// The kinds that may not be looked at.
    pub(super) blind: BTreeSet<String>,
}

impl World {
    /// Nothing is known, and the wait begins at this time.
    pub(super) fn since(begun: Timestamp) -> World {
        World { begun: Some(begun), ..World::default() }
    }

    /// Takes a change in that was seen at `at`; gives the logs that would tell more.
    pub fn apply(&mut self, at: Timestamp, change: Change) -> Vec<LogOf> {
        match change {
            Change::Applied(object) => return self.put(at, object),
            Change::Gone(kind, key) => self.remove(&kind, &key),
            Change::Blind(kind) => drop(self.blind.insert(kind)),
            Change::Log(of, text) => {
                let mut attempts = self.attempts.get_mut(&(of.pod, of.container)).into_iter().flatten();
                if let Some(attempt) = attempts.find(|attempt| attempt.id == of.attempt) {
                    attempt.log = Some(text);
                }
            }
        }
        Vec::new()
    }

    fn put(&mut self, at: Timestamp, object: Object) -> Vec<LogOf> {
        let key = object.key();
        match object {
            Object::Deployment(object) => drop(self.deployments.insert(key, *object)),
            Object::StatefulSet(object) => drop(self.stateful_sets.insert(key, *object)),
            Object::DaemonSet(object) => drop(self.daemon_sets.insert(key, *object)),
            Object::ReplicaSet(object) => drop(self.replica_sets.insert(key, *object)),
            Object::Job(object) => drop(self.jobs.insert(key, *object)),
            Object::PersistentVolumeClaim(object) => drop(self.claims.insert(key, *object)),
            Object::Service(object) => drop(self.services.insert(key, *object)),
            Object::Node(object) => drop(self.nodes.insert(key, *object)),
            Object::EndpointSlice(object) => drop(self.slices.insert(key, *object)),
            Object::Event(object) => {
                self.first_seen.entry(key.clone()).or_insert(at);
                self.events.insert(key, *object);
            }
            Object::Custom(object) => {
                self.customs.insert((object::qualified(&object), key), *object);
            }
            Object::Pod(pod) => {
                let wanted = self.remember(at, &key, &pod);
                self.pods.insert(key, *pod);
                return wanted;
            }
        }
        Vec::new()
    }

    fn remove(&mut self, kind: &str, key: &Key) {
        match kind {
            "Deployment" => drop(self.deployments.remove(key)),
            "StatefulSet" => drop(self.stateful_sets.remove(key)),
            "DaemonSet" => drop(self.daemon_sets.remove(key)),
            "ReplicaSet" => drop(self.replica_sets.remove(key)),
            // One that is complete may be taken away when its time to live is over.
            "Job" if self.jobs.get(key).is_some_and(|job| job.state() == State::Ready) => {}
            "Job" => drop(self.jobs.remove(key)),
            "PersistentVolumeClaim" => drop(self.claims.remove(key)),
            "Service" => drop(self.services.remove(key)),
            "Node" => drop(self.nodes.remove(key)),
            "EndpointSlice" => drop(self.slices.remove(key)),
            "Event" => drop(self.events.remove(key)),
            "Pod" => {
                self.pods.remove(key);
                self.attempts.retain(|(pod, _), _| pod != key);
                self.waiting.retain(|(pod, _), _| pod != key);
            }
            _ => drop(self.customs.remove(&(kind.to_owned(), key.clone()))),
        }
    }

    /// Notes the attempts that have ended and since when containers wait; gives the attempts whose log is not known.
    fn remember(&mut self, at: Timestamp, key: &Key, pod: &Pod) -> Vec<LogOf> {
        let mut wanted = Vec::new();
        for (status, _) in containers(pod) {
            let of = (key.clone(), status.name.clone());
            let state = status.state.clone().unwrap_or_default();
            let last = status.last_state.clone().unwrap_or_default();
            for ended in [last.terminated, state.terminated].into_iter().flatten() {
                let attempts = self.attempts.entry(of.clone()).or_default();
                let attempt = Attempt::from(ended);
                if attempts.iter().all(|known| known.id != attempt.id) {
                    wanted.push(LogOf {
                        pod: key.clone(),
                        container: status.name.clone(),
                        attempt: attempt.id.clone(),
                    });
                    attempts.push(attempt);
                }
            }
            match state.waiting.and_then(|waiting| waiting.reason) {
                None => drop(self.waiting.remove(&of)),
                Some(reason) => {
                    let class = class(&reason);
                    let known = self.waiting.get(&of).filter(|known| known.class == class);
                    if known.is_none() {
                        self.waiting.insert(of, Waiting { class, since: at });
                    }
                }
            }
        }
        wanted
    }

    /// How a container's program has ended so far, the oldest first.
    pub(super) fn attempts(&self, pod: &Key, container: &str) -> &[Attempt] {
        self.attempts.get(&(pod.clone(), container.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Since when a container waits for the same kind of thing.
    pub(super) fn waiting_since(&self, pod: &Key, container: &str) -> Option<Timestamp> {
        self.waiting.get(&(pod.clone(), container.to_owned())).map(|waiting| waiting.since)
    }

    /// Whether there is a ConfigMap, Secret or ServiceAccount of this name; nothing where these may not be looked at.
    pub(super) fn has(&self, kind: &str, key: &Key) -> Option<bool> {
        (!self.blind.contains(kind)).then(|| self.customs.contains_key(&(kind.to_owned(), key.clone())))
    }

    /// A custom resource, of a namespace or of the whole cluster; its kind with its group.
    pub(super) fn custom(&self, kind: &str, key: &Key) -> Option<&DynamicObject> {
        let find = |key: Key| self.customs.get(&(kind.to_owned(), key));
        find(key.clone()).or_else(|| find(Key::new("", &key.name)))
    }

    /// Whether an event was said, or said again, since the wait began.
    pub(super) fn is_fresh(&self, event: &Event) -> bool {
        self.is_since(self.begun, event)
    }

    /// Whether an event was said, or said again, since a time; of one without a time, and without a time, it counts so.
    pub(super) fn is_since(&self, time: Option<Timestamp>, event: &Event) -> bool {
        // Kubernetes' times are whole seconds.
        let time = time.map(|time| time - SignedDuration::from_secs(1));
        time.is_none_or(|time| self.last_time(event).is_none_or(|last| last >= time))
    }

    fn uid_of(&self, kind: &str, key: &Key) -> Option<&str> {
        let meta = match kind {
            "Pod" => self.pods.get(key).map(|object| &object.metadata),
            "ReplicaSet" => self.replica_sets.get(key).map(|object| &object.metadata),
            "StatefulSet" => self.stateful_sets.get(key).map(|object| &object.metadata),
            "DaemonSet" => self.daemon_sets.get(key).map(|object| &object.metadata),
            "Job" => self.jobs.get(key).map(|object| &object.metadata),
            "PersistentVolumeClaim" => self.claims.get(key).map(|object| &object.metadata),
            _ => None,
        };
        meta?.uid.as_deref()
    }

    /// The events of an object, the newest last; not those of an earlier one of the same name.
    pub(super) fn events_of(&self, kind: &str, key: &Key) -> Vec<&Event> {
        let uid = self.uid_of(kind, key);
        let of = |event: &&Event| {
            let object = &event.involved_object;
            object.kind.as_deref() == Some(kind)
                && object.name.as_deref() == Some(&key.name)
                && object.namespace.as_deref().unwrap_or_default() == key.namespace
                && uid.is_none_or(|uid| object.uid.as_deref().is_none_or(|of| of == uid))
        };
        let mut events: Vec<&Event> = self.events.values().filter(of).collect();
        events.sort_by_key(|event| self.last_time(event));
        events
    }

    /// When an event was last reported.
    pub(super) fn last_time(&self, event: &Event) -> Option<Timestamp> {
        let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
        series
            .map(|time| time.0)
            .or(event.last_timestamp.as_ref().map(|time| time.0))
            .or(event.event_time.as_ref().map(|time| time.0))
            .or_else(|| self.first_time(event))
    }

    /// When an event was first reported, or else seen.
    pub(super) fn first_time(&self, event: &Event) -> Option<Timestamp> {
        let first = event.first_timestamp.as_ref().map(|time| time.0);
        first.or_else(|| self.first_seen.get(&Key::of(event)).copied())
    }

    /// The pods that a controller owns, directly.
    pub(super) fn pods_of<'a>(
        &'a self,
        kind: &'a str,
        key: &'a Key,
    ) -> impl Iterator<Item = (&'a Key, &'a Pod)> {
        self.pods.iter().filter(move |(at, pod)| {
            at.namespace == key.namespace && owned_by(pod.owner_references(), kind, &key.name)
        })
    }

    /// The labels by which a Service selects its pods, where it does.
    pub(super) fn selector(&self, service: &Key) -> Option<&BTreeMap<String, String>> {
        let selector = self.services.get(service)?.spec.as_ref()?.selector.as_ref()?;
        (!selector.is_empty()).then_some(selector)
    }

    /// The pods that a Service selects.
    pub(super) fn selected_by(&self, service: &Key) -> Vec<&Pod> {
        let Some(selector) = self.selector(service) else { return Vec::new() };
        let of = |(at, pod): &(&Key, &Pod)| {
            at.namespace == service.namespace
                && selector.iter().all(|(name, value)| pod.labels().get(name) == Some(value))
        };
        self.pods.iter().filter(of).map(|(_, pod)| pod).collect()
    }

    /// A Deployment's newest ReplicaSet.
    pub(super) fn newest_replica_set(&self, deployment: &Key) -> Option<Key> {
        let revision = |set: &ReplicaSet| -> u64 {
            let text = set.annotations().get("deployment.kubernetes.io/revision");
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let owned = self.replica_sets.iter().filter(|(at, set)| {
            at.namespace == deployment.namespace
                && owned_by(set.owner_references(), "Deployment", &deployment.name)
        });
        owned.max_by_key(|(_, set)| revision(set)).map(|(key, _)| key.clone())
    }
}

fn owned_by(owners: &[OwnerReference], kind: &str, name: &str) -> bool {
    owners.iter().any(|owner| owner.kind == kind && owner.name == name)
}

/// Reasons of one class are one wait: the kubelet goes back and forth between them.
fn class(reason: &str) -> &'static str {
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => "image",
        "CreateContainerConfigError" | "CreateContainerError" => "config",
        "CrashLoopBackOff" | "RunContainerError" => "crash",
        _ => "other",
    }
}

/// The containers' states, each with whether it is one of those that must end before the others start.
pub(super) fn containers(pod: &Pod) -> Vec<(&ContainerStatus, bool)> {
    let Some(status) = &pod.status else { return Vec::new() };
    let init = status.init_container_statuses.iter().flatten().map(|one| (one, true));
    let main = status.container_statuses.iter().flatten().map(|one| (one, false));
    init.chain(main).collect()
}

impl From<ContainerStateTerminated> for Attempt {
    fn from(ended: ContainerStateTerminated) -> Attempt {
        let at = ended.finished_at.map(|time| time.0);
        // A container that could not be made has no id.
        let id = ended.container_id.filter(|id| !id.is_empty());
        Attempt {
            id: id.unwrap_or_else(|| format!("ended {}", at.unwrap_or_default())),
            started: ended.started_at.map(|time| time.0),
            ended: at,
            code: ended.exit_code,
            reason: ended.reason.unwrap_or_default(),
            message: ended.message.unwrap_or_default(),
            log: None,
        }
    }
}
