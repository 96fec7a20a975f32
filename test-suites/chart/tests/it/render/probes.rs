//! By what the cluster knows that a container is ready and alive.

use serde_json::{Value, json};

use crate::helm::render;

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
