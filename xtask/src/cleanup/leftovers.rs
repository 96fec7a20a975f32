//! What on a cluster is of runs whose things are to go.

use std::collections::BTreeSet;

use anyhow::Result;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::discovery::{Scope, verbs};
use kube::{Api, Client, ResourceExt};

use super::{is_release, terminating};
use crate::exit::{Exit, ExitWith};
use crate::helm::Helm;
use crate::labels;
use crate::lease;
use crate::ledger::{Made, Object, ReleaseName};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// What is to go.
    pub made: Made,
    /// Namespaces of ours that were deleted and do not go, and why.
    pub stuck: Vec<String>,
}

/// Looks for what is to go; `goes` is told a run's id and whether the time of its thing is over at `now`.
///
/// # Errors
/// The API or helm cannot be asked; exit 3.
pub async fn find(
    goes: impl Fn(&str, bool) -> bool,
    client: &Client,
    helm: &Helm,
    now: Timestamp,
) -> Result<Leftovers> {
    look(goes, client, helm, now).await.or_exit(Exit::Environment)
}

async fn look(
    goes: impl Fn(&str, bool) -> bool,
    client: &Client,
    helm: &Helm,
    now: Timestamp,
) -> Result<Leftovers> {
    let ours = ListParams::default().labels(labels::RUN);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let mut found = Leftovers::default();
    let mut alive = BTreeSet::new();
    let mut all = BTreeSet::new();
    for namespace in namespaces.list(&ours).await? {
        let run = namespace.labels()[labels::RUN].clone();
        let name = namespace.name_any();
        all.insert(name.clone());
        if namespace.metadata.deletion_timestamp.is_some() {
            found.stuck.extend(terminating::explain(&namespace, now));
            continue;
        }
        if goes(&run, labels::expired(namespace.annotations(), now)) {
            for release in helm.releases(&name).await? {
                found.made.releases.push(ReleaseName { name: release, namespace: name.clone() });
            }
            found.made.namespaces.push(name);
        } else {
            alive.insert(run);
        }
    }
    for group in crate::cluster::discover(client).await?.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            let usable = capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE);
            // Namespaces have been looked at. kind makes Node objects of what its configuration says of nodes, labels too:
            // they go with their cluster alone.
            if !usable || matches!(resource.kind.as_str(), "Namespace" | "Node") {
                continue;
            }
            let namespaced = capabilities.scope == Scope::Namespaced;
            for object in list(client, &resource, &ours).await? {
                let run = object.labels()[labels::RUN].clone();
                // What goes with its namespace or its owner needs no word of ours.
                let goes_along = object.namespace().is_some_and(|name| all.contains(&name))
                    || !object.owner_references().is_empty();
                // One without a time of its own goes when nothing else of its run is left.
                let has_time = object.annotations().contains_key(labels::EXPIRES);
                let over = lease::is_over(&object.metadata, now) && (has_time || !alive.contains(&run));
                if goes_along || object.metadata.deletion_timestamp.is_some() || !goes(&run, over) {
                    continue;
                }
                let namespace = object.namespace().filter(|_| namespaced);
                match (is_release(&resource.kind, &object.metadata), namespace) {
                    (Some(name), Some(namespace)) => {
                        let release = ReleaseName { name, namespace };
                        if !found.made.releases.contains(&release) {
                            found.made.releases.push(release);
                        }
                    }
                    (_, namespace) => found.made.objects.push(Object {
                        resource: resource.clone(),
                        namespace,
                        name: object.name_any(),
                    }),
                }
            }
        }
    }
    Ok(found)
}

/// The objects of a kind; none of one that may not be listed, because then we have made none either.
async fn list(
    client: &Client,
    resource: &ApiResource,
    ours: &ListParams,
) -> Result<Vec<PartialObjectMeta<DynamicObject>>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    match api.list_metadata(ours).await {
        Ok(list) => Ok(list.items),
        Err(kube::Error::Api(status)) if matches!(status.code, 403..=405) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
