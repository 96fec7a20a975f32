//! `helm test` tells of a webserver that is away.

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Suite, cluster};

use crate::helm;

#[tokio::test]
async fn helm_test_fails_while_the_webserver_is_away() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let namespace = suite.contract.namespace("rights")?;
    // Until the pod that asks has started, asked, and been seen to end.
    let test = ["test", "rights", "--namespace", namespace, "--timeout", "300s"];
    let ended = helm::run(&test, "", RUN_LIMIT).await?;
    assert!(!ended.well, "helm test passes: {}", ended.stdout);
    // For that reason, and no other.
    let pods: Api<Pod> = Api::namespaced(suite.client().clone(), namespace);
    let log = cluster::logs(&pods, "rights-dagster-test-connection", "ask-webserver", None).await?;
    assert!(log.contains("urllib.error.URLError"), "{log}\n{}", ended.stderr);
    Ok(())
}
