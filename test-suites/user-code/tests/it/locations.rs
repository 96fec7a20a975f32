//! Locations side by side.

use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::cluster::{self, Executed};
use suite_support::dagster::Error;
use suite_support::expect::{only, only_container};
use suite_support::jobs::{CLUSTER_LIMIT, in_process, words};
use suite_support::{Launch, Suite};

use crate::{edition, is_unknown};

#[tokio::test]
async fn a_run_has_the_code_and_the_image_of_its_location() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    for (launch, location, image) in [
        (edition("second", "second_job"), "second", "dagster-second"),
        (
            Launch::job("demo_job").config(in_process(words(&json!(2)))),
            "user-code-deployment-1",
            "dagster-test",
        ),
    ] {
        let image = suite.contract.image(image)?;
        suite
            .succeeded(launch, async |run| {
                let (_, pod) = suite.completed(run).await?;
                assert_eq!(only_container(&pod).image.as_deref(), Some(image));
                assert_eq!(pod.labels().get("dagster/code-location").map(String::as_str), Some(location));
                assert_eq!(run.tag("dagster/image"), Some(image));
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_job_of_one_location_cannot_be_launched_in_another() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // `second` has the second edition, and by that no first_job.
    let refusal = suite.dagster.launch(&edition("second", "first_job")).await;
    assert!(is_unknown(&refusal), "{refusal:?}");
    Ok(())
}

#[tokio::test]
async fn a_location_that_cannot_be_loaded_tells_why_and_hinders_no_other() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // The webserver may have asked the code server before that one served, so it is asked again first.
    let error = suite.dagster.reload_location("broken").await.unwrap_err().to_string();
    assert!(error.contains("No module named 'nobody_installed_this'"), "at a reload: {error}");
    let error = suite.dagster.location("broken").await.unwrap_err().to_string();
    assert!(error.contains("No module named 'nobody_installed_this'"), "{error}");
    let refusal = suite.dagster.launch(&edition("broken", "first_job")).await;
    assert!(matches!(refusal, Err(Error::Refused { .. })), "{refusal:?}");
    for name in ["user-code-deployment-1", "second"] {
        assert!(suite.dagster.location(name).await?.is_loaded(), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn the_health_of_a_code_server_can_be_asked_over_grpc() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    for (location, healthy) in [("second", true), ("broken", true), ("nowhere", false)] {
        let host = format!("{location}.{}.svc.cluster.local", suite.user_namespace());
        let asked = ask_health(&suite, &host).await?;
        assert_eq!(asked.code == 0, healthy, "{location}: {asked:?}");
    }
    Ok(())
}

/// Asks from the webserver's pod, which is who depends on the answer.
async fn ask_health(suite: &Suite, host: &str) -> anyhow::Result<Executed> {
    let pods = suite.system_pods();
    let webserver = pods.list(&ListParams::default().labels("component=dagster-webserver")).await?.items;
    let webserver = only(&webserver, "pod of the webserver");
    let command = ["dagster", "api", "grpc-health-check", "--port", "3030", "--host", host];
    let container = &only_container(webserver).name;
    Ok(cluster::ask(&pods, &webserver.name_any(), container, &command, CLUSTER_LIMIT).await?)
}
