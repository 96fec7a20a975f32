//! What a process reads only when it starts restarts its pods when it changes, and those of nobody else.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::helm::{Chart, render, template_of};
use crate::manifests::Manifests;
use crate::values::{document, merged};

const WEBSERVER: &str = "Deployment dagster-web";
const SHOWN: &str = "Deployment dagster-web-read-only";
const DAEMON: &str = "Deployment dagster-daemon";
const FIRST: &str = "Deployment dagster-code-first";
const SECOND: &str = "Deployment dagster-code-second";
const DATABASE: &str = "StatefulSet dagster-db";

fn server(name: &str, more: &Value) -> Value {
    let server = json!({"name": name, "port": 3032, "image": {"repository": "code", "pullPolicy": "Never"}});
    merged(&server, more)
}

fn servers(all: &[Value]) -> Value {
    json!({"dagster-user-deployments": {"deployments": all}})
}

/// Two code servers, and two webservers.
fn base() -> anyhow::Result<Value> {
    let full = document("full")?.values;
    let own = json!({
        "dagster-user-deployments": {"includeInstance": false},
        "dagsterWebserver": {"workspace": {"enabled": false}},
        "migrate": {"enabled": false},
    });
    let servers = servers(&[server("first", &json!({})), server("second", &json!({}))]);
    Ok(merged(&merged(&full, &own), &servers))
}

/// The workloads whose pods a change of `base` replaces.
async fn replaced(base: &Value, change: &Value) -> anyhow::Result<Vec<String>> {
    let (before, after) = tokio::try_join!(render(base.clone()), render(merged(base, change)))?;
    let (before, after) = (workloads(&before), workloads(&after));
    Ok(before.keys().filter(|workload| after.get(*workload) != before.get(*workload)).cloned().collect())
}

/// What pods are made from, without the one of `helm test`.
fn workloads(manifests: &Manifests) -> BTreeMap<String, &Value> {
    let mut pods = manifests.pods();
    pods.retain(|workload, _| !workload.starts_with("Pod "));
    pods
}

async fn check(change: Value, expected: &[&str]) -> anyhow::Result<()> {
    check_of(&base()?, change, expected).await
}

async fn check_of(base: &Value, change: Value, expected: &[&str]) -> anyhow::Result<()> {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(replaced(base, &change).await?, expected, "{change}");
    Ok(())
}

#[tokio::test]
async fn a_part_s_environment_restarts_that_part() -> anyhow::Result<()> {
    check(json!({"dagsterWebserver": {"env": {"OF_WEBSERVER": "changed"}}}), &[WEBSERVER, SHOWN]).await?;
    check(json!({"dagsterDaemon": {"env": {"OF_DAEMON": "changed"}}}), &[DAEMON]).await?;
    // What runs ask for by its name is read by no process here.
    check(json!({"pipelineRun": {"env": {"OF_PIPELINE_RUN": "changed"}}}), &[]).await
}

