//! What of a deployment namespaces do not keep apart from another, and what it asks of the nodes.

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::Result;
use indexmap::IndexMap;
use serde_yaml::Value;

use crate::release::manifest::{objects, text};

/// Kinds of objects that are of the whole cluster; others, such as custom ones, are taken for a namespace's.
const CLUSTER_WIDE: [&str; 19] = [
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CSIDriver",
    "CustomResourceDefinition",
    "DeviceClass",
    "FlowSchema",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "PersistentVolume",
    "PriorityClass",
    "PriorityLevelConfiguration",
    "RuntimeClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
    "VolumeAttributesClass",
];

/// How much of what several claim is named.
const SHOWN: usize = 3;

/// What a deployment needs for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// What only one deployment at a time can have, in words.
    pub(super) sole: BTreeSet<String>,
    /// What its pods ask of the nodes.
    pub(super) asks: Resources,
}

/// Processors, in thousandths, and memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    pub(super) cpu: u64,
    pub(super) memory: u64,
}

impl Resources {
    /// More than anybody asks for.
    pub(super) const UNKNOWN: Resources = Resources { cpu: u64::MAX, memory: u64::MAX };

    pub(super) fn of(quantities: impl Fn(&str) -> Option<String>) -> Resources {
        let amount = |key: &str| quantities(key).and_then(|text| quantity(&text)).unwrap_or(0.0);
        // Not negative, and far from 2^53.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Resources { cpu: (amount("cpu") * 1000.0) as u64, memory: amount("memory") as u64 }
    }

