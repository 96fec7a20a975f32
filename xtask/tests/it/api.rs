//! An API server in memory: objects are created, listed, patched and deleted, and a deleted namespace takes along what
//! is in it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

/// Called before each request is answered, and once more after it has had its effect.
pub(crate) type OnStep = Arc<dyn Fn() + Send + Sync>;

/// The server; it ends with the test's process.
#[derive(Clone)]
pub(crate) struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    /// Deletions wait while this is set.
    stuck: Arc<(Mutex<bool>, Condvar)>,
    address: String,
}

/// A kind: its name, its plural, and whether it is in namespaces.
type Kind = (&'static str, &'static str, bool);

/// The cluster's node.
pub(crate) const NODE: &str = "/api/v1/nodes/one";

/// Kinds by group and version.
const KINDS: [(&str, &[Kind]); 2] = [
    (
        "/api/v1",
        &[
            ("Namespace", "namespaces", false),
            ("Node", "nodes", false),
            ("ConfigMap", "configmaps", true),
            ("Secret", "secrets", true),
            ("ServiceAccount", "serviceaccounts", true),
        ],
    ),
    ("/apis/rbac.authorization.k8s.io/v1", &[("ClusterRole", "clusterroles", false)]),
];

impl Api {
    pub(crate) fn start(on_step: OnStep) -> Api {
        let (send, address) = std::sync::mpsc::channel();
        let objects: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let stuck: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let state = (objects.clone(), stuck.clone(), on_step);
        std::thread::spawn(move || {
            // Several threads, because a deletion that is stuck blocks one.
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send.send(format!("http://{}", listener.local_addr().unwrap())).unwrap();
                loop {
                    let Ok((connection, _)) = listener.accept().await else { continue };
                    let state = state.clone();
                    let serve = service_fn(move |request| answer(state.clone(), request));
                    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(connection), serve));
                }
            });
        });
        let api = Api { objects, stuck, address: address.recv().unwrap() };
        api.put(
            NODE,
            json!({
                // As on clusters that were made with our label in kind's configuration: it must not cost them their nodes.
                "metadata": {"name": "one", "labels": {"k8s-test.local/run": "long-dead"}, "creationTimestamp": "2020-01-01T00:00:00Z"},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }),
        );
        api.put("/api/v1/namespaces/default", json!({"metadata": {"name": "default"}}));
        let account = json!({"metadata": {"name": "default", "namespace": "default"}});
        api.put("/api/v1/namespaces/default/serviceaccounts/default", account);
        api
    }

    /// A kubeconfig with one context, which is the current one.
    pub(crate) fn kubeconfig(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: fake\ncontexts: [{{name: fake, context: {{cluster: c, user: u}}}}]\nclusters: [{{name: c, cluster: {{server: '{}'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n",
            self.address
        )
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.objects.lock().unwrap().insert(path.to_owned(), object);
    }

    /// The paths of the objects that carry our label, with the run's id; its node is the cluster's own.
    pub(crate) fn ours(&self) -> Vec<(String, String)> {
        let run =
            |object: &Value| object["metadata"]["labels"]["k8s-test.local/run"].as_str().map(str::to_owned);
        let objects = self.objects.lock().unwrap();
        let objects = objects.iter().filter(|(path, _)| path.as_str() != NODE);
        objects.filter_map(|(path, object)| Some((path.clone(), run(object)?))).collect()
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.objects.lock().unwrap().get(path).cloned()
    }

    /// Makes deletions wait, or goes on with them.
    pub(crate) fn hold_deletions(&self, hold: bool) {
        *self.stuck.0.lock().unwrap() = hold;
        self.stuck.1.notify_all();
    }
}

type State = (Arc<Mutex<BTreeMap<String, Value>>>, Arc<(Mutex<bool>, Condvar)>, OnStep);

async fn answer(
    (objects, stuck, on_step): State,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    on_step();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if parts.method == Method::DELETE {
        tokio::task::block_in_place(|| {
            let held = stuck.0.lock().unwrap();
            drop(stuck.1.wait_while(held, |held| *held).unwrap());
        });
    }
    let query = parts.uri.query().unwrap_or_default();
    let (status, answer) = act(objects.lock().unwrap(), &parts.method, parts.uri.path(), query, body);
    on_step();
    let answer = Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(answer.to_string())))
        .unwrap();
    Ok(answer)
}

fn act(
    mut objects: MutexGuard<'_, BTreeMap<String, Value>>,
    method: &Method,
    path: &str,
    query: &str,
    body: Value,
) -> (StatusCode, Value) {
    if let Some(answer) = discovery(path) {
        return (StatusCode::OK, answer);
    }
    let plural =
        KINDS.iter().flat_map(|(_, kinds)| *kinds).find(|kind| path.ends_with(&format!("/{}", kind.1)));
    let missing = (StatusCode::NOT_FOUND, status(404, "NotFound"));
    match (method, plural) {
        (&Method::GET, Some((kind, plural, _))) => {
            // Of the whole cluster, or of one namespace.
            let (group, within) = path.split_at(path.len() - plural.len());
            let is_one = |key: &str| match within_namespace(group) {
                true => key.strip_prefix(path).is_some_and(|rest| rest[1..].find('/').is_none()),
                false => key.starts_with(group) && key.rsplit('/').nth(1) == Some(within),
            };
            let selector = selector(query);
            let items: Vec<&Value> = objects
                .iter()
                .filter(|(key, object)| is_one(key) && selects(&selector, object))
                .map(|(_, object)| object)
                .collect();
            let list = json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            (StatusCode::OK, list)
        }
        (&Method::POST, Some(_)) => {
            let key = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
            if objects.contains_key(&key) {
                return (StatusCode::CONFLICT, status(409, "AlreadyExists"));
            }
            objects.insert(key.clone(), with_id(&key, body.clone()));
            (StatusCode::CREATED, body)
        }
        (&Method::GET, None) => objects.get(path).map_or(missing, |object| (StatusCode::OK, object.clone())),
        (&Method::PATCH, None) => {
            let manager = parameter(query, "fieldManager");
            let mut object = match objects.get(path) {
                Some(object) => merged(object.clone(), body),
                None if manager.is_some() => with_id(path, body),
                None => return missing,
            };
            if let Some(manager) = manager {
                let managers = &mut object["metadata"]["managedFields"];
                let mut all = managers.as_array().cloned().unwrap_or_default();
                all.retain(|known| known["manager"] != *manager);
                all.push(json!({"manager": manager}));
                *managers = Value::Array(all);
            }
            objects.insert(path.to_owned(), object.clone());
            (StatusCode::OK, object)
        }
        (&Method::DELETE, None) => {
            let Some(object) = objects.get(path) else { return missing };
            let wanted = &body["preconditions"]["uid"];
            if wanted.is_string() && *wanted != object["metadata"]["uid"] {
                return (StatusCode::CONFLICT, status(409, "Conflict"));
            }
            let inside = format!("{path}/");
            objects.retain(|key, _| key != path && !key.starts_with(&inside));
            (StatusCode::OK, status(200, "Success"))
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, status(405, "MethodNotAllowed")),
    }
}

fn within_namespace(group: &str) -> bool {
    group.contains("/namespaces/")
}

fn status(code: u16, reason: &str) -> Value {
    let outcome = if code == 200 { "Success" } else { "Failure" };
    json!({"kind": "Status", "apiVersion": "v1", "status": outcome, "reason": reason, "message": reason, "code": code})
}

/// An object as it is made: one that is new is left alone by those who look for what has expired.
fn with_id(path: &str, mut object: Value) -> Value {
    object["metadata"]["uid"] = json!(format!("id-of-{path}"));
    object["metadata"]["creationTimestamp"] = json!(jiff::Timestamp::now().to_string());
    object
}

/// As a JSON merge patch; good enough for an apply.
fn merged(mut object: Value, patch: Value) -> Value {
    match (&mut object, patch) {
        (Value::Object(fields), Value::Object(patch)) => {
            for (key, value) in patch {
                let old = fields.remove(&key).unwrap_or_default();
                fields.insert(key, merged(old, value));
            }
            object
        }
        (_, patch) => patch,
    }
}

/// A parameter of a query.
fn parameter(query: &str, name: &str) -> Option<String> {
    let values = query.split('&').filter_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    values.map(|value| value.replace("%2F", "/").replace("%2C", ",").replace("%3D", "=")).next()
}

/// The requirements of a label selector: keys, with the value that they must have.
fn selector(query: &str) -> Vec<(String, Option<String>)> {
    let value = parameter(query, "labelSelector").unwrap_or_default();
    let one = |part: &str| match part.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (part.to_owned(), None),
    };
    value.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

fn selects(selector: &[(String, Option<String>)], object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    selector.iter().all(|(key, value)| match value {
        Some(value) => labels[key] == **value,
        None => labels[key].is_string(),
    })
}

fn discovery(path: &str) -> Option<Value> {
    let group = "rbac.authorization.k8s.io";
    Some(match path {
        "/version" => {
            json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": ""})
        }
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        "/apis" => {
            let version = json!({"groupVersion": format!("{group}/v1"), "version": "v1"});
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [{"name": group, "versions": [version], "preferredVersion": version}]})
        }
        _ => {
            let (prefix, kinds) = KINDS.iter().find(|(prefix, _)| *prefix == path)?;
            let resources: Vec<Value> = kinds
                .iter()
                .map(|(kind, plural, namespaced)| json!({"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["create", "delete", "get", "list", "patch"]}))
                .collect();
            let version = prefix.trim_start_matches("/apis/").trim_start_matches("/api/");
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
        }
    })
}