#[tokio::test]
async fn the_instance_restarts_who_reads_it() -> anyhow::Result<()> {
    for change in [
        json!({"telemetry": {"enabled": false}}),
        json!({"additionalInstanceConfig": {"nux": {"enabled": true}}}),
        json!({"dagsterDaemon": {"runMonitoring": {"pollIntervalSeconds": 9}}}),
        json!({"runLauncher": {"config": {"k8sRunLauncher": {"labels": {"of": "changed"}}}}}),
    ] {
        check(change, &[WEBSERVER, SHOWN, DAEMON]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_shared_environment_restarts_who_reads_it() -> anyhow::Result<()> {
    check(json!({"pipelineRun": {"image": {"tag": "changed"}}}), &[WEBSERVER, SHOWN, DAEMON]).await?;
    let home = json!({"global": {"dagsterHome": "/elsewhere"}});
    check(home, &[WEBSERVER, SHOWN, DAEMON, FIRST, SECOND]).await
}

#[tokio::test]
async fn a_code_server_s_values_restart_that_code_server() -> anyhow::Result<()> {
    let first = server("first", &json!({}));
    let second = |env: &str| server("second", &json!({"env": {"OF_CODE": env}}));
    check(servers(&[first.clone(), second("changed")]), &[SECOND]).await?;
    // A further one is for those who have the workspace.
    let third = server("third", &json!({}));
    check(servers(&[first, server("second", &json!({})), third]), &[WEBSERVER, SHOWN, DAEMON]).await
}

#[tokio::test]
async fn how_many_there_are_restarts_nobody() -> anyhow::Result<()> {
    check(json!({"dagsterWebserver": {"replicaCount": 5}}), &[]).await?;
    let second = server("second", &json!({}));
    check(servers(&[server("first", &json!({"replicaCount": 5})), second]), &[]).await
}

#[tokio::test]
async fn the_database_restarts_by_its_own_values_alone() -> anyhow::Result<()> {
    check(json!({"postgresql": {"podAnnotations": {"of": "changed"}}}), &[DATABASE]).await?;
    check(json!({"postgresql": {"postgresqlExtendedConf": {"maxConnections": 9}}}), &[DATABASE]).await?;
    check(json!({"postgresql": {"service": {"annotations": {"of": "changed"}}}}), &[]).await
}

#[tokio::test]
async fn what_celery_s_workers_read_restarts_those_who_read_it() -> anyhow::Result<()> {
    const FIRST: &str = "Deployment dagster-workers-first";
    const SECOND: &str = "Deployment dagster-workers-second";
    const WEBSERVER: &str = "Deployment dagster-dagster-webserver";
    let celery = document("celery")?.values;
    let launcher = |change: Value| json!({"runLauncher": {"config": {"celeryK8sRunLauncher": change}}});
    let queues = |at: usize, key: &str, value: Value| {
        let mut queues = celery["runLauncher"]["config"]["celeryK8sRunLauncher"]["workerQueues"].clone();
        queues[at][key] = value;
        launcher(json!({"workerQueues": queues}))
    };
    check_of(&celery, queues(1, "configSource", json!({"worker_concurrency": 7})), &[SECOND]).await?;
    check_of(&celery, queues(0, "replicaCount", json!(9)), &[]).await?;
    check_of(&celery, launcher(json!({"env": {"OF_WORKER": "changed"}})), &[FIRST, SECOND]).await?;
    let all = launcher(json!({"configSource": {"worker_concurrency": 122}}));
    check_of(&celery, all, &[WEBSERVER, DAEMON, FIRST, SECOND]).await?;
    // Whoever talks to the broker has its password.
    let password = json!({"rabbitmq": {"rabbitmq": {"password": "changed"}}});
    let (flower, broker) = ("Deployment dagster-blossom", "StatefulSet dagster-broker");
    check_of(&celery, password, &[WEBSERVER, DAEMON, FIRST, SECOND, flower, broker]).await
}

#[tokio::test]
async fn a_new_version_of_the_chart_alone_restarts_nobody() -> anyhow::Result<()> {
    let renewed = tempfile::tempdir()?;
    copy_as_version("9.9.9", &Chart::Dagster.folder(), renewed.path())?;
    for values in [base()?, document("celery")?.values] {
        let before = render(values.clone()).await?;
        let after = template_of(renewed.path(), "dagster", &values).await?.map_err(anyhow::Error::msg)?;
        assert_ne!(before.all(), after.all(), "nothing tells of the version");
        assert_eq!(workloads(&before), workloads(&after));
    }
    Ok(())
}

/// Copies a chart with those that it brings along; all get this version.
fn copy_as_version(version: &str, from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_as_version(version, &from, &to)?;
        } else if entry.file_name() == "Chart.yaml" {
            let text = fs::read_to_string(&from)?;
            let lines = text.lines().map(|line| match line.split_once("version: ") {
                Some((indent, _)) if indent.trim().is_empty() => format!("{indent}version: {version}\n"),
                _ => format!("{line}\n"),
            });
            fs::write(&to, lines.collect::<String>())?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}
