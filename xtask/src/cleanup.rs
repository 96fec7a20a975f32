//! Removes what a run has made, or says how to reach and remove what stays.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kind_client::Kind;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};

use crate::cli::Keep;
use crate::events::{Events, Phase};
use crate::exit::{Exit, coded};
use crate::helm::Helm;
use crate::labels;
use crate::ledger::{Ledger, Made, Object, ReleaseName};
use crate::plan::{ClusterPlan, Plan};
use crate::text;

/// How long a kept deployment is left alone by `cargo xtask clean`.
pub const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How long removing everything may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What happens at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is nothing to remove.
    Nothing,
    /// All of it stays.
    Keep,
    /// The cluster goes, and everything with it.
    DeleteCluster(String),
    /// Releases, namespaces and objects go, one by one.
    RemoveObjects,
}

/// Decides from the plan, from what was made and from whether the run failed.
#[must_use]
pub fn decide(plan: &Plan, made: &Made, failed: bool) -> Decision {
    if made.is_empty() {
        return Decision::Nothing;
    }
    let keep = match plan.keep {
        Keep::Always => true,
        Keep::OnFailure => failed,
        Keep::Never => false,
    };
    let ephemeral = matches!(plan.cluster, ClusterPlan::Kind { ephemeral: true, .. });
    match &made.cluster {
        // Nobody can use it, and the next run would have to find out whose it is.
        Some(name) if !made.cluster_complete => Decision::DeleteCluster(name.clone()),
        _ if keep => Decision::Keep,
        Some(name) if ephemeral => Decision::DeleteCluster(name.clone()),
        _ if made.namespaces.is_empty() && made.objects.is_empty() && made.releases.is_empty() => {
            Decision::Nothing
        }
        _ => Decision::RemoveObjects,
    }
}

/// What removing needs.
pub struct Remover<'a> {
    /// The run whose objects go; absent means those of any run of ours.
    pub run: Option<&'a str>,
    /// kind, once set-up has found it.
    pub kind: Option<&'a Kind>,
    /// helm, once there is a cluster.
    pub helm: Option<&'a Helm>,
    /// The cluster's API, once there is one.
    pub client: Option<&'a Client>,
    /// Where to say what happens.
    pub events: &'a Events,
}

/// Does what was decided.
///
/// # Errors
/// Something could not be removed: what, why, and the command that does it; exit 5.
pub async fn clean_up(
    remover: &Remover<'_>,
    plan: &Plan,
    ledger: &Ledger,
    decision: &Decision,
) -> Result<()> {
    let made = ledger.made();
    let work = async {
        match decision {
            Decision::Nothing => Vec::new(),
            Decision::Keep => keep(remover, plan, &made).await,
            Decision::DeleteCluster(name) => delete_cluster(remover, name).await,
            Decision::RemoveObjects => remove_objects(remover, &made).await,
        }
    };
    let left = tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| vec![format!("removing did not end within {}", text::seconds(LIMIT))]);
    if left.is_empty() {
        return Ok(());
    }
    let again = by_hand(plan, &made).join("`, `");
    Err(coded(
        Exit::Leftovers,
        anyhow!(
            "not everything could be removed:\n{}\n  try again by `{again}`",
            text::indent(&left.join("\n"), "    ")
        ),
    ))
}

/// The commands that remove what a run has left, for a person to run.
#[must_use]
pub fn by_hand(plan: &Plan, made: &Made) -> Vec<String> {
    if let (Some(name), ClusterPlan::Kind { ephemeral: true, .. }) = (&made.cluster, &plan.cluster) {
        return vec![format!("cargo xtask cluster down --kind-cluster {name}")];
    }
    let outside = |namespace: &String| !made.namespaces.contains(namespace);
    let mut commands: Vec<String> = made
        .releases
        .iter()
        .filter(|release| outside(&release.namespace))
        .map(|ReleaseName { name, namespace }| format!("helm uninstall {name} --namespace {namespace}"))
        .collect();
    commands.extend(made.objects.iter().map(|Object { resource, namespace, name }| {
        let place =
            namespace.as_ref().map_or_else(String::new, |namespace| format!(" --namespace {namespace}"));
        format!("kubectl delete {} {name}{place}", resource.plural)
    }));
    match &plan.cluster {
        _ if made.namespaces.is_empty() => {}
        ClusterPlan::Kind { name, .. } => {
            commands.push(format!("cargo xtask clean --run {} --kind-cluster {name}", plan.run));
        }
        ClusterPlan::Kubeconfig { .. } => {
            commands.push(format!("kubectl delete namespace {}", made.namespaces.join(" ")));
        }
    }
    commands
}

