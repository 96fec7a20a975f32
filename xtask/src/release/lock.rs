//! Releases that a helm which was ended half-way has left locked.

use anyhow::{Context, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};

use crate::labels;
use crate::ledger::ReleaseName;

/// Selects the revisions that were begun and not ended.
const PENDING: &str = "status in (pending-install,pending-upgrade,pending-rollback)";

/// Whether helm refused to work because it, or another helm, has begun and not ended.
pub(super) fn is_locked(error: &anyhow::Error) -> bool {
    // helm's pkg/action.errPending, the same in its versions 3 and 4.
    format!("{error:#}").contains("another operation (install/upgrade/rollback) is in progress")
}

/// Takes away the revisions of a release that were begun and not ended; those that were stay helm's history.
///
/// Only for namespaces of ours, where nobody else's helm can be at work. A rollback would do as well, but not where
/// the first revision was cut off.
pub(super) async fn unlock(client: &Client, release: &ReleaseName) -> Result<()> {
    let ReleaseName { name, namespace } = release;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let revisions = ListParams::default().labels(&format!("owner=helm,name={name},{PENDING}"));
    secrets.delete_collection(&DeleteParams::default(), &revisions).await.with_context(|| {
        format!("unlock the release {name} in {namespace}, which was left half installed")
    })?;
    Ok(())
}

/// Whether the revisions of a release that were begun and not ended are all of runs of ours whose lease is over.
pub(super) async fn is_of_a_dead_run(client: &Client, release: &ReleaseName, now: Timestamp) -> Result<bool> {
    let ReleaseName { name, namespace } = release;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let pending = secrets
        .list_metadata(&ListParams::default().labels(&format!("owner=helm,name={name},{PENDING}")))
        .await
        .with_context(|| format!("look at the revisions of the release {name} in {namespace}"))?;
    let metas: Vec<&ObjectMeta> = pending.items.iter().map(|revision| &revision.metadata).collect();
    Ok(is_dead(&metas, now))
}

fn is_dead(pending: &[&ObjectMeta], now: Timestamp) -> bool {
    let over = |meta: &&ObjectMeta| {
        let ours = meta.labels.as_ref().is_some_and(|labels| labels.contains_key(labels::RUN));
        ours && meta.annotations.as_ref().is_some_and(|annotations| labels::expired(annotations, now))
    };
    !pending.is_empty() && pending.iter().all(over)
}

/// What to do about a lock that is not ours to take away.
pub(super) fn explain(release: &ReleaseName) -> String {
    let ReleaseName { name, namespace } = release;
    format!(
        "another helm works on the release {name} in {namespace}, or was ended half-way; see `helm history {name} --namespace {namespace}`, and if nobody works on it `helm rollback {name} --namespace {namespace}`, or `helm uninstall {name} --namespace {namespace}` where no revision was ever deployed"
    )
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn only_the_lock_of_a_dead_run_is_ours_to_take_away() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let meta = |text: &str| -> ObjectMeta { serde_yaml::from_str(text).unwrap() };
        let of = |time: &str| {
            meta(&format!(
                "{{labels: {{k8s-test.local/run: r}}, annotations: {{k8s-test.local/expires: '{time}'}}}}"
            ))
        };
        let (dead, alive) = (of("2026-01-01T00:00:00Z"), of("2026-01-02T00:05:00Z"));
        let theirs = meta("annotations: {k8s-test.local/expires: '2026-01-01T00:00:00Z'}");
        assert!(is_dead(&[&dead], now));
        assert!(!is_dead(&[&dead, &alive], now));
        assert!(!is_dead(&[&dead, &theirs], now));
        assert!(!is_dead(&[&meta("labels: {k8s-test.local/run: r}")], now));
        assert!(!is_dead(&[], now));
    }

    #[test]
    fn only_a_lock_is_taken_for_a_lock() {
        let text = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress";
        assert!(is_locked(&anyhow!("`helm upgrade` ended with status 1:\n    {text}")));
        assert!(!is_locked(&anyhow!("Error: UPGRADE FAILED: timed out waiting for the condition")));
    }
}
