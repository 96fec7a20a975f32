//! What is known of a workload that is not ready: its pods' states, their events and last log lines.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ListParams, LogParams};
use kube::core::Selector;
use kube::{Api, Client, ResourceExt};

use crate::release::Workload;
use crate::release::manifest::Kind;
use crate::text;

/// How long collecting may take.
const LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES: i64 = 15;

/// Everything known, for a person; what could not be had is said too.
pub(super) async fn of(client: &Client, workload: &Workload) -> String {
    match tokio::time::timeout(LIMIT, collect(client, workload)).await {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => format!("its pods cannot be looked at: {error}"),
        Err(_) => format!("its pods could not be looked at within {}", text::seconds(LIMIT)),
    }
}

async fn collect(client: &Client, workload: &Workload) -> Result<String, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &workload.namespace);
    let Some(selector) = selector(client, workload).await? else {
        return Ok("it has no pods, because it does not exist".to_owned());
    };
    let selector = Selector::try_from(selector).unwrap_or_default();
    let found = pods.list(&ListParams::default().labels_from(&selector)).await?;
    let mut lines = Vec::new();
    if found.items.is_empty() {
        lines.push("it has no pods".to_owned());
        lines.extend(events(client, &workload.namespace, &workload.name).await?);
    }
    for pod in found {
        let name = pod.name_any();
        lines.push(format!("pod {name}: {}", phase(&pod)));
        for container in waiting_containers(&pod) {
            lines.push(format!("  container {}: {}", container.name, container_state(&container)));
            for (previous, title) in [(true, "log before its last restart"), (false, "log")] {
                if previous && container.restart_count == 0 {
                    continue;
                }
                let params = LogParams {
                    container: Some(container.name.clone()),
                    tail_lines: Some(LOG_LINES),
                    previous,
                    ..LogParams::default()
                };
                // A container that never started has no log.
                if let Ok(log) = pods.logs(&name, &params).await
                    && !log.trim().is_empty()
                {
                    lines.push(format!("    {title}:"));
                    lines.push(text::indent(log.trim_end(), "      "));
                }
            }
        }
        lines.extend(events(client, &workload.namespace, &name).await?);
    }
    Ok(lines.join("\n"))
}

/// The selector of its pods, if it exists.
pub(super) async fn selector(
    client: &Client,
    workload: &Workload,
) -> Result<Option<LabelSelector>, kube::Error> {
    let Workload { kind, namespace, name } = workload;
    Ok(match kind {
        Kind::Deployment => {
            let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
            api.get_opt(name).await?.and_then(|object| object.spec).map(|spec| spec.selector)
        }
        Kind::StatefulSet => {
            let api: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
            api.get_opt(name).await?.and_then(|object| object.spec).map(|spec| spec.selector)
        }
        Kind::DaemonSet => {
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), namespace);
            api.get_opt(name).await?.and_then(|object| object.spec).map(|spec| spec.selector)
        }
        Kind::Job => {
            let api: Api<Job> = Api::namespaced(client.clone(), namespace);
            api.get_opt(name).await?.and_then(|object| object.spec).and_then(|spec| spec.selector)
        }
    })
}

async fn events(client: &Client, namespace: &str, object: &str) -> Result<Vec<String>, kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().fields(&format!("involvedObject.name={object},type!=Normal"));
    let events = api.list(&params).await?;
    let last = events.items.iter().rev().take(5);
    Ok(last
        .map(|event| {
            let reason = event.reason.as_deref().unwrap_or("event");
            format!("  event {reason}: {}", event.message.as_deref().unwrap_or_default().trim())
        })
        .collect())
}

fn phase(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_else(|| "of unknown phase".to_owned());
    let unmet = status.conditions.unwrap_or_default().into_iter().find(|condition| {
        condition.status != "True" && condition.message.as_ref().is_some_and(|message| !message.is_empty())
    });
    match unmet {
        Some(condition) => format!("{phase}; {}: {}", condition.type_, condition.message.unwrap_or_default()),
        None => phase,
    }
}

/// The containers that are not as they should be.
fn waiting_containers(pod: &Pod) -> Vec<ContainerStatus> {
    let status = pod.status.clone().unwrap_or_default();
    let init = status.init_container_statuses.unwrap_or_default().into_iter().filter(|container| {
        let state = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        state.is_none_or(|terminated| terminated.exit_code != 0)
    });
    let main = status.container_statuses.unwrap_or_default().into_iter().filter(|container| !container.ready);
    init.chain(main).collect()
}

fn container_state(container: &ContainerStatus) -> String {
    let state = container.state.clone().unwrap_or_default();
    let now = if let Some(waiting) = state.waiting {
        let message = waiting.message.map_or(String::new(), |message| format!(": {message}"));
        format!("waiting, {}{message}", waiting.reason.unwrap_or_default())
    } else if let Some(ended) = state.terminated {
        format!("ended with status {}, {}", ended.exit_code, ended.reason.unwrap_or_default())
    } else if state.running.is_some() {
        "running, not ready".to_owned()
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
        n => format!("; {n} restarts"),
    };
    format!("{now}{before}{restarts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_cannot_start_says_why() {
        let pod: Pod = serde_yaml::from_str(
            "
status:
  phase: Pending
  initContainerStatuses:
  - {name: check-db, image: a, imageID: b, ready: true, restartCount: 0, state: {terminated: {exitCode: 0}}}
  containerStatuses:
  - name: web
    image: a
    imageID: b
    ready: false
    restartCount: 2
    state: {waiting: {reason: CrashLoopBackOff, message: back-off 20s}}
    lastState: {terminated: {exitCode: 1, reason: Error}}
",
        )
        .unwrap();
        let states: Vec<String> = waiting_containers(&pod).iter().map(container_state).collect();
        assert_eq!(
            states,
            [
                "waiting, CrashLoopBackOff: back-off 20s; before that it ended with status 1, Error; 2 restarts"
            ]
        );
    }

    #[test]
    fn an_unschedulable_pod_shows_the_scheduler() {
        let pod: Pod = serde_yaml::from_str(
            "{status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', message: '0/1 nodes are available: 1 Insufficient cpu.'}]}}",
        )
        .unwrap();
        assert_eq!(phase(&pod), "Pending; PodScheduled: 0/1 nodes are available: 1 Insufficient cpu.");
    }
}
