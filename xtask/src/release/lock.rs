//! Releases that a helm which was ended half-way has left locked.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};

use crate::ledger::ReleaseName;

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
    let pending = "status in (pending-install,pending-upgrade,pending-rollback)";
    let revisions = ListParams::default().labels(&format!("owner=helm,name={name},{pending}"));
    secrets.delete_collection(&DeleteParams::default(), &revisions).await.with_context(|| {
        format!("unlock the release {name} in {namespace}, which was left half installed")
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn only_a_lock_is_taken_for_a_lock() {
        let text = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress";
        assert!(is_locked(&anyhow!("`helm upgrade` ended with status 1:\n    {text}")));
        assert!(!is_locked(&anyhow!("Error: UPGRADE FAILED: timed out waiting for the condition")));
    }
}
