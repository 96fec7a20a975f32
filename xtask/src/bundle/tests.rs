//! Bundles of a cluster that is asked for by hand.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response, StatusCode};
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::fake_api::{self, answer};

/// What no file may hold.
const PLANTED: &str = "correct-horse-battery-staple";

#[test]
fn a_bundle_that_is_too_big_keeps_the_ends_of_its_logs() {
    let line = "a line of a log that goes on and on\n";
    let mut files = Files::from([
        ("long.log".into(), format!("{}the end\n", line.repeat(20_000))),
        ("short.log".into(), "all of it\n".to_owned()),
    ]);
    shorten(&mut files, 300_000);
    let long = &files[Utf8Path::new("long.log")];
    assert!(long.len() < 300_000 && long.ends_with("on and on\nthe end\n"));
    let (mark, rest) = long.split_once('\n').unwrap();
    let left_out = line.len() * 20_000 + "the end\n".len() - rest.len();
    assert_eq!(mark, format!("[the beginning is left out: {}]", text::bytes(left_out as u64)));
    assert_eq!(long.lines().nth(1), Some(line.trim_end()));
    assert_eq!(files[Utf8Path::new("short.log")], "all of it\n");
}

fn list(items: &Value) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
}

/// What the namespace `ns` has: a Secret, of which everything else tells, and a pod of two containers.
fn of_namespace(path: &str) -> Value {
    let status = |name: &str, restarts: u32| json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": restarts});
    match path.trim_start_matches("/api/v1/namespaces/ns/") {
        "secrets" => list(&json!([{"metadata": {"name": "s"}, "data": {"plain": STANDARD.encode(PLANTED)}}])),
        "pods" => list(&json!([{
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {"containers": [{"name": "c", "args": [PLANTED]}, {"name": "silent"}]},
            "status": {"containerStatuses": [status("c", 1), status("silent", 0)]},
        }])),
        "events" => list(&json!([{
            "metadata": {"name": "e"}, "reason": "Failed", "message": format!("cannot use {PLANTED}"),
            "involvedObject": {"kind": "Pod", "name": "p"},
        }])),
        "configmaps" => list(&json!([{
            "metadata": {"name": "m", "namespace": "ns"}, "data": {"note": format!("it is {PLANTED}")},
        }])),
        other => panic!("{other} is asked for"),
    }
}

fn answered(request: &Request<Body>) -> Option<Response<Body>> {
    let resource = |name: &str, kind: &str| json!({"name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["list"]});
    let query = request.uri().query().unwrap_or_default();
    let accepts = request.headers().get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    let body = match request.uri().path() {
        // An API server from before there was one answer for all.
        _ if accepts.is_some_and(|accepts| accepts.contains("Discovery")) => {
            return Some(answer(StatusCode::NOT_ACCEPTABLE, &json!({})));
        }
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => json!({
            "kind": "APIResourceList", "groupVersion": "v1",
            "resources": [resource("configmaps", "ConfigMap"), resource("pods", "Pod")],
        }),
        path if path.ends_with("/log") => {
            // Its node does not answer.
            if query.contains("container=silent") {
                return None;
            }
            let text = format!("the way in is {PLANTED}\nthe end of {query}\n");
            return Some(Response::new(Body::from(text.into_bytes())));
        }
        path => of_namespace(path),
    };
    Some(answer(StatusCode::OK, &body))
}

/// Each file's path in the bundle, with its text.
fn read(folder: &Utf8Path, at: &Utf8Path, files: &mut Files) {
    for entry in folder.join(at).read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let path = at.join(entry.file_name());
        if entry.path().is_dir() {
            read(folder, &path, files);
        } else {
            files.insert(path.clone(), std::fs::read_to_string(folder.join(&path)).unwrap());
        }
    }
}

/// Writes a bundle of the namespace, whose API server gives no answer to what `silent` holds for; gives its files.
async fn bundle(silent: impl Fn(&str) -> bool + Send + 'static) -> Files {
    let (client, mut server) = fake_api::client();
    let serving = tokio::spawn(async move {
        // A sender that is dropped would be an answer.
        let mut unanswered = Vec::new();
        while let Some((request, send)) = server.next_request().await {
            match answered(&request).filter(|_| !silent(request.uri().path())) {
                Some(response) => send.send_response(response),
                None => unanswered.push(send),
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let helm = Helm { program: "helm".into(), version: None, kubeconfig: "/k".into() };
    let namespaces = ["ns".to_owned()];
    let source = Source { client: &client, helm: &helm, namespaces: &namespaces, releases: &[] };
    let begun = Instant::now();
    let written = write(source, folder).await.unwrap();
    assert!(begun.elapsed() <= LIMIT, "{:?}", begun.elapsed());
    let mut files = Files::new();
    read(folder, "".into(), &mut files);
    assert_eq!(files.len(), written.files);
    serving.abort();
    files
}

#[tokio::test(start_paused = true)]
async fn what_a_secret_holds_is_in_no_file_and_a_silent_node_costs_one_log() {
    let files = bundle(|_| false).await;
    let names: Vec<&str> = files.keys().map(|path| path.as_str()).collect();
    let expected = [
        "missing.txt",
        "namespaces/ns/events.txt",
        "namespaces/ns/logs/p/c.log",
        "namespaces/ns/logs/p/c.previous.log",
        "namespaces/ns/objects/configmap/m.yaml",
        "namespaces/ns/objects/pod/p.yaml",
    ];
    assert_eq!(names, expected);
    for (path, text) in &files {
        assert!(!text.contains(PLANTED), "{path}: {text}");
        assert!(!text.contains(&STANDARD.encode(PLANTED)), "{path}: {text}");
    }
    assert_eq!(files[Utf8Path::new("missing.txt")], "the log of p/silent: no answer in time\n");
    let log = &files[Utf8Path::new("namespaces/ns/logs/p/c.log")];
    assert!(log.starts_with("the way in is [redacted]\nthe end of "), "{log}");
}

#[tokio::test(start_paused = true)]
async fn without_the_secrets_there_are_no_logs() {
    let files = bundle(|path| path.ends_with("/secrets")).await;
    let missing = &files[Utf8Path::new("missing.txt")];
    assert!(missing.contains(UNREDACTED), "{missing}");
    assert!(files.contains_key(Utf8Path::new("namespaces/ns/objects/pod/p.yaml")), "{:?}", files.keys());
    assert!(!files.keys().any(|path| path.as_str().contains("/logs/")), "{:?}", files.keys());
}

#[test]
fn of_the_nodes_logs_only_their_own_stay_and_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let node = folder.join("node");
    std::fs::create_dir_all(node.join("pods/p")).unwrap();
    std::fs::write(node.join("pods/p/0.log"), "the pod's").unwrap();
    std::fs::write(node.join("kubelet.log"), format!("mounts {PLANTED}\n")).unwrap();
    std::os::unix::fs::symlink("kubelet.log", node.join("link.log")).unwrap();
    let mut redactor = Redactor::default();
    let data = json!({"key": STANDARD.encode(PLANTED)});
    redactor.learn_object(&json!({"kind": "Secret", "metadata": {"name": "s"}, "data": data}));
    let written = Written { redactor, files: 0, bytes: 0, missing: Vec::new() };
    written.redact(folder).unwrap();
    let mut files = Files::new();
    read(folder, "".into(), &mut files);
    let found: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    assert_eq!(found, [("node/kubelet.log", "mounts [redacted]\n")]);
}
