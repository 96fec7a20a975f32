//! `cluster up|down|list`.

use anyhow::Result;
use jiff::Timestamp;
use kind_client::Kind;

use crate::cleanup::Policy;
use crate::cli::{Cluster, ClusterArgs, Keep};
use crate::cluster::kind::{self, Owner};
use crate::cluster::lock;
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::lease::Lease;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER};
use crate::reaper::Reaper;
use crate::{cleanup, fail, names};

pub(super) async fn run(args: &Cluster, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    match args {
        Cluster::Up(args) => {
            let flags = ClusterArgs { kind_cluster: Some(name(args)), ..ClusterArgs::default() };
            // What a person makes by name stays, wherever that is.
            let plan = ClusterPlan::resolve(&flags, &Env { ci: false, ..env.clone() }, "")?;
            let folder = session.workspace.runs().join("clusters");
            let policy = Policy {
                run: names::run_id(Timestamp::now()),
                keep: Keep::Always,
                cluster: plan.clone(),
                output: folder.join(name(args)),
            };
            let mut signals = super::Signals::listen()?;
            let _reaper = Reaper::start(policy.clone(), &session.ledger)?;
            let machine = session.machine(true).await?;
            let own = folder.join(format!("{}.kubeconfig", name(args)));
            let maker = session.maker(&machine, true);
            let made = tokio::select! {
                cluster = session.cluster(&maker, &machine, &plan, &policy.run, &own) => cluster,
                signal = signals.next() => {
                    let left = end(&session, &policy, &mut signals).await;
                    return super::after_tidying(&session, Ok(Exit::Interrupted(signal)), left);
                }
            };
            let made = match made {
                Ok(made) => made,
                Err(error) => {
                    let left = end(&session, &policy, &mut signals).await;
                    return super::after_tidying(&session, Err(error), left);
                }
            };
            session.ledger.note(|entry| entry.done = true);
            println!("export KUBECONFIG={}", made.0.kubeconfig);
        }
        Cluster::Down(args) => {
            let name = name(args);
            let kind = session.machine(true).await?.kind_client();
            let known = kind.clusters().await.or_exit(Exit::Environment)?;
            if !known.contains(&name) {
                let near = crate::text::suggestion(&name, known.iter().map(String::as_str));
                fail!(Exit::Usage, "there is no Kind cluster {name}{near}");
            }
            let step = session.events.step(Phase::Cleanup, format!("delete the cluster {name}"));
            kind::delete(&kind, &name).await?;
            if let Some(lock) = lock::take(&session.env.cache, &name)? {
                lock::forget(&session.env.cache, &name, false, lock);
            }
            step.done("");
        }
        Cluster::List => {
            let kind = session.machine(true).await?.kind_client();
            for cluster in kind.clusters().await.or_exit(Exit::Environment)? {
                println!("{cluster}: {}", describe(&kind, &cluster).await?);
            }
        }
    }
    Ok(Exit::Passed)
}

/// Removes a cluster whose creation did not come to its end; one more signal leaves that to the reaper.
async fn end(session: &Session, policy: &Policy, signals: &mut super::Signals) -> Result<()> {
    tokio::task::spawn_blocking(crate::cmd::reap).await?;
    tokio::select! {
        cleaned = super::clean_up(session, policy, true) => cleaned,
        _ = signals.next() => {
            session.events.warn(super::left_at_once(session, policy));
            Ok(())
        }
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
        Owner::Ours(text) => {
            return Ok(match kind::lease(&text) {
                Some(Lease { run, owner, expires: Some(time) }) => {
                    let time = cleanup::to_the_second(time);
                    format!("{count}, ours, of the run {run} of {owner}, until {time}")
                }
                _ => format!("{count}, ours, kept for reuse"),
            });
        }
        Owner::HalfMade => "ours, left half made",
        Owner::Foreign => "not ours",
    };
    Ok(format!("{count}, {owner}"))
}
