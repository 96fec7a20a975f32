//! Waits until what was installed is ready: watches on the release's workloads, each with a deadline.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Result, anyhow};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::core::Selector;
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::events::{Events, Phase};
use crate::exit::{Exit, coded};
use crate::release::manifest::Kind;
use crate::release::{Installed, Workload};
use crate::{text, watch};

mod diagnosis;
mod state;

use state::{HasState, State};

/// How long others may take to fail as well.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Waits for the workloads of all releases.
///
/// # Errors
/// One fails or is not ready in its release's time: each such workload with its pods' states, events and last
/// log lines; exit 4.
pub async fn wait(client: &Client, releases: &[Installed], events: &Events) -> Result<()> {
    let waits = releases.iter().flat_map(|release| {
        release.workloads.iter().map(move |workload| async move {
            let step = events.step(Phase::Ready, workload.to_string());
            let mut end = wait_for(client, workload, release.timeout, |why| step.progress(why)).await;
            if end.is_ok() {
                end = replaced(client, workload, release.timeout).await;
            }
            if end.is_ok() {
                step.done("");
            }
            end.map_err(|why| (workload, why))
        })
    });
    let mut waits: FuturesUnordered<_> = waits.collect();
    let mut failures: Vec<(&Workload, String)> = Vec::new();
    loop {
        let next = if failures.is_empty() {
            waits.next().await
        } else {
            // One cause often shows in several workloads, but nobody should wait for the slowest of them.
            tokio::time::timeout(AFTER_FAILURE, waits.next()).await.ok().flatten()
        };
        match next {
            Some(end) => failures.extend(end.err()),
            None => break,
        }
    }
    drop(waits);
    if failures.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for (workload, why) in &failures {
        lines.push(format!("{workload} in {}: {why}", workload.namespace));
        lines.push(text::indent(&diagnosis::of(client, workload).await, "    "));
    }
    Err(coded(
        Exit::NotReady,
        anyhow!(
            "{} did not become ready:\n{}",
            text::count(failures.len(), "workload"),
            text::indent(&lines.join("\n"), "  ")
        ),
    ))
}

async fn wait_for(
    client: &Client,
    workload: &Workload,
    deadline: Duration,
    waiting: impl Fn(&str),
) -> Result<(), String> {
    match workload.kind {
        Kind::Deployment => watched::<Deployment>(client, workload, deadline, waiting).await,
        Kind::StatefulSet => watched::<StatefulSet>(client, workload, deadline, waiting).await,
        Kind::DaemonSet => watched::<DaemonSet>(client, workload, deadline, waiting).await,
        Kind::Job => watched::<Job>(client, workload, deadline, waiting).await,
    }
}

/// Waits for the pods that it has replaced: while they go they still serve, and whoever talks to them is cut off.
async fn replaced(client: &Client, workload: &Workload, deadline: Duration) -> Result<(), String> {
    let selector = diagnosis::selector(client, workload).await;
    let Some(selector) = selector.map_err(|error| format!("its pods cannot be looked at: {error}"))? else {
        return Ok(());
    };
    let selector = Selector::try_from(selector).map_err(|error| error.to_string())?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &workload.namespace);
    let config = watcher::Config::default().labels_from(&selector);
    let going = |pod: &Pod| pod.metadata.deletion_timestamp.is_some();
    let all_gone = |pods: &watch::Objects<Pod>| (!pods.values().any(going)).then_some(());
    watch::until(pods, config, deadline, all_gone).await.map_err(|late| {
        let names: Vec<String> =
            late.objects.values().filter(|pod| going(pod)).map(ResourceExt::name_any).collect();
        format!(
            "after {}, pods that it has replaced are still there: {}",
            text::seconds(deadline),
            names.join(", ")
        )
    })
}

async fn watched<K>(
    client: &Client,
    workload: &Workload,
    deadline: Duration,
    waiting: impl Fn(&str),
) -> Result<(), String>
where
    K: HasState + Clone + DeserializeOwned + Debug + Send + 'static,
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    let api: Api<K> = Api::namespaced(client.clone(), &workload.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", workload.name));
    let mut last = "it does not exist".to_owned();
    let decided =
        watch::until(api, config, deadline, |objects| match objects.values().next().map(HasState::state) {
            Some(State::Ready) => Some(Ok(())),
            Some(State::Failed(why)) => Some(Err(why)),
            Some(State::Waiting(why)) => {
                if last != why {
                    waiting(&why);
                    last = why;
                }
                None
            }
            None => None,
        })
        .await;
    match decided {
        Ok(end) => end,
        Err(late) => {
            let watch = late.error.map_or(String::new(), |error| format!(" (the watch failed too: {error})"));
            Err(format!("after {}, {last}{watch}", text::seconds(deadline)))
        }
    }
}
