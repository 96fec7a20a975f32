//! Servers that go and come back. Each test has a location of its own.

use kube::ResourceExt;
use serde_json::json;
use suite_support::ask;
use suite_support::cluster::{self, is_ready};
use suite_support::dagster::{Error, Event, Location};
use suite_support::expect::{only, only_container};
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, Run, Suite};

use crate::{await_server, change_server, edition, is_unknown};

/// Tells a step that its code server is gone.
const GONE: &str = "/tmp/gone";

#[tokio::test]
async fn while_its_code_server_is_away_runs_go_on_and_launches_are_refused() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = json!({"ops": {"tell_edition": {"config": {"until": GONE}}}});
    let away = suite.with_run(edition("away", "common_job").config(config), async |run| {
        let started = |event: &Event| event.is("STEP_START");
        suite.dagster.await_event(&run.run_id, "its step to start", RUN_LIMIT, started).await?;
        change_server(&suite, "away", &json!({"spec": {"replicas": 0}})).await?;
        await_server(&suite, "away", "no code server", <[_]>::is_empty).await?;
        let pods = suite.pods_of(run, "run_worker").await?;
        let pod = only(&pods, "pod of the run");
        let container = &only_container(pod).name;
        cluster::ask(&suite.user_pods(), &pod.name_any(), container, &["touch", GONE], CLUSTER_LIMIT).await?;
        suite.succeeds(&run.run_id).await?;
        let error = suite.dagster.reload_location("away").await.unwrap_err().to_string();
        assert!(error.contains("DagsterUserCodeUnreachableError"), "{error}");
        let refusal = suite.dagster.launch(&edition("away", "first_job")).await;
        assert!(matches!(refusal, Err(Error::Refused { .. })), "without a code server: {refusal:?}");
        assert!(suite.dagster.location("second").await?.is_loaded());
        Ok(())
    });
    let back = async || change_server(&suite, "away", &json!({"spec": {"replicas": 1}})).await;
    suite.afterwards(away, back).await?;
    let ready = |pods: &[_]| matches!(pods, [pod] if is_ready(pod));
    await_server(&suite, "away", "its code server", ready).await?;
    suite.dagster.await_location("away", CLUSTER_LIMIT).await?;
    succeeds_again(&suite, &edition("away", "first_job")).await.map(drop)
}

/// A server that dies, and is not taken away: Kubernetes brings another, and Dagster turns to it unasked.
#[tokio::test]
async fn after_its_code_server_was_killed_a_location_is_there_again() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let servers = await_server(&suite, "killed", "its code server", |pods| pods.len() == 1).await?;
    let first = only(&servers, "code server");
    let before = suite.dagster.location("killed").await?;
    cluster::kill(&suite.user_pods(), &first.name_any()).await?;
    let another = |pods: &[_]| matches!(pods, [pod] if is_ready(pod) && pod.uid() != first.uid());
    await_server(&suite, "killed", "a new code server", another).await?;
    let now = async || Ok(suite.dagster.location("killed").await);
    let turned = |now: &Result<Location, Error>| {
        now.as_ref().is_ok_and(|now| now.server().is_some_and(|server| before.server() != Some(server)))
    };
    ask::until("Dagster to turn to the new code server", RUN_LIMIT, now, turned).await??;
    succeeds_again(&suite, &edition("killed", "first_job")).await.map(drop)
}

#[tokio::test]
async fn after_a_rollout_its_runs_have_the_new_code() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let new = suite.contract.image("dagster-second")?;
    let pods = await_server(&suite, "changing", "its code server", |pods| pods.len() == 1).await?;
    let container = only_container(only(&pods, "code server")).name.clone();
    // What an upgrade of the release with another image changes.
    let changed = json!([{
        "name": container,
        "image": new,
        "env": [{"name": "DAGSTER_CURRENT_IMAGE", "value": new}],
    }]);
    change_server(&suite, "changing", &json!({"spec": {"template": {"spec": {"containers": changed}}}}))
        .await?;
    let replaced = |pods: &[_]| matches!(pods, [pod] if is_ready(pod) && only_container(pod).image.as_deref() == Some(new));
    await_server(&suite, "changing", "the new code server alone", replaced).await?;

    suite.dagster.await_location("changing", CLUSTER_LIMIT).await?;
    let run = succeeds_again(&suite, &edition("changing", "second_job")).await?;
    let (_, pod) = suite.completed(&run).await?;
    assert_eq!(only_container(&pod).image.as_deref(), Some(new));
    let refusal = suite.dagster.launch(&edition("changing", "first_job")).await;
    assert!(is_unknown(&refusal), "the old edition's job: {refusal:?}");
    Ok(())
}

/// A run of a location whose code server is there again succeeds; gives the run.
///
/// A look at the server that Dagster began before that was there may end later and count, until the next one some seconds later. Until
/// then no run is made.
async fn succeeds_again(suite: &Suite, launch: &Launch) -> anyhow::Result<Run> {
    let launched = async || Ok(suite.dagster.launch(launch).await);
    let unreachable = |launched: &Result<Run, Error>| matches!(launched, Err(Error::Refused { message, .. }) if message.contains("DagsterUserCodeUnreachableError"));
    let there = |launched: &Result<Run, Error>| !is_unknown(launched) && !unreachable(launched);
    let awaited = format!("a launch of {} whose location is there", launch.job);
    let run = ask::until(&awaited, CLUSTER_LIMIT, launched, there).await??;
    suite.with_launched(&run.run_id, async { suite.succeeds(&run.run_id).await.map(drop) }).await?;
    Ok(run)
}
