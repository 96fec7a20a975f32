//! What a release asks for, read from its rendered manifest, so that nothing is missed and nothing foreign is awaited.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use jiff::Timestamp;
use serde_yaml::Value;

use super::object::{Key, qualified_name};
use crate::release::manifest::{objects, text};

/// Something that is awaited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its kind.
    pub kind: Kind,
    /// Where it is.
    pub key: Key,
}

/// The kinds of things whose readiness is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// v1 PersistentVolumeClaim.
    Claim,
    /// apps/v1.
    Deployment,
    /// apps/v1.
    StatefulSet,
    /// apps/v1.
    DaemonSet,
    /// apps/v1, without a Deployment.
    ReplicaSet,
    /// v1, without a controller.
    Pod,
    /// batch/v1.
    Job,
    /// v1.
    Service,
    /// A custom resource: `group/version` and kind.
    Custom(String, String),
}

impl Kind {
    fn of(version: &str, kind: &str) -> Option<Kind> {
        Some(match (version, kind) {
            ("v1", "PersistentVolumeClaim") => Kind::Claim,
            ("apps/v1", "Deployment") => Kind::Deployment,
            ("apps/v1", "StatefulSet") => Kind::StatefulSet,
            ("apps/v1", "DaemonSet") => Kind::DaemonSet,
            ("apps/v1", "ReplicaSet") => Kind::ReplicaSet,
            ("v1", "Pod") => Kind::Pod,
            ("batch/v1", "Job") => Kind::Job,
            ("v1", "Service") => Kind::Service,
            _ if is_custom(version) => Kind::Custom(version.to_owned(), kind.to_owned()),
            _ => return None,
        })
    }

    /// Its name as Kubernetes writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Kind::Claim => "PersistentVolumeClaim",
            Kind::Deployment => "Deployment",
            Kind::StatefulSet => "StatefulSet",
            Kind::DaemonSet => "DaemonSet",
            Kind::ReplicaSet => "ReplicaSet",
            Kind::Pod => "Pod",
            Kind::Job => "Job",
            Kind::Service => "Service",
            Kind::Custom(_, kind) => kind,
        }
    }

    /// Its name among what is watched: of a custom kind with its group.
    pub(super) fn qualified(&self) -> String {
        match self {
            Kind::Custom(version, kind) => qualified_name(version, kind),
            kind => kind.name().to_owned(),
        }
    }

    /// Whether it runs pods, or is one.
    #[must_use]
    pub fn is_workload(&self) -> bool {
        match self {
            Kind::Deployment
            | Kind::StatefulSet
            | Kind::DaemonSet
            | Kind::ReplicaSet
            | Kind::Pod
            | Kind::Job => true,
            Kind::Claim | Kind::Service | Kind::Custom(..) => false,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key.name)
    }
}

/// A group is a custom one if it is no group of Kubernetes itself, whose names have no dot or end in `k8s.io`.
fn is_custom(version: &str) -> bool {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    group.contains('.') && !group.ends_with(".k8s.io")
}

/// All that a release asks for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// In the order in which they come about.
    pub items: Vec<Item>,
    /// ServiceAccount of each workload's pods.
    accounts: BTreeMap<Item, String>,
    /// Kind of object to the ServiceAccounts (namespace, name) that may create it.
    may_create: BTreeMap<&'static str, BTreeSet<Key>>,
    /// Every text of a custom resource: its controller may make what is named there.
    custom_texts: BTreeSet<String>,
    /// The Jobs that are removed when they have ended.
    short_lived: BTreeSet<Item>,
    /// When it was asked for, by the cluster's clock, where that was before it is awaited.
    pub(super) since: Option<Timestamp>,
}

const MADE_BY_PODS: [(&str, &str); 3] =
    [("ConfigMap", "configmaps"), ("Secret", "secrets"), ("ServiceAccount", "serviceaccounts")];

impl Asked {
    /// Reads a rendered manifest whose objects are in `namespace` unless they say otherwise; hooks are helm's own to
    /// wait for.
    ///
    /// # Errors
    /// The manifest is no YAML.
    pub fn read(manifest: &str, namespace: &str) -> Result<Asked> {
        let mut asked = Asked::default();
        let objects = objects(manifest)?;
        let mut roles: BTreeMap<(String, String), BTreeSet<&'static str>> = BTreeMap::new();
        for object in &objects {
            asked.take(object, namespace);
            if let (Some(kind @ ("Role" | "ClusterRole")), Some(name)) =
                (text(object, &["kind"]), text(object, &["metadata", "name"]))
            {
                roles.insert((kind.to_owned(), name.to_owned()), creates(object));
            }
        }
        for object in &objects {
            asked.bind(object, namespace, &roles);
        }
        asked.items.sort();
        asked.items.dedup();
        Ok(asked)
    }