    pub(super) fn plus(self, other: Resources) -> Resources {
        Resources { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    pub(super) fn minus(self, other: Resources) -> Resources {
        Resources {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
        }
    }

    pub(super) fn times(self, count: u64) -> Resources {
        Resources { cpu: self.cpu * count, memory: self.memory * count }
    }

    pub(super) fn holds(self, other: Resources) -> bool {
        self.cpu >= other.cpu && self.memory >= other.memory
    }
}

/// A quantity of Kubernetes, such as `250m` or `64Mi`, in its unit (k8s.io/apimachinery, pkg/api/resource).
fn quantity(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !".+-".contains(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let binary = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|unit| *unit == suffix);
    let decimal = ["k", "M", "G", "T", "P", "E"].iter().position(|unit| *unit == suffix);
    let factor = match (suffix, binary, decimal) {
        ("", ..) => 1.0,
        ("m", ..) => 1e-3,
        (_, Some(power), _) => 1024_f64.powi(i32::try_from(power).ok()? + 1),
        (_, _, Some(power)) => 1000_f64.powi(i32::try_from(power).ok()? + 1),
        (exponent, None, None) => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

impl Claims {
    /// What rendered manifests claim, beside what they put into `namespaces`.
    ///
    /// # Errors
    /// One is no YAML; exit 2.
    pub fn of(manifests: &[&str], namespaces: &[&str]) -> Result<Claims> {
        let mut claims = Claims::default();
        for manifest in manifests {
            claims.add(manifest, namespaces)?;
        }
        Ok(claims)
    }

    fn add(&mut self, manifest: &str, namespaces: &[&str]) -> Result<()> {
        for object in objects(manifest)? {
            let kind = text(&object, &["kind"]).unwrap_or_default();
            if CLUSTER_WIDE.contains(&kind) {
                let name = text(&object, &["metadata", "name"]).unwrap_or_default();
                self.sole.insert(format!("the {kind} {name}"));
            } else if let Some(namespace) = text(&object, &["metadata", "namespace"])
                && !namespaces.contains(&namespace)
            {
                let name = text(&object, &["metadata", "name"]).unwrap_or_default();
                self.sole.insert(format!("the {kind} {name} in the namespace {namespace}"));
            }
            everywhere(&object, &mut |key, value| match (key, value) {
                ("nodePort" | "hostPort", Value::Number(port)) => {
                    self.sole.insert(format!("the port {port} of the nodes"));
                }
                ("hostPath", path) => {
                    let path = text(path, &["path"]).unwrap_or_default();
                    self.sole.insert(format!("the folder {path} of the nodes"));
                }
                (_, pod) if pod.get("hostNetwork").and_then(Value::as_bool) == Some(true) => {
                    everywhere(pod, &mut |key, value| {
                        if let ("containerPort", Value::Number(port)) = (key, value) {
                            self.sole.insert(format!("the port {port} of the nodes"));
                        }
                    });
                }
                _ => {}
            });
            self.asks = self.asks.plus(asks(&object, kind));
        }
        Ok(())
    }
}

/// Tells of deployments, by their ids, that claim the same: which, and what.
#[must_use]
pub fn in_turn(all: &[(String, &Claims)]) -> Vec<String> {
    let mut claimed: IndexMap<&str, Vec<&str>> = IndexMap::new();
    for (id, claims) in all {
        for thing in &claims.sole {
            claimed.entry(thing).or_default().push(id);
        }
    }
    let mut shared: IndexMap<Vec<&str>, Vec<&str>> = IndexMap::new();
    for (thing, by) in claimed.into_iter().filter(|(_, by)| by.len() > 1) {
        shared.entry(by).or_default().push(thing);
    }
    let tell = |(by, things): (Vec<&str>, Vec<&str>)| {
        let mut claims = Vec::from(&things[..things.len().min(SHOWN)]).join(", ");
        if things.len() > SHOWN {
            let _ = write!(claims, " and {} more", things.len() - SHOWN);
        }
        let by = by.join(", ");
        format!(
            "{by} are deployed in turn: each has {claims}; values that give each its own let them run at once"
        )
    };
    shared.into_iter().map(tell).collect()
}

fn everywhere<'a>(value: &'a Value, see: &mut impl FnMut(&str, &'a Value)) {
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                see(key.as_str().unwrap_or_default(), value);
                everywhere(value, see);
            }
        }
        Value::Sequence(values) => values.iter().for_each(|value| everywhere(value, see)),
        _ => {}
    }
}

/// What the pods of a workload ask for, all replicas together.
fn asks(object: &Value, kind: &str) -> Resources {
    let spec = &object["spec"];
    let (pod, count) = match kind {
        "Pod" => (spec, 1),
        "Deployment" | "StatefulSet" | "ReplicaSet" => {
            (&spec["template"]["spec"], spec["replicas"].as_u64().unwrap_or(1))
        }
        "DaemonSet" => (&spec["template"]["spec"], 1),
        "Job" => (&spec["template"]["spec"], spec["parallelism"].as_u64().unwrap_or(1)),
        _ => return Resources::default(),
    };
    let containers = pod["containers"].as_sequence().into_iter().flatten();
    let one = containers.fold(Resources::default(), |sum, container| {
        let requests = &container["resources"]["requests"];
        let of = |key: &str| match &requests[key] {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        sum.plus(Resources::of(of))
    });
    one.times(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_namespaces_do_not_keep_apart_is_claimed() {
        let manifest = "kind: ClusterRole\nmetadata: {name: reader}\n---\nkind: Role\nmetadata: {name: reader}\n---\nkind: Service\nspec: {ports: [{nodePort: 30080}]}\n---\nkind: Deployment\nspec: {template: {spec: {volumes: [{hostPath: {path: /var/x}}]}}}\n---\nkind: Role\nmetadata: {name: leader, namespace: kube-system}\n---\nkind: Role\nmetadata: {name: own, namespace: mine}\n---\nkind: DaemonSet\nspec: {template: {spec: {hostNetwork: true, containers: [{ports: [{containerPort: 9100}]}]}}}\n";
        let claims = Claims::of(&[manifest], &["mine"]).unwrap();
        let sole: Vec<&str> = claims.sole.iter().map(String::as_str).collect();
        let expected = [
            "the ClusterRole reader",
            "the Role leader in the namespace kube-system",
            "the folder /var/x of the nodes",
            "the port 30080 of the nodes",
            "the port 9100 of the nodes",
        ];
        assert_eq!(sole, expected);
    }

    #[test]
    fn those_that_claim_the_same_are_told_once() {
        let claims = |names: &[&str]| {
            let role = |name: &&str| format!("kind: ClusterRole\nmetadata: {{name: {name}}}\n");
            let roles = names.iter().map(role).collect::<Vec<_>>().join("---\n");
            Claims::of(&[&roles], &[]).unwrap()
        };
        let [one, two, three] = [claims(&["a", "b"]), claims(&["a", "b", "c"]), claims(&["d"])];
        let all = [("one".to_owned(), &one), ("two".to_owned(), &two), ("three".to_owned(), &three)];
        let told = "one, two are deployed in turn: each has the ClusterRole a, the ClusterRole b; values that give each its own let them run at once";
        assert_eq!(in_turn(&all), [told]);
        let many = claims(&["a", "b", "c", "d", "e"]);
        let told = in_turn(&[("one".to_owned(), &many), ("two".to_owned(), &many)]);
        assert!(told[0].contains("the ClusterRole c and 2 more;"), "{told:?}");
        assert!(in_turn(&all[1..]).is_empty());
    }

    #[test]
    fn the_pods_of_all_replicas_are_counted() {
        let manifest = "kind: Deployment\nspec: {replicas: 2, template: {spec: {containers: [{resources: {requests: {cpu: 50m, memory: 1Mi}}}, {resources: {requests: {cpu: 1}}}]}}}\n---\nkind: Pod\nspec: {containers: [{}]}\n";
        let claims = Claims::of(&[manifest], &[]).unwrap();
        assert_eq!(claims.asks, Resources { cpu: 2100, memory: 2 * 1024 * 1024 });
    }

    #[test]
    fn quantities_are_read() {
        for (text, value) in [
            ("250m", 0.25),
            ("2", 2.0),
            ("1.5", 1.5),
            ("64Mi", 67_108_864.0),
            ("1k", 1000.0),
            ("1e3", 1000.0),
        ] {
            let found = quantity(text).unwrap();
            assert!((found - value).abs() < 1e-6, "{text} is {found}");
        }
        assert_eq!(quantity("much"), None);
    }
}
