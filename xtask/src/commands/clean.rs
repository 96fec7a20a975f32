//! `clean`: removes what interrupted or kept runs have left on clusters of ours.

use std::collections::BTreeSet;

use anyhow::Result;
use camino::Utf8Path;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kind_client::{Address, Kind};
use kube::api::{DynamicObject, ListParams};
use kube::config::Kubeconfig;
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use tempfile::NamedTempFile;

use crate::cleanup::{self, Remover};
use crate::cli::Clean;
use crate::cluster::kind::{self, Owner};
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::helm::Helm;
use crate::ledger::{Made, Object, ReleaseName};
use crate::pipeline::Session;
use crate::plan::DEFAULT_CLUSTER;
use crate::{fail, labels, text};

pub(super) async fn run(args: &Clean, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let kind = machine.kind_client();
    let known = kind.clusters().await.or_exit(Exit::Environment)?;
    if let Some(name) = &args.kind_cluster
        && !known.contains(name)
    {
        fail!(
            Exit::Usage,
            "there is no Kind cluster {name}{}",
            text::suggestion(name, known.iter().map(String::as_str))
        );
    }
    let mut nothing = true;
    for name in known.iter().filter(|name| args.kind_cluster.as_ref().is_none_or(|wanted| wanted == *name)) {
        let nodes = kind.nodes(name).await.or_exit(Exit::Environment)?;
        let mut running = true;
        for node in &nodes {
            running &= node.is_running().await.or_exit(Exit::Environment)?;
        }
        if !running {
            session.events.note(format!("the Kind cluster {name} is stopped; it is left alone"));
            continue;
        }
        let owner = kind::owner(&nodes).await.or_exit(Exit::Environment)?;
        if owner == Owner::Foreign && args.kind_cluster.is_none() {
            continue;
        }
        if owner == Owner::HalfMade && kind::is_locked(&session.env.cache, name) {
            session
                .events
                .note(format!("the Kind cluster {name} is being made by another run; it is left alone"));
            continue;
        }
        // The name that local runs share is kept for reuse; others were meant to go with their run.
        let whole =
            owner != Owner::Foreign && (args.all || (owner == Owner::HalfMade && name != DEFAULT_CLUSTER));
        if whole {
            nothing = false;
            println!("cluster {name}");
            if !args.dry_run {
                kind.delete(name, None).await.or_exit(Exit::Leftovers)?;
            }
            continue;
        }
        nothing &= !clean_cluster(args, &session, &kind, name, &machine.helm).await?;
    }
    if nothing {
        println!("nothing to remove");
    }
    Ok(Exit::Passed)
}

/// Removes what is to go from one cluster; whether there was anything.
async fn clean_cluster(
    args: &Clean,
    session: &Session,
    kind: &Kind,
    name: &str,
    helm: &Utf8Path,
) -> Result<bool> {
    let reached = reach(kind, name, helm).await?;
    let Reached { client, helm, .. } = &reached;
    let made = leftovers(|run, expired| goes(args, run, expired), client, helm).await?;
    for namespace in &made.namespaces {
        println!("{name}: namespace {namespace}");
    }
    for object in &made.objects {
        println!("{name}: {} {}", object.resource.kind, object.name);
    }
    if !args.dry_run && !made.is_empty() {
        let remover = Remover {
            run: args.run.as_deref(),
            kind: Some(kind),
            helm: Some(helm),
            client: Some(client),
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
    }
    Ok(!made.is_empty())
}

/// A Kind cluster that runs, looked at as it is.
pub(super) struct Reached {
    /// A client of its API.
    pub(super) client: Client,
    /// helm, for this cluster.
    pub(super) helm: Helm,
    /// helm's kubeconfig, which goes with this.
    _kubeconfig: NamedTempFile,
}

/// Reaches a Kind cluster that runs.
pub(super) async fn reach(kind: &Kind, name: &str, helm: &Utf8Path) -> Result<Reached> {
    let text = kind.kubeconfig(name, Address::External).await.or_exit(Exit::Environment)?;
    let file = NamedTempFile::new()?;
    std::fs::write(file.path(), &text)?;
    let path = Utf8Path::from_path(file.path()).unwrap_or(Utf8Path::new("/dev/null"));
    let client = crate::cluster::client(Kubeconfig::from_yaml(&text)?, None).await?;
    let helm = Helm { program: helm.to_owned(), version: None, kubeconfig: path.to_owned() };
    Ok(Reached { client, helm, _kubeconfig: file })
}

/// What on a cluster is of runs whose things are to go; `goes` is told a run's id and whether its time is over.
pub(super) async fn leftovers(
    goes: impl Fn(&str, bool) -> bool,
    client: &Client,
    helm: &Helm,
) -> Result<Made> {
    found(goes, client, helm).await.or_exit(Exit::Environment)
}

async fn found(goes: impl Fn(&str, bool) -> bool, client: &Client, helm: &Helm) -> Result<Made> {
    let ours = ListParams::default().labels(labels::RUN);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let now = Timestamp::now();
    let mut made = Made::default();
    let mut alive = BTreeSet::new();
    for namespace in namespaces.list(&ours).await? {
        let run = namespace.labels()[labels::RUN].clone();
        if namespace.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if goes(&run, labels::expired(namespace.annotations(), now)) {
            let name = namespace.name_any();
            for release in helm.releases(&name).await? {
                made.releases.push(ReleaseName { name: release, namespace: name.clone() });
            }
            made.namespaces.push(name);
        } else {
            alive.insert(run);
        }
    }
    // Objects outside namespaces have no time of their own: they go when nothing else of their run is left.
    for group in Discovery::new(client.clone()).run().await?.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let usable = capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE);
            if capabilities.scope != Scope::Cluster || !usable || resource.kind == "Namespace" {
                continue;
            }
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            for object in api.list(&ours).await? {
                let run = object.labels()[labels::RUN].clone();
                if !alive.contains(&run) && goes(&run, true) {
                    made.objects.push(Object {
                        resource: resource.clone(),
                        namespace: None,
                        name: object.name_any(),
                    });
                }
            }
        }
    }
    Ok(made)
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
            kind_cluster: None,
            dry_run: false,
        };
        assert!(!goes(&args(false, None), "r", false));
        assert!(goes(&args(false, None), "r", true));
        assert!(goes(&args(true, None), "r", false));
        assert!(goes(&args(false, Some("r")), "r", false));
        assert!(!goes(&args(false, Some("r")), "other", true));
    }
}
