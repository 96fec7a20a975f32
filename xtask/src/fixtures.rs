//! ConfigMaps, Secrets, RBAC and whatever else a suite's manifests hold, by server-side apply.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow};
use camino::Utf8Path;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{self, ApiCapabilities, Scope};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;

use crate::config::Suite;
use crate::exit::{Exit, ExitWith, coded};
use crate::ledger::{Ledger, Object};
use crate::namespaces::{Marks, Namespaces};
use crate::template::{self, Facts};
use crate::{fail, labels, lease};

/// Applies all fixtures of `suite`; gives how many objects they hold.
///
/// An object that somebody else made stays theirs: it is brought to the wanted state, but never deleted. So does that of
/// another run while that lives; at its end it passes the object on to a run that lives and has applied it too.
///
/// # Errors
/// A manifest cannot be read or rendered (exit 2), or the API refuses an object (exit 3).
pub async fn apply(
    client: &Client,
    suite: &Suite,
    Marks { run, now, expires, .. }: Marks<'_>,
    namespaces: &Namespaces,
    facts: &Facts,
    ledger: &Ledger,
) -> Result<usize> {
    let mut kinds = Kinds { client, known: HashMap::new() };
    let mut count = 0;
    for path in &suite.fixtures {
        for mut object in parse(path, &render_one(path, facts)?)? {
            let kind = object.types.as_ref().map_or_else(String::new, |types| types.kind.clone());
            let what = format!("{path}: {kind} {}", object.name_any());
            let (resource, capabilities) = kinds.of(&object).await.with_context(|| what.clone())?;
            let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
                let namespace = object.metadata.namespace.get_or_insert_with(|| namespaces.first.clone());
                Api::namespaced_with(client.clone(), namespace, &resource)
            } else {
                object.metadata.namespace = None;
                Api::all_with(client.clone(), &resource)
            };
            let goes_with_namespace = namespaces.ours
                && object
                    .metadata
                    .namespace
                    .as_ref()
                    .is_some_and(|ns| namespaces.by_role.values().any(|n| n == ns));
            let owner = if goes_with_namespace {
                Owner::Us
            } else {
                let present = api.get_opt(&object.name_any()).await.with_context(|| what.clone());
                let present = present.or_exit(Exit::Environment)?;
                present.map_or(Owner::Us, |present| Owner::of(&present.metadata, run, now))
            };
            if owner == Owner::Us {
                object.labels_mut().extend(labels::of(run, &suite.name, &suite.variant));
                if !goes_with_namespace {
                    object.annotations_mut().insert(labels::EXPIRES.to_owned(), expires.to_string());
                }
            }
            // Another run's may become ours before we end.
            if owner != Owner::Stranger && !goes_with_namespace {
                let noted = Object {
                    resource: resource.clone(),
                    namespace: object.metadata.namespace.clone(),
                    name: object.name_any(),
                };
                ledger.record(|made| {
                    // `dev` applies them again and again.
                    made.objects.retain(|known| *known != noted);
                    made.objects.push(noted);
                });
            }
            // A manager of the run's own: one shared by runs would take another run's labels away.
            let params = PatchParams::apply(&labels::field_manager(run)).force();
            api.patch(&object.name_any(), &params, &Patch::Apply(&object))
                .await
                .with_context(|| format!("apply {what}"))
                .or_exit(Exit::Environment)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// This run's.
    Us,
    /// That of another run, which lives.
    AnotherRun,
    /// Somebody else's.
    Stranger,
}

impl Owner {
    /// The owner of an object that is there. What a dead run has left is taken over, before a sweep takes it away from us.
    fn of(meta: &ObjectMeta, run: &str, now: Timestamp) -> Owner {
        match meta.labels.as_ref().and_then(|labels| labels.get(labels::RUN)) {
            None => Owner::Stranger,
            Some(by) if by != run && !lease::is_over(meta, now) => Owner::AnotherRun,
            Some(_) => Owner::Us,
        }
    }
}

/// Applies the objects of a rendered manifest to `namespace`, as one manager and with these labels.
///
/// # Errors
/// The manifest cannot be read (exit 2), or the API refuses an object (exit 3).
pub(crate) async fn apply_text(
    client: &Client,
    origin: &Utf8Path,
    text: &str,
    namespace: &str,
    manager: &str,
) -> Result<()> {
    let mut kinds = Kinds { client, known: HashMap::new() };
    for mut object in parse(origin, text)? {
        let (resource, capabilities) = kinds.of(&object).await?;
        let api: Api<DynamicObject> = if capabilities.scope == Scope::Namespaced {
            let namespace = object.metadata.namespace.get_or_insert_with(|| namespace.to_owned());
            Api::namespaced_with(client.clone(), namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        };
        api.patch(&object.name_any(), &PatchParams::apply(manager).force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("{origin}: apply {} {}", resource.kind, object.name_any()))
            .or_exit(Exit::Environment)?;
    }
    Ok(())
}

/// The fixtures of `suite`, rendered.
///
/// # Errors
/// One cannot be read or rendered; exit 2.
pub fn render(suite: &Suite, facts: &Facts) -> Result<Vec<String>> {
    suite.fixtures.iter().map(|path| render_one(path, facts)).collect()
}

fn render_one(path: &Utf8Path, facts: &Facts) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}")).or_exit(Exit::Usage)?;
    template::render(path, &text, facts)
}

fn parse(path: &Utf8Path, text: &str) -> Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document)
            .map_err(|error| coded(Exit::Usage, anyhow!("{path}: {error}")))?;
        if value.is_null() {
            continue;
        }
        let object: DynamicObject = serde_yaml::from_value(value)
            .map_err(|error| coded(Exit::Usage, anyhow!("{path}: not a Kubernetes object: {error}")))?;
        let named = object.metadata.name.as_ref().is_some_and(|name| !name.is_empty());
        if object.types.is_none() || !named {
            fail!(Exit::Usage, "{path}: an object lacks apiVersion, kind or metadata.name");
        }
        objects.push(object);
    }
    Ok(objects)
}

/// What the API server knows of kinds, each asked once.
struct Kinds<'a> {
    client: &'a Client,
    known: HashMap<GroupVersionKind, (ApiResource, ApiCapabilities)>,
}

impl Kinds<'_> {
    async fn of(&mut self, object: &DynamicObject) -> Result<(ApiResource, ApiCapabilities)> {
        let types = object.types.clone().unwrap_or_default();
        let kind = GroupVersionKind::try_from(&types).or_exit(Exit::Usage)?;
        if let Some(known) = self.known.get(&kind) {
            return Ok(known.clone());
        }
        let found = discovery::pinned_kind(self.client, &kind).await.map_err(|error| {
            let message =
                format!("the cluster does not know the kind {} of {}", types.kind, types.api_version);
            coded(Exit::Usage, anyhow::Error::new(error).context(message))
        })?;
        self.known.insert(kind, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_documents_and_skips_empty_ones() {
        let text = "---\n# nothing\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata: {x: y}\n";
        let names: Vec<String> =
            parse("f.yaml".into(), text).unwrap().iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn rejects_what_is_no_object() {
        for text in [
            "just text",
            "kind: Secret\nmetadata: {name: a}\n",
            "apiVersion: v1\nkind: Secret\nmetadata: {}\n",
            "a: [\n",
        ] {
            let error = parse("f.yaml".into(), text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(error.to_string().starts_with("f.yaml"), "{error}");
        }
    }
}
