//! Containers that run and are not ready.

use k8s_openapi::api::core::v1::ContainerStatus;

use super::{CauseKind, Finding, Look, after};
use crate::ready::cause::Cause;
use crate::ready::object::Key;

/// Statuses by which a server says that nothing is where the probe looks.
const REFUSED: [&str; 4] = ["statuscode: 404", "statuscode: 401", "statuscode: 403", "statuscode: 405"];

pub(super) fn judge(look: &Look<'_>, key: &Key, status: &ContainerStatus) -> Option<Finding> {
    let running = status.state.as_ref().and_then(|state| state.running.as_ref())?;
    if status.ready {
        return None;
    }
    let events = look.world.events_of("Pod", key);
    let failed = events.into_iter().rev().find(|event| {
        event.reason.as_deref() == Some("Unhealthy")
            && event
                .involved_object
                .field_path
                .as_deref()
                .is_none_or(|path| path.ends_with(&format!("{{{}}}", status.name)))
    })?;
    let said = failed.message.clone().unwrap_or_default();
    let kind = said.split_whitespace().next().unwrap_or_default().to_lowercase();
    let what =
        if ["readiness", "startup"].contains(&&*kind) { format!("{kind} probe") } else { "probe".to_owned() };
    let text = format!("the container {} runs, and its {what} fails", status.name);
    let cause = Cause::new(CauseKind::Readiness, text).said(&said);
    // Any other answer may become a good one; this one says that the address is wrong.
    let refused = REFUSED.iter().any(|status| said.contains(status));
    let started = running.started_at.as_ref().map(|time| time.0);
    let first = look.world.first_time(failed).or(started);
    Some(if refused && kind != "liveness" {
        Finding::until(cause, after(first, look.patience.probe))
    } else {
        Finding::open(cause)
    })
}
