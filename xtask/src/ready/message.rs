//! What a person is told when something is not ready: the cause first, then the evidence, then what to try.

use std::time::Duration;

use k8s_openapi::api::core::v1::ContainerStatus;

use super::asked::Item;
use super::cause::{Cause, Kind};
use super::object::Key;
use super::verdict::Verdict;
use super::world::{World, containers};
use crate::bundle::Redactor;
use crate::text;

/// The last lines of a program that are shown.
const LINES: usize = 15;

/// The message for a wait that failed: the doomed, or all that is missing when the time was over.
pub(super) fn compose(world: &World, verdicts: &[(Item, Verdict)], late: Option<Duration>) -> String {
    let mut doomed = Vec::new();
    let mut waiting = Vec::new();
    for (item, verdict) in verdicts {
        match verdict {
            Verdict::Doomed(cause) => doomed.push((item, cause)),
            Verdict::Wait { cause, .. } => waiting.push((item, cause)),
            Verdict::Ready => {}
        }
    }
    if doomed.is_empty() {
        std::mem::swap(&mut doomed, &mut waiting);
    }
    // Causes before what may follow from them.
    doomed.sort_by_key(|(_, cause)| (cause.kind == Kind::Unfinished, cause.may_follow()));
    let redactor = redactor(world);
    let mut blocks: Vec<String> = Vec::new();
    for (at, (item, cause)) in doomed.iter().enumerate() {
        // Of two that are at work, each is at something else.
        let is_same = |other: &Cause| {
            other.text == cause.text && (cause.kind != Kind::Unfinished || other.pod == cause.pod)
        };
        let same = doomed[..at].iter().find(|(_, other)| is_same(other));
        blocks.push(match same {
            Some((first, _)) => format!("{}: the same as {first}", place(item)),
            None => block(world, &redactor, item, cause),
        });
    }
    if let Some(late) = late {
        blocks.push(format!("Gave up after {}.", text::seconds(late)));
    }
    if !waiting.is_empty() {
        let others: Vec<String> =
            waiting.iter().map(|(item, cause)| format!("{}: {}", place(item), cause.text)).collect();
        blocks.push(format!("Not ready either:\n{}", text::indent(&others.join("\n"), "  ")));
    }
    blocks.join("\n")
}

/// The cause that a message begins with.
pub(super) fn first(verdicts: &[(Item, Verdict)]) -> Option<&Cause> {
    let doomed = verdicts.iter().filter_map(|(_, verdict)| match verdict {
        Verdict::Doomed(cause) => Some((false, cause)),
        Verdict::Wait { cause, .. } => Some((true, cause)),
        Verdict::Ready => None,
    });
    let order =
        |(waits, cause): &(bool, &Cause)| (*waits, cause.kind == Kind::Unfinished, cause.may_follow());
    doomed.min_by_key(order).map(|(_, cause)| cause)
}

fn place(item: &Item) -> String {
    format!("{item} in {}", item.key.namespace)
}

/// Knows what the pods' environments mark as a secret: the console may be anybody's to read. What the cluster's Secrets hold is
/// not looked at for this.
fn redactor(world: &World) -> Redactor {
    let mut redactor = Redactor::default();
    for pod in world.pods.values().filter_map(|pod| serde_json::to_value(pod).ok()) {
        redactor.learn_object(&pod);
    }
    redactor
}

fn block(world: &World, redactor: &Redactor, item: &Item, cause: &Cause) -> String {
    let mut lines = vec![format!("{}: {}", place(item), cause.text)];
    if let Some(pod) = &cause.pod {
        let container = cause.container.as_ref().map_or(String::new(), |name| format!(", container {name}"));
        lines.push(format!("  pod {pod}{container}{}", state(world, item, pod, cause.container.as_deref())));
    }
    if let Some(said) = &cause.said {
        // Programs may have written it. The shapes of secrets are those of the cluster's own sentences, too.
        lines.push(text::indent(&redactor.without_known(said.trim()), "  the cluster says: "));
    }
    for event in events(world, item, cause) {
        lines.push(text::indent(&redactor.without_known(&event), "  event "));
    }
    if let Some(log) = &cause.log {
        lines.push("  its last lines:".to_owned());
        let log = redactor.text(log);
        lines.push(text::indent(text::tail(log.trim_end(), LINES).as_str(), "    "));
    }
    if !cause.kind.advice().is_empty() {
        lines.push(format!("  to try: {}", cause.kind.advice()));
    }
    lines.join("\n")
}

