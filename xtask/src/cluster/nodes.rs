//! The nodes of a Kind cluster that take pods, and what is asked of each: in hardly more time than one question takes.

use anyhow::Result;
use futures::future::join_all;
use kind_client::{Address, Kind, Node};
use kube::Api;
use kube::api::ListParams;
use kube::config::Kubeconfig;

use super::kind::is_kubernetes;
use super::{client, takers};
use crate::docker::Docker;
use crate::exit::{Exit, ExitWith};

/// By which kind itself knows a cluster's nodes (github.com/kubernetes-sigs/kind,
/// pkg/cluster/internal/providers/common/constants.go).
const CLUSTER: &str = "io.x-k8s.kind.cluster";

/// The nodes of an existing cluster that take pods, each with the answer of `ask`; none where there is no such cluster.
///
/// Every program that is started takes as long as an answer, so all are started at once, and kind itself is not asked for the
/// nodes: the first one is asked before it is known that there is one, by the name that kind gives it.
///
/// # Errors
/// Docker fails, or of several nodes the API does not say which take pods; exit 3.
pub async fn ask<T>(kind: &Kind, name: &str, ask: impl AsyncFn(Node) -> T) -> Result<Vec<(Node, T)>> {
    let first = format!("{name}-control-plane");
    let others = async {
        let mut names = Docker.containers(&format!("{CLUSTER}={name}")).await?;
        names.retain(|name| is_kubernetes(name));
        names.sort_unstable();
        let others = names.iter().filter(|name| **name != first).cloned();
        let others = join_all(others.map(async |name| (name.clone(), ask(kind.node(name)).await)));
        // kubeadm taints a control plane only where it has workers.
        let takers = async {
            if names.len() < 2 {
                return Ok(None);
            }
            let kubeconfig = Kubeconfig::from_yaml(&kind.kubeconfig(name, Address::External).await?)?;
            let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client(kubeconfig).await?);
            anyhow::Ok(Some(takers(nodes.list(&ListParams::default()).await?.items.iter())))
        };
        let (others, takers) = tokio::join!(others, takers);
        anyhow::Ok((names, others, takers?))
    };
    let (guessed, others) = tokio::join!(ask(kind.node(first.clone())), others);
    let (names, mut answers, takers) = others.or_exit(Exit::Environment)?;
    if names.contains(&first) {
        answers.insert(0, (first, guessed));
    }
    answers.retain(|(name, _)| takers.as_ref().is_none_or(|takers| takers.contains(name)));
    Ok(answers.into_iter().map(|(name, answer)| (kind.node(name), answer)).collect())
}
