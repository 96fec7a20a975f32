//! From what is known to ready, wait or doomed: a pure function.
//!
//! A workload is doomed by evidence: a cause that cannot heal, or one that had its chance. Each cause says when its
//! chance is over; until then, and where nobody can tell, the answer is to wait.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Resource, ResourceExt};

use super::asked::{Asked, Item, Kind};
use super::cause::{Cause, Kind as CauseKind};
use super::object::Key;
use super::patience::Patience;
use super::state::{self, HasState, State};
use super::world::{World, containers};

mod crash;
mod image;
mod job;
mod missing;
mod pending;
mod probe;
mod rollout;

/// How long at most a container without a readiness probe has to run, if it ran for long before it ended.
const STEADY_AT_MOST: std::time::Duration = std::time::Duration::from_secs(30);

/// How far something that was asked for is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As asked for.
    Ready,
    /// Not yet.
    Wait {
        /// What is missing.
        cause: Cause,
        /// When the verdict will be another one even if nothing changes; `None`: not before the deadline.
        until: Option<Timestamp>,
    },
    /// It will not get there.
    Doomed(Cause),
}

/// A cause, and when its chance to heal is over.
#[derive(Clone, Debug)]
struct Finding {
    cause: Cause,
    doomed_at: Option<Timestamp>,
}

impl Finding {
    /// A cause that may heal at any time.
    fn open(cause: Cause) -> Finding {
        Finding { cause, doomed_at: None }
    }

    /// A cause that does not heal.
    fn fatal(cause: Cause) -> Finding {
        Finding { cause, doomed_at: Some(Timestamp::MIN) }
    }

    /// A cause that has until then to heal.
    fn until(cause: Cause, time: Option<Timestamp>) -> Finding {
        Finding { cause, doomed_at: time }
    }
}

/// What a verdict is made from.
#[derive(Clone, Copy)]
struct Look<'a> {
    world: &'a World,
    asked: &'a Asked,
    patience: &'a Patience,
    now: Timestamp,
}

/// Judges `items`, which are of what was asked for, in their order.
#[must_use]
pub fn judge(
    world: &World,
    asked: &Asked,
    items: &[Item],
    patience: &Patience,
    now: Timestamp,
) -> Vec<(Item, Verdict)> {
    let look = Look { world, asked, patience, now };
    items.iter().map(|item| (item.clone(), look.judge(item))).collect()
}

/// As [`judge`], for hooks.
pub(super) fn judge_hooks(
    world: &World,
    asked: &Asked,
    items: &[Item],
    patience: &Patience,
    now: Timestamp,
) -> Vec<(Item, Verdict)> {
    let look = Look { world, asked, patience, now };
    items.iter().map(|item| (item.clone(), look.judge_hook(item))).collect()
}

/// `time` and a while after it.
fn after(time: Option<Timestamp>, while_: std::time::Duration) -> Option<Timestamp> {
    time.and_then(|time| time.checked_add(SignedDuration::try_from(while_).ok()?).ok())
}

