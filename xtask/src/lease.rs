//! Leases: until when what a run has made is its own, renewed while it lives, so that expired means dead.

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::cleanup::KEPT;
use crate::cli::Keep;
use crate::labels;
use crate::ledger::{Made, Object, ReleaseName};

mod hold;

pub use hold::{Held, Holder};

/// How long things are left alone after the last renewal: clocks of two machines may differ, and an API server may be
/// away for some minutes.
pub(crate) const TERM: SignedDuration = SignedDuration::from_mins(10);

/// Who uses something, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The run's id.
    pub run: String,
    /// Whose run it is, `user@host`.
    pub owner: String,
    /// When anybody may remove it; absent where it stays until somebody says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

impl Lease {
    /// The lease of a cluster that a run makes: the ones that are kept for reuse do not expire.
    #[must_use]
    pub fn of_cluster(run: &str, ephemeral: bool) -> Lease {
        let expires = ephemeral.then(|| Timestamp::now() + TERM);
        Lease { run: run.to_owned(), owner: owner(), expires }
    }
}

/// Whose runs these are: `user@host`.
#[must_use]
pub fn owner() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{}@{}", user.as_deref().unwrap_or("unknown"), host.as_deref().unwrap_or("unknown"))
}

/// When things of a run that begins or goes on at this time expire.
///
/// What is to stay in any case has its whole time from the start, because a machine that crashes takes the reaper with it.
#[must_use]
pub fn expiry(keep: Keep, now: Timestamp) -> Timestamp {
    now + term(keep)
}

/// How long things of a run are left alone after the last renewal.
fn term(keep: Keep) -> SignedDuration {
    match keep {
        Keep::Always => KEPT,
        Keep::OnFailure | Keep::Never => TERM,
    }
}

/// Whether the time of something that a run has made is over. What helm has just written down has none yet: it is the
/// run's for as long as a lease lasts.
#[must_use]
pub fn is_over(meta: &ObjectMeta, now: Timestamp) -> bool {
    match &meta.annotations {
        Some(annotations) if annotations.contains_key(labels::EXPIRES) => labels::expired(annotations, now),
        _ => meta.creation_timestamp.as_ref().is_none_or(|created| created.0 + TERM <= now),
    }
}

/// Sets when anybody may remove what a run has made: its namespaces, and what is not in them.
///
/// # Errors
/// The API refuses.
pub async fn prolong(client: &Client, made: &Made, run: &str, expires: Timestamp) -> Result<()> {
    let patch = serde_json::json!({"metadata": {"annotations": {labels::EXPIRES: expires.to_string()}}});
    let patch = Patch::Merge(&patch);
    let params = PatchParams::default();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for name in &made.namespaces {
        written(namespaces.patch_metadata(name, &params, &patch).await)
            .with_context(|| format!("annotate the namespace {name}"))?;
    }
    for Object { resource, namespace, name } in &made.objects {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
            None => Api::all_with(client.clone(), resource),
        };
        // One that another run has made is that run's to keep, until that passes it on.
        let is_ours = |by: &String| by == run || made.deployment_of.as_ref() == Some(by);
        let found = api.get_metadata_opt(name).await?;
        if found.is_some_and(|found| found.labels().get(labels::RUN).is_some_and(is_ours)) {
            written(api.patch_metadata(name, &params, &patch).await)
                .with_context(|| format!("annotate {} {name}", resource.kind))?;
        }
    }
    // In a namespace of ours the namespace's time is enough.
    let outside = made.releases.iter().filter(|release| !made.namespaces.contains(&release.namespace));
    for ReleaseName { name, namespace } in outside {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let revisions =
            ListParams::default().labels(&format!("owner=helm,name={name},{}={run}", labels::RUN));
        for revision in api.list_metadata(&revisions).await? {
            written(api.patch_metadata(&revision.name_any(), &params, &patch).await)
                .with_context(|| format!("annotate the release {name}"))?;
        }
    }
    Ok(())
}

/// What is not there (yet, or any more) needs no lease.
fn written<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use kube::api::ApiResource;
    use serde_json::json;

    use super::*;
    use crate::fake_api;

    #[test]
    fn what_is_to_stay_has_its_whole_time_from_the_start() {
        let now = Timestamp::now();
        let hour = now + SignedDuration::from_hours(1);
        assert!(expiry(Keep::Always, now) > hour);
        assert!(expiry(Keep::OnFailure, now) < hour && expiry(Keep::Never, now) < hour);
    }

    #[tokio::test]
    async fn what_the_run_of_a_deployment_that_is_used_again_has_made_is_renewed() {
        for (deployment_of, is_renewed) in [(None, false), (Some("first".to_owned()), true)] {
            let (client, mut server) = fake_api::client();
            let token = Object {
                resource: ApiResource::erase::<Secret>(&()),
                namespace: Some("theirs".to_owned()),
                name: "token".to_owned(),
            };
            let made = Made { objects: vec![token], deployment_of, ..Made::default() };
            let renewing =
                tokio::spawn(async move { prolong(&client, &made, "second", Timestamp::now()).await });
            let mut patched = false;
            while let Some((request, send)) = server.next_request().await {
                patched |= request.method() == Method::PATCH;
                let found = json!({"metadata": {"name": "token", "labels": {labels::RUN: "first"}}});
                send.send_response(fake_api::answer(StatusCode::OK, &found));
            }
            renewing.await.unwrap().unwrap();
            assert_eq!(patched, is_renewed);
        }
    }

    #[test]
    fn a_lease_outlives_several_renewals_that_fail() {
        let renew = SignedDuration::try_from(hold::RENEW + hold::LIMIT).unwrap();
        assert!(TERM > renew * 5);
    }

    #[test]
    fn what_has_no_time_yet_is_a_runs_own_for_one_term() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let meta = |text: &str| -> ObjectMeta { serde_yaml::from_str(text).unwrap() };
        assert!(!is_over(&meta("creationTimestamp: '2026-01-01T23:55:00Z'"), now));
        assert!(is_over(&meta("creationTimestamp: '2026-01-01T23:45:00Z'"), now));
        let renewed = "{creationTimestamp: '2026-01-01T01:00:00Z', annotations: {k8s-test.local/expires: '2026-01-02T00:01:00Z'}}";
        assert!(!is_over(&meta(renewed), now));
    }

    #[test]
    fn only_a_cluster_that_goes_with_its_run_expires() {
        assert!(Lease::of_cluster("r", true).expires.is_some());
        let kept = Lease::of_cluster("r", false);
        assert_eq!(kept.expires, None);
        assert!(kept.owner.contains('@'), "{}", kept.owner);
    }
}
