//! The labels and annotations that mark what is ours.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The run that made an object; nothing without it is ever deleted.
pub const RUN: &str = "k8s-test.local/run";
/// The suite an object was made for.
pub const SUITE: &str = "k8s-test.local/suite";
/// The variant an object was made for.
pub const VARIANT: &str = "k8s-test.local/variant";
/// On the namespaces of a deployment that `up` or `dev` made and that they use again: always `true`.
pub const UP: &str = "k8s-test.local/up";
/// On a node: the hash of the configuration that its cluster was made from.
pub const CONFIG: &str = "k8s-test.local/config";
/// Annotation on a Service of ours: the forward that it is for.
pub const FORWARD: &str = "k8s-test.local/forward";
/// Annotation: whose run made a namespace, `user@host`.
pub const OWNER: &str = "k8s-test.local/owner";
/// Annotation: when an object may be removed by anybody (RFC 3339).
pub const EXPIRES: &str = "k8s-test.local/expires";

/// The field manager of a run's server-side applies.
#[must_use]
pub fn field_manager(run: &str) -> String {
    format!("k8s-test/{run}")
}

/// The labels of an object that a run makes for a variant of a suite.
#[must_use]
pub fn of(run: &str, suite: &str, variant: &str) -> BTreeMap<String, String> {
    [(RUN, run), (SUITE, suite), (VARIANT, variant)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The runs that have applied an object with this metadata.
pub fn appliers(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    let managers = meta.managed_fields.iter().flatten().filter_map(|entry| entry.manager.as_deref());
    managers.filter_map(|manager| manager.strip_prefix("k8s-test/"))
}

/// Whether an object with these annotations has expired by `now`; one without a readable time has not.
#[must_use]
pub fn expired(annotations: &BTreeMap<String, String>, now: Timestamp) -> bool {
    annotations.get(EXPIRES).and_then(|text| text.parse::<Timestamp>().ok()).is_some_and(|time| time <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_readable_past_time_has_expired() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let at = |time: &str| BTreeMap::from([(EXPIRES.to_owned(), time.to_owned())]);
        assert!(expired(&at("2026-01-01T23:59:59Z"), now));
        assert!(!expired(&at("2026-01-02T00:00:01Z"), now));
        assert!(!expired(&at("soon"), now));
        assert!(!expired(&BTreeMap::new(), now));
    }
}
