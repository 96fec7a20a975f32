//! At every start: what has expired goes, in the background; nothing waits for it, and that it fails is a warning.

use anyhow::Result;
use jiff::Timestamp;
use kind_client::Kind;
use tokio::task::AbortHandle;

use crate::cleanup::{self, Remover, Whose, leftovers};
use crate::cluster::kind::{self, Owner};
use crate::cluster::{Cluster, lock};
use crate::events::Events;
use crate::exit::message;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, Plan};
use crate::text;

/// A sweep under way, given up when this is dropped: the next start goes on.
pub struct Sweep(AbortHandle);

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sweeps the run's cluster, and away the Kind clusters of this machine whose lease is over.
#[must_use]
pub fn start(session: &Session, plan: &Plan, cluster: &Cluster, kind: &Kind) -> Sweep {
    let (session, plan, cluster, kind) = (session.clone(), plan.clone(), cluster.clone(), kind.clone());
    let task = tokio::spawn(async move {
        if let Err(error) = objects(&session, &plan, &cluster).await {
            session.events.warn(format!("what has expired could not be removed: {}", message(&error)));
        }
        if let ClusterPlan::Kind { name, .. } = &plan.cluster
            && let Err(error) = clusters(&session, &kind, name).await
        {
            session
                .events
                .warn(format!("clusters that have expired could not be removed: {}", message(&error)));
        }
    });
    Sweep(task.abort_handle())
}

/// What other runs have left on the cluster.
async fn objects(session: &Session, plan: &Plan, cluster: &Cluster) -> Result<()> {
    if session.ledger.made().cluster.is_some() {
        // It is new.
        return Ok(());
    }
    let helm = session.helm(cluster);
    let goes = |run: &str, expired: bool| expired && run != plan.run;
    let mut found = leftovers::find(goes, &cluster.client, &helm, cluster.clock.now()).await?;
    // Where this run installs at the same moment, nobody uninstalls.
    found.made.releases.retain(|release| Some(&release.namespace) != plan.existing_namespace.as_ref());
    for stuck in found.stuck {
        session.events.warn(stuck);
    }
    if found.made.is_empty() {
        return Ok(());
    }
    // Its steps are none of this run's.
    let silent = Events::new(Vec::new());
    let remover = Remover {
        whose: Whose::Expired,
        kind: None,
        helm: Some(&helm),
        client: Some(&cluster.client),
        clock: cluster.clock.clone(),
        cache: &session.env.cache,
        events: &silent,
    };
    let left = cleanup::remove_objects(&remover, &found.made).await;
    if left.is_empty() {
        session
            .events
            .note(format!("removed what had expired: {}", Vec::from_iter(found.made.describe()).join(", ")));
    } else {
        let left = text::indent(&left.join("\n"), "    ");
        session.events.warn(format!("what has expired could not be removed:\n{left}"));
    }
    Ok(())
}

/// Clusters that were to go with a run which has not been heard of.
async fn clusters(session: &Session, kind: &Kind, own: &str) -> Result<()> {
    for name in kind.clusters().await? {
        if name != own && delete_expired(session, kind, &name).await? {
            session.events.note(format!("removed the cluster {name}, which had expired"));
        }
    }
    Ok(())
}

async fn delete_expired(session: &Session, kind: &Kind, name: &str) -> Result<bool> {
    let Some(held) = lock::take(&session.env.cache, name)? else { return Ok(false) };
    let nodes = kind.nodes(name).await?;
    let Owner::Ours(text) = kind::owner(&nodes).await? else { return Ok(false) };
    let expires = kind::lease(&text).and_then(|lease| lease.expires);
    if expires.is_none_or(|expires| expires > Timestamp::now()) {
        return Ok(false);
    }
    cleanup::delete_until_gone(kind, name).await?;
    lock::forget(&session.env.cache, name, false, held);
    Ok(true)
}