fn state(world: &World, item: &Item, pod: &str, container: Option<&str>) -> String {
    let Some(pod) = world.pods.get(&Key::new(&item.key.namespace, pod)) else { return String::new() };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
    let node = node.map_or(String::new(), |node| format!(" on node {node}"));
    let found = containers(pod).into_iter().find(|(status, _)| Some(status.name.as_str()) == container);
    found.map_or(node.clone(), |(status, _)| format!("{node}: {}", container_state(status)))
}

/// The newest warnings about the pod, or about the object itself, that the cause does not repeat.
fn events(world: &World, item: &Item, cause: &Cause) -> Vec<String> {
    let mut events = world.events_of(item.kind.name(), &item.key);
    if let Some(pod) = &cause.pod {
        events.extend(world.events_of("Pod", &Key::new(&item.key.namespace, pod)));
    }
    let said = cause.said.as_deref().unwrap_or_default();
    let mut lines: Vec<String> = Vec::new();
    for event in events.into_iter().rev().filter(|event| event.type_.as_deref() != Some("Normal")) {
        let message = event.message.as_deref().unwrap_or_default().trim();
        let line = format!("{}: {message}", event.reason.as_deref().unwrap_or_default());
        let known = said.contains(message) || lines.contains(&line) || message.starts_with("Error: ");
        if !known && lines.len() < 3 {
            lines.push(line);
        }
    }
    lines
}

/// How a container is.
fn container_state(container: &ContainerStatus) -> String {
    let state = container.state.clone().unwrap_or_default();
    let now = if let Some(waiting) = state.waiting {
        format!("waiting, {}", waiting.reason.unwrap_or_default())
    } else if let Some(ended) = state.terminated {
        format!("ended with status {}, {}", ended.exit_code, ended.reason.unwrap_or_default())
    } else if state.running.is_some() {
        if container.ready { "running".to_owned() } else { "running, not ready".to_owned() }
    } else {
        "in no state yet".to_owned()
    };
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let before = last.map_or(String::new(), |last| {
        format!(
            "; before that it ended with status {}, {}",
            last.exit_code,
            last.reason.as_deref().unwrap_or_default()
        )
    });
    let restarts = match container.restart_count {
        0 => String::new(),
        n => format!("; {}", text::count(usize::try_from(n).unwrap_or(0), "restart")),
    };
    format!("{now}{before}{restarts}")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::asked;
    use super::super::object::Object;
    use super::super::world::Change;
    use super::*;

    #[test]
    fn what_an_environment_marks_as_secret_is_not_on_the_console() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "ns"},
            "spec": {"containers": [{"name": "web", "env": [
                {"name": "PG_PASSWORD", "value": "hunter2-the-password"}, {"name": "PG_HOST", "value": "database"},
            ]}]},
        });
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "ns"}, "type": "Warning",
            "involvedObject": {"kind": "Pod", "name": "web-1", "namespace": "ns"},
            "reason": "Unhealthy", "message": "probe failed: hunter2-the-password is wrong",
        });
        let mut world = World::default();
        for object in [pod, event] {
            world.apply(Timestamp::UNIX_EPOCH, Change::Applied(Object::parse(object).unwrap()));
        }
        let item = Item { kind: asked::Kind::Deployment, key: Key::new("ns", "web") };
        let mut cause = Cause::new(Kind::Crash, "the program ends").at("web-1", Some("web"));
        cause.said = Some("last words: hunter2-the-password".to_owned());
        cause.log = Some("connecting to database with hunter2-the-password".to_owned());
        let text = compose(&world, &[(item, Verdict::Doomed(cause))], None);
        assert!(!text.contains("hunter2"), "{text}");
        for part in [
            "says: last words: [redacted]",
            "Unhealthy: probe failed: [redacted] is",
            "to database with [redacted]",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
