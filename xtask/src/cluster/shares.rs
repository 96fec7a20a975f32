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

use crate::events::Events;

/// Gives them a little each, where the cluster has them and they have not got it yet: so little that a chart which asks for
/// one of two processors still finds room. Where the API refuses, a warning says so.
pub(super) async fn give(client: &Client, events: &Events) {
    if let Err(error) = request_all(client).await {
        events.warn(format!("{error:#}; services and volumes may be late while much starts at once"));
    }
}

async fn request_all(client: &Client) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(client.clone(), "kube-system");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "local-path-storage");
    let (proxy, provisioner) = tokio::join!(
        request(&sets, "kube-proxy", "30m"),
        request(&deployments, "local-path-provisioner", "10m")
    );
    proxy.and(provisioner)
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
        Err(error) => Err(error).with_context(|| format!("cannot let {name} ask for {cpu} of a processor")),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::fake_api::{self, answer};

    /// Asks for shares on a cluster that answers so; gives who asked for what too.
    async fn on_a_cluster_that_says(status: StatusCode) -> (Result<()>, Vec<String>) {
        let (client, mut server) = fake_api::client();
        let answered = async {
            let mut asked = Vec::new();
            for _ in 0..2 {
                let (request, send) = server.next_request().await.unwrap();
                let path = request.uri().path().to_owned();
                let body = request.into_body().collect_bytes().await.unwrap();
                let patch: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let container = &patch["spec"]["template"]["spec"]["containers"][0];
                let (name, cpu) = (&container["name"], &container["resources"]["requests"]["cpu"]);
                asked.push(format!("{path} {name} {cpu}"));
                let body = match status {
                    StatusCode::OK => json!({"metadata": {}}),
                    _ => json!({"status": "Failure", "code": status.as_u16(), "message": "no", "reason": ""}),
                };
                send.send_response(answer(status, &body));
            }
            asked.sort();
            asked
        };
        tokio::join!(request_all(&client), answered)
    }

    #[tokio::test]
    async fn what_the_cluster_has_asks_for_a_share_and_what_it_lacks_is_passed_over() {
        for status in [StatusCode::OK, StatusCode::NOT_FOUND] {
            let (given, asked) = on_a_cluster_that_says(status).await;
            given.unwrap();
            let proxy = r#"/apis/apps/v1/namespaces/kube-system/daemonsets/kube-proxy "kube-proxy" "30m""#;
            let provisioner = r#"/apis/apps/v1/namespaces/local-path-storage/deployments/local-path-provisioner "local-path-provisioner" "10m""#;
            assert_eq!(asked, [proxy, provisioner]);
        }
    }

    #[tokio::test]
    async fn a_refusal_says_what_was_asked_for() {
        let (given, _) = on_a_cluster_that_says(StatusCode::FORBIDDEN).await;
        let error = format!("{:#}", given.unwrap_err());
        assert!(error.starts_with("cannot let ") && error.contains(" of a processor: "), "{error}");
    }
}
