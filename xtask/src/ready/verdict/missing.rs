//! What a container needs and does not find: ConfigMaps, Secrets, keys in them; and what its specification contradicts.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ContainerStatus;

use super::{CauseKind, Finding, Look, after};
use crate::ready::cause::Cause;
use crate::ready::object::Key;

/// How long the kubelet's view may be behind the API server's.
const SETTLE: Duration = Duration::from_secs(2);

/// What the kubelet says is missing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Missing<'a> {
    Object(&'static str, &'a str),
    Key(&'static str, &'a str, &'a str),
}

/// Reads the kubelet's words, those of a container's wait and those of a mount that failed.
pub(super) fn read(said: &str) -> Option<Missing<'_>> {
    for (word, kind) in [("configmap", "ConfigMap"), ("secret", "Secret")] {
        let start = format!("{word} \"");
        if let Some(rest) = said.split(start.as_str()).nth(1)
            && let Some((name, rest)) = rest.split_once('"')
            && rest.starts_with(" not found")
        {
            return Some(Missing::Object(kind, name));
        }
        if let Some(rest) = said.split("couldn't find key ").nth(1)
            && let Some((key, object)) = rest.split_once(&format!(" in {kind} "))
        {
            let name = object.split_whitespace().next().unwrap_or_default();
            return Some(Missing::Key(kind, name.rsplit('/').next().unwrap_or(name), key));
        }
    }
    for (start, kind) in [
        ("references non-existent secret key: ", "Secret"),
        ("references non-existent config key: ", "ConfigMap"),
    ] {
        if let Some(key) = said.split(start).nth(1) {
            return Some(Missing::Key(kind, "", key.split_whitespace().next().unwrap_or_default()));
        }
    }
    None
}

/// The finding for what is missing since then; who may yet make it decides how long it may be missing.
pub(super) fn finding(
    look: &Look<'_>,
    namespace: &str,
    missing: &Missing<'_>,
    said: &str,
    since: Option<Timestamp>,
) -> Finding {
    match missing {
        Missing::Object(kind, name) => {
            let cause_kind =
                if *kind == "Secret" { CauseKind::SecretMissing } else { CauseKind::ConfigMapMissing };
            let cause = Cause::new(cause_kind, format!("the {kind} {name} does not exist")).said(said);
            Finding::until(cause, patience(look, kind, &Key::new(namespace, name), since))
        }
        Missing::Key(kind, name, key) => {
            let object = if name.is_empty() { format!("a {kind}") } else { format!("the {kind} {name}") };
            let cause = Cause::new(CauseKind::KeyMissing, format!("{object} has no key {key}")).said(said);
            // Whether the object has the key by now cannot be seen.
            let limit = match look.asked.makers(kind, name) {
                Some(_) => after(since, look.patience.missing),
                None => after(since, SETTLE),
            };
            Finding::until(cause, limit)
        }
    }
}

/// Until when an object may be missing; `None` while something that may make it is still at work.
pub(super) fn patience(
    look: &Look<'_>,
    kind: &str,
    key: &Key,
    since: Option<Timestamp>,
) -> Option<Timestamp> {
    let name = key.name.as_str();
    let makers = match (look.world.has(kind, key), look.asked.makers(kind, name)) {
        // It has come meanwhile, and whoever misses it will try again.
        (Some(true), _) => return None,
        (Some(false), None) => return after(since, SETTLE),
        (None, None) => return after(since, look.patience.missing),
        (_, Some(makers)) => makers,
    };
    let at_work = |item: &&crate::ready::asked::Item| {
        // A maker that waits for the very object that it should make is asked without its pods.
        !matches!(look.state(item), super::State::Ready | super::State::Failed(_))
            && !look.current_pods(item).iter().any(|(_, pod)| waits_for(pod, name))
    };
    if makers.iter().any(at_work) {
        return None;
    }
    let ended = makers.iter().filter_map(|item| super::crash::ready_at(look, item)).max();
    after(since.max(ended), look.patience.missing)
}

