//! Several levels at once: each adds what it says, and where two say the same the narrower one wins.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use suite_support::expect::{only_container, pull_secrets, sources};
use suite_support::jobs::executor;
use suite_support::{Launch, Suite};

use crate::{TAG, grace, tagged, variable};

/// What launcher, code location, run, executor and step all say.
fn layer(pod: &Pod) -> Option<&str> {
    pod.labels().get("layer").map(String::as_str)
}

#[tokio::test]
async fn the_launcher_and_the_code_location_both_make_the_run_s_pod() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .succeeded(tagged(&json!({})), async |run| {
            let (_, pod) = suite.completed(run).await?;
            let (maps, secrets) = sources(only_container(&pod));
            assert!(maps.contains(&"test-env-configmap"), "the launcher's ConfigMap is not among {maps:?}");
            assert!(!maps.contains(&"test-other-env-configmap"), "{maps:?}");
            for (level, secret) in
                [("launcher", "test-env-secret"), ("code location", "test-deployment-env-secret")]
            {
                assert!(secrets.contains(&secret), "the secret of the {level} is not among {secrets:?}");
            }
            let label = pod.labels().get("run_launcher_label_key").map(String::as_str);
            assert_eq!(label, Some("run_launcher_label_value"));
            assert_eq!(layer(&pod), Some("location"), "what both say is the code location's");
            assert_eq!(pull_secrets(&pod), ["test-image-pull-secret"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn of_several_levels_the_narrowest_wins_and_all_add() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let level = |name: &str, seconds: u32| {
        json!({
            "container_config": {"env": [{"name": name, "value": "yes"}]},
            "pod_template_spec_metadata": {"labels": {"layer": name}},
            "pod_spec_config": {"termination_grace_period_seconds": seconds},
        })
    };
    let steps = json!({
        "step_k8s_config": level("AT_EXECUTOR", 42),
        "per_step_k8s_config": {"named_op": level("AT_STEP", 44)},
    });
    let launch = Launch::job("layers_job_k8s").config(executor(json!({}), &steps));
    suite
        .succeeded(launch.tag(TAG, level("AT_RUN", 41).to_string()), async |run| {
            let (_, pod) = suite.completed(run).await?;
            assert_eq!((grace(&pod), layer(&pod)), (Some(41), Some("AT_RUN")));
            assert_eq!(variable(only_container(&pod), "AT_RUN"), Some("yes"));

            let pods = suite.pods_of(run, "step_worker").await?;
            assert_eq!(pods.len(), 3);
            for (op, seconds, label, levels) in [
                ("plain_op", 42, "AT_EXECUTOR", &["AT_EXECUTOR"][..]),
                // The op has no label.
                ("tagged_op", 43, "AT_EXECUTOR", &["AT_EXECUTOR", "AT_OP"]),
                ("named_op", 44, "AT_STEP", &["AT_EXECUTOR", "AT_OP", "AT_STEP"]),
            ] {
                let pod = pods.iter().find(|pod| pod.labels().get("dagster/op").is_some_and(|of| of == op));
                let pod = pod.unwrap_or_else(|| panic!("{op} has no pod"));
                assert_eq!((grace(pod), layer(pod)), (Some(seconds), Some(label)), "{op}");
                // A run's tag is for the run's pod alone.
                for name in ["AT_RUN", "AT_EXECUTOR", "AT_OP", "AT_STEP"] {
                    let expected = levels.contains(&name).then_some("yes");
                    assert_eq!(variable(only_container(pod), name), expected, "{name} of {op}");
                }
            }
            Ok(())
        })
        .await
}
