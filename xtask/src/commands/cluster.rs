//! `cluster up|down|list`.

use anyhow::Result;
use kind_client::Kind;

use crate::cli::{Cluster, ClusterArgs};
use crate::cluster::kind::{self, Owner};
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::fail;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER};

pub(super) async fn run(args: &Cluster, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let kind = Kind::builder().program(&machine.kind).build();
    match args {
        Cluster::Up(args) => {
            let flags = ClusterArgs { kind_cluster: Some(name(args)), ..ClusterArgs::default() };
            let plan = ClusterPlan::resolve(&flags, env, "")?;
            let own = session.workspace.runs().join("clusters").join(format!("{}.kubeconfig", name(args)));
            let cluster = session.cluster(&machine, &plan, &own, true).await?;
            println!("export KUBECONFIG={}", cluster.kubeconfig);
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
