//! The broker goes and comes back.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use suite_support::calm;
use suite_support::cluster::{self, Select};
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, Suite};

use crate::{of_queue, of_release};

/// The workers by their pods' uids, with how often each has been started anew.
fn starts(pods: &[Pod]) -> BTreeMap<String, i32> {
    let workers = of_queue(pods, "dagster").into_iter();
    let restarts = |pod: &Pod| {
        let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
        status.into_iter().flatten().map(|container| container.restart_count).sum()
    };
    workers.map(|pod| (pod.uid().unwrap_or_default(), restarts(pod))).collect()
}

#[tokio::test]
async fn a_run_launched_after_the_broker_came_back_succeeds_with_the_same_workers() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::alone(&suite).await?;
    let broker = Select::Labels(format!("app={}", suite.contract.variant()));
    let ready = |pods: &[Pod]| pods.len() == 1 && pods.iter().all(cluster::is_ready);
    let what = "the broker to be ready";
    let before = cluster::await_objects(suite.system_pods(), &broker, what, CLUSTER_LIMIT, ready).await?;
    let before = only(&before, "broker");
    let all_ready = |pods: &[Pod]| {
        let workers = of_queue(pods, "dagster");
        workers.len() == 2 && workers.into_iter().all(cluster::is_ready)
    };
    let what = "the workers to be ready";
    let select = of_release();
    let workers =
        cluster::await_objects(suite.system_pods(), &select, what, CLUSTER_LIMIT, all_ready).await?;

    cluster::kill(&suite.system_pods(), &before.name_any()).await?;
    let back = |pods: &[Pod]| ready(pods) && pods[0].uid() != before.uid();
    let what = "the broker to come back";
    cluster::await_objects(suite.system_pods(), &broker, what, RUN_LIMIT, back).await?;

    suite
        .succeeded(Launch::job("volume_mount_job_celery_k8s"), async |run| {
            let what = "the workers to be ready again";
            let after =
                cluster::await_objects(suite.system_pods(), &select, what, RUN_LIMIT, all_ready).await?;
            assert_eq!(starts(&after), starts(&workers), "workers were started anew");
            assert_eq!(suite.jobs_of(run, "step_worker").await?.len(), 1);
            Ok(())
        })
        .await
}