    /// The Jobs and pods among a manifest's hooks: helm waits for each to complete, or for its own timeout.
    ///
    /// # Errors
    /// The manifest is no YAML.
    pub fn hooks(manifest: &str, namespace: &str) -> Result<Asked> {
        // Who may make what is missing counts for hooks as well.
        let mut asked = Asked { items: Vec::new(), ..Asked::read(manifest, namespace)? };
        for object in objects(manifest)? {
            let hook = text(&object, &["metadata", "annotations", "helm.sh/hook"]).unwrap_or_default();
            let ours = hook
                .split(',')
                .map(str::trim)
                .any(|hook| matches!(hook, "pre-install" | "post-install" | "pre-upgrade" | "post-upgrade"));
            let kind = match text(&object, &["kind"]) {
                Some("Job") => Kind::Job,
                Some("Pod") => Kind::Pod,
                _ => continue,
            };
            if let (true, Some(name)) = (ours, text(&object, &["metadata", "name"])) {
                let namespace = text(&object, &["metadata", "namespace"]).unwrap_or(namespace);
                asked.items.push(Item { kind, key: Key::new(namespace, name) });
            }
        }
        Ok(asked)
    }

    fn take(&mut self, object: &Value, namespace: &str) {
        let (Some(version), Some(kind), Some(name)) =
            (text(object, &["apiVersion"]), text(object, &["kind"]), text(object, &["metadata", "name"]))
        else {
            return;
        };
        if is_custom(version) {
            texts(object, &mut self.custom_texts);
        }
        if text(object, &["metadata", "annotations", "helm.sh/hook"]).is_some() {
            return;
        }
        let Some(kind) = Kind::of(version, kind) else { return };
        let namespace = text(object, &["metadata", "namespace"]).unwrap_or(namespace);
        let item = Item { kind, key: Key::new(namespace, name) };
        let ttl = object.get("spec").and_then(|spec| spec.get("ttlSecondsAfterFinished"));
        if item.kind == Kind::Job && ttl.is_some() {
            self.short_lived.insert(item.clone());
        }
        if item.kind.is_workload() {
            let path: &[&str] = match item.kind {
                Kind::Pod => &["spec", "serviceAccountName"],
                _ => &["spec", "template", "spec", "serviceAccountName"],
            };
            let account = text(object, path);
            self.accounts.insert(item.clone(), account.unwrap_or("default").to_owned());
        }
        self.items.push(item);
    }

    fn bind(
        &mut self,
        object: &Value,
        namespace: &str,
        roles: &BTreeMap<(String, String), BTreeSet<&'static str>>,
    ) {
        if !matches!(text(object, &["kind"]), Some("RoleBinding" | "ClusterRoleBinding")) {
            return;
        }
        let role = |field| text(object, &["roleRef", field]).unwrap_or_default().to_owned();
        let everything = || MADE_BY_PODS.iter().map(|(kind, _)| *kind).collect();
        let kinds = match roles.get(&(role("kind"), role("name"))) {
            Some(kinds) => kinds.clone(),
            None if role("name") == "view" => return,
            // What a role of somebody else allows is not known.
            None => everything(),
        };
        for subject in object.get("subjects").and_then(Value::as_sequence).into_iter().flatten() {
            let Some(name) = text(subject, &["name"]) else { continue };
            let namespace = text(subject, &["namespace"]).unwrap_or(namespace);
            for kind in &kinds {
                self.may_create.entry(kind).or_default().insert(Key::new(namespace, name));
            }
        }
    }

    /// The workloads whose pods may make a missing object of `kind` that is named `name`; `None` where nothing may, and
    /// no custom resource names it.
    pub(super) fn makers(&self, kind: &str, name: &str) -> Option<Vec<&Item>> {
        let accounts = self.may_create.get(kind);
        let may = |item: &Item, account: &String| {
            accounts.is_some_and(|accounts| accounts.contains(&Key::new(&item.key.namespace, account)))
        };
        let makers: Vec<&Item> =
            self.accounts.iter().filter(|(item, account)| may(item, account)).map(|(item, _)| item).collect();
        (!makers.is_empty() || self.custom_texts.contains(name)).then_some(makers)
    }

    /// Whether it is removed when it has ended.
    pub(super) fn is_short_lived(&self, item: &Item) -> bool {
        self.short_lived.contains(item)
    }

