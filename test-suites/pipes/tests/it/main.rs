//! Dagster Pipes on Kubernetes, from outside: programs in pods of their own, and what reaches Dagster of what they say.

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::json;
use suite_support::cluster::{self, Select};
use suite_support::dagster::Event;
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, Run, RunStatus, Suite};

/// Whether the only asset that the run made is even, as the program says.
async fn is_even(suite: &Suite, run: &Run) -> anyhow::Result<bool> {
    let mut events = suite.dagster.events(&run.run_id).await?;
    events.retain(|event| event.is("ASSET_MATERIALIZATION"));
    let [made] = &events[..] else { panic!("not one asset was made but {events:?}") };
    made.flag("is_even").ok_or_else(|| anyhow::anyhow!("the asset has no is_even: {made:?}"))
}

/// The run of this job succeeds, and its asset is even.
async fn makes_an_even_number(suite: &Suite, launch: Launch) -> anyhow::Result<()> {
    suite
        .succeeded(launch, async |run| {
            assert!(is_even(suite, run).await?, "another number arrived");
            Ok(())
        })
        .await
}

/// Nothing is left of the pods that a run's client started.
async fn no_pods_left(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    // By the name that the client gives them, with half of the run's id (dagster_k8s/pipes.py): the labels are this suite's.
    let id: String = run.run_id.to_string().chars().take(18).collect();
    let begins = format!("dagster-{id}-");
    let gone = |pods: &[Pod]| !pods.iter().any(|pod| pod.name_any().starts_with(&begins));
    let what = format!("the program's pod {begins}… to go");
    cluster::await_objects(suite.user_pods(), &Select::All, &what, CLUSTER_LIMIT, gone).await?;
    Ok(())
}

#[tokio::test]
async fn what_a_program_reports_becomes_an_asset() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(Launch::job("pipes_job"), async |run| {
            assert!(is_even(&suite, run).await?);
            // 2 by the pod's environment, and 4 by the session.
            let events = suite.dagster.events(&run.run_id).await?;
            let said = |event: &Event| event.message.contains("the number is 6");
            assert!(events.iter().any(said), "the program's message did not arrive");
            no_pods_left(&suite, run).await
        })
        .await
}

#[tokio::test]
async fn a_program_reads_its_context_from_a_file_of_a_config_map() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let account = json!({"pod_spec_config": {"service_account_name": "makes-config-maps"}});
    let launch = Launch::job("pipes_file_job").tag("dagster-k8s/config", account.to_string());
    suite
        .succeeded(launch, async |run| {
            assert!(is_even(&suite, run).await?);
            let maps: Api<ConfigMap> =
                Api::namespaced(suite.client().clone(), suite.contract.namespace("user")?);
            let all = maps.list(&ListParams::default()).await?;
            let left = all
                .items
                .iter()
                .map(ResourceExt::name_any)
                .find(|name| name.contains(&*run.run_id.to_string()));
            assert_eq!(left, None, "it is left");
            no_pods_left(&suite, run).await
        })
        .await
}

#[tokio::test]
async fn a_job_that_an_op_runs_reports_through_a_session() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    makes_an_even_number(&suite, Launch::job("pipes_session_job")).await
}

#[tokio::test]
async fn an_init_container_that_is_ignored_is_not_waited_for() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    makes_an_even_number(&suite, Launch::job("pipes_init_container_job")).await
}

#[tokio::test]
async fn a_program_that_fails_fails_its_run_and_says_so() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(Launch::job("pipes_failure_job"), async |run| {
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, RunStatus::Failure);
            let events = suite.dagster.events(&run.run_id).await?;
            let told: Vec<_> = events.iter().filter(|event| event.message.starts_with("[pipes]")).collect();
            let [opened, closed] = &told[..] else { panic!("not two messages of the session but {told:?}") };
            assert!(opened.message.contains("successfully opened"), "{opened}");
            assert!(closed.message.contains("external process pipes closed with exception"), "{closed}");
            let why: Vec<_> = closed.error_messages().collect();
            assert_eq!(why, ["Exception: External Exception Message"]);
            no_pods_left(&suite, run).await
        })
        .await
}

#[tokio::test]
async fn messages_arrive_once_though_their_stream_is_cut() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(Launch::job("pipes_slow_job"), async |run| {
            assert!(is_even(&suite, run).await?);
            let pods = suite.pods_of(run, "run_worker").await?;
            let worker = only(&pods, "pod of the run's worker").name_any();
            let log = cluster::logs(&suite.user_pods(), &worker, "dagster", None).await?;
            assert!(log.contains("Re-connecting to pod logs stream"), "the stream was never cut: {log}");
            let events = suite.dagster.events(&run.run_id).await?;
            let counts: Vec<_> =
                events.iter().map(|event| &event.message).filter(|said| said.starts_with("count ")).collect();
            assert_eq!(counts, ["count 0", "count 1", "count 2"]);
            Ok(())
        })
        .await
}
