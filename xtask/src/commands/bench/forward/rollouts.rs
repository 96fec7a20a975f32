//! What a forward's clients notice of rollouts, of a pod that is killed and of an API server that restarts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::processors;
use super::load::Load;
use crate::cluster::Cluster;
use crate::events::Step;
use crate::watch::{self, Objects};

/// The Deployment, as its manifest names it.
const NAME: &str = "bench-forward";
const SELECTOR: &str = "app=bench-forward";
/// Between two events, so that each is met by requests.
const BETWEEN: Duration = Duration::from_secs(2);
/// How long a rollout may take.
const ROLLOUT: Duration = Duration::from_secs(120);
/// How long the requests that are still missing may take at the end.
const REST: Duration = Duration::from_secs(20 * 60);

/// What was noticed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Noticed {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) failures: Vec<String>,
    /// The longest answer, in seconds.
    pub(super) longest: f64,
    /// From a pod being ready to its first answer, in milliseconds, the shortest first.
    pub(super) gaps: Vec<f64>,
}

/// Rolls out `rollouts` times, kills a pod and restarts the API server under requests, of which there are at least
/// `requests` in the end.
pub(super) async fn measure(
    cluster: &Cluster,
    namespace: &str,
    address: SocketAddr,
    rollouts: u16,
    requests: u64,
    step: &Step,
) -> Result<Noticed> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), namespace);
    let ready = Readiness::watch(pods.clone());
    // More would wait for each other, and with them what they measure.
    let load = Load::start(address, processors());
    for n in 1..=rollouts {
        step.progress(format!("rollout {n} of {rollouts}"));
        let text = n.to_string();
        let patch =
            json!({"spec": {"template": {"metadata": {"annotations": {"k8s-test.local/rollout": text}}}}});
        deployments.patch(NAME, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        settled(&deployments).await?;
        sleep(BETWEEN).await;
    }
    step.progress("kill the pod".to_owned());
    let killed = ready.newest().context("no pod is ready")?;
    pods.delete(&killed, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await?;
    let gone = |pods: &Objects<Pod>| (!pods.contains_key(&killed)).then_some(());
    let config = || watcher::Config::default().labels(SELECTOR);
    watch::until(pods.clone(), config(), ROLLOUT, gone).await.map_err(|_| anyhow!("pod {killed} stays"))?;
    settled(&deployments).await?;
    sleep(BETWEEN).await;
    step.progress("restart the API server".to_owned());
    let node = cluster.nodes.first().context("the cluster has no node on this machine")?;
    node.exec(["pkill", "-KILL", "-x", "kube-apiserver"])
        .ensure_success()
        .await
        .context("end the API server")?;
    sleep(BETWEEN).await;
    answers(cluster).await?;
    sleep(BETWEEN).await;
    let begun = Instant::now();
    while load.made() < requests && begun.elapsed() < REST {
        step.progress(format!("{} of {requests} requests", load.made()));
        sleep(Duration::from_secs(1)).await;
    }
    let (requests, failed, seen) = load.end().await;
    let mut pods: Vec<(String, Instant)> = ready.times().into_iter().collect();
    pods.sort_by_key(|(_, ready)| *ready);
    // The first was ready before anything was asked.
    let late =
        |(pod, ready): &(String, Instant)| Some(seen.first.get(pod)?.saturating_duration_since(*ready));
    let mut gaps: Vec<f64> =
        pods.iter().skip(1).filter_map(late).map(|gap| gap.as_secs_f64() * 1000.0).collect();
    gaps.sort_by(f64::total_cmp);
    let (failures, longest) = (seen.failures, seen.longest.as_secs_f64());
    Ok(Noticed { requests, failed, failures, longest, gaps })
}

/// Waits until the last rollout has ended.
async fn settled(deployments: &Api<Deployment>) -> Result<()> {
    let config = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
    let settled = |found: &Objects<Deployment>| {
        let deployment = found.get(NAME)?;
        let (wanted, status) = (deployment.spec.as_ref()?.replicas, deployment.status.as_ref()?);
        let seen = status.observed_generation == deployment.metadata.generation;
        let all = [status.replicas, status.updated_replicas, status.available_replicas];
        (seen && all.iter().all(|count| *count == wanted)).then_some(())
    };
    watch::until(deployments.clone(), config, ROLLOUT, settled)
        .await
        .map_err(|_| anyhow!("the rollout of {NAME} did not end within {} s", ROLLOUT.as_secs()))
}

/// Waits until the API server answers again.
async fn answers(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < ROLLOUT {
        let asked = tokio::time::timeout(BETWEEN, cluster.client.apiserver_version()).await;
        if matches!(asked, Ok(Ok(_))) {
            return Ok(());
        }
        // A server that does not listen cannot be watched.
        sleep(Duration::from_millis(250)).await;
    }
    bail!("the API server does not come back")
}

/// When pods became ready, as the API server told.
struct Readiness {
    times: Arc<Mutex<BTreeMap<String, Instant>>>,
    _watching: JoinSet<()>,
}

impl Readiness {
    fn watch(pods: Api<Pod>) -> Readiness {
        let times = Arc::new(Mutex::new(BTreeMap::new()));
        let noted = times.clone();
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            let events =
                watcher::watcher(pods, watcher::Config::default().labels(SELECTOR)).default_backoff();
            watch::follow(events, &mut Objects::new(), |pods| {
                let mut times = noted.lock().unwrap_or_else(PoisonError::into_inner);
                for pod in pods.into_iter().flat_map(Objects::values).filter(|pod| is_ready(pod)) {
                    times.entry(pod.name_any()).or_insert_with(Instant::now);
                }
                ControlFlow::<()>::Continue(())
            })
            .await;
        });
        Readiness { times, _watching: watching }
    }

    fn times(&self) -> BTreeMap<String, Instant> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn newest(&self) -> Option<String> {
        self.times().into_iter().max_by_key(|(_, time)| *time).map(|(name, _)| name)
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
