//! A run's own pod, as a tag configures it.

use kube::ResourceExt;
use serde_json::{Value, json};
use suite_support::cluster;
use suite_support::expect::{only_container, pull_secrets, sources};
use suite_support::jobs::in_process;
use suite_support::{Launch, Suite};

use crate::{TAG, account, mounts, tagged};

#[tokio::test]
async fn environment_of_configmaps_and_secrets_is_added() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = json!({"container_config": {"env_from": [
        {"config_map_ref": {"name": "test-other-env-configmap"}},
        {"secret_ref": {"name": "test-other-env-secret"}},
    ]}});
    let values = [("TEST_OTHER_ENV_VAR", "bazquux"), ("TEST_OTHER_SECRET_ENV_VAR", "bazquux")];
    let names = values.map(|(name, _)| name);
    let run_config = in_process(json!({"ops": {"tell_variables": {"config": {"names": names}}}}));
    let launch = Launch::job("variables_job").config(run_config).tag(TAG, config.to_string());
    suite
        .succeeded(launch, async |run| {
            let (_, pod) = suite.completed(run).await?;
            let (maps, secrets) = sources(only_container(&pod));
            for name in ["test-env-configmap", "test-other-env-configmap"] {
                assert!(maps.contains(&name), "{name} is not among {maps:?}");
            }
            for name in ["test-env-secret", "test-other-env-secret"] {
                assert!(secrets.contains(&name), "{name} is not among {secrets:?}");
            }
            let events = suite.dagster.events(&run.run_id).await?;
            for (name, value) in values {
                let told = format!("{name} is {value}");
                assert!(events.iter().any(|event| event.message == told), "the run does not tell: {told}");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_volume_is_there_before_the_run_starts() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let mount = json!({"name": "other", "mount_path": "/opt/other"});
    let config = json!({
        "container_config": {"volume_mounts": [mount]},
        "pod_spec_config": {
            "volumes": [{"name": "other", "config_map": {"name": "test-volume-configmap"}}],
            "init_containers": [{
                "name": "look",
                "image": suite.contract.image("dagster-test")?,
                "image_pull_policy": "IfNotPresent",
                "command": ["cat", "/opt/other/volume_mounted_file.yaml"],
                "volume_mounts": [mount],
            }],
        },
    });
    suite
        .succeeded(tagged(&config), async |run| {
            let (_, pod) = suite.completed(run).await?;
            let seen = cluster::logs(&suite.user_pods(), &pod.name_any(), "look", None).await?;
            assert_eq!(seen, "BAR_CONTENTS");
            let paths = mounts(only_container(&pod));
            // The launcher's stays.
            for path in ["/opt/other", "/opt/dagster/test_mount_path/volume_mounted_file.yaml"] {
                assert!(paths.contains(&path), "{path} is not among {paths:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn another_container_works_beside_the_run() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = json!({"pod_spec_config": {"containers": [{
        "name": "side",
        "image": suite.contract.image("dagster-test")?,
        "image_pull_policy": "IfNotPresent",
        "command": ["echo", "beside"],
    }]}});
    suite
        .succeeded(tagged(&config), async |run| {
            let pods = suite.pods_of(run, "run_worker").await?;
            let containers = pods.iter().flat_map(|pod| pod.spec.iter().flat_map(|spec| &spec.containers));
            let names: Vec<_> = containers.map(|container| container.name.as_str()).collect();
            assert_eq!(names, ["dagster", "side"]);
            let said = cluster::logs(&suite.user_pods(), &pods[0].name_any(), "side", None).await?;
            assert_eq!(said.trim(), "beside");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn resources_and_security_context_are_the_container_s() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let resources = json!({"requests": {"cpu": "60m", "memory": "70Mi"}, "limits": {"memory": "1Gi"}});
    let config = json!({"container_config": {
        "resources": resources,
        "security_context": {"allow_privilege_escalation": false, "capabilities": {"drop": ["NET_RAW"]}},
    }});
    suite
        .succeeded(tagged(&config), async |run| {
            let (_, pod) = suite.completed(run).await?;
            let container: Value = serde_json::to_value(only_container(&pod))?;
            assert_eq!(container["resources"], resources);
            let expected = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["NET_RAW"]}});
            assert_eq!(container["securityContext"], expected);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn service_account_and_pull_secrets_are_the_pod_s() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = json!({"pod_spec_config": {
        "service_account_name": "default",
        "image_pull_secrets": [{"name": "test-other-image-pull-secret"}],
    }});
    suite
        .succeeded(tagged(&config), async |run| {
            let (_, pod) = suite.completed(run).await?;
            assert_eq!(account(&pod), Some("default"));
            let secrets = pull_secrets(&pod);
            for name in ["test-image-pull-secret", "test-other-image-pull-secret"] {
                assert!(secrets.contains(&name), "{name} is not among {secrets:?}");
            }
            Ok(())
        })
        .await
}
