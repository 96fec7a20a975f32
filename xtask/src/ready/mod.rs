//! Waits until what was installed is ready, or until it is known that it will not be.
//!
//! `observe` watches, `world` remembers, `verdict` judges, `message` tells; only this file does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, anyhow};
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::time::Instant;

use crate::cluster::clock::Clock;
use crate::events::{Events, Phase, Step};
use crate::exit::{Exit, coded};
use crate::release::Installed;

pub mod asked;
pub mod cause;
pub mod corpus;
mod logs;
mod message;
mod object;
mod observe;
pub mod patience;
mod record;
mod state;
pub mod tape;
pub mod verdict;
mod world;

use asked::{Asked, Item};
use cause::Cause;
use observe::Watching;
use patience::Patience;
use verdict::Verdict;
use world::World;

/// How long others may take to be doomed as well: one cause often shows in several workloads.
const AFTER_DOOM: Duration = Duration::from_millis(800);
/// How long the first lists may take before what is known is judged without them.
const SYNC: Duration = Duration::from_secs(10);

/// Where something is awaited.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The cluster's API.
    pub client: &'a Client,
    /// Its clock, by which it writes down what limits are compared with.
    pub clock: &'a Clock,
    /// What was applied beside the releases. It is not awaited; but programs of the releases may depend on it, and wait for what
    /// it makes.
    pub beside: &'a Asked,
    /// Where to say what happens.
    pub events: &'a Events,
}

/// Waits for all that the releases ask for.
///
/// # Errors
/// Something is doomed or not ready in its release's time: each such thing with its cause and evidence; exit 4.
pub async fn wait(place: Place<'_>, releases: &[Installed]) -> Result<()> {
    watch(place, releases).await.map_err(|failure| coded(Exit::NotReady, anyhow!(failure.text)))
}

/// Why something did not become ready.
pub(crate) struct Failure {
    /// For a person.
    pub(crate) text: String,
    /// The cause that it begins with.
    pub(crate) cause: Option<Cause>,
}

/// As [`wait`], with the cause.
pub(crate) async fn watch(place: Place<'_>, releases: &[Installed]) -> Result<(), Failure> {
    let Place { client, clock, events, .. } = place;
    let mut asked = place.beside.clone();
    for release in releases {
        asked.extend(&release.asked);
    }
    let mut watching = Watching::new(client, &asked).await;
    let mut world = World::since(clock.now());
    let mut shown = Shown::new(releases, events);
    let begun = Instant::now();
    let mut doomed_since: Option<Instant> = None;
    loop {
        let mut wake = begun + SYNC;
        if watching.is_synced() || begun.elapsed() >= SYNC {
            let now = clock.now();
            let verdicts = judge(&world, &asked, releases, now);
            shown.update(&verdicts);
            if verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Ready) {
                let items: Vec<Item> = verdicts.into_iter().map(|(item, _)| item).collect();
                for (item, labels) in verdict::without_pods(&world, &items) {
                    events.warn(format!(
                        "nobody answers at the {item} in {}: no pod there has its labels {labels}",
                        item.key.namespace
                    ));
                }
                return Ok(());
            }
            let late = releases.iter().find(|release| {
                begun.elapsed() >= release.timeout
                    && verdicts.iter().any(|(item, verdict)| {
                        *verdict != Verdict::Ready && release.asked.items.contains(item)
                    })
            });
            if verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Doomed(_))) {
                doomed_since.get_or_insert_with(Instant::now);
            } else {
                doomed_since = None;
            }
            let doomed = doomed_since.is_some_and(|since| since.elapsed() >= AFTER_DOOM);
            if doomed || late.is_some() {
                let late = late.filter(|_| !doomed).map(|release| release.timeout);
                let mut verdicts = verdicts;
                logs::add(client, &mut verdicts).await;
                let mut text = message::compose(&world, &verdicts, late);
                if let Some(error) = &watching.error {
                    text.push_str(&format!("\nWhat is known may be old: {error}"));
                }
                return Err(Failure { text, cause: message::first(&verdicts).cloned() });
            }
            wake = next_look(&verdicts, releases, begun, doomed_since, now);
        }
        tokio::select! {
            change = watching.next() => {
                // Without a change it was the end of the first lists.
                if let Some(change) = change {
                    let logs = world.apply(clock.now(), change);
                    watching.want(logs);
                }
            }
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Ends when something of `asked` is doomed that was made after the call; else never.
///
/// helm waits for its hooks without a look at their pods.
pub(crate) async fn doomed(place: Place<'_>, asked: &Asked, patience: &Patience) -> Failure {
    if asked.items.is_empty() {
        return std::future::pending().await;
    }
    let Place { client, clock, .. } = place;
    let all = with_beside(place, asked);
    let mut watching = Watching::new(client, &all).await;
    // Kubernetes' times are whole seconds.
    let begun = clock.now() - SignedDuration::from_secs(1);
    let mut world = World::since(begun);
    loop {
        let now = clock.now();
        let verdicts = verdict::judge_hooks(&world, &all, &asked.items, patience, now);
        if verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Doomed(_))) {
            let text = message::compose(&world, &verdicts, None);
            return Failure { text, cause: message::first(&verdicts).cloned() };
        }
        let wake = next_look(&verdicts, &[], Instant::now(), None, now);
        tokio::select! {
            change = watching.next() => if let Some(change) = change
                && !change.is_of_earlier(&asked.items, begun)
            {
                let logs = world.apply(clock.now(), change);
                watching.want(logs);
            },
            () = tokio::time::sleep_until(wake) => {}
        }
    }
}

