//! Dagster's own command line, inside a code server that has the instance.

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::calm;
use suite_support::cluster;
use suite_support::expect::{only, only_container};
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, words};
use suite_support::{RunId, Suite};

#[tokio::test]
async fn a_run_is_launched_by_hand_from_within_a_code_server() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let pods = suite.user_pods();
    let servers = pods.list(&ListParams::default().labels("component=user-deployments")).await?.items;
    let server = only(&servers, "code server");
    let config = words(&json!(2));
    let (name, container) = (server.name_any(), &only_container(server).name);
    let draw = ["python", "-c", "import uuid; print(uuid.uuid4())"];
    let drawn = cluster::ask(&pods, &name, container, &draw, CLUSTER_LIMIT).await?;
    let run = RunId::from(drawn.stdout.trim());
    let launch = format!(
        "dagster job launch --grpc-host localhost --grpc-port 3030 --job demo_job_celery_k8s --config-json '{config}' --run-id {run}"
    );
    suite
        .with_launched(&run, async {
            match cluster::execute(&pods, &name, container, &["sh", "-c", &launch], RUN_LIMIT).await {
                Ok(launched) => assert_eq!(launched.code, 0, "{}", launched.stderr),
                // The command goes on without the connection, and must not be given twice.
                Err(cluster::Error::Output { .. }) => {
                    let (jobs, of_run) = (suite.user_jobs(), Suite::of_run(&run));
                    let any = |jobs: &[_]| !jobs.is_empty();
                    cluster::await_objects(jobs, &of_run, "the run's Job", RUN_LIMIT, any).await?;
                }
                Err(error) => return Err(error.into()),
            }
            let ended = suite.succeeds(&run).await?;
            // By way of the queues, as any other.
            assert_eq!(suite.jobs_of(&ended, "step_worker").await?.len(), 2);
            Ok(())
        })
        .await
}
