//! Leases: until when what a run has made is its own, renewed while it lives, so that expired means dead.

use std::time::Duration;

use anyhow::{Context, Result};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kind_client::Kind;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::cleanup::{KEPT, Policy};
use crate::cli::Keep;
use crate::cluster::kind;
use crate::events::Events;
use crate::exit::message;
use crate::labels;
use crate::ledger::{Ledger, Made, Object, ReleaseName};
use crate::plan::ClusterPlan;

/// How long things are left alone after the last renewal: clocks of two machines may differ, and an API server may be
/// away for some minutes.
pub(crate) const TERM: SignedDuration = SignedDuration::from_mins(10);
/// How often a lease is renewed.
const RENEW: Duration = Duration::from_secs(60);
/// How long one renewal may take.
const LIMIT: Duration = Duration::from_secs(30);

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

/// When things of a run that begins or goes on now expire.
///
/// What is to stay in any case has its whole time from the start, because a machine that crashes takes the reaper with it.
#[must_use]
pub fn expiry(keep: Keep) -> Timestamp {
    Timestamp::now()
        + match keep {
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

/// Renews a run's leases until it is dropped.
pub struct Held(AbortHandle);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Renews the leases of what the ledger names, and of the cluster, from now on.
#[must_use]
pub fn hold(policy: Policy, ledger: Ledger, client: Client, kind: Kind, events: Events) -> Held {
    hold_by(RENEW, policy, ledger, client, kind, events)
}

fn hold_by(
    every: Duration,
    policy: Policy,
    ledger: Ledger,
    client: Client,
    kind: Kind,
    events: Events,
) -> Held {
    let task = tokio::spawn(async move {
        let mut failing = false;
        loop {
            tokio::time::sleep(every).await;
            let made = ledger.made();
            let renewal = renew(&policy, &made, &client, &kind);
            let renewed = match tokio::time::timeout(LIMIT, renewal).await {
                Ok(renewed) => renewed,
                Err(_) => Err(anyhow::anyhow!("no answer within {}", crate::text::seconds(LIMIT))),
            };
            if let Err(error) = &renewed
                && !failing
            {
                events
                    .warn(format!("the lease could not be renewed, and is tried again: {}", message(error)));
            }
            failing = renewed.is_err();
        }
    });
    Held(task.abort_handle())
}

async fn renew(policy: &Policy, made: &Made, client: &Client, kind: &Kind) -> Result<()> {
    let expires = expiry(policy.keep);
    let objects = prolong(client, made, &policy.run, expires).await;
    if let ClusterPlan::Kind { name, .. } = &policy.cluster {
        // Also one that another run has made and that we use.
        kind::renew(kind, name, expires).await?;
    }
    objects
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
        written(api.patch_metadata(name, &params, &patch).await)
            .with_context(|| format!("annotate {} {name}", resource.kind))?;
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
    use http::StatusCode;
    use kube::api::ApiResource;
    use serde_json::json;

    use super::*;
    use crate::fake_api::{self, answer};

    fn policy() -> Policy {
        Policy {
            run: "r".to_owned(),
            keep: Keep::Never,
            cluster: ClusterPlan::Kubeconfig { file: "/k".into(), context: None },
            output: "/o".into(),
        }
    }

    #[tokio::test]
    async fn all_that_a_run_has_made_is_renewed_until_it_ends() {
        let (client, mut server) = fake_api::client();
        let ledger = Ledger::default();
        ledger.record(|made| {
            made.namespaces.push("a-3fcd70".to_owned());
            made.objects.push(Object {
                resource: ApiResource::erase::<Secret>(&()),
                namespace: Some("theirs".to_owned()),
                name: "token".to_owned(),
            });
            for namespace in ["a-3fcd70", "theirs"] {
                made.releases.push(ReleaseName { name: "app".to_owned(), namespace: namespace.to_owned() });
            }
        });
        let (kind, events) = (Kind::new(), Events::new(Vec::new()));
        let held = hold_by(Duration::from_millis(1), policy(), ledger, client, kind, events);
        let mut seen = Vec::new();
        // Twice all of it: one that is gone is no reason to leave the others.
        while seen.len() < 8 {
            let (request, send) = server.next_request().await.unwrap();
            let path = request.uri().path().rsplit('/').take(2).collect::<Vec<_>>();
            seen.push(format!("{} {} {}", request.method(), path[1], path[0]));
            if request.method() == "GET" {
                let selector = request.uri().query().unwrap_or_default().to_owned();
                assert!(selector.contains("name%3Dapp") && selector.contains("run%3Dr"), "{selector}");
                let revision = json!({"metadata": {"name": "sh.helm.release.v1.app.v1"}});
                let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [revision]});
                send.send_response(answer(StatusCode::OK, &list));
                continue;
            }
            let body = request.into_body().collect_bytes().await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let expires: Timestamp =
                body["metadata"]["annotations"][labels::EXPIRES].as_str().unwrap().parse().unwrap();
            assert!(expires > Timestamp::now() + TERM - SignedDuration::from_mins(1));
            let gone = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
            send.send_response(answer(StatusCode::NOT_FOUND, &gone));
        }
        let once = [
            "PATCH namespaces a-3fcd70",
            "PATCH secrets token",
            "GET theirs secrets",
            "PATCH secrets sh.helm.release.v1.app.v1",
        ];
        assert_eq!(seen, [once, once].concat());
        drop(held);
        // The client goes with the task.
        assert!(server.next_request().await.is_none());
    }

    #[test]
    fn what_is_to_stay_has_its_whole_time_from_the_start() {
        let hour = Timestamp::now() + SignedDuration::from_hours(1);
        assert!(expiry(Keep::Always) > hour);
        assert!(expiry(Keep::OnFailure) < hour && expiry(Keep::Never) < hour);
    }

    #[test]
    fn a_lease_outlives_several_renewals_that_fail() {
        let renew = SignedDuration::try_from(RENEW + LIMIT).unwrap();
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
