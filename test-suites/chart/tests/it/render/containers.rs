//! What the containers are given: images, environment, and what a code server hands on to the runs of its code.

use serde_json::{Value, json};

use crate::helm::{Chart, NAMESPACE, render, render_as};
use crate::values::{at, document, merged};

const WEBSERVER: &str = "dagster-dagster-webserver";
const DAEMON: &str = "dagster-daemon";
const CODE: &str = "dagster-dagster-user-deployments-code";
const CONTEXT: &str = "DAGSTER_CLI_API_GRPC_CONTAINER_CONTEXT";

fn code(more: &Value) -> Value {
    let server = json!({"name": "code", "port": 3032, "image": {"repository": "code", "tag": "1", "pullPolicy": "Never"}});
    json!({"dagster-user-deployments": {"deployments": [merged(&server, more)]}})
}

/// A variable of a container.
#[track_caller]
fn variable<'a>(container: &'a Value, name: &str) -> &'a Value {
    let all = container["env"].as_array().map_or(&[][..], Vec::as_slice);
    let found: Vec<&Value> = all.iter().filter(|variable| variable["name"] == name).collect();
    let [variable] = found[..] else { panic!("not one {name} but {found:?}") };
    variable
}

#[tokio::test]
async fn an_environment_as_a_map_is_a_config_map() -> anyhow::Result<()> {
    let env = json!({"TEXT": "a: b", "NUMBER": 1, "LARGE": 12_345_678, "BROKEN": 1.5, "ON": true});
    let expected = json!({"TEXT": "a: b", "NUMBER": "1", "LARGE": "12345678", "BROKEN": "1.5", "ON": "true"});
    for (path, map) in [
        ("dagsterWebserver.env", "dagster-webserver-env"),
        ("dagsterDaemon.env", "dagster-daemon-env"),
        ("pipelineRun.env", "dagster-pipeline-env"),
    ] {
        let manifests = render(at(path, env.clone())).await?;
        for (key, value) in expected.as_object().into_iter().flatten() {
            assert_eq!(&manifests.one("ConfigMap", map)["data"][key], value, "{path}: {key}");
        }
    }
    let manifests = render(code(&json!({"env": env}))).await?;
    assert_eq!(manifests.one("ConfigMap", &format!("{CODE}-user-env"))["data"], expected);
    for (deployment, map) in [(WEBSERVER, "dagster-webserver-env"), (DAEMON, "dagster-daemon-env")] {
        assert_eq!(manifests.container(deployment)["envFrom"], json!([{"configMapRef": {"name": map}}]));
    }
    Ok(())
}

