//! `cluster up|down|list`.

use anyhow::Result;
use kind_client::Kind;

use crate::cli::{Cluster, ClusterArgs};
use crate::cluster::kind::{self, Owner};
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::ledger::Made;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER};
use crate::{cleanup, fail};

pub(super) async fn run(args: &Cluster, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let kind = machine.kind_client();
    match args {
        Cluster::Up(args) => {
            let flags = ClusterArgs { kind_cluster: Some(name(args)), ..ClusterArgs::default() };
            let plan = ClusterPlan::resolve(&flags, env, "")?;
            let own = session.workspace.runs().join("clusters").join(format!("{}.kubeconfig", name(args)));
            let mut signals = super::Signals::listen()?;
            let maker = session.maker(&machine, true);
            let made = tokio::select! {
                cluster = session.cluster(&maker, &machine, &plan, &own) => cluster,
                signal = signals.next() => {
                    tokio::task::spawn_blocking(crate::cmd::reap).await?;
                    remove_half_made(&session, &kind).await?;
                    return Ok(Exit::Interrupted(signal));
                }
            };
            if made.is_err() {
                remove_half_made(&session, &kind).await?;
            }
            println!("export KUBECONFIG={}", made?.0.kubeconfig);
        }
        Cluster::Down(args) => {
            let name = name(args);
            let known = kind.clusters().await.or_exit(Exit::Environment)?;
            if !known.contains(&name) {
                let near = crate::text::suggestion(&name, known.iter().map(String::as_str));
                fail!(Exit::Usage, "there is no Kind cluster {name}{near}");
            }
            let step = session.events.step(Phase::Cleanup, format!("delete the cluster {name}"));
            kind::delete(&kind, &name).await?;
            step.done("");
        }
        Cluster::List => {
            for cluster in kind.clusters().await.or_exit(Exit::Environment)? {
                println!("{cluster}: {}", describe(&kind, &cluster).await?);
            }
        }
    }
    Ok(Exit::Passed)
}

/// Removes a cluster whose creation did not come to its end.
pub(super) async fn remove_half_made(session: &Session, kind: &Kind) -> Result<()> {
    match session.ledger.made() {
        Made { cluster: Some(name), cluster_complete: false, .. } => {
            cleanup::delete_until_gone(kind, &name).await.or_exit(Exit::Leftovers)
        }
        _ => Ok(()),
    }
}

fn name(args: &crate::cli::ClusterName) -> String {
    args.kind_cluster.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned())
}

async fn describe(kind: &Kind, cluster: &str) -> Result<String> {
    let nodes = kind.nodes(cluster).await.or_exit(Exit::Environment)?;
    let count = crate::text::count(nodes.len(), "node");
    for node in &nodes {
        if !node.is_running().await.or_exit(Exit::Environment)? {
            return Ok(format!("{count}, stopped"));
        }
    }
    let owner = match kind::owner(&nodes).await.or_exit(Exit::Environment)? {
        Owner::Ours(_) => "ours",
        Owner::HalfMade => "ours, left half made",
        Owner::Foreign => "not ours",
    };
    Ok(format!("{count}, {owner}"))
}
