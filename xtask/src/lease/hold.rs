//! Renews a run's leases while it lives, and notices when that came too late.

use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use camino::Utf8PathBuf;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kind_client::Kind;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use super::{expiry, prolong, term};
use crate::cleanup::Policy;
use crate::cluster::clock::Clock;
use crate::cluster::kind;
use crate::events::Events;
use crate::exit::message;
use crate::ledger::{Ledger, Made};
use crate::plan::ClusterPlan;
use crate::text;

/// How often a lease is renewed.
pub(super) const RENEW: Duration = Duration::from_secs(60);
/// How long one renewal may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// How soon it is noticed that the machine was suspended: timers stand still meanwhile, and leases do not.
const LOOK: Duration = Duration::from_secs(2);

/// What renewing a run's leases needs.
pub struct Holder {
    /// The run's policy.
    pub policy: Policy,
    /// What it has made.
    pub ledger: Ledger,
    /// The cluster's API.
    pub client: Client,
    /// The cluster's clock, which is compared again at each renewal.
    pub clock: Clock,
    /// kind.
    pub kind: Kind,
    /// Where clusters are locked.
    pub cache: Utf8PathBuf,
    /// Where to say what happens.
    pub events: Events,
}

/// Renews a run's leases until it is dropped.
pub struct Held {
    renewing: AbortHandle,
    lost: watch::Receiver<Option<String>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Held {
    /// Waits until something of the run is gone because its lease was over; what to say of it.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        let mut lost = self.lost.clone();
        async move {
            let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
            match why {
                Some(why) => why,
                // Renewing has ended with the run, which ends us too.
                None => std::future::pending().await,
            }
        }
    }
}

impl Holder {
    /// Renews the leases of what the ledger names, and of the cluster, from now on.
    #[must_use]
    pub fn hold(self) -> Held {
        self.hold_by(RENEW, SystemTime::now)
    }

