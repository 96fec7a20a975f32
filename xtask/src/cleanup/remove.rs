//! Removes releases, objects and namespaces one by one, each only while it is of those whose things are to go.

use anyhow::{Result, anyhow, bail};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use super::cluster::others;
use super::{Remover, terminating};
use crate::cluster::clock::Clock;
use crate::events::Phase;
use crate::labels;
use crate::lease;
use crate::ledger::{Made, Object, ReleaseName};
use crate::text;

/// The seconds that a pod of a namespace of ours gets to end in, once nobody wants anything of it.
const PODS_GRACE: u32 = 1;
/// How often an object that changes meanwhile is looked at again.
const ATTEMPTS: usize = 5;

/// Whose things are to go. What does not carry our label never goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose<'a> {
    /// Of these runs.
    Runs(&'a [String]),
    /// Of any run, while its expiry is in the past: one that was renewed meanwhile stays.
    Expired,
    /// Of any run.
    Anyones,
}

impl Whose<'_> {
    /// Whether a run is one of those that it names.
    pub(crate) fn names(self, run: &str) -> bool {
        matches!(self, Whose::Runs(runs) if runs.iter().any(|named| named == run))
    }

    /// Whether an object is one of them.
    fn has(self, meta: &ObjectMeta, now: Timestamp) -> bool {
        let label = meta.labels.as_ref().and_then(|labels| labels.get(labels::RUN));
        let Some(by) = label else { return false };
        match self {
            Whose::Runs(_) => self.names(by),
            Whose::Anyones => true,
            // One without a time was chosen because nothing else of its run is left.
            Whose::Expired => lease::is_over(meta, now),
        }
    }
}

/// Uninstalls releases first, because they may have made things outside their namespaces; then the rest. The
/// deletion of a namespace is asked for and not waited for: names are never used twice.
pub(crate) async fn remove_objects(remover: &Remover<'_>, made: &Made) -> Vec<String> {
    let step = remover.events.step(Phase::Cleanup, "remove what was deployed");
    let mut left = Vec::new();
    for release in made.releases.iter().rev() {
        step.progress(format!("uninstall {}", release.name));
        if let Err(error) = uninstall(remover, made, release).await {
            left.push(format!(
                "release {} in {}: {}",
                release.name,
                release.namespace,
                crate::exit::message(&error)
            ));
        }
    }
    let Some(client) = remover.client else {
        left.push("the cluster's API is not known any more".to_owned());
        return left;
    };
    for object in made.objects.iter().rev() {
        if let Err(error) = delete_object(client, object, remover.whose, &remover.clock).await {
            left.push(format!("{} {}: {error:#}", object.resource.kind, object.name));
        }
    }
    for namespace in &made.namespaces {
        match delete_namespace(client, namespace, remover.whose, remover.clock.now()).await {
            Ok(Some(stuck)) => remover.events.warn(stuck),
            Ok(None) => {}
            Err(error) => left.push(format!("namespace {namespace}: {error:#}")),
        }
    }
    if left.is_empty() {
        step.done(text::count(made.namespaces.len(), "namespace"));
    }
    left
}

async fn uninstall(remover: &Remover<'_>, made: &Made, release: &ReleaseName) -> Result<()> {
    let ReleaseName { name, namespace } = release;
    let helm = remover.helm.ok_or_else(|| anyhow!("helm was not found"))?;
    let client = remover.client.ok_or_else(|| anyhow!("the cluster's API is not known any more"))?;
    // A namespace of ours may have been renewed since it was looked at. In one that is not, somebody may have put another
    // release of this name in its place.
    let goes = if made.namespaces.contains(namespace) {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = namespaces.get_metadata_opt(namespace).await?;
        found.is_some_and(|found| remover.whose.has(&found.metadata, remover.clock.now()))
    } else {
        is_of(client, release, remover.whose, remover.clock.now()).await?
    };
    if !goes {
        return Ok(());
    }
    helm.uninstall(name, namespace).await
}

/// Whether the revisions that helm keeps of a release are of those whose things are to go; of one that has none,
/// nothing is there to ask.
async fn is_of(client: &Client, release: &ReleaseName, whose: Whose<'_>, now: Timestamp) -> Result<bool> {
    let ReleaseName { name, namespace } = release;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let revisions = ListParams::default().labels(&format!("owner=helm,name={name}"));
    let revisions = secrets.list_metadata(&revisions).await?.items;
    Ok(revisions.is_empty() || revisions.iter().any(|revision| whose.has(&revision.metadata, now)))
}

