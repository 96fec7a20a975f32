//! A suite's namespaces: new ones of unique names, those of a deployment that stays, or an existing one for all
//! roles.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use indexmap::IndexMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use crate::config::Suite;
use crate::exit::{Exit, ExitWith};
use crate::ledger::{Ledger, Made};
use crate::plan::Plan;
use crate::{fail, labels, lease, names, text};

/// Suffixes to try; with 16 million of them a second collision means that something else is wrong.
const ATTEMPTS: usize = 5;

/// The namespaces of a suite's roles.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// Role to name.
    pub by_role: BTreeMap<String, String>,
    /// The first role's, where fixtures without a namespace go.
    pub first: String,
    /// Whether this run made them, or they are of the deployment that it uses again.
    pub ours: bool,
}

impl Namespaces {
    /// Their names, for a message.
    #[must_use]
    pub fn list(&self) -> String {
        let mut names: Vec<&str> = self.by_role.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.join(", ")
    }
}

/// What is written on the namespaces of a suite.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    /// The run's id.
    pub run: &'a str,
    /// The time by the cluster's clock.
    pub now: Timestamp,
    /// When anybody may remove them.
    pub expires: Timestamp,
    /// Whether `up` and `dev` use them again.
    pub up: bool,
}

impl Marks<'_> {
    /// Those of a run's own at this time by the cluster's clock.
    #[must_use]
    pub fn of(plan: &Plan, now: Timestamp) -> Marks<'_> {
        Marks { run: &plan.run, now, expires: lease::expiry(plan.keep, now), up: false }
    }
}

/// Makes a namespace for each different prefix of `suite` that none of `known` was made for.
///
/// # Errors
/// The API refuses; exit 3.
pub async fn make(
    client: &Client,
    suite: &Suite,
    marks: Marks<'_>,
    known: &[String],
    ledger: &Ledger,
) -> Result<Namespaces> {
    let Marks { run, expires, up, .. } = marks;
    let api: Api<Namespace> = Api::all(client.clone());
    let mut names: IndexMap<&str, String> = IndexMap::new();
    let mut labels = labels::of(run, &suite.name, &suite.variant);
    labels.insert("app.kubernetes.io/managed-by".to_owned(), "k8s-test".to_owned());
    if up {
        labels.insert(labels::UP.to_owned(), "true".to_owned());
    }
    let annotations = [(labels::EXPIRES, expires.to_string()), (labels::OWNER, lease::owner())];
    let annotations = annotations.map(|(key, value)| (key.to_owned(), value)).into();
    for prefix in suite.namespaces.values() {
        if !names.contains_key(prefix.as_str()) {
            let name = match known.iter().find(|name| names::is_made_from(name, prefix)) {
                Some(name) => {
                    ledger.record(|made| {
                        made.namespaces.retain(|noted| noted != name);
                        made.namespaces.push(name.clone());
                    });
                    let known = Made { namespaces: vec![name.clone()], ..Made::default() };
                    lease::prolong(client, &known, run, expires).await.or_exit(Exit::Environment)?;
                    name.clone()
                }
                None => {
                    create(&api, prefix, &labels, &annotations, ledger).await.or_exit(Exit::Environment)?
                }
            };
            names.insert(prefix, name);
        }
    }
    let by_role: BTreeMap<String, String> = suite
        .namespaces
        .iter()
        .map(|(role, prefix)| (role.clone(), names[prefix.as_str()].clone()))
        .collect();
    let first = names.values().next().cloned().unwrap_or_default();
    Ok(Namespaces { by_role, first, ours: true })
}

async fn create(
    api: &Api<Namespace>,
    prefix: &str,
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    ledger: &Ledger,
) -> Result<String> {
    for _ in 0..ATTEMPTS {
        let name = format!("{prefix}-{}", names::suffix());
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(labels.clone()),
                annotations: Some(annotations.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        ledger.record(|made| made.namespaces.push(name.clone()));
        match api.create(&PostParams::default(), &namespace).await {
            Ok(_) => return Ok(name),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                ledger.record(|made| made.namespaces.retain(|noted| *noted != name));
            }
            Err(error) => return Err(error).with_context(|| format!("make the namespace {name}")),
        }
    }
    bail!(
        "{ATTEMPTS} random names for the namespace {prefix}-… were all taken; something else makes namespaces of this prefix"
    )
}