fn waits_for(pod: &k8s_openapi::api::core::v1::Pod, name: &str) -> bool {
    super::containers(pod).iter().any(|(status, _)| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting
            .and_then(|waiting| waiting.message.as_deref())
            .is_some_and(|said| said.contains(&format!("\"{name}\"")))
    })
}

pub(super) fn judge(
    look: &Look<'_>,
    namespace: &str,
    status: &ContainerStatus,
    reason: &str,
    said: &str,
    since: Option<Timestamp>,
) -> Option<Finding> {
    if !matches!(reason, "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") {
        return None;
    }
    if let Some(missing) = read(said) {
        return Some(finding(look, namespace, &missing, said, since));
    }
    if said.contains("runAsNonRoot") || said.contains("non-numeric user") {
        let text = format!("the image {} runs as root, and the pod forbids it", status.image);
        return Some(Finding::fatal(Cause::new(CauseKind::RunAsRoot, text).said(said)));
    }
    if is_start_failure(said) {
        return Some(Finding::fatal(start_failure(said)));
    }
    if reason == "RunContainerError" {
        return None;
    }
    let text = format!("the container {} cannot be made as it is specified", status.name);
    let cause = Cause::new(CauseKind::ContainerConfig, text).said(said);
    // Some are races of the runtime, which the kubelet's next attempt wins.
    let limit = if is_under_way(said) { None } else { after(since, Duration::from_secs(30)) };
    Some(Finding::until(cause, limit))
}

/// Whether the runtime is still busy with an attempt that the kubelet gave up: on a machine with much to do a container may
/// take minutes to be made, and until it is the next attempts find its name taken (containerd, internal/cri/server).
fn is_under_way(said: &str) -> bool {
    ["failed to reserve container name", "context deadline exceeded"].iter().any(|part| said.contains(part))
}

/// Whether the runtime says that the program itself cannot be started.
pub(super) fn is_start_failure(said: &str) -> bool {
    [
        "executable file not found",
        "exec: \"",
        "exec format error",
        "permission denied: unknown",
        "no such file or directory: unknown",
    ]
    .iter()
    .any(|part| said.contains(part))
}

/// The cause for [`is_start_failure`].
pub(super) fn start_failure(said: &str) -> Cause {
    let program = said.split("exec: \"").nth(1).and_then(|rest| rest.split('"').next());
    let why = if said.contains("executable file not found") || said.contains("no such file or directory") {
        "is not in the image"
    } else if said.contains("exec format error") {
        "is made for another kind of processor"
    } else {
        "cannot be executed"
    };
    let text = program.map_or_else(
        || format!("the container's program {why}"),
        |program| format!("the container's program `{program}` {why}"),
    );
    Cause::new(CauseKind::Start, text).said(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_words_are_understood() {
        let read = |said| format!("{:?}", read(said));
        assert_eq!(read("configmap \"nope\" not found"), "Some(Object(\"ConfigMap\", \"nope\"))");
        assert_eq!(
            read("MountVolume.SetUp failed for volume \"v\" : secret \"pass\" not found"),
            "Some(Object(\"Secret\", \"pass\"))"
        );
        assert_eq!(read("couldn't find key user in Secret ns/db"), "Some(Key(\"Secret\", \"db\", \"user\"))");
        assert_eq!(
            read("MountVolume.SetUp failed for volume \"v\" : references non-existent secret key: x"),
            "Some(Key(\"Secret\", \"\", \"x\"))"
        );
        assert_eq!(read("failed to sync configmap cache: timed out waiting for the condition"), "None");
    }

    #[test]
    fn an_attempt_that_still_goes_on_is_no_fault_of_the_container() {
        let taken = "failed to reserve container name \"c_web_ns_1_0\": name \"c_web_ns_1_0\" is reserved for \"3f2a\"";
        assert!(is_under_way(taken) && is_under_way("context deadline exceeded"));
        assert!(!is_under_way("failed to generate container spec: no such device"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let said = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: exec: \"no-such\": executable file not found in $PATH: unknown";
        assert!(is_start_failure(said));
        assert_eq!(start_failure(said).text, "the container's program `no-such` is not in the image");
    }
}
