//! Removes a Kind cluster, unless it has become another run's meanwhile.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kind_client::Kind;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::{Policy, Remover, remove_objects};
use crate::cluster::kind::{self, Owner};
use crate::cluster::lock;
use crate::events::Phase;
use crate::labels;
use crate::ledger::Made;
use crate::plan::ClusterPlan;
use crate::text;

/// How long the container engine may go on with what a program that was ended had asked of it.
const SETTLE: Duration = Duration::from_secs(1);
/// How long another run may look at a cluster that is to go.
const LOCKED: Duration = Duration::from_secs(90);
/// How often what comes back is deleted again.
const ATTEMPTS: usize = 5;

/// What is done with a cluster after a look at it.
enum Fate {
    Delete,
    /// It stays, for this reason, and so does what is on it.
    Leave(&'static str),
    /// It stays for other runs; what is ours on it goes.
    Share(String),
}

/// Deletes the run's cluster; says what could not be removed.
pub(super) async fn delete(remover: &Remover<'_>, policy: &Policy, made: &Made, name: &str) -> Vec<String> {
    let step = remover.events.step(Phase::Cleanup, format!("delete the cluster {name}"));
    let deleted = async {
        let kind = remover.kind.ok_or_else(|| anyhow!("kind was not found"))?;
        // While we look and delete nobody begins to make one of this name. Others hold the lock also for a look alone, as
        // every start does at what has expired.
        let Some(held) = lock::take_within(remover.cache, name, LOCKED).await? else {
            bail!("another run has been looking at it or making it for {}", text::seconds(LOCKED));
        };
        let fate = fate(remover, policy, made, kind, name).await?;
        if matches!(fate, Fate::Delete) {
            if made.cluster_complete {
                delete_until_gone(kind, name).await?;
            } else {
                delete_half_made(kind, name).await?;
            }
            lock::forget(remover.cache, name, is_alone(policy), held);
        }
        anyhow::Ok(fate)
    };
    match deleted.await {
        Ok(Fate::Delete) => step.done(""),
        Ok(Fate::Leave(why)) => step.done(why),
        Ok(Fate::Share(others)) => {
            step.done(format!("it stays for {others}; it goes when its lease is over"));
            return remove_objects(remover, made).await;
        }
        Err(error) => return vec![format!("cluster {name}: {}", crate::exit::message(&error))],
    }
    Vec::new()
}

async fn fate(remover: &Remover<'_>, policy: &Policy, made: &Made, kind: &Kind, name: &str) -> Result<Fate> {
    let nodes = kind.nodes(name).await?;
    if nodes.is_empty() {
        return Ok(Fate::Delete);
    }
    // One that was ended early may not be able to say anything.
    match kind::owner(&nodes).await {
        Ok(Owner::Ours(text)) if kind::lease(&text).is_none_or(|lease| lease.run != policy.run) => {
            return Ok(Fate::Leave("another run has made it anew"));
        }
        // The run ended between the node's word for it and its own.
        Ok(Owner::Ours(_)) if !made.cluster_complete && !policy.ephemeral() => {
            return Ok(Fate::Leave("it is complete, and kept for reuse"));
        }
        Ok(Owner::Foreign) if made.cluster_complete => {
            return Ok(Fate::Leave("somebody else has made one of this name"));
        }
        _ => {}
    }
    if !made.cluster_complete {
        return Ok(Fate::Delete);
    }
    if is_alone(policy) {
        return Ok(Fate::Delete);
    }
    let client = remover.client.ok_or_else(|| anyhow!("its API is not known any more"))?;
    let others = others(client, &policy.run, remover.clock.now()).await?;
    Ok(if others.is_empty() { Fate::Delete } else { Fate::Share(others.join(", ")) })
}

/// Whether no other run knows the cluster's name.
fn is_alone(policy: &Policy) -> bool {
    matches!(policy.cluster, ClusterPlan::Kind { ephemeral: true, named: false, .. })
}

/// The other runs that have something on the cluster whose time is not over at `now`.
pub(crate) async fn others(client: &Client, run: &str, now: Timestamp) -> Result<Vec<String>> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = ListParams::default().labels(labels::RUN);
    let all = tokio::time::timeout(Duration::from_secs(10), namespaces.list_metadata(&ours)).await??;
    let mut runs: Vec<String> = all
        .iter()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none())
        .filter(|namespace| !labels::expired(namespace.annotations(), now))
        .filter_map(|namespace| namespace.labels().get(labels::RUN).cloned())
        .filter(|by| by != run)
        .collect();
    runs.sort();
    runs.dedup();
    Ok(runs)
}

/// Deletes a cluster until nothing of it is left.
pub(crate) async fn delete_until_gone(kind: &Kind, name: &str) -> Result<()> {
    for _ in 0..ATTEMPTS {
        kind.delete(name, None).await?;
        if kind.nodes(name).await?.is_empty() {
            return Ok(());
        }
    }
    comes_back(name)
}

/// As [`delete_until_gone`], of a creation that was just ended: the engine tells nobody when it is through with what it
/// was asked for, so it is given some time before the last look.
async fn delete_half_made(kind: &Kind, name: &str) -> Result<()> {
    for _ in 0..ATTEMPTS {
        kind.delete(name, None).await?;
        tokio::time::sleep(SETTLE).await;
        if kind.nodes(name).await?.is_empty() {
            return Ok(());
        }
    }
    comes_back(name)
}

fn comes_back(name: &str) -> Result<()> {
    bail!(
        "its nodes come back after each deletion; see `docker ps --filter label=io.x-k8s.kind.cluster={name}`"
    )
}
