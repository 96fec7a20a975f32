//! Several levels at once: each adds what it says, and where two say the same the narrower one wins.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use kube::ResourceExt;
use serde_json::{Value, json};
use suite_support::expect::{only, only_container, pull_secrets, sources};
use suite_support::jobs::{executor, in_process};
use suite_support::{Launch, Suite};

use crate::{TAG, account, grace, mounts, tagged, variable};

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
            assert!(!maps.contains(&"test-other-env-configmap"), "{maps:?}");
            for (level, map, secret) in [
                ("launcher", "test-env-configmap", "test-env-secret"),
                ("code location", "test-deployment-env-configmap", "test-deployment-env-secret"),
            ] {
                assert!(maps.contains(&map), "the ConfigMap of the {level} is not among {maps:?}");
                assert!(secrets.contains(&secret), "the secret of the {level} is not among {secrets:?}");
            }
            let label = pod.labels().get("run_launcher_label_key").map(String::as_str);
            assert_eq!(label, Some("run_launcher_label_value"));
            assert_eq!(layer(&pod), Some("location"), "what both say is the code location's");
            assert_eq!(pull_secrets(&pod), ["test-image-pull-secret"]);
            let paths = mounts(only_container(&pod));
            for path in ["/launcher-volume", "/location-volume"] {
                assert!(paths.contains(&path), "{path} is not among {paths:?}");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_tag_of_the_job_makes_the_run_s_pod_and_one_of_the_run_takes_its_place() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let job = || Launch::job("tagged_job").config(in_process(json!({})));
    suite
        .succeeded(job(), async |run| {
            let (_, pod) = suite.completed(run).await?;
            assert_eq!(layer(&pod), Some("AT_JOB"));
            let container = only_container(&pod);
            assert_eq!(variable(container, "AT_JOB"), Some("yes"));
            assert!(mounts(container).contains(&"/at-job"), "{:?}", mounts(container));
            let (maps, secrets) = sources(container);
            assert!(maps.contains(&"test-other-env-configmap"), "{maps:?}");
            assert!(secrets.contains(&"test-other-env-secret"), "{secrets:?}");
            Ok(())
        })
        .await?;
    let of_run = json!({"pod_template_spec_metadata": {"labels": {"layer": "AT_RUN"}}});
    suite
        .succeeded(job().tag(TAG, of_run.to_string()), async |run| {
            let (_, pod) = suite.completed(run).await?;
            assert_eq!(layer(&pod), Some("AT_RUN"));
            // A tag has one value: Dagster does not merge the two.
            let container = only_container(&pod);
            assert_eq!(variable(container, "AT_JOB"), None);
            assert!(!mounts(container).contains(&"/at-job"), "{:?}", mounts(container));
            let (maps, secrets) = sources(container);
            assert!(!maps.contains(&"test-other-env-configmap"), "{maps:?}");
            assert!(!secrets.contains(&"test-other-env-secret"), "{secrets:?}");
            Ok(())
        })
        .await
}

/// What a level says of its pods: of everything one, named after the level.
fn level(name: &str, number: u32, image: &str) -> Value {
    let own = own(name);
    let mut said = json!({
        "container_config": {
            "env": [{"name": name, "value": "yes"}, {"name": "LEVEL", "value": name}],
            "env_from": [
                {"config_map_ref": {"name": own, "optional": true}},
                {"secret_ref": {"name": own, "optional": true}},
            ],
            "volume_mounts": [{"name": own, "mount_path": format!("/{own}")}],
            "security_context": {"run_as_group": number},
            "resources": {"requests": {"memory": format!("{number}Mi")}},
        },
        "pod_template_spec_metadata": {"labels": {"layer": name}},
        "pod_spec_config": {
            "termination_grace_period_seconds": number,
            "image_pull_secrets": [{"name": own}],
            "volumes": [{"name": own, "empty_dir": {}}],
        },
    });
    for (kind, prefix) in [("init_containers", "before"), ("containers", "beside")] {
        said["pod_spec_config"][kind] = json!([{
            "name": format!("{prefix}-{own}"),
            "image": image,
            "image_pull_policy": "IfNotPresent",
            "command": ["true"],
        }]);
    }
    said
}

fn own(level: &str) -> String {
    level.to_lowercase().replace('_', "-")
}

