//! Why a namespace that was deleted is still there, read from its conditions.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;

use crate::text;

/// What an ordinary deletion takes: pods may end in their own time.
const ORDINARY: Duration = Duration::from_secs(90);

/// What the namespace controller also says of things that it has deleted and that are not yet gone, if they have no time of their own to end
/// (kubernetes/kubernetes, pkg/controller/namespace/deletion).
const STILL_THERE: &str = "unexpected items still remain in namespace";

/// What holds up the deletion of `namespace`, and what to do; nothing where it is not being deleted, or goes on as it
/// should.
#[must_use]
pub fn explain(namespace: &Namespace, now: Timestamp) -> Option<String> {
    let since = namespace.metadata.deletion_timestamp.as_ref()?.0;
    let age = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let name = namespace.name_any();
    let message = |kind: &str| {
        let conditions = namespace.status.as_ref()?.conditions.as_ref()?;
        let found = conditions.iter().find(|found| found.type_ == kind && found.status == "True")?;
        found.message.clone()
    };
    let remains = message("NamespaceContentRemaining").map(|text| objects(&text)).unwrap_or_default();
    let mut reasons = Vec::new();
    if let Some(text) = message("NamespaceDeletionDiscoveryFailure") {
        reasons.push(discovery(&text));
    }
    if let Some(text) = message("NamespaceDeletionGroupVersionParsingFailure") {
        reasons.push(format!("Kubernetes cannot read the name of an API group: {text}"));
    }
    if let Some(text) = message("NamespaceFinalizersRemaining") {
        reasons.push(finalizers(&text, &remains, &name));
    } else if let Some(text) = message("NamespaceDeletionContentFailure")
        .filter(|text| age > ORDINARY || !text.contains(STILL_THERE))
    {
        reasons.push(format!("something in it cannot be deleted: {text}"));
    } else if !remains.is_empty() && age > ORDINARY {
        reasons.push(format!("{} in it are still going", remains.join(", ")));
    }
    if reasons.is_empty() {
        // Which is all that is known while the controller has not looked.
        let silent = (age > ORDINARY).then(|| {
            "nothing is said to hold it up; the namespace controller (kube-controller-manager) may be down"
                .to_owned()
        });
        reasons.extend(silent);
    }
    (!reasons.is_empty()).then(|| {
        format!("namespace {name}: being deleted for {}: {}", text::seconds(age), reasons.join("; "))
    })
}

/// From `Discovery failed for some groups, 1 failing: …: a.example.com/v1: …`, the API services that do not answer.
fn discovery(text: &str) -> String {
    let is_group = |word: &&str| {
        word.split_once('/').is_some_and(|(group, version)| group.contains('.') && version.starts_with('v'))
    };
    let groups = text.split([' ', ',']).map(|word| word.trim_end_matches(':')).filter(is_group);
    let mut services: Vec<String> = groups
        .filter_map(|word| word.split_once('/'))
        .map(|(group, version)| format!("{version}.{group}"))
        .collect();
    services.dedup();
    match services.as_slice() {
        [] => format!("an API service does not answer, so Kubernetes cannot know what is left in it: {text}"),
        services => format!(
            "the API service {0} does not answer, so Kubernetes cannot know what is left in it; mend it or `kubectl delete apiservice {1}`",
            services.join(", "),
            services.join(" ")
        ),
    }
}

/// From `Some content in the namespace has finalizers remaining: a.example.com/b in 2 resource instances, …`, the
/// finalizers and whose they are.
fn finalizers(text: &str, remains: &[String], namespace: &str) -> String {
    let list = text.rsplit_once(": ").map_or(text, |(_, list)| list);
    let held: Vec<String> = list
        .split(", ")
        .map(|one| match one.split_once(" in ") {
            Some((finalizer, count)) => {
                let n = count.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(1);
                format!("{finalizer} of {}", text::count(n, "object"))
            }
            None => one.to_owned(),
        })
        .collect();
    let (what, kinds) = if remains.is_empty() {
        (String::new(), "all".to_owned())
    } else {
        let kinds: Vec<&str> =
            remains.iter().filter_map(|one| one.split_once(' ')).map(|(_, kind)| kind).collect();
        (format!(" ({})", remains.join(", ")), kinds.join(","))
    };
    format!(
        "it waits for the finalizer {}{what}, which its controller has to take away; see `kubectl get {kinds} --namespace {namespace} --output yaml`",
        held.join(", ")
    )
}

