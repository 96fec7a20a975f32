//! `dagster.yaml`, where it is more than the values in another spelling.

use serde_json::{Value, json};

use crate::helm::{NAMESPACE, render};

#[tokio::test]
async fn runs_are_queued_unless_that_is_switched_off() -> anyhow::Result<()> {
    let coordinator =
        async |values: Value| anyhow::Ok(render(values).await?.instance()["run_coordinator"].clone());
    let queued = coordinator(json!({})).await?;
    assert_eq!(queued["class"], "QueuedRunCoordinator");
    assert_eq!(queued["config"], json!({"dequeue_use_threads": true, "dequeue_num_workers": 4}));
    for off in [
        json!({"dagsterDaemon": {"enabled": false}}),
        json!({"dagsterDaemon": {"runCoordinator": {"enabled": false}}}),
    ] {
        // Dagster itself would queue them, with nobody to take them out.
        assert_eq!(coordinator(off.clone()).await?["class"], "DefaultRunCoordinator", "{off}");
    }
    let limited =
        json!({"concurrency": {"enabled": true}, "dagsterDaemon": {"runCoordinator": {"enabled": false}}});
    assert_eq!(coordinator(limited).await?, Value::Null);
    Ok(())
}

#[tokio::test]
async fn runs_in_another_namespace_are_told_where_the_database_is() -> anyhow::Result<()> {
    let host = async |values: Value| {
        let instance = render(values).await?.instance();
        anyhow::Ok(instance["storage"]["postgres"]["postgres_db"]["hostname"].clone())
    };
    assert_eq!(host(json!({})).await?, "dagster-postgresql");
    let elsewhere = json!({"runLauncher": {"config": {"k8sRunLauncher": {"jobNamespace": "runs"}}}});
    assert_eq!(host(elsewhere).await?, format!("dagster-postgresql.{NAMESPACE}.svc"));
    assert_eq!(host(json!({"postgresql": {"postgresqlHost": "my.database"}})).await?, "my.database");
    Ok(())
}

#[tokio::test]
async fn the_password_stands_in_the_secret_alone() -> anyhow::Result<()> {
    let manifests = render(json!({"postgresql": {"postgresqlPassword": "very-secret"}})).await?;
    let told = manifests.told();
    assert_eq!(told.matches("very-secret").count(), 1);
    let password = &manifests.instance()["storage"]["postgres"]["postgres_db"]["password"];
    assert_eq!(password, &json!({"env": "DAGSTER_PG_PASSWORD"}));
    let elsewhere = render(json!({"generatePostgresqlPasswordSecret": false})).await?;
    assert!(elsewhere.names("Secret").is_empty());
    Ok(())
}

#[tokio::test]
async fn what_is_added_to_the_instance_wins() -> anyhow::Result<()> {
    let more = json!({"run_launcher": {"class": "Other"}, "nux": {"enabled": false}});
    let instance = render(json!({"additionalInstanceConfig": more})).await?.instance();
    assert_eq!(instance["run_launcher"]["class"], "Other");
    assert_eq!(instance["run_launcher"]["module"], "dagster_k8s");
    assert_eq!(instance["nux"], json!({"enabled": false}));
    Ok(())
}

#[tokio::test]
async fn a_class_of_one_s_own_takes_the_place_of_each_part() -> anyhow::Result<()> {
    let instance = render(crate::values::document("custom")?.values).await?.instance();
    for (part, module, class, config) in [
        ("run_coordinator", "coordinators", "Coordinator", json!({"of": "coordinator"})),
        ("run_launcher", "launchers", "Launcher", json!({"of": "launcher"})),
        ("scheduler", "schedulers", "Scheduler", json!({"of": "scheduler"})),
        ("compute_logs", "managers", "Manager", json!({"of": "manager"})),
    ] {
        assert_eq!(instance[part], json!({"module": module, "class": class, "config": config}), "{part}");
    }
    Ok(())
}

#[tokio::test]
async fn numbers_stay_numbers() -> anyhow::Result<()> {
    let values = json!({
        "additionalInstanceConfig": {"large": 12_345_678},
        "dagsterDaemon": {"runMonitoring": {"maxRuntimeSeconds": 12_345_678}},
        "postgresql": {"postgresqlExtendedConf": {"maxWalSize": 12_345_678}},
    });
    let manifests = render(values).await?;
    let instance = manifests.instance();
    assert_eq!(instance["large"], 12_345_678);
    assert_eq!(instance["run_monitoring"]["max_runtime_seconds"], 12_345_678);
    let database = manifests.one("StatefulSet", "dagster-postgresql");
    let arguments = &database["spec"]["template"]["spec"]["containers"][0]["args"];
    assert_eq!(arguments, &json!(["postgres", "-c", "max_wal_size=12345678"]));
    Ok(())
}
