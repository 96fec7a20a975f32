//! Steps that go well: what their pods are made of.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use suite_support::calm;
use suite_support::cluster;
use suite_support::expect::{labels_of_run, only, only_container, pull_secrets, sources};
use suite_support::{Launch, Suite};

#[tokio::test]
async fn a_step_s_pod_has_what_the_launcher_is_configured_with() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    let image = suite.contract.image("dagster-test")?;
    suite
        .succeeded(Launch::job("volume_mount_job_celery_k8s"), async |run| {
            let (_, run_pod) = suite.completed(run).await?;
            let pod = suite.only_step(run).await?;
            assert_eq!(run.tag("dagster/image"), Some(image));
            labels_of_run(&run_pod, run, "run_worker");
            labels_of_run(&pod, run, "step_worker");
            for pod in [&run_pod, &pod] {
                let container = only_container(pod);
                // Neither launcher nor executor names one, so the code location's counts.
                assert_eq!(container.image.as_deref(), Some(image));
                assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
                assert_eq!(pull_secrets(pod), ["test-image-pull-secret"]);
                let (maps, secrets) = sources(container);
                for name in ["test-env-configmap", "test-aws-env-configmap", "dagster-pipeline-env"] {
                    assert!(maps.contains(&name), "{name} is not among {maps:?}");
                }
                for name in ["test-env-secret", "dagster-celery-config-secret"] {
                    assert!(secrets.contains(&name), "{name} is not among {secrets:?}");
                }
                // This launcher does not read what a code location hands on.
                assert!(!secrets.contains(&"test-deployment-env-secret"), "{secrets:?}");
                let mounts = container.volume_mounts.iter().flatten();
                let path = "/opt/dagster/test_mount_path/volume_mounted_file.yaml";
                assert_eq!(mounts.filter(|mount| mount.mount_path == path).count(), 1, "mounts at {path}");
            }
            let log = cluster::logs(&suite.user_pods(), &pod.name_any(), "dagster", None).await?;
            assert!(
                log.contains("contains 'BAR_CONTENTS'"),
                "the step's log does not tell the file's contents"
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn only_the_ops_that_are_selected_run() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    // What the other op would give comes from the run config.
    let config = json!({"ops": {"count_letters": {"inputs": {"word": "bar"}}}});
    suite
        .succeeded(Launch::job("demo_job_celery_k8s").config(config).op("count_letters"), async |run| {
            let events = suite.dagster.events(&run.run_id).await?;
            let started = events.iter().filter(|event| event.is("STEP_START"));
            let started: Vec<_> = started.filter_map(|event| event.step_key.as_deref()).collect();
            assert_eq!(started, ["count_letters"]);
            let jobs = suite.jobs_of(run, "step_worker").await?;
            let op = only(&jobs, "Job of a step").labels().get("dagster/op").map(String::as_str);
            assert_eq!(op, Some("count_letters"));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_s_container_has_the_resources_of_its_op_s_tags() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let _calm = calm::beside_others(&suite).await?;
    suite
        .succeeded(Launch::job("resources_limit_job_celery_k8s"), async |run| {
            let resources = |pod: &Pod| -> anyhow::Result<Value> {
                Ok(serde_json::to_value(&only_container(pod).resources)?)
            };
            let expected = json!({
                "requests": {"cpu": "25m", "memory": "64Mi"},
                "limits": {"cpu": "500m", "memory": "2560Mi"},
            });
            assert_eq!(resources(&suite.only_step(run).await?)?, expected);
            let (_, run_pod) = suite.completed(run).await?;
            assert_ne!(resources(&run_pod)?, expected, "the op's resources are the run's too");
            Ok(())
        })
        .await
}
