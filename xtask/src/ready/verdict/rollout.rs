//! Rollouts that get no further by themselves.

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::{CauseKind, Finding, Look, is_ready};
use crate::ready::asked::{Item, Kind};
use crate::ready::cause::Cause;
use crate::ready::state::kept_back;

/// Why a StatefulSet does not roll out: where pods follow each other, one that is not ready keeps all others from being made
/// anew, itself too.
/// See <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback>.
pub(super) fn stuck(look: &Look<'_>, item: &Item) -> Option<Finding> {
    let set = look.world.stateful_sets.get(&item.key).filter(|_| item.kind == Kind::StatefulSet)?;
    let (spec, status) = (set.spec.as_ref()?, set.status.as_ref()?);
    let follow = spec.pod_management_policy.as_deref() != Some("Parallel");
    if !follow || kept_back(set) > 0 || status.update_revision == status.current_revision {
        return None;
    }
    let old = look.pods(item).filter(|(_, pod)| {
        let revision = pod.labels().get("controller-revision-hash");
        pod.meta().deletion_timestamp.is_none()
            && revision != status.update_revision.as_ref()
            && !is_ready(pod)
    });
    let found = old.flat_map(|(key, pod)| look.pod(item, key, pod));
    let Finding { cause, doomed_at } =
        found.min_by_key(|finding| finding.doomed_at.unwrap_or(Timestamp::MAX))?;
    let pod = cause.pod.clone().unwrap_or_default();
    let text = format!(
        "its rollout is stuck at the pod {pod}, which is of an older revision and replaced only once it is ready: {}",
        cause.text
    );
    Some(Finding { cause: Cause { kind: CauseKind::Rollout, text, ..cause }, doomed_at })
}
