//! `clean`: removes what interrupted or kept runs have left, after it has said what that is.

use anyhow::{Context, Result};
use camino::Utf8Path;
use jiff::Timestamp;
use kind_client::{Address, Kind};
use kube::Client;
use kube::config::Kubeconfig;
use tempfile::{NamedTempFile, TempDir};

use crate::cleanup::leftovers::{self, Leftovers};
use crate::cleanup::{self, Remover, Whose};
use crate::cli::{Clean, ClusterArgs, Provider};
use crate::cluster::clock::Clock;
use crate::cluster::kind::{self, Owner};
use crate::cluster::{existing, lock};
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::helm::Helm;
use crate::ledger::Made;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER};
use crate::setup::Machine;
use crate::{fail, text};

/// What is to go.
enum Found {
    /// A whole Kind cluster.
    Cluster(String),
    /// What is on a cluster.
    Objects(String, Box<Reached>, Made),
}

pub(super) async fn run(args: &Clean, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let found = match args.cluster.cluster_provider {
        Provider::Kind => on_kind(args, &session, &machine).await?,
        Provider::Kubeconfig => {
            let (name, reached) = reach_existing(&args.cluster, &session, &machine).await?;
            Vec::from_iter(on_cluster(args, &session, name, reached).await?)
        }
    };
    for one in &found {
        println!("{}", one.describe());
    }
    if found.is_empty() {
        println!("nothing to remove");
    }
    if args.dry_run {
        return Ok(Exit::Passed);
    }
    for one in found {
        remove(args, &session, &machine.kind_client(), one).await?;
    }
    Ok(Exit::Passed)
}

/// What is to go from the Kind clusters of this machine.
async fn on_kind(args: &Clean, session: &Session, machine: &Machine) -> Result<Vec<Found>> {
    let kind = machine.kind_client();
    let wanted = args.cluster.kind_cluster.as_ref();
    let known = kind.clusters().await.or_exit(Exit::Environment)?;
    if let Some(name) = wanted
        && !known.contains(name)
    {
        fail!(
            Exit::Usage,
            "there is no Kind cluster {name}{}",
            text::suggestion(name, known.iter().map(String::as_str))
        );
    }
    let mut found = Vec::new();
    for name in known.iter().filter(|name| wanted.is_none_or(|wanted| wanted == *name)) {
        let nodes = kind.nodes(name).await.or_exit(Exit::Environment)?;
        let owner = kind::owner(&nodes).await.with_context(|| kind::nobody_knows(name));
        let owner = owner.or_exit(Exit::Environment)?;
        if owner == Owner::Foreign && wanted.is_none() {
            continue;
        }
        if owner == Owner::HalfMade && lock::is_locked(&session.env.cache, name) {
            session
                .events
                .note(format!("the Kind cluster {name} is being made by another run; it is left alone"));
            continue;
        }
        if goes_whole(args, name, &owner) {
            found.push(Found::Cluster(name.clone()));
            continue;
        }
        let mut running = true;
        for node in &nodes {
            running &= node.is_running().await.or_exit(Exit::Environment)?;
        }
        if !running {
            session.events.note(format!("the Kind cluster {name} is stopped; what is on it is left alone"));
            continue;
        }
        let reached = reach(&kind, name, &machine.helm).await?;
        found.extend(on_cluster(args, session, name.clone(), reached).await?);
    }
    Ok(found)
}

fn goes_whole(args: &Clean, name: &str, owner: &Owner) -> bool {
    match owner {
        Owner::Foreign => false,
        // The name that local runs share is kept for reuse; others were meant to go with their run.
        Owner::HalfMade => args.all || name != DEFAULT_CLUSTER,
        Owner::Ours(text) => args.all || (args.run.is_none() && has_expired(text)),
    }
}

fn has_expired(remembered: &str) -> bool {
    let expires = kind::lease(remembered).and_then(|lease| lease.expires);
    expires.is_some_and(|expires| expires <= Timestamp::now())
}

/// What is to go from one cluster, if there is anything; says which namespaces do not go though they were deleted.
async fn on_cluster(
    args: &Clean,
    session: &Session,
    name: String,
    reached: Reached,
) -> Result<Option<Found>> {
    let Reached { client, clock, helm, .. } = &reached;
    let goes = |run: &str, expired| goes(args, run, expired);
    let Leftovers { made, stuck } = leftovers::find(goes, client, helm, clock.now()).await?;
    for stuck in stuck {
        session.events.warn(format!("{name}: {stuck}"));
    }
    Ok((!made.is_empty()).then(|| Found::Objects(name, Box::new(reached), made)))
}

impl Found {
    /// A line for each thing.
    fn describe(&self) -> String {
        match self {
            Found::Cluster(name) => format!("cluster {name}"),
            Found::Objects(name, _, made) => {
                made.describe().map(|thing| format!("{name}: {thing}")).collect::<Vec<_>>().join("\n")
            }
        }
    }
}

