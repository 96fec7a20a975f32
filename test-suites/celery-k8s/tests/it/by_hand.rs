//! Dagster's own command line, inside a code server that has the instance.

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::cluster;
use suite_support::expect::{only, only_container};
use suite_support::jobs::{RUN_LIMIT, words};
use suite_support::{RunId, RunStatus, Suite};

use crate::calm;

#[tokio::test]
async fn a_run_is_launched_by_hand_from_within_a_code_server() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let pods = suite.user_pods();
    let servers = pods.list(&ListParams::default().labels("component=user-deployments")).await?.items;
    let server = only(&servers, "code server");
    let config = words(&json!(2));
    let launch = format!(
        "id=$(python -c 'import uuid; print(uuid.uuid4())') && dagster job launch --grpc-host localhost \
         --grpc-port 3030 --job demo_job_celery_k8s --config-json '{config}' --run-id $id >&2 && echo $id"
    );
    let container = &only_container(server).name;
    let command = ["sh", "-c", &launch];
    let launched = cluster::execute(&pods, &server.name_any(), container, &command, RUN_LIMIT).await?;
    assert_eq!(launched.code, 0, "{}", launched.stderr);
    let run = RunId::from(launched.stdout.trim());
    suite
        .with_launched(&run, async {
            let ended = suite.dagster.await_end(&run, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Success);
            // By way of the queues, as any other.
            assert_eq!(suite.jobs_of(&ended, "step_worker").await?.len(), 2);
            Ok(())
        })
        .await
}