    /// The same, asked for at this time by the cluster's clock.
    #[must_use]
    pub fn at(self, time: Timestamp) -> Asked {
        Asked { since: Some(time), ..self }
    }

    /// Adds what another release asks for.
    pub(super) fn extend(&mut self, other: &Asked) {
        self.since = [self.since, other.since].into_iter().flatten().min();
        self.short_lived.extend(other.short_lived.iter().cloned());
        self.items.extend(other.items.iter().cloned());
        self.items.sort();
        self.items.dedup();
        self.accounts.extend(other.accounts.clone());
        for (kind, accounts) in &other.may_create {
            self.may_create.entry(kind).or_default().extend(accounts.iter().cloned());
        }
        self.custom_texts.extend(other.custom_texts.iter().cloned());
    }

    /// The custom kinds: `group/version`, kind, namespaces.
    pub(super) fn customs(&self) -> BTreeSet<(&str, &str, &str)> {
        self.items
            .iter()
            .filter_map(|item| match &item.kind {
                Kind::Custom(version, kind) => {
                    Some((version.as_str(), kind.as_str(), item.key.namespace.as_str()))
                }
                _ => None,
            })
            .collect()
    }

    /// The namespaces that have any of it.
    pub(super) fn namespaces(&self) -> BTreeSet<&str> {
        self.items.iter().map(|item| item.key.namespace.as_str()).collect()
    }
}

/// The kinds of [`MADE_BY_PODS`] that a Role lets its subjects create.
fn creates(role: &Value) -> BTreeSet<&'static str> {
    let has = |rule: &Value, field: &str, wanted: &[&str]| {
        let values = rule.get(field).and_then(Value::as_sequence).into_iter().flatten();
        values.filter_map(Value::as_str).any(|value| value == "*" || wanted.contains(&value))
    };
    let rules: Vec<&Value> = role.get("rules").and_then(Value::as_sequence).into_iter().flatten().collect();
    let allowed = |resource: &str| {
        rules.iter().any(|rule| {
            has(rule, "apiGroups", &[""])
                && has(rule, "resources", &[resource])
                && has(rule, "verbs", &["create"])
        })
    };
    MADE_BY_PODS.iter().filter(|(_, resource)| allowed(resource)).map(|(kind, _)| *kind).collect()
}

fn texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Sequence(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Mapping(mapping) => mapping.iter().for_each(|(_, value)| texts(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {spec: {containers: []}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: certificates}
spec: {template: {spec: {serviceAccountName: maker, containers: []}}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: before, annotations: {helm.sh/hook: pre-install}}
---
apiVersion: v1
kind: Pod
metadata: {name: after, annotations: {helm.sh/hook: post-install}}
---
apiVersion: v1
kind: Pod
metadata: {name: alone}
---
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: several}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, namespace: other}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: maker}
rules: [{apiGroups: [""], resources: [secrets], verbs: [get, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: maker}
roleRef: {kind: Role, name: maker}
subjects: [{kind: ServiceAccount, name: maker}]
---
apiVersion: example.com/v1
kind: Vault
metadata: {name: v}
spec: {target: {name: from-vault}}
"#;

    fn asked() -> Asked {
        Asked::read(MANIFEST, "ns").unwrap()
    }

    #[test]
    fn finds_what_to_wait_for() {
        let items: Vec<String> =
            asked().items.iter().map(|item| format!("{item} in {}", item.key.namespace)).collect();
        let expected = [
            "PersistentVolumeClaim data in other",
            "Deployment web in ns",
            "ReplicaSet several in ns",
            "Pod alone in ns",
            "Job certificates in ns",
            "Vault v in ns",
        ];
        assert_eq!(items, expected);
        assert_eq!(asked().customs().into_iter().collect::<Vec<_>>(), [("example.com/v1", "Vault", "ns")]);
    }

    #[test]
    fn hooks_that_helm_waits_for_are_jobs_and_pods() {
        let hooks = Asked::hooks(MANIFEST, "ns").unwrap();
        assert_eq!(
            hooks.items.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["Job before", "Pod after"]
        );
    }

    #[test]
    fn knows_who_may_make_what_is_missing() {
        let asked = asked();
        let makers = |kind, name| {
            asked.makers(kind, name).map(|m| m.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(makers("Secret", "x"), Some(vec!["Job certificates".to_owned()]));
        assert_eq!(makers("ConfigMap", "x"), None);
        assert_eq!(makers("ConfigMap", "from-vault"), Some(Vec::new()));
    }
}