#[tokio::test]
async fn an_environment_as_a_list_stays_in_the_container() -> anyhow::Result<()> {
    let of_pod = json!({"name": "OF_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    let values = merged(
        &code(&json!({"env": [of_pod]})),
        &json!({"dagsterWebserver": {"env": [of_pod]}, "dagsterDaemon": {"env": [of_pod]}}),
    );
    let manifests = render(values).await?;
    for (deployment, map) in [
        (WEBSERVER, "dagster-webserver-env"),
        (DAEMON, "dagster-daemon-env"),
        (CODE, &format!("{CODE}-user-env")),
    ] {
        assert_eq!(variable(manifests.container(deployment), "OF_POD"), &of_pod, "{deployment}");
        assert!(manifests.one("ConfigMap", map)["data"]["OF_POD"].is_null(), "{map}");
    }
    Ok(())
}

#[tokio::test]
async fn config_maps_and_secrets_are_read_in_the_order_in_which_they_are_given() -> anyhow::Result<()> {
    let given = json!({
        "envConfigMaps": [{"name": "one"}, {"name": "two", "optional": true}],
        "envSecrets": [{"name": "three"}],
    });
    let values = merged(&code(&given), &json!({"dagsterWebserver": given, "dagsterDaemon": given}));
    let manifests = render(values).await?;
    let further = json!([
        {"configMapRef": {"name": "one"}},
        {"configMapRef": {"name": "two", "optional": true}},
        {"secretRef": {"name": "three"}},
    ]);
    for deployment in [WEBSERVER, DAEMON, CODE] {
        // What is read later wins, so the chart's own comes first.
        let all = manifests.container(deployment)["envFrom"].as_array().cloned().unwrap_or_default();
        assert_eq!(json!(all[all.len() - 3..]), further, "{deployment}");
    }
    Ok(())
}

#[tokio::test]
async fn an_image_is_named_by_its_digest_else_by_its_tag_else_by_dagster_s_version() -> anyhow::Result<()> {
    let version = render(json!({})).await?;
    let version =
        version.one("Deployment", DAEMON)["metadata"]["labels"]["app.kubernetes.io/version"].as_str();
    let version = version.unwrap_or_default().to_owned();
    for (given, expected) in [
        (json!({"tag": "of-tests"}), "a/b:of-tests".to_owned()),
        (json!({"tag": 20_261_122}), "a/b:20261122".to_owned()),
        (json!({"tag": 1.5}), "a/b:1.5".to_owned()),
        (json!({"tag": "of-tests", "digest": "sha256:1"}), "a/b@sha256:1".to_owned()),
        (
            json!({"tag": "", "registry": "registry.example.com"}),
            format!("registry.example.com/a/b:{version}"),
        ),
        (json!({"tag": ""}), format!("a/b:{version}")),
    ] {
        let image = merged(&json!({"repository": "a/b", "pullPolicy": "Never"}), &given);
        let mut values = json!({
            "pipelineRun": {"image": image},
            "runLauncher": {"config": {"k8sRunLauncher": {"image": image}}},
            "postgresql": {"image": merged(&image, &json!({"tag": given["tag"]}))},
        });
        for part in ["dagsterWebserver", "dagsterDaemon"] {
            values = merged(&values, &json!({part: {"image": image}}));
        }
        let manifests = render(merged(&values, &code(&json!({"image": image})))).await?;
        // The launcher's environment comes from the webserver's and the daemon's.
        for deployment in [WEBSERVER, DAEMON, CODE] {
            let container = manifests.container(deployment);
            assert_eq!(
                (&container["image"], &container["imagePullPolicy"]),
                (&json!(expected), &json!("Never")),
                "{deployment}"
            );
        }
        let named =
            &manifests.one("ConfigMap", "dagster-daemon-env")["data"]["DAGSTER_K8S_PIPELINE_RUN_IMAGE"];
        assert_eq!(named, &expected, "DAGSTER_K8S_PIPELINE_RUN_IMAGE");
        assert_eq!(variable(manifests.container(CODE), "DAGSTER_CURRENT_IMAGE")["value"], expected);
        assert_eq!(manifests.instance()["run_launcher"]["config"]["job_image"], expected);
        if given["tag"] != "" {
            let database = manifests.one("StatefulSet", "dagster-postgresql");
            assert_eq!(
                database["spec"]["template"]["spec"]["containers"][0]["image"], expected,
                "the database"
            );
            let waits = &manifests.pod(DAEMON)["spec"]["initContainers"][0];
            assert_eq!(waits["image"], expected, "what waits for the database");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_code_server_hands_its_configuration_on_to_its_runs() -> anyhow::Result<()> {
    let full = document("full")?.values["dagster-user-deployments"].take();
    let server = full["deployments"][0].clone();
    let values = json!({"deployments": full["deployments"], "imagePullSecrets": full["imagePullSecrets"]});
    let manifests = render_as(Chart::UserDeployments, "code", values).await?;
    let name = "code-dagster-user-deployments-first";
    let context = variable(manifests.container(name), CONTEXT)["value"].as_str().unwrap_or_default();
    let context: Value = serde_json::from_str(context)?;
    let expected = json!({"k8s": {
        "image_pull_policy": "IfNotPresent",
        "image_pull_secrets": [{"name": "pull-secret-of-code"}],
        "namespace": NAMESPACE,
        "service_account_name": "account-of-first",
        "env_config_maps": [format!("{name}-user-env"), "map-of-code"],
        "env_secrets": ["secret-of-code"],
        "env": server["env"],
        "volumes": server["volumes"],
        "volume_mounts": server["volumeMounts"],
        "labels": server["labels"],
        "resources": server["resources"],
        "scheduler_name": "scheduler-of-code",
        "run_k8s_config": {
            "pod_spec_config": {
                "automount_service_account_token": true,
                "containers": server["sidecarContainers"],
                "init_containers": server["initContainers"],
            },
            "pod_template_spec_metadata": {"annotations": server["annotations"]},
        },
    }});
    assert_eq!(context, expected);
    Ok(())
}

#[tokio::test]
async fn a_code_server_hands_nothing_on_when_told_so() -> anyhow::Result<()> {
    let off = json!({"includeConfigInLaunchedRuns": {"enabled": false}});
    for (more, variable) in
        [(json!({}), CONTEXT), (json!({"codeServerArgs": ["-m", "code"]}), "DAGSTER_CONTAINER_CONTEXT")]
    {
        let told = |more: &Value| {
            let more = more.clone();
            async move {
                let manifests = render(code(&more)).await?;
                let env = manifests.container(CODE)["env"].as_array().cloned().unwrap_or_default();
                anyhow::Ok(env.iter().any(|given| given["name"] == variable))
            }
        };
        assert!(told(&more).await?, "{variable} is not there");
        assert!(!told(&merged(&more, &off)).await?, "{variable} is there");
    }
    Ok(())
}

#[tokio::test]
async fn a_code_server_is_the_same_alone_and_beside_the_system() -> anyhow::Result<()> {
    let mut values = document("full")?.values["dagster-user-deployments"].take();
    values["includeInstance"] = json!(false);
    let beside = merged(
        &json!({"dagsterWebserver": {"nameOverride": "web"}}),
        &json!({"dagster-user-deployments": values}),
    );
    let beside = render(beside).await?;
    let alone = render_as(Chart::UserDeployments, "dagster", values).await?;
    for object in alone.all() {
        let name = crate::manifests::name(object);
        let same = beside.one(object["kind"].as_str().unwrap_or_default(), name);
        assert_eq!(object, same, "{}", crate::manifests::id(object));
    }
    assert!(alone.all().len() >= 8, "{:?}", alone.all());
    Ok(())
}
