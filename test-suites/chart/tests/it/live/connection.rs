//! `helm test` tells of a webserver that is away.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use suite_support::{Suite, cluster};

use crate::helm;

/// Until the pod that asks has started, asked, and been seen to end.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn helm_test_fails_while_the_webserver_is_away() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let namespace = suite.contract.namespace("rights")?;
    let ended =
        helm::run(&["test", "rights", "--namespace", namespace, "--timeout", "100s"], "", LIMIT).await?;
    assert!(!ended.well, "helm test passes: {}", ended.stdout);
    // For that reason, and no other.
    let pods: Api<Pod> = Api::namespaced(suite.client().clone(), namespace);
    let log = cluster::logs(&pods, "rights-dagster-test-connection", "ask-webserver", None).await?;
    assert!(log.contains("urllib.error.URLError"), "{log}\n{}", ended.stderr);
    Ok(())
}