/// Whether an object is where helm keeps a revision of a release; the name of that release.
pub(crate) fn is_release(kind: &str, meta: &ObjectMeta) -> Option<String> {
    let labels = meta.labels.as_ref()?;
    let of_helm = kind == "Secret" && labels.get("owner").is_some_and(|owner| owner == "helm");
    labels.get("name").filter(|_| of_helm).cloned()
}

/// Deletes an object if it is of those that are to go; one that another run needs becomes that run's.
async fn delete_object(client: &Client, object: &Object, whose: Whose<'_>, clock: &Clock) -> Result<()> {
    let api: Api<DynamicObject> = match &object.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &object.resource),
        None => Api::all_with(client.clone(), &object.resource),
    };
    for _ in 0..ATTEMPTS {
        let Some(found) = api.get_opt(&object.name).await? else { return Ok(()) };
        if !whose.has(&found.metadata, clock.now()) {
            return Ok(());
        }
        let Some(heir) = heir(client, &found.metadata, whose, clock.now()).await? else {
            return gone(
                api.delete(&object.name, &this(&found.metadata, whose, DeleteParams::default())).await,
            );
        };
        let changed = json!({"metadata": {
            "resourceVersion": found.metadata.resource_version,
            "labels": {labels::RUN: heir},
            "annotations": {labels::EXPIRES: (clock.now() + lease::TERM).to_string()},
        }});
        match api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&changed)).await {
            // It is another one than we have looked at.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            passed => return gone(passed),
        }
    }
    bail!("it changes all the time")
}

/// A run that lives and has applied an object of another run, too.
async fn heir(
    client: &Client,
    meta: &ObjectMeta,
    whose: Whose<'_>,
    now: Timestamp,
) -> Result<Option<String>> {
    let by = meta.labels.as_ref().and_then(|labels| labels.get(labels::RUN));
    let by = by.map(String::as_str).unwrap_or_default();
    // Of runs that go together none inherits from another.
    let users: Vec<&str> = labels::appliers(meta).filter(|run| *run != by && !whose.names(run)).collect();
    if users.is_empty() || whose == Whose::Anyones {
        return Ok(None);
    }
    let alive = others(client, by, now).await?;
    Ok(alive.into_iter().find(|run| users.contains(&run.as_str())))
}

/// Asks for a namespace's deletion, if it is of those that are to go; says what holds one up that is going already.
async fn delete_namespace(
    client: &Client,
    name: &str,
    whose: Whose<'_>,
    now: Timestamp,
) -> Result<Option<String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(found) = api.get_opt(name).await? else { return Ok(None) };
    if !whose.has(&found.metadata, now) {
        return Ok(None);
    }
    if found.metadata.deletion_timestamp.is_some() {
        return Ok(terminating::explain(&found, now));
    }
    let deleted = api.delete(name, &this(&found.metadata, whose, DeleteParams::background())).await;
    if deleted.is_ok() {
        hurry_pods(client, name).await;
    }
    gone(deleted)?;
    Ok(None)
}

/// Shortens the time that the pods of a namespace which is being deleted may take to end: what they would save or finish is
/// deleted with them, and it takes the processor from whoever runs next.
async fn hurry_pods(client: &Client, namespace: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = DeleteParams { grace_period_seconds: Some(PODS_GRACE), ..DeleteParams::background() };
    if let Err(error) = pods.delete_collection(&params, &ListParams::default()).await {
        tracing::debug!("the pods of {namespace} end in their own time: {error}");
    }
}

/// The object that was looked at, and no other of its name; of what has expired, as it was then: another run may be taking it
/// over at this moment.
fn this(meta: &ObjectMeta, whose: Whose<'_>, params: DeleteParams) -> DeleteParams {
    let resource_version = meta.resource_version.clone().filter(|_| matches!(whose, Whose::Expired));
    params.preconditions(Preconditions { uid: meta.uid.clone(), resource_version })
}

