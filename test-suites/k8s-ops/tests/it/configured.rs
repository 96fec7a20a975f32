//! What a Job is made of: the op's configuration, and what of its surroundings counts.

use serde_json::json;
use suite_support::Suite;

use crate::{only_job, says, shell};

#[tokio::test]
async fn the_container_s_own_command_is_run_where_the_op_gives_none() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let own =
        json!({"command": null, "container_config": {"command": ["echo", "of the container"]}, "args": null});
    suite
        .succeeded(shell(&suite, "", own)?, async |run| {
            assert_eq!(says(&suite, &only_job(&suite, run).await?, "dagster").await?, ["of the container"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_op_s_command_takes_the_place_of_the_container_s() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let own = json!({"container_config": {"command": ["echo", "of the container"]}});
    suite
        .succeeded(shell(&suite, "echo of the op", own)?, async |run| {
            assert_eq!(says(&suite, &only_job(&suite, run).await?, "dagster").await?, ["of the op"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_tag_of_the_run_does_not_reach_the_op_s_job() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let variable = |name: &str| json!({"container_config": {"env": [{"name": name, "value": "there"}]}});
    let launch = shell(&suite, "echo run: $OF_RUN, op: $OF_OP", variable("OF_OP"))?;
    let launch = launch.tag("dagster-k8s/config", variable("OF_RUN").to_string());
    suite
        .succeeded(launch, async |run| {
            assert_eq!(says(&suite, &only_job(&suite, run).await?, "dagster").await?, ["run: , op: there"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn the_launcher_s_environment_is_added_to_unless_the_merge_is_shallow() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // OF_LAUNCHER stands in the values of the deployment.
    for (behavior, expected) in [("DEEP", "launcher: there, op: too"), ("SHALLOW", "launcher: , op: too")] {
        let own = json!({
            "container_config": {"env": [{"name": "OF_OP", "value": "too"}]},
            "merge_behavior": behavior,
        });
        let launch = shell(&suite, "echo launcher: $OF_LAUNCHER, op: $OF_OP", own)?;
        suite
            .succeeded(launch, async |run| {
                assert_eq!(
                    says(&suite, &only_job(&suite, run).await?, "dagster").await?,
                    [expected],
                    "{behavior}"
                );
                Ok(())
            })
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn containers_beside_the_op_s_run_too() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let own = json!({
        "container_config": {"name": "first-container"},
        "pod_spec_config": {"containers": [{
            "name": "other-container",
            "image": suite.contract.image("dagster-test")?,
            "image_pull_policy": "IfNotPresent",
            "command": ["echo", "from the other"],
        }]},
    });
    suite
        .succeeded(shell(&suite, "echo from the first", own)?, async |run| {
            let job = only_job(&suite, run).await?;
            assert_eq!(says(&suite, &job, "first-container").await?, ["from the first"]);
            assert_eq!(says(&suite, &job, "other-container").await?, ["from the other"]);
            Ok(())
        })
        .await
}
