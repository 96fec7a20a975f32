//! What the pods that kind brings along ask of the processors.
//!
//! Neither kubeadm's kube-proxy nor kind's provisioner of volumes asks for any. All pods that ask for none have 2 shares
//! together, beside 1024 for each processor that others ask for (Kubernetes, pkg/kubelet/cm/qos_container_manager_linux.go):
//! while what was just installed starts and takes all there is, they stand still. A service then leads nowhere until kube-proxy
//! has had its turn, and a volume waits for its provisioner.

use std::fmt::Debug;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Gives them a little each, where the cluster has them and they have not got it yet: so little that a chart which asks for
/// one of two processors still finds room.
///
/// # Errors
/// The API refuses.
pub(super) async fn give(client: &Client) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "kube-system");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "local-path-storage");
    tokio::try_join!(
        request(&sets, "kube-proxy", "30m"),
        request(&deployments, "local-path-provisioner", "10m")
    )?;
    Ok(())
}

/// Lets the container that has its workload's name ask for `cpu`.
async fn request<W>(workloads: &Api<W>, name: &str, cpu: &str) -> Result<()>
where
    W: Clone + Debug + DeserializeOwned,
{
    let container = json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
    let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
    match workloads.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(_) => Ok(()),
        // Without kube-proxy, or with another provisioner.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("let {name} ask for {cpu} of a processor")),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::fake_api::{self, answer};

    #[tokio::test]
    async fn what_the_cluster_has_asks_for_a_share_and_what_it_lacks_is_passed_over() {
        let (client, mut server) = fake_api::client();
        let answered = async {
            let mut paths = Vec::new();
            for _ in 0..2 {
                let (request, send) = server.next_request().await.unwrap();
                let path = request.uri().path().to_owned();
                let has = path.ends_with("/kube-proxy");
                paths.push(path);
                if has {
                    let body = request.into_body().collect_bytes().await.unwrap();
                    let patch: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    let container = &patch["spec"]["template"]["spec"]["containers"][0];
                    assert_eq!(container["resources"]["requests"]["cpu"], "30m");
                    send.send_response(answer(StatusCode::OK, &json!({"metadata": {"name": "kube-proxy"}})));
                } else {
                    let status =
                        json!({"status": "Failure", "code": 404, "message": "", "reason": "NotFound"});
                    send.send_response(answer(StatusCode::NOT_FOUND, &status));
                }
            }
            paths.sort();
            paths
        };
        let (given, paths) = tokio::join!(give(&client), answered);
        given.unwrap();
        assert_eq!(
            paths,
            [
                "/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy",
                "/apis/apps/v1/namespaces/local-path-storage/deployments/local-path-provisioner",
            ]
        );
    }
}
