//! Asks the cluster for what a bundle holds.

use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Pod, Secret};
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

/// How many requests are under way at once.
const AT_ONCE: usize = 16;
/// How long one kind, or one log, may take; the rest need not go without it.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(3);
/// The last lines of a container's log that are asked for.
const LINES: i64 = 5000;

/// A log of a container.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) pod: String,
    pub(super) container: String,
    pub(super) previous: bool,
    pub(super) text: String,
}

/// The Secrets of a namespace, with what they hold.
///
/// # Errors
/// They cannot be listed.
pub(super) async fn secrets(client: &Client, namespace: &str) -> Result<Vec<Value>> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secrets = api.list(&ListParams::default()).await?;
    secrets.items.iter().map(|secret| Ok(serde_json::to_value(secret)?)).collect()
}

/// All objects of a namespace but its events, each with `apiVersion` and `kind`.
pub(super) async fn objects(client: &Client, discovery: &Discovery, namespace: &str) -> Vec<Value> {
    let kinds = discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
    let listed = kinds.filter(|(resource, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::LIST)
            && !matches!(resource.kind.as_str(), "Event" | "PodMetrics" | "Lease")
    });
    let ask = |resource: kube::api::ApiResource| async move {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        // What may not be listed is left out.
        let list = tokio::time::timeout(LIMIT, api.list(&ListParams::default())).await.ok()?.ok()?;
        let objects = list.items.into_iter().filter_map(|mut object| {
            object.metadata.managed_fields = None;
            object.types = Some(kube::api::TypeMeta {
                api_version: resource.api_version.clone(),
                kind: resource.kind.clone(),
            });
            serde_json::to_value(object).ok()
        });
        Some(objects.collect::<Vec<_>>())
    };
    let asked: Vec<_> = listed.map(|(resource, _)| ask(resource)).collect();
    stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(async |found| found).concat().await
}

/// The events of a namespace, a line each, the oldest first.
///
/// # Errors
/// They cannot be listed.
pub(super) async fn events(client: &Client, namespace: &str) -> Result<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let mut events = api.list(&ListParams::default()).await?.items;
    let time = |event: &Event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
            .or(event.creation_timestamp().map(|time| time.0))
    };
    events.sort_by_key(time);
    let line = |event: &Event| {
        let object = &event.involved_object;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let count =
            event.count.filter(|count| *count > 1).map_or(String::new(), |count| format!(" (x{count})"));
        format!(
            "{} {} {} {}/{}: {}{count}\n",
            time(event).map_or_else(String::new, |time| time.to_string()),
            text(&event.type_),
            text(&event.reason),
            text(&object.kind),
            text(&object.name),
            text(&event.message).trim()
        )
    };
    Ok(events.iter().map(line).collect())
}

/// Says so where there are as many lines as were asked for.
fn marked(text: String) -> String {
    if text.lines().count() < LINES as usize {
        return text;
    }
    format!("[the last {LINES} lines; there may be more before]\n{text}")
}

/// The logs of all containers of a namespace, current and previous, and the containers, as `pod/container`, whose node does
/// not give theirs.
pub(super) async fn logs(client: &Client, namespace: &str) -> (Vec<Log>, Vec<String>) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = api.list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
    let mut asked = Vec::new();
    for pod in &pods {
        let status = pod.status.clone().unwrap_or_default();
        let statuses =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        for container in statuses.into_iter().flatten().flatten() {
            asked.push((pod.name_any(), container.name.clone(), false));
            if container.restart_count > 0 {
                asked.push((pod.name_any(), container.name, true));
            }
        }
    }
    let ask = |(pod, container, previous): (String, String, bool)| {
        let api = api.clone();
        async move {
            let params = LogParams {
                container: Some(container.clone()),
                previous,
                tail_lines: Some(LINES),
                timestamps: true,
                ..LogParams::default()
            };
            match tokio::time::timeout(LIMIT, api.logs(&pod, &params)).await {
                Ok(Ok(text)) => Some(Ok(Log { pod, container, previous, text: marked(text) })),
                // A container that never started has none.
                Ok(Err(_)) => None,
                Err(_) => Some(Err(format!("{pod}/{container}"))),
            }
        }
    };
    let answers: Vec<Result<Log, String>> = stream::iter(asked.into_iter().map(ask).collect::<Vec<_>>())
        .buffer_unordered(AT_ONCE)
        .filter_map(async |log| log)
        .collect()
        .await;
    let (mut logs, mut silent) = (Vec::new(), Vec::new());
    for answer in answers {
        match answer {
            Ok(log) => logs.push(log),
            Err(container) => silent.push(container),
        }
    }
    (logs, silent)
}