    /// As [`Holder::hold`], so often and by this clock, which goes on while the machine is suspended.
    fn hold_by(self, every: Duration, wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Held {
        let (sender, lost) = watch::channel(None);
        let renewing = tokio::spawn(async move {
            let mut failing = false;
            let mut renewed_at = wall();
            loop {
                let begun = Instant::now();
                let since = wall();
                let age = || wall().duration_since(since).unwrap_or_default().max(begun.elapsed());
                while age() < every {
                    sleep(LOOK.min(every)).await;
                }
                let away = wall().duration_since(renewed_at).unwrap_or_default();
                let renewed = match timeout(LIMIT, self.renew()).await {
                    Ok(renewed) => renewed,
                    Err(_) => Err(anyhow!("no answer within {}", text::seconds(LIMIT))),
                };
                if let Err(error) = &renewed
                    && !failing
                {
                    let why = message(error);
                    self.events.warn(format!("the lease could not be renewed, and is tried again: {why}"));
                }
                failing = renewed.is_err();
                if failing {
                    continue;
                }
                renewed_at = wall();
                if away > Duration::try_from(term(self.policy.keep)).unwrap_or_default() {
                    sender.send_replace(self.missed(away).await);
                }
            }
        });
        Held { renewing: renewing.abort_handle(), lost }
    }

    async fn renew(&self) -> Result<()> {
        let Holder { policy, ledger, client, clock, kind, cache, .. } = self;
        clock.compare(client).await;
        let made = ledger.made();
        let objects = prolong(client, &made, &policy.run, expiry(policy.keep, clock.now())).await;
        if let ClusterPlan::Kind { name, .. } = &policy.cluster {
            // Also one that another run has made and that we use. Its nodes are on this machine.
            kind::renew(kind, cache, name, expiry(policy.keep, Timestamp::now())).await?;
        }
        objects
    }

    /// What is gone of the run, whose leases were not renewed for this long.
    async fn missed(&self, away: Duration) -> Option<String> {
        let Made { namespaces, .. } = self.ledger.made();
        let api: Api<Namespace> = Api::all(self.client.clone());
        let mut gone = Vec::new();
        for name in namespaces {
            let going = match api.get_metadata_opt(&name).await {
                Ok(found) => found.is_none_or(|found| found.metadata.deletion_timestamp.is_some()),
                Err(_) => false,
            };
            // What the run removes itself is not in its ledger when that is done.
            if going && self.ledger.made().namespaces.contains(&name) {
                gone.push(name);
            }
        }
        let away = text::seconds(away);
        if gone.is_empty() {
            self.events.note(format!(
                "the leases were not renewed for {away}, as when the machine sleeps; nothing was lost by it"
            ));
            return None;
        }
        let term = text::seconds(Duration::try_from(term(self.policy.keep)).unwrap_or_default());
        Some(format!(
            "the run's leases were not renewed for {away}, because the machine slept or the cluster was out of reach; they last {term}, and somebody has removed what had expired: namespace {}\n  run it again",
            gone.join(", namespace ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use http::{Method, Request, Response, StatusCode};
    use jiff::SignedDuration;
    use k8s_openapi::api::core::v1::Secret;
    use kube::api::ApiResource;
    use kube::client::Body;
    use serde_json::json;
    use tower_test::mock::Handle;

    use super::super::TERM;
    use super::*;
    use crate::cli::Keep;
    use crate::fake_api::{self, answer};
    use crate::labels;
    use crate::ledger::{Object, ReleaseName};

    fn holder(client: Client, ledger: Ledger) -> Holder {
        let policy = Policy {
            run: "r".to_owned(),
            keep: Keep::Never,
            cluster: ClusterPlan::Kubeconfig { file: "/k".into(), context: None },
            output: "/o".into(),
        };
        let (kind, events) = (Kind::new(), Events::new(Vec::new()));
        Holder { policy, ledger, client, clock: Clock::default(), kind, cache: "/c".into(), events }
    }

    fn gone() -> Response<Body> {
        let gone = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
        answer(StatusCode::NOT_FOUND, &gone)
    }

    /// Method, folder and name of a request.
    fn asked(request: &Request<Body>) -> String {
        let path = request.uri().path().rsplit('/').take(2).collect::<Vec<_>>();
        format!("{} {} {}", request.method(), path[1], path[0])
    }

    #[tokio::test]
    async fn all_that_a_run_has_made_is_renewed_until_it_ends() {
        let (client, mut server) = fake_api::client();
        let ledger = Ledger::default();
        ledger.record(|made| {
            made.namespaces.push("a-3fcd70".to_owned());
            for name in ["token", "of-another-run"] {
                made.objects.push(Object {
                    resource: ApiResource::erase::<Secret>(&()),
                    namespace: Some("theirs".to_owned()),
                    name: name.to_owned(),
                });
            }
            for namespace in ["a-3fcd70", "theirs"] {
                made.releases.push(ReleaseName { name: "app".to_owned(), namespace: namespace.to_owned() });
            }
        });
        let held = holder(client, ledger).hold_by(Duration::from_millis(1), SystemTime::now);
        let mut seen = Vec::new();
        // Twice all of it: one that is gone is no reason to leave the others.
        while seen.len() < 14 {
            let (request, send) = server.next_request().await.unwrap();
            let what = asked(&request);
            seen.push(what.clone());
            if request.method() == Method::GET {
                let of = |run| json!({"metadata": {"name": "x", "labels": {"k8s-test.local/run": run}}});
                let object = match what.as_str() {
                    "GET secrets token" => of("r"),
                    "GET secrets of-another-run" => of("other"),
                    "GET theirs secrets" => {
                        let selector = request.uri().query().unwrap_or_default().to_owned();
                        assert!(
                            selector.contains("name%3Dapp") && selector.contains("run%3Dr"),
                            "{selector}"
                        );
                        let revision = json!({"metadata": {"name": "sh.helm.release.v1.app.v1"}});
                        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [revision]})
                    }
                    _ => json!({}),
                };
                send.send_response(answer(StatusCode::OK, &object));
                continue;
            }
            let body = request.into_body().collect_bytes().await.unwrap();
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let expires: Timestamp =
                body["metadata"]["annotations"][labels::EXPIRES].as_str().unwrap().parse().unwrap();
            assert!(expires > Timestamp::now() + TERM - SignedDuration::from_mins(1));
            send.send_response(gone());
        }
        let once = [
            "GET  version",
            "PATCH namespaces a-3fcd70",
            "GET secrets token",
            "PATCH secrets token",
            "GET secrets of-another-run",
            "GET theirs secrets",
            "PATCH secrets sh.helm.release.v1.app.v1",
        ];
        assert_eq!(seen, [once, once].concat());
        drop(held);
        // The client goes with the task.
        assert!(server.next_request().await.is_none());
    }

    /// Answers requests: of a namespace, that it is there, or not.
    async fn serve(mut server: Handle<Request<Body>, Response<Body>>, there: bool) {
        while let Some((request, send)) = server.next_request().await {
            let found = json!({"metadata": {"name": "a-3fcd70"}});
            let is_missing = !there && request.uri().path().contains("namespaces");
            send.send_response(if is_missing { gone() } else { answer(StatusCode::OK, &found) });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_machine_slept_renews_at_once_and_notices_what_is_gone() {
        for there in [false, true] {
            let (client, server) = fake_api::client();
            tokio::spawn(serve(server, there));
            let ledger = Ledger::default();
            ledger.record(|made| made.namespaces.push("a-3fcd70".to_owned()));
            let slept = Arc::new(AtomicU64::new(0));
            let (start, begun) = (SystemTime::now(), Instant::now());
            let asleep = slept.clone();
            let wall = move || start + begun.elapsed() + Duration::from_secs(asleep.load(Ordering::Relaxed));
            let held = holder(client, ledger).hold_by(RENEW, wall);
            let early = timeout(10 * RENEW, held.lost()).await;
            assert!(early.is_err(), "{early:?}");
            slept.store(1500, Ordering::Relaxed);
            let lost = timeout(3 * LOOK, held.lost()).await;
            assert_eq!(lost.is_ok(), !there, "{lost:?}");
            if let Ok(lost) = lost {
                assert!(
                    lost.contains("not renewed for 26 m") && lost.contains("namespace a-3fcd70"),
                    "{lost}"
                );
            }
        }
    }
}