/// Uses the namespace `name` for every role of `suite`.
///
/// # Errors
/// It does not exist; exit 2.
pub async fn existing(client: &Client, suite: &Suite, name: &str) -> Result<Namespaces> {
    let api: Api<Namespace> = Api::all(client.clone());
    if api.get_opt(name).await.or_exit(Exit::Environment)?.is_none() {
        let all = api.list(&ListParams::default()).await.or_exit(Exit::Environment)?;
        let known: Vec<String> = all.iter().map(ResourceExt::name_any).collect();
        fail!(
            Exit::Usage,
            "the namespace `{name}` of --existing-helm-namespace does not exist{}",
            text::suggestion(name, known.iter().map(String::as_str))
        );
    }
    let by_role = suite.namespaces.keys().map(|role| (role.clone(), name.to_owned())).collect();
    Ok(Namespaces { by_role, first: name.to_owned(), ours: false })
}

#[cfg(test)]
mod tests {
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::fake_api::{self, answer};

    fn suite(namespaces: &str) -> Suite {
        let text = format!("namespaces: {namespaces}\nrun: {{tests: x}}\n");
        let file: crate::config::SuiteFile = crate::config::parse("suite.yaml".into(), &text).unwrap();
        file.resolve("/w/test-suites/example".into(), "default").unwrap()
    }

    fn marks() -> Marks<'static> {
        Marks { run: "run-1", now: Timestamp::UNIX_EPOCH, expires: Timestamp::UNIX_EPOCH, up: false }
    }

    fn conflict() -> Response<Body> {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409, "message": "exists"});
        answer(StatusCode::CONFLICT, &status)
    }

    async fn name_in(request: Request<Body>) -> (String, serde_json::Value) {
        let body: serde_json::Value =
            serde_json::from_slice(&request.into_body().collect_bytes().await.unwrap()).unwrap();
        (body["metadata"]["name"].as_str().unwrap().to_owned(), body)
    }

    #[tokio::test]
    async fn a_taken_name_is_tried_again_with_another() {
        let (client, mut server) = fake_api::client();
        let serve = tokio::spawn(async move {
            let (request, send) = server.next_request().await.unwrap();
            let (first, _) = name_in(request).await;
            send.send_response(conflict());
            let (request, send) = server.next_request().await.unwrap();
            let (second, body) = name_in(request).await;
            send.send_response(answer(StatusCode::CREATED, &body));
            (first, second, body)
        });
        let ledger = Ledger::default();
        let made = make(&client, &suite("{user: dagster-test, system: dagster-test}"), marks(), &[], &ledger)
            .await
            .unwrap();
        let (first, second, body) = serve.await.unwrap();
        assert_ne!(first, second);
        assert_eq!(made.by_role["user"], second);
        // One prefix, one namespace.
        assert_eq!(made.by_role["system"], second);
        assert_eq!(ledger.made().namespaces, [second]);
        assert_eq!(body["metadata"]["labels"]["k8s-test.local/run"], "run-1");
        assert_eq!(body["metadata"]["annotations"]["k8s-test.local/expires"], "1970-01-01T00:00:00Z");
    }

    #[tokio::test]
    async fn a_deployment_gets_only_the_namespaces_that_it_lacks() {
        let (client, mut server) = fake_api::client();
        let serve = tokio::spawn(async move {
            let (request, send) = server.next_request().await.unwrap();
            let prolonged = format!("{} {}", request.method(), request.uri().path());
            send.send_response(answer(StatusCode::OK, &json!({"metadata": {"name": "dagster-test-3fcd70"}})));
            let (request, send) = server.next_request().await.unwrap();
            let (made, body) = name_in(request).await;
            send.send_response(answer(StatusCode::CREATED, &body));
            (prolonged, made, body)
        });
        let known = ["dagster-test-3fcd70".to_owned(), "dagster-test-system-000000".to_owned()];
        let marks = Marks { up: true, ..marks() };
        let suite = suite("{user: dagster-test, system: dagster}");
        let namespaces = make(&client, &suite, marks, &known, &Ledger::default()).await.unwrap();
        let (prolonged, made, body) = serve.await.unwrap();
        assert!(prolonged.starts_with("PATCH /api/v1/namespaces/dagster-test-3fcd70"), "{prolonged}");
        assert_eq!(namespaces.by_role["user"], "dagster-test-3fcd70");
        assert_eq!(namespaces.by_role["system"], made);
        assert_eq!(body["metadata"]["labels"]["k8s-test.local/up"], "true");
    }

    #[tokio::test]
    async fn an_existing_namespace_that_does_not_exist_is_a_usage_error() {
        let (client, mut server) = fake_api::client();
        tokio::spawn(async move {
            let (_, send) = server.next_request().await.unwrap();
            let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
            send.send_response(answer(StatusCode::NOT_FOUND, &status));
            let (_, send) = server.next_request().await.unwrap();
            let list = json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": {}, "items": [{"metadata": {"name": "dagster"}}]});
            send.send_response(answer(StatusCode::OK, &list));
        });
        let error = existing(&client, &suite("{user: a}"), "dagstre").await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("did you mean `dagster`?"), "{error}");
    }
}
