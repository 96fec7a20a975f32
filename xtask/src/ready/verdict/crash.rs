//! Programs that end and are started again.
//!
//! Many heal: what they need is still starting. So an attempt counts only if all that it may depend on was ready when it
//! began, and only together with others that ended in the same way. What a program says when it ends tells the rest: a
//! missing module does not come by waiting, a refused connection may.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::missing::{is_start_failure, start_failure};
use super::{CauseKind, Finding, Look, State, after, containers, is_ready};
use crate::ready::asked::{Item, Kind};
use crate::ready::cause::Cause;
use crate::ready::object::Key;
use crate::ready::world::Attempt;

/// How long the log of an attempt that ended may take to be known.
const LOG_TIME: Duration = Duration::from_secs(2);

/// Words of errors that another attempt meets again.
const LASTING: [&str; 14] = [
    "modulenotfounderror",
    "importerror",
    "syntaxerror",
    "unrecognized argument",
    "unrecognized option",
    "unknown flag",
    "unknown option",
    "invalid option",
    "flag provided but not defined",
    "no such command",
    "command not found",
    "exec format error",
    "is forbidden: user",
    "validationerror",
];
/// Words of errors that go when what they speak of is there.
const CONNECTION: [&str; 15] = [
    "connection refused",
    "connection reset",
    "could not connect",
    "can't connect",
    "cannot connect",
    "econnrefused",
    "timed out",
    "timeout",
    "no route to host",
    "unavailable",
    "starting up",
    "not ready",
    "waiting for",
    "not yet",
    "retry",
];
const NO_HOST: [&str; 7] = [
    "no such host",
    "name or service not known",
    "could not translate host name",
    "temporary failure in name resolution",
    "nodename nor servname",
    "bad address",
    "nxdomain",
];

fn speaks_of(log: &str, words: &[&str]) -> bool {
    words.iter().any(|word| log.contains(word))
}

/// In what way an attempt ended: its status, and its last line without numbers, which differ from time to time.
fn way(attempt: &Attempt) -> (i32, &str, String) {
    let said = attempt.log.as_deref().unwrap_or(&attempt.message);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let mut plain: String = last.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    while plain.contains("##") {
        plain = plain.replace("##", "#");
    }
    (attempt.code, &attempt.reason, plain)
}

/// How many of the last attempts ended in the same way.
fn alike<'a>(attempts: impl DoubleEndedIterator<Item = &'a Attempt>) -> usize {
    let mut attempts = attempts.rev();
    let Some(last) = attempts.next() else { return 0 };
    1 + attempts.take_while(|attempt| way(attempt) == way(last)).count()
}

pub(super) fn judge(
    look: &Look<'_>,
    item: &Item,
    key: &Key,
    pod: &Pod,
    status: &ContainerStatus,
    init: bool,
) -> Option<Finding> {
    let state = status.state.as_ref();
    let done = state.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0);
    let again = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    let may_end = item.kind == Kind::Job || (item.kind == Kind::Pod && again != "Always");
    if status.ready || (init && done) || (may_end && done) {
        return None;
    }
    let attempts = look.world.attempts(key, &status.name);
    let last = attempts.last()?;
    let running = state.is_some_and(|state| state.running.is_some());
    let name =
        if init { format!("init container {}", status.name) } else { format!("container {}", status.name) };
    let log = last.log.clone().filter(|log| !log.trim().is_empty());
    let finding = |mut cause: Cause, fatal: bool| {
        cause.log = log.clone();
        if fatal && !running { Finding::fatal(cause) } else { Finding::open(cause) }
    };

    if matches!(last.reason.as_str(), "StartError" | "ContainerCannotRun") || is_start_failure(&last.message)
    {
        let cause = if is_start_failure(&last.message) {
            start_failure(&last.message)
        } else {
            Cause::new(CauseKind::Start, format!("the program of the {name} cannot be started"))
                .said(&last.message)
        };
        return Some(finding(cause, true));
    }
    if last.reason == "OOMKilled" {
        let limit = memory_limit(pod, &status.name);
        let limit = limit.map_or(String::new(), |limit| format!(" of {limit}"));
        let text = format!("the {name} needs more memory than its limit{limit}");
        let times = attempts.iter().rev().take_while(|attempt| attempt.reason == "OOMKilled").count();
        return Some(finding(Cause::new(CauseKind::OutOfMemory, text), times >= 2));
    }
    if let Some((probe, times, said)) = killed_by_probe(look, key, &status.name) {
        let text = format!("the {name} is ended by its {probe} probe, {} so far", times_text(times));
        let cause = Cause::new(CauseKind::Liveness, text).said(said);
        let fatal = !is_anything_starting(look, item) && times >= look.patience.restarts;
        // The kubelet starts it again at once, so there is no better moment than while it runs.
        return Some(if fatal { Finding::fatal(cause) } else { finding(cause, false) });
    }
    if item.kind == Kind::Job && again == "Never" {
        return Some(finding(crashed(&name, last, attempts.len()), false));
    }
    if last.log.is_none()
        && let Some(time) = after(last.ended, LOG_TIME)
        && look.now < time
    {
        // Its log may be what decides; the look after it comes when it is known, or then.
        return Some(Finding::open(crashed(&name, last, attempts.len())));
    }
    let (cause, fatal) = decide(look, item, pod, (&name, &status.name), attempts);
    Some(finding(cause, fatal))
}