/// Which hooks of `asked` are there and have not ended by now, `late` after `begun`, in the words of [`wait`]; nothing where
/// there is no such one.
pub(crate) async fn unfinished(
    place: Place<'_>,
    asked: &Asked,
    patience: &Patience,
    begun: Timestamp,
    late: Duration,
) -> Option<String> {
    if asked.items.is_empty() {
        return None;
    }
    let Place { client, clock, .. } = place;
    let all = with_beside(place, asked);
    let mut watching = Watching::new(client, &all).await;
    // Kubernetes' times are whole seconds.
    let begun = begun - SignedDuration::from_secs(1);
    let mut world = World::since(begun);
    let sync = async {
        while !watching.is_synced() {
            if let Some(change) = watching.next().await
                && !change.is_of_earlier(&asked.items, begun)
            {
                let logs = world.apply(clock.now(), change);
                watching.want(logs);
            }
        }
    };
    // What is known by then is told.
    let _ = tokio::time::timeout(SYNC, sync).await;
    let mut verdicts = verdict::judge_hooks(&world, &all, &asked.items, patience, clock.now());
    verdicts.retain(|(item, verdict)| {
        let is_there = match item.kind {
            asked::Kind::Job => world.jobs.contains_key(&item.key),
            _ => world.pods.contains_key(&item.key),
        };
        is_there && *verdict != Verdict::Ready
    });
    if verdicts.is_empty() {
        return None;
    }
    logs::add(client, &mut verdicts).await;
    Some(message::compose(&world, &verdicts, Some(late)))
}

/// `asked` and what was applied beside the releases.
fn with_beside(place: Place<'_>, asked: &Asked) -> Asked {
    let mut all = place.beside.clone();
    all.extend(asked);
    all
}

/// Judges all releases' items, each with its release's patience; what one depends on may be another's.
fn judge(world: &World, asked: &Asked, releases: &[Installed], now: Timestamp) -> Vec<(Item, Verdict)> {
    let judged = releases
        .iter()
        .flat_map(|release| verdict::judge(world, asked, &release.asked.items, &release.patience, now));
    judged.collect()
}

/// When to judge again if nothing changes.
fn next_look(
    verdicts: &[(Item, Verdict)],
    releases: &[Installed],
    begun: Instant,
    doomed_since: Option<Instant>,
    now: Timestamp,
) -> Instant {
    let chances = verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Wait { until: Some(until), .. } => {
            let left: SignedDuration = until.duration_since(now);
            Some(Instant::now() + Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1))
        }
        _ => None,
    });
    let deadlines = releases.iter().map(|release| begun + release.timeout).filter(|at| *at > Instant::now());
    let doom = doomed_since.map(|since| since + AFTER_DOOM);
    chances.chain(deadlines).chain(doom).min().unwrap_or_else(|| Instant::now() + SYNC)
}

/// What the console has been told.
struct Shown<'a> {
    steps: BTreeMap<Item, (Option<Step>, String)>,
    events: &'a Events,
}

impl<'a> Shown<'a> {
    /// Claims and Services are shown only when they keep something from being ready.
    fn new(releases: &[Installed], events: &'a Events) -> Shown<'a> {
        let items = releases.iter().flat_map(|release| &release.asked.items);
        let shown: BTreeSet<&Item> = items.filter(|item| item.kind.is_workload()).collect();
        let steps = shown
            .into_iter()
            .map(|item| (item.clone(), (Some(events.step(Phase::Ready, item.to_string())), String::new())));
        Shown { steps: steps.collect(), events }
    }

    fn update(&mut self, verdicts: &[(Item, Verdict)]) {
        for (item, verdict) in verdicts {
            match verdict {
                Verdict::Ready => {
                    if let Some((step, _)) = self.steps.get_mut(item)
                        && let Some(step) = step.take()
                    {
                        step.done("");
                    }
                }
                Verdict::Wait { cause, .. } | Verdict::Doomed(cause) => {
                    let waits = item.kind.is_workload() || cause.kind != cause::Kind::Unfinished;
                    if !waits {
                        continue;
                    }
                    let (step, text) = self.steps.entry(item.clone()).or_insert_with(|| {
                        (Some(self.events.step(Phase::Ready, item.to_string())), String::new())
                    });
                    if *text != cause.text
                        && let Some(step) = step
                    {
                        step.progress(cause.text.clone());
                        *text = cause.text.clone();
                    }
                }
            }
        }
    }
}
