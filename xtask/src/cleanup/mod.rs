//! Removes what a run has made, or says how to reach and remove what stays.

use std::time::Duration;

use anyhow::{Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::{SignedDuration, Timestamp};
use kind_client::Kind;
use kube::Client;
use serde::{Deserialize, Serialize};

use crate::cli::Keep;
use crate::cluster::clock::Clock;
use crate::events::Events;
use crate::exit::{Exit, coded};
use crate::helm::Helm;
use crate::lease;
use crate::ledger::Made;
use crate::plan::{ClusterPlan, Plan};
use crate::text;

mod cluster;
pub mod leftovers;
mod remove;
pub mod terminating;

pub(crate) use cluster::{delete_until_gone, others};
pub use remove::Whose;
pub(crate) use remove::{is_release, remove_objects};

/// How long a kept deployment is left alone by `cargo xtask clean`.
pub const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// How long removing everything may take.
const LIMIT: Duration = Duration::from_secs(180);

/// What of a plan decides about the end; the reaper has it from the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The run's id.
    pub run: String,
    /// When the deployment stays at the end.
    pub keep: Keep,
    /// The cluster.
    pub cluster: ClusterPlan,
    /// Folder for the report and the logs, and of the run's own kubeconfig.
    pub output: Utf8PathBuf,
}

impl Policy {
    /// The policy of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Policy {
        let Plan { run, keep, cluster, output, .. } = plan;
        Policy { run: run.clone(), keep: *keep, cluster: cluster.clone(), output: output.clone() }
    }

    /// Whether the cluster goes whole at the end.
    #[must_use]
    pub fn ephemeral(&self) -> bool {
        matches!(self.cluster, ClusterPlan::Kind { ephemeral: true, .. })
    }

    /// The kubeconfig of the run's own.
    #[must_use]
    pub fn kubeconfig(&self) -> Utf8PathBuf {
        self.output.join("kubeconfig")
    }
}

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

/// Decides from the policy, from what was made and from whether the run failed.
#[must_use]
pub fn decide(policy: &Policy, made: &Made, failed: bool) -> Decision {
    if made.is_empty() {
        return Decision::Nothing;
    }
    let keep = match policy.keep {
        Keep::Always => true,
        Keep::OnFailure => failed,
        Keep::Never => false,
    };
    match &made.cluster {
        // Nobody can use it, and the next run would have to find out whose it is.
        Some(name) if !made.cluster_complete => Decision::DeleteCluster(name.clone()),
        _ if keep => Decision::Keep,
        Some(name) if policy.ephemeral() => Decision::DeleteCluster(name.clone()),
        _ if made.namespaces.is_empty() && made.objects.is_empty() && made.releases.is_empty() => {
            Decision::Nothing
        }
        _ => Decision::RemoveObjects,
    }
}

/// What removing needs.
pub struct Remover<'a> {
    /// Whose objects go.
    pub whose: Whose<'a>,
    /// kind, once set-up has found it.
    pub kind: Option<&'a Kind>,
    /// helm, once there is a cluster.
    pub helm: Option<&'a Helm>,
    /// The cluster's API, once there is one.
    pub client: Option<&'a Client>,
    /// The cluster's clock.
    pub clock: Clock,
    /// Where clusters are locked.
    pub cache: &'a Utf8Path,
    /// Where to say what happens.
    pub events: &'a Events,
}

/// Does what was decided.
///
/// # Errors
/// Something could not be removed: what, why, and the command that does it; exit 5.
pub async fn clean_up(
    remover: &Remover<'_>,
    policy: &Policy,
    made: &Made,
    decision: &Decision,
) -> Result<()> {
    let work = async {
        match decision {
            Decision::Nothing => Vec::new(),
            Decision::Keep => keep(remover, policy, made).await,
            Decision::DeleteCluster(name) => cluster::delete(remover, policy, made, name).await,
            Decision::RemoveObjects => remove_objects(remover, made).await,
        }
    };
    let left = tokio::time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| vec![format!("removing did not end within {}", text::seconds(LIMIT))]);
    if left.is_empty() {
        return Ok(());
    }
    let again = by_hand(policy, made).unwrap_or_else(|| "cargo xtask clean".to_owned());
    Err(coded(
        Exit::Leftovers,
        anyhow!(
            "not everything could be removed:\n{}\n  try again by `{again}`",
            text::indent(&left.join("\n"), "    ")
        ),
    ))
}

/// The command that removes what a run has left, for a person to run; none where nothing is left.
#[must_use]
pub fn by_hand(policy: &Policy, made: &Made) -> Option<String> {
    if let Some(name) = &made.cluster
        && (policy.ephemeral() || !made.cluster_complete)
    {
        return Some(format!("cargo xtask cluster down --kind-cluster {name}"));
    }
    if made.namespaces.is_empty() && made.objects.is_empty() && made.releases.is_empty() {
        return None;
    }
    Some(format!("cargo xtask clean --run {}{}", policy.run, policy.cluster.flags()))
}