/// The cause for a program that ends with an error of its own, and whether it is time to say so.
fn decide(
    look: &Look<'_>,
    item: &Item,
    pod: &Pod,
    (name, container): (&str, &str),
    attempts: &[Attempt],
) -> (Cause, bool) {
    let last = &attempts[attempts.len() - 1];
    let words = last.log.as_deref().unwrap_or(&last.message).to_lowercase();
    let in_all = alike(attempts.iter());
    let mut cause = crashed(name, last, in_all);
    let connection = speaks_of(&words, &CONNECTION)
        || (speaks_of(&words, &NO_HOST)
            && look.world.services.keys().any(|service| words.contains(&service.name)));
    if words.contains("is forbidden: user") {
        cause.kind = CauseKind::Rbac;
        let line = words.lines().find(|line| line.contains("is forbidden: user")).unwrap_or_default();
        cause.text = format!("the {name} may not do what it asks of the API server{}", forbidden(line));
    } else if matches!(last.code, 126 | 127) {
        cause.kind = CauseKind::Start;
        cause.text = format!("the {name} runs a command that is not in its image (status {})", last.code);
    }
    // Further up a program may speak of errors that it has handled.
    let end = words.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let lasting = cause.kind != CauseKind::Crash || speaks_of(end, &LASTING);
    if lasting && !connection {
        return (cause, in_all >= 2);
    }
    let starting = is_anything_starting(look, item) || is_neighbour_starting(pod, container);
    if starting {
        return (cause, in_all >= look.patience.restarts_while_starting);
    }
    let since = dependencies_ready_at(look, item);
    let fresh = || attempts.iter().filter(|attempt| since.is_none_or(|since| attempt.started >= Some(since)));
    let limit = if connection { look.patience.connection_restarts } else { look.patience.restarts };
    (cause, alike(fresh()) >= limit || fresh().count() >= 2 * limit)
}

fn crashed(name: &str, last: &Attempt, times: usize) -> Cause {
    let again = if times > 1 { format!(" again and again, {}", times_text(times)) } else { String::new() };
    let text = match last.code {
        0 => format!("the program of the {name} ends{again}, without an error, though it should go on"),
        code => format!("the program of the {name} ends with status {code}{again}"),
    };
    Cause::new(CauseKind::Crash, text).said(&last.message)
}

fn times_text(times: usize) -> String {
    if times == 1 { "once".to_owned() } else { format!("{times} times") }
}

/// `: it may not list pods`, from the API server's own sentence.
fn forbidden(line: &str) -> String {
    let verb = line.split("cannot ").nth(1).unwrap_or_default();
    let mut words = verb.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(verb), Some("resource"), Some(resource)) => {
            format!(": it may not {verb} {}", resource.trim_matches('"'))
        }
        _ => String::new(),
    }
}

fn memory_limit(pod: &Pod, container: &str) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = all.clone().find(|one| one.name == container)?.resources.as_ref()?;
    Some(resources.limits.as_ref()?.get("memory")?.0.clone())
}