async fn delete_cluster(remover: &Remover<'_>, name: &str) -> Vec<String> {
    let step = remover.events.step(Phase::Cleanup, format!("delete the cluster {name}"));
    let deleted = match remover.kind {
        Some(kind) => delete_until_gone(kind, name).await,
        None => Err(anyhow!("kind was not found")),
    };
    match deleted {
        Ok(()) => {
            step.done("");
            Vec::new()
        }
        Err(error) => vec![format!("cluster {name}: {}", crate::exit::message(&error))],
    }
}

/// Deletes a cluster until nothing of it is left: of a creation that was just ended, Docker may still be starting
/// a node.
pub(crate) async fn delete_until_gone(kind: &Kind, name: &str) -> Result<()> {
    for _ in 0..5 {
        kind.delete(name, None).await?;
        if kind.nodes(name).await?.is_empty() {
            return Ok(());
        }
    }
    bail!(
        "its nodes come back after each deletion; see `docker ps --filter label=io.x-k8s.kind.cluster={name}`"
    )
}

/// Uninstalls releases first, because they may have made things outside their namespaces; then the rest. The
/// deletion of a namespace is asked for and not waited for: names are never used twice.
pub(crate) async fn remove_objects(remover: &Remover<'_>, made: &Made) -> Vec<String> {
    let step = remover.events.step(Phase::Cleanup, "remove what was deployed");
    let mut left = Vec::new();
    for release in made.releases.iter().rev() {
        step.progress(format!("uninstall {}", release.name));
        let result = match remover.helm {
            Some(helm) => helm.uninstall(&release.name, &release.namespace).await,
            None => Err(anyhow!("helm was not found")),
        };
        if let Err(error) = result {
            left.push(format!(
                "release {} in {}: {}",
                release.name,
                release.namespace,
                crate::exit::message(&error)
            ));
        }
    }
    let Some(client) = remover.client else {
        left.push("the cluster's API is not known any more".to_owned());
        return left;
    };
    for object in made.objects.iter().rev() {
        if let Err(error) = delete_object(client, object, remover.run).await {
            left.push(format!("{} {}: {error:#}", object.resource.kind, object.name));
        }
    }
    for namespace in &made.namespaces {
        if let Err(error) = delete_namespace(client, namespace, remover.run).await {
            left.push(format!("namespace {namespace}: {error:#}"));
        }
    }
    if left.is_empty() {
        step.done(text::count(made.namespaces.len(), "namespace"));
    }
    left
}

/// Whether labels say that an object is of `run`, or of any run of ours where none is given.
fn is_ours(labels: &BTreeMap<String, String>, run: Option<&str>) -> bool {
    labels.get(labels::RUN).is_some_and(|by| run.is_none_or(|run| by == run))
}

/// Deletes an object if it is ours.
async fn delete_object(client: &Client, object: &Object, run: Option<&str>) -> Result<()> {
    let api: Api<DynamicObject> = match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &object.resource),
        None => Api::all_with(client.clone(), &object.resource),
    };
    let Some(found) = api.get_opt(&object.name).await? else { return Ok(()) };
    if !is_ours(found.labels(), run) {
        return Ok(());
    }
    gone(api.delete(&object.name, &DeleteParams::default()).await)
}

/// Asks for a namespace's deletion, if it is ours.
async fn delete_namespace(client: &Client, name: &str, run: Option<&str>) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(found) = api.get_opt(name).await? else { return Ok(()) };
    if !is_ours(found.labels(), run) {
        return Ok(());
    }
    gone(api.delete(name, &DeleteParams::background()).await)
}

fn gone<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Leaves everything, with a new expiry, and says how to reach and remove it.
async fn keep(remover: &Remover<'_>, plan: &Plan, made: &Made) -> Vec<String> {
    let expires = Timestamp::now() + KEPT;
    let mut left = Vec::new();
    if let Some(client) = remover.client {
        for namespace in &made.namespaces {
            if let Err(error) = prolong(client, namespace, expires).await {
                left.push(format!("namespace {namespace}: its expiry could not be set: {error:#}"));
            }
        }
    }
    let mut lines = vec![format!("everything stays in place until {expires}")];
    let kubeconfig = plan.output.join("kubeconfig");
    for namespace in &made.namespaces {
        lines.push(format!("reach it:  kubectl --kubeconfig {kubeconfig} --namespace {namespace} get pods"));
    }
    lines.extend(by_hand(plan, made).into_iter().map(|command| format!("remove it: {command}")));
    for line in lines {
        remover.events.note(line);
    }
    left
}