/// A pod is made of what these levels say, the narrowest last, and of what the launcher and the code location say.
#[track_caller]
fn made_of(pod: &Pod, levels: &[&str], number: u32) {
    let what = pod.name_any();
    let spec: &PodSpec = pod.spec.as_ref().unwrap();
    let container = spec.containers.iter().find(|container| container.name == "dagster").unwrap();
    let named = |prefix: &str, levels: &[&str]| -> Vec<String> {
        levels.iter().map(|level| format!("{prefix}{}", own(level))).collect()
    };

    let (maps, secrets) = sources(container);
    let mounts = mounts(container);
    let volumes: Vec<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let pulls = pull_secrets(pod);
    assert!(pulls.contains(&"test-image-pull-secret"), "the launcher's is not among {pulls:?} of {what}");
    for name in ["AT_RUN", "AT_EXECUTOR", "AT_OP", "AT_STEP"] {
        let is_there = levels.contains(&name);
        let own = own(name);
        assert_eq!(variable(container, name), is_there.then_some("yes"), "{name} of {what}");
        assert_eq!(maps.contains(&own.as_str()), is_there, "{own} among {maps:?} of {what}");
        assert_eq!(secrets.contains(&own.as_str()), is_there, "{own} among {secrets:?} of {what}");
        assert_eq!(volumes.contains(&own.as_str()), is_there, "{own} among {volumes:?} of {what}");
        assert_eq!(pulls.contains(&own.as_str()), is_there, "{own} among {pulls:?} of {what}");
        let path = format!("/{own}");
        assert_eq!(mounts.contains(&path.as_str()), is_there, "{path} among {mounts:?} of {what}");
    }
    for volume in ["test-volume", "launcher-volume", "location-volume"] {
        assert!(volumes.contains(&volume), "{volume} is not among {volumes:?} of {what}");
    }
    for path in ["/launcher-volume", "/location-volume"] {
        assert!(mounts.contains(&path), "{path} is not among {mounts:?} of {what}");
    }

    // A container needs an image, which an op's tags do not know.
    let with_image: Vec<&str> = levels.iter().copied().filter(|level| *level != "AT_OP").collect();
    let names = |containers: &[Container]| -> Vec<String> {
        containers.iter().map(|container| container.name.clone()).filter(|name| name != "dagster").collect()
    };
    let before = names(spec.init_containers.as_deref().unwrap_or_default());
    assert_eq!(before, named("before-", &with_image), "init containers of {what}");
    assert_eq!(names(&spec.containers), named("beside-", &with_image), "containers of {what}");

    let group = container.security_context.as_ref().and_then(|context| context.run_as_group);
    assert_eq!((grace(pod), group), (Some(number.into()), Some(number.into())), "{what}");
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let memory = requests.and_then(|requests| requests.get("memory")).map(|memory| memory.0.clone());
    assert_eq!(memory, Some(format!("{number}Mi")), "{what}");
}

#[tokio::test]
async fn of_several_levels_the_narrowest_wins_and_all_add() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    let mut of_executor = level("AT_EXECUTOR", 42, image);
    of_executor["pod_spec_config"]["service_account_name"] = json!("default");
    let env_from = of_executor["container_config"]["env_from"].as_array_mut().unwrap();
    env_from.push(json!({"config_map_ref": {"name": "test-other-env-configmap"}}));
    let mut of_step = level("AT_STEP", 44, image);
    of_step["pod_spec_config"]["service_account_name"] = json!("default");
    let steps = json!({"step_k8s_config": of_executor, "per_step_k8s_config": {"named_op": of_step}});
    let launch = Launch::job("layers_job_k8s").config(executor(json!({}), &steps));
    suite
        .succeeded(launch.tag(TAG, level("AT_RUN", 41, image).to_string()), async |run| {
            let pods = suite.pods_of(run, "run_worker").await?;
            let pod = only(&pods, "pod of the run");
            assert_eq!(layer(pod), Some("AT_RUN"));
            assert_ne!(account(pod), Some("default"));
            made_of(pod, &["AT_RUN"], 41);

            let pods = suite.pods_of(run, "step_worker").await?;
            assert_eq!(pods.len(), 3);
            for (op, number, label, of_account, levels) in [
                ("plain_op", 42, "AT_EXECUTOR", "default", &["AT_EXECUTOR"][..]),
                // The op has no label.
                ("tagged_op", 43, "AT_EXECUTOR", "makes-config-maps", &["AT_EXECUTOR", "AT_OP"]),
                ("named_op", 44, "AT_STEP", "default", &["AT_EXECUTOR", "AT_OP", "AT_STEP"]),
            ] {
                let pod = pods.iter().find(|pod| pod.labels().get("dagster/op").is_some_and(|of| of == op));
                let pod = pod.unwrap_or_else(|| panic!("{op} has no pod"));
                assert_eq!((layer(pod), account(pod)), (Some(label), Some(of_account)), "{op}");
                // A run's tag is for the run's pod alone.
                made_of(pod, levels, number);
            }
            let events = suite.dagster.events(&run.run_id).await?;
            for told in [
                "plain_op sees AT_EXECUTOR, bazquux, nothing",
                "tagged_op sees AT_OP, bazquux, bazquux",
                "named_op sees AT_STEP, bazquux, bazquux",
            ] {
                assert!(events.iter().any(|event| event.message == told), "no step tells: {told}");
            }
            Ok(())
        })
        .await
}
