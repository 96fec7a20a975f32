//! By what the cluster knows that a container is ready and alive.

use serde_json::{Value, json};

use crate::helm::render;
use crate::values::document;

const WEBSERVER: &str = "dagster-dagster-webserver";
const DAEMON: &str = "dagster-daemon";
const CODE: &str = "dagster-dagster-user-deployments-code";

/// The values of one code server.
fn code(more: Value) -> Value {
    let server =
        json!({"name": "code", "port": 3032, "image": {"repository": "code", "pullPolicy": "Never"}});
    json!({"dagster-user-deployments": {"deployments": [crate::values::merged(&server, &more)]}})
}

const KINDS: [&str; 3] = ["readinessProbe", "livenessProbe", "startupProbe"];

#[tokio::test]
async fn the_webserver_is_asked_and_the_daemon_is_not() -> anyhow::Result<()> {
    let manifests = render(json!({})).await?;
    let asked = json!({
        "httpGet": {"path": "/server_info", "port": 80},
        "periodSeconds": 20, "timeoutSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
    });
    let webserver = manifests.container(WEBSERVER);
    assert_eq!(webserver["readinessProbe"], asked);
    assert!(webserver["livenessProbe"].is_null() && webserver["startupProbe"].is_null(), "{webserver}");
    let daemon = manifests.container(DAEMON);
    assert!(KINDS.iter().all(|kind| daemon[kind].is_null()), "{daemon}");
    Ok(())
}

#[tokio::test]
async fn a_code_server_is_asked_by_its_own_health_service() -> anyhow::Result<()> {
    let asks = json!({"port": 3032, "service": "DagsterApi"});
    let manifests = render(code(json!({}))).await?;
    let container = manifests.container(CODE);
    let expected = json!({"grpc": asks, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 3});
    assert_eq!(container["readinessProbe"], expected);
    assert!(container["livenessProbe"].is_null() && container["startupProbe"].is_null(), "{container}");
    // The same service, as often as is said.
    for kind in KINDS {
        let manifests = render(code(json!({kind: {"enabled": true, "periodSeconds": 9}}))).await?;
        assert_eq!(manifests.container(CODE)[kind], json!({"grpc": asks, "periodSeconds": 9}), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_with_a_handler_is_taken_as_it_is() -> anyhow::Result<()> {
    let probe = json!({"tcpSocket": {"port": 3032}, "periodSeconds": 7});
    for kind in KINDS {
        let given = crate::values::merged(&probe, &json!({"enabled": true}));
        let manifests = render(code(json!({kind: given}))).await?;
        assert_eq!(manifests.container(CODE)[kind], probe, "{kind}");
        let daemon = render(json!({"dagsterDaemon": {kind: given}})).await?;
        assert_eq!(daemon.container(DAEMON)[kind], probe, "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_that_is_switched_off_is_not_there() -> anyhow::Result<()> {
    let off = json!({"enabled": false, "tcpSocket": {"port": 1}});
    for kind in KINDS {
        let manifests = render(code(json!({kind: off}))).await?;
        assert!(manifests.container(CODE)[kind].is_null(), "{kind} of a code server");
        for (part, deployment) in [("dagsterWebserver", WEBSERVER), ("dagsterDaemon", DAEMON)] {
            let manifests = render(json!({part: {kind: off}})).await?;
            assert!(manifests.container(deployment)[kind].is_null(), "{kind} of {part}");
        }
    }
    for kind in ["readinessProbe", "livenessProbe"] {
        let manifests = render(json!({"postgresql": {kind: {"enabled": false}}})).await?;
        let database = manifests.one("StatefulSet", "dagster-postgresql");
        assert!(
            database["spec"]["template"]["spec"]["containers"][0][kind].is_null(),
            "{kind} of the database"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_database_is_asked_by_its_port() -> anyhow::Result<()> {
    let manifests = render(json!({})).await?;
    let database = manifests.one("StatefulSet", "dagster-postgresql");
    let container = &database["spec"]["template"]["spec"]["containers"][0];
    for kind in ["readinessProbe", "livenessProbe"] {
        assert_eq!(container[kind]["tcpSocket"], json!({"port": "tcp-postgresql"}), "{kind}");
    }
    Ok(())
}

#[tokio::test]
async fn celery_s_workers_are_asked_when_they_last_consumed_unless_told_otherwise() -> anyhow::Result<()> {
    let launcher = |more: Value| json!({"runLauncher": {"type": "CeleryK8sRunLauncher", "config": {"celeryK8sRunLauncher": more}}, "rabbitmq": {"enabled": true}});
    let queue = json!({"workerQueues": [{"name": "dagster", "replicaCount": 1}]});
    let worker = "dagster-celery-workers-dagster";
    let manifests = render(launcher(queue.clone())).await?;
    let container = manifests.container(worker);
    for (kind, seconds, period) in
        [("startupProbe", 6, 1), ("readinessProbe", 6, 5), ("livenessProbe", 60, 10)]
    {
        let asks = format!(
            "find /opt/dagster/dagster_home/celery-consuming -newermt '-{seconds} seconds' | grep -q ."
        );
        assert_eq!(container[kind]["exec"]["command"], json!(["/bin/sh", "-c", asks]), "{kind}");
        assert_eq!(container[kind]["periodSeconds"], period, "{kind}");

        let own = json!({kind: {"exec": {"command": ["own"]}}});
        let manifests = render(launcher(crate::values::merged(&queue, &own))).await?;
        assert_eq!(manifests.container(worker)[kind]["exec"]["command"], json!(["own"]), "{kind}");
        let off = json!({kind: {"enabled": false}});
        let manifests = render(launcher(crate::values::merged(&queue, &off))).await?;
        assert!(manifests.container(worker)[kind].is_null(), "{kind} is switched off");
    }
    Ok(())
}

#[tokio::test]
async fn celery_s_broker_is_asked_by_its_port_and_flower_as_it_is_told() -> anyhow::Result<()> {
    let manifests = render(document("celery")?.values).await?;
    let broker = manifests.one("StatefulSet", "dagster-broker");
    let container = &broker["spec"]["template"]["spec"]["containers"][0];
    for (kind, period) in [("readinessProbe", 143), ("livenessProbe", 148)] {
        assert_eq!(container[kind]["tcpSocket"], json!({"port": "amqp"}), "{kind}");
        assert_eq!(container[kind]["periodSeconds"], period, "{kind}");
    }
    let flower = manifests.container("dagster-blossom");
    assert_eq!(flower["readinessProbe"]["httpGet"], json!({"path": "/ready", "port": 8085}));
    assert_eq!(flower["livenessProbe"], json!({"exec": {"command": ["flower-is-alive"]}}));
    assert_eq!(flower["startupProbe"], json!({"exec": {"command": ["flower-has-started"]}}));
    Ok(())
}