/// Sets when anybody may remove a namespace of ours.
pub(crate) async fn prolong(client: &Client, namespace: &str, expires: Timestamp) -> Result<()> {
    let api: Api<Namespace> = Api::all(client.clone());
    let patch = serde_json::json!({"metadata": {"annotations": {labels::EXPIRES: expires.to_string()}}});
    api.patch(namespace, &PatchParams::default(), &Patch::Merge(&patch)).await.context("annotate it")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ForwardWay;

    fn plan(keep: Keep, ephemeral: bool) -> Plan {
        Plan {
            run: "r".to_owned(),
            ci: ephemeral,
            output: "/w/target/k8s-test/r".into(),
            cluster: ClusterPlan::Kind { name: "k8s-test".to_owned(), ephemeral, named: false },
            images: Vec::new(),
            suites: Vec::new(),
            filters: Vec::new(),
            jobs: 1,
            existing_namespace: None,
            forward: ForwardWay::Auto,
            keep,
            bundle: false,
            setup: true,
        }
    }

    fn made(cluster: bool, namespaces: bool) -> Made {
        Made {
            cluster_complete: true,
            cluster: cluster.then(|| "k8s-test".to_owned()),
            namespaces: if namespaces { vec!["dagster-test-3fcd70".to_owned()] } else { Vec::new() },
            ..Made::default()
        }
    }

    #[test]
    fn in_ci_the_cluster_goes_whole() {
        let gone = Decision::DeleteCluster("k8s-test".to_owned());
        assert_eq!(decide(&plan(Keep::Never, true), &made(true, true), false), gone);
        assert_eq!(decide(&plan(Keep::Never, true), &made(true, false), true), gone);
    }

    #[test]
    fn a_half_made_cluster_goes_whatever_was_asked_for() {
        let half = Made { cluster_complete: false, ..made(true, false) };
        let gone = Decision::DeleteCluster("k8s-test".to_owned());
        assert_eq!(decide(&plan(Keep::Never, false), &half, true), gone);
        assert_eq!(decide(&plan(Keep::Always, false), &half, true), gone);
    }

    #[test]
    fn what_another_run_has_taken_over_is_left_to_it() {
        let labels = |run: &str| BTreeMap::from([(labels::RUN.to_owned(), run.to_owned())]);
        assert!(is_ours(&labels("a"), Some("a")));
        assert!(!is_ours(&labels("b"), Some("a")));
        assert!(is_ours(&labels("b"), None));
        assert!(!is_ours(&BTreeMap::new(), None));
    }

    #[test]
    fn the_commands_by_hand_name_everything_that_was_made() {
        let mut made = self::made(false, true);
        made.releases.push(ReleaseName { name: "dagster".to_owned(), namespace: "mine".to_owned() });
        let local = by_hand(&plan(Keep::Never, false), &made);
        assert_eq!(
            local,
            ["helm uninstall dagster --namespace mine", "cargo xtask clean --run r --kind-cluster k8s-test"]
        );
        let gone = by_hand(&plan(Keep::Never, true), &self::made(true, true));
        assert_eq!(gone, ["cargo xtask cluster down --kind-cluster k8s-test"]);
    }

    #[test]
    fn a_cluster_that_was_there_before_stays() {
        assert_eq!(decide(&plan(Keep::Never, true), &made(false, true), false), Decision::RemoveObjects);
    }

    #[test]
    fn locally_the_cluster_stays_and_the_rest_goes() {
        assert_eq!(decide(&plan(Keep::Never, false), &made(true, true), true), Decision::RemoveObjects);
        assert_eq!(decide(&plan(Keep::Never, false), &made(true, false), true), Decision::Nothing);
    }

    #[test]
    fn keeping_follows_the_flag() {
        assert_eq!(decide(&plan(Keep::Always, true), &made(true, true), false), Decision::Keep);
        assert_eq!(decide(&plan(Keep::OnFailure, false), &made(true, true), true), Decision::Keep);
        assert_eq!(decide(&plan(Keep::OnFailure, false), &made(true, true), false), Decision::RemoveObjects);
        assert_eq!(decide(&plan(Keep::Always, false), &made(false, false), true), Decision::Nothing);
    }
}