impl Look<'_> {
    fn judge(&self, item: &Item) -> Verdict {
        let waiting = match self.state(item) {
            // Its status may be of a moment before its pods': these have the last word.
            State::Ready if self.is_any_pod_unready(item) => "its pods are not ready any more".to_owned(),
            State::Ready => return self.steady(item),
            State::Failed(why) => return Verdict::Doomed(self.why_failed(item, why)),
            // What its pods show is of the revision before.
            State::Waiting(why) if why == state::UNSEEN => {
                return Verdict::Wait { cause: Cause::new(CauseKind::Unfinished, why), until: None };
            }
            State::Waiting(why) => why,
        };
        let mut findings = self.findings(item);
        // What ends first says most; among those that never end by themselves, what was found first.
        findings.sort_by_key(|finding| finding.doomed_at.unwrap_or(Timestamp::MAX));
        match findings.into_iter().next() {
            Some(Finding { cause, doomed_at: Some(time) }) if time <= self.now => Verdict::Doomed(cause),
            Some(Finding { cause, doomed_at }) => Verdict::Wait { cause, until: doomed_at },
            None => {
                let cause = self.at_work(item, Cause::new(CauseKind::Unfinished, waiting));
                Verdict::Wait { cause, until: None }
            }
        }
    }

    /// Adds which container of a Job or pod is at work: what it says last may tell what it waits for.
    fn at_work(&self, item: &Item, cause: Cause) -> Cause {
        if !matches!(item.kind, Kind::Job | Kind::Pod) {
            return cause;
        }
        let is_running =
            |status: &ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        for (key, pod) in self.current_pods(item) {
            let running = containers(pod).into_iter().filter(|(status, _)| is_running(status));
            // An init container that runs beside the others is not what the work is done in.
            if let Some((status, _)) = running.min_by_key(|(_, init)| *init) {
                return cause.at(&key.name, Some(&status.name));
            }
        }
        cause
    }

    /// A hook's verdict: helm waits until it has ended, so a pod that runs is not there yet.
    fn judge_hook(&self, item: &Item) -> Verdict {
        let ended = self.world.pods.get(&item.key).and_then(|pod| pod.status.as_ref()?.phase.as_deref());
        match self.judge(item) {
            Verdict::Ready if item.kind == Kind::Pod && ended != Some("Succeeded") => {
                let cause = Cause::new(CauseKind::Unfinished, "it is at work");
                Verdict::Wait { cause: self.at_work(item, cause), until: None }
            }
            verdict => verdict,
        }
    }

    fn is_any_pod_unready(&self, item: &Item) -> bool {
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            matches!(phase, Some("Failed" | "Succeeded"))
        };
        item.kind.is_workload()
            && item.kind != Kind::Job
            && self.current_pods(item).iter().any(|(_, pod)| !is_ready(pod) && !ended(pod))
    }

    /// Without a readiness probe a container is ready as soon as it runs, also if it ends a moment later: it counts once
    /// it has run for a moment, or longer than it did before it last ended.
    fn steady(&self, item: &Item) -> Verdict {
        if !item.kind.is_workload() || item.kind == Kind::Job {
            return Verdict::Ready;
        }
        let mut steady_at = None;
        for (key, pod) in self.current_pods(item) {
            for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
                let status = containers(pod).into_iter().find(|(status, _)| status.name == container.name);
                let running = status.and_then(|(status, _)| status.state.as_ref()?.running.as_ref());
                let Some(started) = running.and_then(|running| running.started_at.as_ref()) else { continue };
                if container.readiness_probe.is_some() {
                    continue;
                }
                let lived = self.world.attempts(key, &container.name).iter().filter_map(|attempt| {
                    std::time::Duration::try_from(attempt.ended?.duration_since(attempt.started?)).ok()
                });
                let longest = lived.max().unwrap_or_default().min(STEADY_AT_MOST);
                steady_at = steady_at.max(after(Some(started.0), longest + self.patience.steady));
            }
        }
        match steady_at {
            Some(time) if time > self.now => {
                let cause = Cause::new(
                    CauseKind::Unfinished,
                    "it runs, and has to show for a moment that it goes on",
                );
                Verdict::Wait { cause, until: Some(time) }
            }
            _ => Verdict::Ready,
        }
    }

    /// How far it is by its own status.
    fn state(&self, item: &Item) -> State {
        let World { deployments, stateful_sets, daemon_sets, replica_sets, pods, jobs, claims, .. } =
            self.world;
        let state = match &item.kind {
            Kind::Deployment => deployments.get(&item.key).map(HasState::state),
            Kind::StatefulSet => stateful_sets.get(&item.key).map(HasState::state),
            Kind::DaemonSet => daemon_sets.get(&item.key).map(HasState::state),
            Kind::ReplicaSet => replica_sets.get(&item.key).map(HasState::state),
            Kind::Pod => pods.get(&item.key).map(HasState::state),
            Kind::Job => jobs.get(&item.key).map(HasState::state).or_else(|| job::gone(self, item)),
            Kind::Claim => claims.get(&item.key).map(|claim| pending::claim_state(self, &item.key, claim)),
            Kind::Service => self.world.services.get(&item.key).map(|_| self.service_state(&item.key)),
            // One that cannot be looked at counts as it is.
            kind @ Kind::Custom(..) if self.world.blind.contains(&kind.qualified()) => Some(State::Ready),
            kind @ Kind::Custom(..) => self.world.custom(&kind.qualified(), &item.key).map(state::custom),
        };
        let state = state.unwrap_or_else(|| State::Waiting("it does not exist yet".to_owned()));
        match state {
            // While replaced pods go they still serve, and whoever talks to them is cut off.
            State::Ready if item.kind.is_workload() && item.kind != Kind::Job => {
                let going = self.pods(item).filter(|(_, pod)| pod.meta().deletion_timestamp.is_some());
                let names: Vec<String> = going.map(|(key, _)| key.name.clone()).collect();
                if names.is_empty() {
                    State::Ready
                } else {
                    State::Waiting(format!("pods that it has replaced are still there: {}", names.join(", ")))
                }
            }
            state => state,
        }
    }

    /// A Service is ready when its endpoints are those of ready pods; one that selects nothing is left to whoever made it
    /// ([`without_pods`] tells of it).
    fn service_state(&self, key: &Key) -> State {
        let ready = self.world.selected_by(key).into_iter().filter(|pod| is_ready(pod)).count();
        if self.world.blind.contains("EndpointSlice") {
            return State::Ready;
        }
        let slices = self.world.slices.iter().filter(|(at, slice)| {
            at.namespace == key.namespace
                && slice.labels().get("kubernetes.io/service-name") == Some(&key.name)
        });
        let endpoints = slices.flat_map(|(_, slice)| &slice.endpoints);
        let serving = endpoints
            .filter(|endpoint| endpoint.conditions.as_ref().is_some_and(|c| c.ready.unwrap_or(true)))
            .count();
        if ready > 0 && serving == 0 {
            State::Waiting("its ready pods are not among its endpoints yet".to_owned())
        } else {
            State::Ready
        }
    }

    /// All pods of a workload, those of older revisions too.
    fn pods<'a>(&'a self, item: &'a Item) -> Box<dyn Iterator<Item = (&'a Key, &'a Pod)> + 'a> {
        match item.kind {
            Kind::Pod => Box::new(self.world.pods.get_key_value(&item.key).into_iter()),
            Kind::Deployment => {
                let sets = self.world.replica_sets.iter().filter(|(at, set)| {
                    at.namespace == item.key.namespace
                        && set.owner_references().iter().any(|owner| owner.name == item.key.name)
                });
                Box::new(sets.flat_map(|(key, _)| self.world.pods_of("ReplicaSet", key)))
            }
            _ => Box::new(self.world.pods_of(item.kind.name(), &item.key)),
        }
    }

    /// The pods by which a workload is judged: of its newest revision, and not on their way out.
    fn current_pods<'a>(&'a self, item: &'a Item) -> Vec<(&'a Key, &'a Pod)> {
        let newest = self.world.newest_replica_set(&item.key);
        // Where some pods stay of the old revision, these have to be well too.
        let set = self.world.stateful_sets.get(&item.key);
        let set = set.filter(|set| item.kind == Kind::StatefulSet && state::kept_back(set) == 0);
        let revision = set.and_then(|set| set.status.as_ref()).and_then(|status| {
            status.update_revision.as_ref().filter(|_| status.update_revision != status.current_revision)
        });
        self.pods(item)
            .filter(|(_, pod)| {
                revision.is_none_or(|revision| pod.labels().get("controller-revision-hash") == Some(revision))
            })
            .filter(|(_, pod)| pod.meta().deletion_timestamp.is_none())
            .filter(|(_, pod)| {
                item.kind != Kind::Deployment
                    || newest
                        .as_ref()
                        .is_some_and(|set| pod.owner_references().iter().any(|owner| owner.name == set.name))
            })
            .collect()
    }

    fn findings(&self, item: &Item) -> Vec<Finding> {
        let mut found = pending::controller(self, item);
        found.extend(rollout::stuck(self, item));
        if item.kind == Kind::Claim {
            found.extend(pending::claim(self, &item.key));
        }
        let pods = self.current_pods(item);
        for (key, pod) in &pods {
            found.extend(self.pod(item, key, pod));
        }
        found
    }

    /// What keeps a pod from being ready.
    fn pod(&self, item: &Item, key: &Key, pod: &Pod) -> Vec<Finding> {
        let mut found = Vec::new();
        if is_ready(pod) {
            return found;
        }
        found.extend(pending::scheduling(self, key, pod));
        let mut blocked = false;
        for (status, init) in containers(pod) {
            // What comes after an init container that has not ended waits for nothing but that.
            if blocked {
                break;
            }
            let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
            let since = self.world.waiting_since(key, &status.name);
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
            let said = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or_default();
            let finding = image::judge(self, status, reason, said, since)
                .or_else(|| missing::judge(self, &key.namespace, status, reason, said, since))
                .or_else(|| crash::judge(self, item, key, pod, status, init))
                .or_else(|| probe::judge(self, key, status));
            found.extend(finding.map(|mut finding| {
                finding.cause = finding.cause.at(&key.name, Some(&status.name));
                finding
            }));
            let ended = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            let sidecar = init && status.started == Some(true);
            blocked = init && !sidecar && ended.is_none_or(|ended| ended.exit_code != 0);
        }
        if found.is_empty() {
            found.extend(pending::mounts(self, key));
        }
        for finding in &mut found {
            finding.cause.pod.get_or_insert_with(|| key.name.clone());
        }
        found
    }

    /// The cause of a failure that a workload's own status tells: its pods know more.
    fn why_failed(&self, item: &Item, why: String) -> Cause {
        let mut findings = self.findings(item);
        findings.sort_by_key(|finding| finding.doomed_at.unwrap_or(Timestamp::MAX));
        // A pod that failed follows nobody.
        let tells = |cause: &Cause| item.kind == Kind::Pod || !cause.may_follow();
        let known = findings.into_iter().map(|finding| finding.cause).find(tells);
        if let Some(cause) = known
            && item.kind != Kind::Job
        {
            return cause;
        }
        pending::failed(self, item, why)
    }
}

/// The Services among `items` that select pods by labels which no pod has, each with these labels: nobody answers there.
#[must_use]
pub(super) fn without_pods<'a>(world: &World, items: &'a [Item]) -> Vec<(&'a Item, String)> {
    let services = items.iter().filter(|item| item.kind == Kind::Service && !world.blind.contains("Pod"));
    services
        .filter(|item| world.selected_by(&item.key).is_empty())
        .filter_map(|item| {
            let selector = world.selector(&item.key)?;
            let labels: Vec<String> =
                selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
            Some((item, labels.join(",")))
        })
        .collect()
}

/// Whether a pod is ready and stays.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref());
    pod.meta().deletion_timestamp.is_none()
        && conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

#[cfg(test)]
mod tests;