async fn remove(args: &Clean, session: &Session, kind: &Kind, found: Found) -> Result<()> {
    let (name, reached, made) = match found {
        Found::Cluster(name) => {
            // It may have begun to be another run's while the others were looked at.
            let Some(held) = lock::take(&session.env.cache, &name)? else {
                session
                    .events
                    .note(format!("the Kind cluster {name} is in use by another run; it is left alone"));
                return Ok(());
            };
            let nodes = kind.nodes(&name).await.or_exit(Exit::Environment)?;
            let owner = kind::owner(&nodes).await.or_exit(Exit::Environment)?;
            if !goes_whole(args, &name, &owner) {
                session.events.note(format!("the Kind cluster {name} has a new lease; it is left alone"));
                return Ok(());
            }
            cleanup::delete_until_gone(kind, &name).await.or_exit(Exit::Leftovers)?;
            lock::forget(&session.env.cache, &name, false, held);
            return Ok(());
        }
        Found::Objects(name, reached, made) => (name, reached, made),
    };
    let remover = Remover {
        whose: match &args.run {
            Some(run) => Whose::Runs(std::slice::from_ref(run)),
            None if args.all => Whose::Anyones,
            None => Whose::Expired,
        },
        kind: Some(kind),
        helm: Some(&reached.helm),
        client: Some(&reached.client),
        clock: reached.clock.clone(),
        cache: &session.env.cache,
        events: &session.events,
    };
    let left = cleanup::remove_objects(&remover, &made).await;
    if !left.is_empty() {
        fail!(
            Exit::Leftovers,
            "not everything could be removed from {name}:\n{}",
            text::indent(&left.join("\n"), "    ")
        );
    }
    Ok(())
}

/// A cluster that runs, looked at as it is.
pub(super) struct Reached {
    /// A client of its API.
    pub(super) client: Client,
    /// Its clock.
    pub(super) clock: Clock,
    /// helm, for this cluster.
    pub(super) helm: Helm,
    /// helm's kubeconfig, which goes with this.
    _kubeconfig: Kept,
}

/// What is removed when it is dropped.
enum Kept {
    File { _file: NamedTempFile },
    Folder { _folder: TempDir },
}

/// Reaches a Kind cluster that runs.
pub(super) async fn reach(kind: &Kind, name: &str, helm: &Utf8Path) -> Result<Reached> {
    let text = kind.kubeconfig(name, Address::External).await.or_exit(Exit::Environment)?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), &text)?;
    let path = Utf8Path::from_path(file.path()).unwrap_or(Utf8Path::new("/dev/null"));
    let client = crate::cluster::client(Kubeconfig::from_yaml(&text)?).await?;
    let helm = Helm { program: helm.to_owned(), version: None, kubeconfig: path.to_owned() };
    let clock = Clock::of(&client).await;
    Ok(Reached { client, clock, helm, _kubeconfig: Kept::File { _file: file } })
}

/// Reaches a cluster of the user's own; with its name.
pub(super) async fn reach_existing(
    args: &ClusterArgs,
    session: &Session,
    machine: &Machine,
) -> Result<(String, Reached)> {
    let ClusterPlan::Kubeconfig { file, context } = ClusterPlan::resolve(args, &session.env, "")? else {
        fail!(Exit::Usage, "--cluster-provider kubeconfig is missing");
    };
    let folder = tempfile::tempdir()?;
    let own = Utf8Path::from_path(folder.path()).unwrap_or(Utf8Path::new("/tmp")).join("kubeconfig");
    let wanted = existing::Wanted { file: &file, context: context.as_deref(), guard: &session.guard };
    let cluster = existing::connect(wanted, &own, &machine.kind_client()).await?;
    let helm = Helm { program: machine.helm.clone(), version: None, kubeconfig: own };
    let _kubeconfig = Kept::Folder { _folder: folder };
    let clock = Clock::of(&cluster.client).await;
    Ok((cluster.name, Reached { client: cluster.client, clock, helm, _kubeconfig }))
}

fn goes(args: &Clean, run: &str, expired: bool) -> bool {
    match &args.run {
        Some(wanted) => wanted == run,
        None => args.all || expired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_flags_only_what_has_expired_goes() {
        let args = |all, run: Option<&str>| Clean {
            expired: false,
            all,
            run: run.map(str::to_owned),
            cluster: ClusterArgs::default(),
            dry_run: false,
        };
        assert!(!goes(&args(false, None), "r", false));
        assert!(goes(&args(false, None), "r", true));
        assert!(goes(&args(true, None), "r", false));
        assert!(goes(&args(false, Some("r")), "r", false));
        assert!(!goes(&args(false, Some("r")), "other", true));
    }
}