/// From `Some resources are remaining: configmaps. has 1 resource instances, …`: `1 configmaps`.
fn objects(text: &str) -> Vec<String> {
    let list = text.rsplit_once(": ").map_or(text, |(_, list)| list);
    list.split(", ")
        .filter_map(|one| one.split_once(" has "))
        .map(|(kind, count)| {
            let n = count.split(' ').next().unwrap_or_default();
            format!("{n} {}", kind.trim_end_matches('.'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Kubernetes 1.34 writes them, shortened: `True` for each condition given here.
    fn stuck(conditions: &[(&str, &str)]) -> Namespace {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, message)| serde_json::json!({"type": kind, "status": "True", "message": message}))
            .chain([serde_json::json!({
                "type": "NamespaceDeletionContentFailure",
                "status": "False",
                "message": "All content successfully deleted, may be waiting on finalization",
            })])
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a-3fcd70", "deletionTimestamp": "2026-11-22T20:49:27Z"},
            "status": {"phase": "Terminating", "conditions": conditions},
        }))
        .unwrap()
    }

    #[track_caller]
    fn says(namespace: &Namespace, after: i64, parts: &[&str]) {
        let deleted: Timestamp = "2026-11-22T20:49:27Z".parse().unwrap();
        let text = explain(namespace, deleted + jiff::SignedDuration::from_secs(after)).unwrap();
        for part in parts {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }

    const DISCOVERY: (&str, &str) = (
        "NamespaceDeletionDiscoveryFailure",
        "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: custom.example.com/v1beta1: stale GroupVersion discovery: custom.example.com/v1beta1",
    );

    #[test]
    fn a_finalizer_is_named_with_whose_it_is() {
        let namespace = stuck(&[
            (
                "NamespaceContentRemaining",
                "Some resources are remaining: configmaps. has 1 resource instances, widgets.example.com has 2 resource instances",
            ),
            (
                "NamespaceFinalizersRemaining",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances, example.com/other in 2 resource instances",
            ),
        ]);
        says(
            &namespace,
            6,
            &[
                "namespace a-3fcd70: being deleted for 6.0 s: it waits for the finalizer example.com/hold of 1 object, example.com/other of 2 objects (1 configmaps, 2 widgets.example.com)",
                "kubectl get configmaps,widgets.example.com --namespace a-3fcd70 --output yaml",
            ],
        );
    }

    #[test]
    fn an_api_service_that_does_not_answer_is_named() {
        says(&stuck(&[DISCOVERY]), 6, &["kubectl delete apiservice v1beta1.custom.example.com"]);
        let both = stuck(&[
            DISCOVERY,
            (
                "NamespaceFinalizersRemaining",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            ),
        ]);
        says(
            &both,
            6,
            &["API service v1beta1.custom.example.com", "finalizer example.com/hold of 1 object,"],
        );
    }

    #[test]
    fn content_that_is_refused_is_quoted() {
        let refused = "Failed to delete all resource types, 1 remaining: admission webhook \"no.example.com\" denied the request";
        let mut namespace = stuck(&[("NamespaceDeletionContentFailure", refused)]);
        says(&namespace, 6, &["something in it cannot be deleted", "no.example.com"]);
        namespace = stuck(&[]);
        says(&namespace, 600, &["the namespace controller (kube-controller-manager) may be down"]);
    }

    #[test]
    fn an_ordinary_deletion_needs_no_word() {
        let deleted: Timestamp = "2026-11-22T20:49:27Z".parse().unwrap();
        let after = |seconds| deleted + jiff::SignedDuration::from_secs(seconds);
        let pods =
            [("NamespaceContentRemaining", "Some resources are remaining: pods. has 3 resource instances")];
        assert_eq!(explain(&stuck(&pods), after(20)), None);
        says(&stuck(&pods), 120, &["3 pods in it are still going"]);
        assert_eq!(explain(&stuck(&[]), after(20)), None);
        let last = [(
            "NamespaceDeletionContentFailure",
            "Failed to delete all resource types, 1 remaining: unexpected items still remain in namespace: a-3fcd70 for gvr: /v1, Resource=pods",
        )];
        assert_eq!(explain(&stuck(&last), after(6)), None);
        says(&stuck(&last), 120, &["Resource=pods"]);
        assert_eq!(explain(&Namespace::default(), after(20)), None);
    }
}
