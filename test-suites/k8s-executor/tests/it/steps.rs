//! Steps that go well: which Jobs and pods they are, and what these are made of.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use suite_support::cluster;
use suite_support::expect::{labels_of_run, no_celery, only, only_container, pull_secrets, sources};
use suite_support::jobs::{CLUSTER_LIMIT, executor, words};
use suite_support::{Launch, Suite};

#[tokio::test]
async fn each_step_is_a_job_and_pod_of_its_own() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    let config = executor(words(&json!(2)), &json!({"job_image": image}));
    suite
        .succeeded(Launch::job("demo_job_k8s").config(config), async |run| {
            assert_eq!(run.tag("dagster/image"), Some(image));
            let (_, pod) = suite.completed(run).await?;
            let log = cluster::logs(&suite.user_pods(), &pod.name_any(), "dagster", None).await?;
            assert!(log.contains("RUN_SUCCESS"), "the log of the run's pod does not tell its success");

            let events = suite.dagster.events(&run.run_id).await?;
            // A step's Job ends a moment after the step.
            let select = Suite::component_of_run(&run.run_id, "step_worker");
            let finished = |jobs: &[Job]| jobs.len() == 2 && jobs.iter().all(cluster::is_finished);
            let what = "two Jobs of steps to end";
            let mut jobs =
                cluster::await_objects(suite.user_jobs(), &select, what, CLUSTER_LIMIT, finished).await?;
            jobs.sort_by_key(|job| job.labels().get("dagster/op").cloned());
            let steps: Vec<_> = jobs.iter().filter_map(|job| job.labels().get("dagster/op")).collect();
            assert_eq!(steps, ["count_letters", "multiply_the_word"]);
            let told = events.iter().filter(|event| event.is("STEP_WORKER_STARTING"));
            let mut told: Vec<_> = told.map(|event| event.message.clone()).collect();
            told.sort();
            let expected = jobs.iter().zip(&steps).map(|(job, step)| {
                format!("Executing step \"{step}\" in Kubernetes job {}.", job.name_any())
            });
            assert_eq!(told, Vec::from_iter(expected));
            for job in &jobs {
                labels_of_run(job, run, "step_worker");
                assert!(cluster::is_complete(job), "{} did not end well", job.name_any());
            }
            let pods = suite.pods_of(run, "step_worker").await?;
            assert_eq!(
                pods.len(),
                2,
                "pods of steps: {:?}",
                pods.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
            );
            for pod in &pods {
                labels_of_run(pod, run, "step_worker");
                assert_eq!(only_container(pod).image.as_deref(), Some(image));
            }
            for pods in [suite.user_pods(), suite.system_pods()] {
                no_celery(&pods).await?;
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_reads_the_file_that_the_launcher_mounts() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(Launch::job("volume_mount_job_k8s"), async |run| {
            let pod = suite.only_step(run).await?;
            let log = cluster::logs(&suite.user_pods(), &pod.name_any(), "dagster", None).await?;
            assert!(
                log.contains("contains 'BAR_CONTENTS'"),
                "the step's log does not tell the file's contents"
            );
            let mounts = only_container(&pod).volume_mounts.iter().flatten();
            let path = "/opt/dagster/test_mount_path/volume_mounted_file.yaml";
            let mounted = mounts.filter(|mount| mount.mount_path == path).count();
            assert_eq!(mounted, 1, "mounts at {path}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_s_pod_inherits_what_the_launcher_is_configured_with() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = executor(json!({}), &json!({"job_image": suite.contract.image("dagster-test")?}));
    suite
        .succeeded(Launch::job("volume_mount_job_k8s").config(config), async |run| {
            let pod = suite.only_step(run).await?;
            labels_of_run(&pod, run, "step_worker");
            let container = only_container(&pod);
            let (maps, secrets) = sources(container);
            assert!(maps.contains(&"test-env-configmap"), "{maps:?}");
            // The code location's as well as the launcher's.
            for name in ["test-env-secret", "test-deployment-env-secret"] {
                assert!(secrets.contains(&name), "{name} is not among {secrets:?}");
            }
            assert!(!maps.contains(&"test-other-env-configmap"), "{maps:?}");
            assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
            assert_eq!(pull_secrets(&pod), ["test-image-pull-secret"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_s_pod_combines_the_launcher_s_and_the_executor_s_configuration() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let (map, secret) = ("test-other-env-configmap", "test-other-env-secret");
    let pull = json!({"name": "test-other-image-pull-secret"});
    // Each twice: that is no error.
    let own = json!({
        "job_image": suite.contract.image("dagster-test")?,
        "env_config_maps": [map, map],
        "env_secrets": [secret, secret],
        "image_pull_secrets": [pull, pull],
        "labels": {"executor_label_key": "executor_label_value"},
    });
    let config = executor(words(&json!(2)), &own);
    suite
        .succeeded(Launch::job("demo_job_k8s").config(config), async |run| {
            let pods = suite.pods_of(run, "step_worker").await?;
            let of_count =
                |pod: &&Pod| pod.labels().get("dagster/op").is_some_and(|op| op == "count_letters");
            let pods: Vec<Pod> = pods.iter().filter(of_count).cloned().collect();
            let pod = only(&pods, "pod of count_letters");
            labels_of_run(pod, run, "step_worker");
            let label = pod.labels().get("executor_label_key").map(String::as_str);
            assert_eq!(label, Some("executor_label_value"));
            let (maps, secrets) = sources(only_container(pod));
            for name in ["test-env-configmap", "test-other-env-configmap"] {
                assert!(maps.contains(&name), "{name} is not among {maps:?}");
            }
            for name in ["test-env-secret", "test-other-env-secret"] {
                assert!(secrets.contains(&name), "{name} is not among {secrets:?}");
            }
            let mut pulled_with = pull_secrets(pod);
            pulled_with.sort_unstable();
            pulled_with.dedup();
            assert_eq!(pulled_with, ["test-image-pull-secret", "test-other-image-pull-secret"]);
            // The run's own pod has the launcher's alone.
            let (_, run_pod) = suite.completed(run).await?;
            assert!(!run_pod.labels().contains_key("executor_label_key"));
            let (maps, _) = sources(only_container(&run_pod));
            assert!(!maps.contains(&"test-other-env-configmap"), "{maps:?}");
            Ok(())
        })
        .await
}

#[tokio::test]
async fn without_an_image_of_its_own_a_step_takes_the_code_location_s() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    suite
        .succeeded(Launch::job("volume_mount_job_k8s"), async |run| {
            assert_eq!(run.tag("dagster/image"), Some(image));
            let pod = suite.only_step(run).await?;
            assert_eq!(only_container(&pod).image.as_deref(), Some(image));
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_step_s_container_has_the_resources_of_its_op_s_tags() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(Launch::job("resources_limit_job_k8s"), async |run| {
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