/// Leaves everything, with a new expiry, and says how to reach and remove it.
async fn keep(remover: &Remover<'_>, policy: &Policy, made: &Made) -> Vec<String> {
    let expires = remover.clock.now() + KEPT;
    let mut left = Vec::new();
    if let Some(client) = remover.client
        && let Err(error) = lease::prolong(client, made, &policy.run, expires).await
    {
        left.push(format!("its expiry could not be set: {}", crate::exit::message(&error)));
    }
    if let Some(name) = made.cluster.as_ref().filter(|_| policy.ephemeral())
        && let Some(kind) = remover.kind
        && let Err(error) =
            crate::cluster::kind::renew(kind, remover.cache, name, Timestamp::now() + KEPT).await
    {
        left.push(format!("the expiry of the cluster {name} could not be set: {error:#}"));
    }
    let mut lines = vec![format!("everything stays in place until {}", to_the_second(expires))];
    let kubeconfig = policy.kubeconfig();
    for namespace in &made.namespaces {
        lines.push(format!("reach it:  kubectl --kubeconfig {kubeconfig} --namespace {namespace} get pods"));
    }
    lines.extend(by_hand(policy, made).into_iter().map(|command| format!("remove it: {command}")));
    for line in lines {
        remover.events.note(line);
    }
    left
}

/// What is enough for a person.
pub(crate) fn to_the_second(time: Timestamp) -> Timestamp {
    time.round(jiff::Unit::Second).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::ReleaseName;

    fn policy(keep: Keep, ephemeral: bool) -> Policy {
        Policy {
            run: "r".to_owned(),
            output: "/w/target/k8s-test/r".into(),
            cluster: ClusterPlan::Kind { name: "k8s-test".to_owned(), ephemeral, named: false },
            keep,
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
        assert_eq!(decide(&policy(Keep::Never, true), &made(true, true), false), gone);
        assert_eq!(decide(&policy(Keep::Never, true), &made(true, false), true), gone);
    }

    #[test]
    fn a_half_made_cluster_goes_whatever_was_asked_for() {
        let half = Made { cluster_complete: false, ..made(true, false) };
        let gone = Decision::DeleteCluster("k8s-test".to_owned());
        assert_eq!(decide(&policy(Keep::Never, false), &half, true), gone);
        assert_eq!(decide(&policy(Keep::Always, false), &half, true), gone);
    }

    #[test]
    fn the_command_by_hand_names_the_cluster() {
        let mut made = self::made(false, true);
        let by_hand = |policy: &Policy, made: &Made| super::by_hand(policy, made).unwrap();
        let local = by_hand(&policy(Keep::Never, false), &made);
        assert_eq!(local, "cargo xtask clean --run r --kind-cluster k8s-test");
        let gone = by_hand(&policy(Keep::Never, true), &self::made(true, true));
        assert_eq!(gone, "cargo xtask cluster down --kind-cluster k8s-test");
        let mut theirs = policy(Keep::Never, false);
        theirs.cluster = ClusterPlan::Kubeconfig { file: "/k".into(), context: Some("c".to_owned()) };
        made.namespaces.clear();
        made.releases.push(ReleaseName { name: "dagster".to_owned(), namespace: "mine".to_owned() });
        assert_eq!(
            by_hand(&theirs, &made),
            "cargo xtask clean --run r --cluster-provider kubeconfig --kubeconfig /k --context c"
        );
    }

    #[test]
    fn a_cluster_that_was_there_before_stays() {
        assert_eq!(decide(&policy(Keep::Never, true), &made(false, true), false), Decision::RemoveObjects);
    }

    #[test]
    fn locally_the_cluster_stays_and_the_rest_goes() {
        assert_eq!(decide(&policy(Keep::Never, false), &made(true, true), true), Decision::RemoveObjects);
        assert_eq!(decide(&policy(Keep::Never, false), &made(true, false), true), Decision::Nothing);
    }

    #[test]
    fn keeping_follows_the_flag() {
        assert_eq!(decide(&policy(Keep::Always, true), &made(true, true), false), Decision::Keep);
        assert_eq!(decide(&policy(Keep::OnFailure, false), &made(true, true), true), Decision::Keep);
        assert_eq!(
            decide(&policy(Keep::OnFailure, false), &made(true, true), false),
            Decision::RemoveObjects
        );
        assert_eq!(decide(&policy(Keep::Always, false), &made(false, false), true), Decision::Nothing);
    }
}
