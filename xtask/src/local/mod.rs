//! Local work: deployments that stay and are found again by their labels, and the loop from a save to its tests.

use std::collections::BTreeMap;

use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::cleanup::to_the_second;
use crate::cli::{K8sTest, Keep};
use crate::cluster::Cluster;
use crate::config::{ImagesFile, Workspace};
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::ledger::Made;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER, Files, Plan};
use crate::{fail, labels, lease};

pub mod keys;
pub mod saves;
pub mod sources;
pub mod standing;
pub mod todo;

/// A deployment that `up` or `dev` made and left in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Up {
    /// The run that made it; what is added later carries its id too.
    pub run: String,
    /// The suite's name.
    pub suite: String,
    /// The variant's name.
    pub variant: String,
    /// Its namespaces.
    pub namespaces: Vec<String>,
}

impl Up {
    /// `<suite>/<variant>`, as messages name it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.suite, self.variant)
    }
}

/// The deployments of a cluster that `up` and `dev` left in place, the oldest first.
///
/// # Errors
/// The API refuses; exit 3.
pub async fn find(client: &Client) -> Result<Vec<Up>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let ours = ListParams::default().labels(&format!("{}=true,{}", labels::UP, labels::RUN));
    Ok(group(api.list(&ours).await.or_exit(Exit::Environment)?.items))
}

/// The deployments that namespaces belong to; those that are going belong to none any more.
fn group(namespaces: Vec<Namespace>) -> Vec<Up> {
    let mut found: BTreeMap<[String; 3], Vec<String>> = BTreeMap::new();
    for namespace in namespaces.iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none()) {
        let label = |key: &str| namespace.labels().get(key).cloned().unwrap_or_default();
        // Ids of runs sort by their start.
        let key = [labels::RUN, labels::SUITE, labels::VARIANT].map(label);
        found.entry(key).or_default().push(namespace.name_any());
    }
    found
        .into_iter()
        .map(|([run, suite, variant], namespaces)| Up { run, suite, variant, namespaces })
        .collect()
}

/// Reads the files and resolves what `args` ask for, which must be one variant of one suite.
///
/// # Errors
/// As [`Plan::resolve`], or several suites could be meant; exit 2.
pub fn resolve(args: &K8sTest, env: &Env, workspace: &Workspace, run: &str) -> Result<(ImagesFile, Plan)> {
    let files = Files::load(workspace, &args.suites)?;
    if let [_, _, ..] = files.suites.as_slice() {
        let names: Vec<&str> = files.suites.iter().filter_map(|(folder, _)| folder.file_name()).collect();
        fail!(Exit::Usage, "there are several suites; name one of {}", names.join(", "));
    }
    // What a person works with is never thrown away at the end, wherever it runs.
    let env = Env { ci: false, ..env.clone() };
    let args = K8sTest { keep: Some(Keep::Always), ..args.clone() };
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let plan = Plan::resolve(&args, &env, &files, run, cpus)?;
    Ok((files.images, plan))
}

/// Gives a deployment its whole time again, and says until when it stays, how to reach and how to remove it.
///
/// # Errors
/// The API refuses.
pub async fn leave(cluster: &Cluster, plan: &Plan, made: &Made) -> Result<Vec<String>> {
    let expires = lease::expiry(plan.keep, cluster.clock.now());
    lease::prolong(&cluster.client, made, &plan.run, expires).await?;
    let expires = to_the_second(expires);
    let kubeconfig = plan.output.join("kubeconfig");
    let mut lines = vec![format!("the deployment stays; `cargo xtask clean` removes it after {expires}")];
    for namespace in &made.namespaces {
        lines.push(format!("reach it:  kubectl --kubeconfig {kubeconfig} --namespace {namespace} get pods"));
    }
    lines.extend(plan.suites.first().map(|suite| format!("remove it: {}", down(plan, suite))));
    Ok(lines)
}

/// The command that removes a deployment.
fn down(plan: &Plan, suite: &crate::config::Suite) -> String {
    let mut command = format!("cargo xtask down {} --variant {}", suite.name, suite.variant);
    match &plan.cluster {
        ClusterPlan::Kind { name, .. } if name == DEFAULT_CLUSTER => {}
        cluster => command.push_str(&cluster.flags()),
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_of_one_run_are_one_deployment() {
        let namespace = |name: &str, run: &str, variant: &str, more: &str| -> Namespace {
            serde_yaml::from_str(&format!(
                "metadata: {{name: {name}, labels: {{k8s-test.local/run: {run}, k8s-test.local/suite: s, k8s-test.local/variant: {variant}}}{more}}}"
            ))
            .unwrap()
        };
        let found = group(vec![
            namespace("user-2", "20261122-2", "subchart", ""),
            namespace("user-1", "20261122-1", "default", ""),
            namespace("system-2", "20261122-2", "subchart", ""),
            namespace("gone", "20261121-1", "default", ", deletionTimestamp: '2026-01-01T00:00:00Z'"),
        ]);
        let shown: Vec<String> =
            found.iter().map(|up| format!("{} {}: {}", up.run, up.id(), up.namespaces.join(" "))).collect();
        assert_eq!(shown, ["20261122-1 s/default: user-1", "20261122-2 s/subchart: user-2 system-2"]);
    }
}