/// Which probe has the kubelet end the container, how often, and the probe's own words.
fn killed_by_probe<'a>(look: &Look<'a>, key: &Key, container: &str) -> Option<(&'static str, usize, String)> {
    let events = look.world.events_of("Pod", key);
    let said = |event: &&&k8s_openapi::api::core::v1::Event| event.message.clone().unwrap_or_default();
    let mut times = 0;
    let mut probe = None;
    for event in &events {
        let message = said(&event);
        if event.reason.as_deref() != Some("Killing")
            || !message.contains(&format!("ontainer {container} failed"))
        {
            continue;
        }
        for kind in ["liveness", "startup"] {
            if message.contains(&format!("failed {kind} probe")) {
                probe = Some(kind);
                times += usize::try_from(event.count.unwrap_or(1)).unwrap_or(1);
            }
        }
    }
    let probe = probe?;
    let words = events
        .iter()
        .rev()
        .map(|event| said(&event))
        .find(|message| message.to_lowercase().starts_with(&format!("{probe} probe failed")));
    Some((probe, times, words.unwrap_or_default()))
}

/// Whether another workload of the release is on its way: not ready, and with nothing that keeps it from it.
fn is_anything_starting(look: &Look<'_>, item: &Item) -> bool {
    look.asked.items.iter().filter(|other| *other != item && other.kind.is_workload()).any(|other| {
        matches!(look.state(other), State::Waiting(_))
            && !look.current_pods(other).iter().any(|(_, pod)| is_stuck(pod))
    })
}

fn is_stuck(pod: &Pod) -> bool {
    containers(pod).iter().any(|(status, _)| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
        status.restart_count > 1
            || matches!(
                reason,
                "CrashLoopBackOff"
                    | "ImagePullBackOff"
                    | "ErrImagePull"
                    | "ErrImageNeverPull"
                    | "InvalidImageName"
                    | "CreateContainerConfigError"
                    | "CreateContainerError"
                    | "RunContainerError"
            )
    })
}

/// Whether another container of the same pod runs and is not ready yet.
fn is_neighbour_starting(pod: &Pod, container: &str) -> bool {
    containers(pod).iter().any(|(status, _)| {
        let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
        status.name != container && running && !status.ready && status.restart_count == 0
    })
}

/// When the last of the other workloads that are ready became so.
fn dependencies_ready_at(look: &Look<'_>, item: &Item) -> Option<Timestamp> {
    let others = look.asked.items.iter().filter(|other| *other != item && other.kind.is_workload());
    others.filter_map(|other| ready_at(look, other)).max()
}

/// When the last of a workload's pods that are ready became so, or when it was complete.
pub(super) fn ready_at(look: &Look<'_>, item: &Item) -> Option<Timestamp> {
    let ended = look.world.jobs.get(&item.key).filter(|_| item.kind == Kind::Job);
    let ended = ended.and_then(|job| job.status.as_ref()?.completion_time.as_ref().map(|time| time.0));
    let pods = look.current_pods(item);
    pods.iter().filter(|(_, pod)| is_ready(pod)).filter_map(|(_, pod)| ready_since(pod)).chain(ended).max()
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready =
        conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(code: i32, log: &str) -> Attempt {
        Attempt {
            id: String::new(),
            started: None,
            ended: None,
            code,
            reason: "Error".to_owned(),
            message: String::new(),
            log: Some(log.to_owned()),
        }
    }

    #[test]
    fn attempts_are_alike_but_for_numbers() {
        let same = [attempt(1, "at 12:00 refused"), attempt(1, "at 13:27 refused")];
        assert_eq!(alike(same.iter()), 2);
        let further = [attempt(1, "step 1 done\nat migration a"), attempt(1, "step 2 done\nat migration b")];
        assert_eq!(alike(further.iter()), 1);
        let status = [attempt(1, "x"), attempt(2, "x"), attempt(2, "x")];
        assert_eq!(alike(status.iter()), 2);
    }

    #[test]
    fn what_is_forbidden_is_named() {
        let line = "pods is forbidden: user \"system:serviceaccount:a:b\" cannot list resource \"pods\" in api group";
        assert_eq!(forbidden(line), ": it may not list pods");
        assert_eq!(forbidden("nothing"), "");
    }
}