fn gone<T>(result: kube::Result<T>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        // Somebody else was faster, and may have made another of the name since.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use kube::api::ApiResource;

    use super::*;
    use crate::fake_api;

    fn meta(text: &str) -> ObjectMeta {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn what_another_run_has_taken_over_is_left_to_it() {
        let now = Timestamp::now();
        let of = |run: &str| meta(&format!("labels: {{k8s-test.local/run: {run}}}"));
        let a = ["a".to_owned()];
        assert!(Whose::Runs(&a).has(&of("a"), now));
        assert!(!Whose::Runs(&a).has(&of("b"), now));
        assert!(Whose::Anyones.has(&of("b"), now));
        for whose in [Whose::Runs(&a), Whose::Anyones, Whose::Expired] {
            assert!(!whose.has(&ObjectMeta::default(), now));
        }
    }

    #[test]
    fn what_was_renewed_since_it_was_found_stays() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let until = |time: &str| {
            meta(&format!(
                "{{labels: {{k8s-test.local/run: r}}, annotations: {{k8s-test.local/expires: '{time}'}}}}"
            ))
        };
        assert!(Whose::Expired.has(&until("2026-01-01T23:59:59Z"), now));
        assert!(!Whose::Expired.has(&until("2026-01-02T00:10:00Z"), now));
        let new = "{labels: {k8s-test.local/run: r}, creationTimestamp: '2026-01-01T23:59:00Z'}";
        assert!(!Whose::Expired.has(&meta(new), now));
    }

    /// What happens to an object that runs a and b have applied and a has made, when some go and these runs live.
    async fn fate_of_a_shared_one(go: &[&str], alive: &[&str]) -> String {
        let (client, mut server) = fake_api::client();
        let resource = ApiResource::erase::<Secret>(&());
        let object = Object { resource, namespace: Some("theirs".to_owned()), name: "shared".to_owned() };
        let clock = Clock::default();
        let go: Vec<String> = go.iter().map(|run| (*run).to_owned()).collect();
        let deleting =
            tokio::spawn(async move { delete_object(&client, &object, Whose::Runs(&go), &clock).await });
        let found = json!({"metadata": {
            "name": "shared", "uid": "u", "resourceVersion": "7", "labels": {labels::RUN: "a"},
            "managedFields": [{"manager": "k8s-test/a"}, {"manager": "kubectl"}, {"manager": "k8s-test/b"}],
        }});
        let namespace = |run: &&str| json!({"metadata": {"name": run, "labels": {labels::RUN: run}, "annotations": {labels::EXPIRES: "2999-01-01T00:00:00Z"}}});
        let namespaces: Vec<_> = alive.iter().map(namespace).collect();
        let mut fate = String::new();
        while let Some((request, send)) = server.next_request().await {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            let body = match (method.as_str(), path.as_str()) {
                ("GET", "/api/v1/namespaces") => {
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": namespaces})
                }
                ("GET", _) => found.clone(),
                (method, _) => {
                    fate = method.to_owned();
                    let body = request.into_body().collect_bytes().await.unwrap();
                    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                    if method == "PATCH" {
                        let metadata = &body["metadata"];
                        fate.push_str(&format!(" {}", metadata["labels"][labels::RUN]));
                        assert_eq!(metadata["resourceVersion"], "7");
                        assert!(metadata["annotations"][labels::EXPIRES].is_string());
                    }
                    found.clone()
                }
            };
            send.send_response(fake_api::answer(StatusCode::OK, &body));
        }
        deleting.await.unwrap().unwrap();
        fate
    }

    #[tokio::test]
    async fn what_a_run_that_lives_has_applied_too_becomes_its_own() {
        assert_eq!(fate_of_a_shared_one(&["a"], &["b", "c"]).await, "PATCH \"b\"");
        assert_eq!(fate_of_a_shared_one(&["a"], &["c"]).await, "DELETE");
        assert_eq!(fate_of_a_shared_one(&["a"], &[]).await, "DELETE");
        assert_eq!(fate_of_a_shared_one(&["a", "b"], &["b", "c"]).await, "DELETE");
    }

    #[test]
    fn a_revision_of_helm_stands_for_its_release() {
        let revision = meta("labels: {owner: helm, name: dagster, k8s-test.local/run: r}");
        assert_eq!(is_release("Secret", &revision).as_deref(), Some("dagster"));
        assert_eq!(is_release("ConfigMap", &revision), None);
        assert_eq!(is_release("Secret", &meta("labels: {name: dagster}")), None);
    }
}
