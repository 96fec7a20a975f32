//! Charts with faults, releases that were cut off, an API server that ends meanwhile, and a suite that `new` has written.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{Folder, delete, get, processes, said, xtask};

/// One for all cases; where a case fails it stays, to be looked at.
const CLUSTER: &str = "k8s-test-charts";
/// How long anything may take that is waited for here.
const SOON: Duration = Duration::from_secs(90);
/// In the environment of what is to be killed.
const MARK: &str = "K8S_TEST_REAL_CHARTS";

/// A suite whose release has this template and so many seconds to become ready.
fn suite(template: &str, timeout: u32) -> Folder {
    let folder = Folder::new();
    folder.chart(template);
    folder.write(
        "suite/suite.yaml",
        &format!("images: [python-base]\nnamespaces: {{main: charts}}\nreleases: [{{name: app, chart: ../chart, namespace: main, values: [values.yaml], timeout: {timeout}s}}]\nrun: {{command: ['true']}}\n"),
    );
    let image = r#"{{ images["python-base"].repository }}:{{ images["python-base"].tag }}"#;
    folder.write("suite/values.yaml", &format!("image: '{image}'\n"));
    folder
}

/// A Job that helm waits for before anything else.
fn hook(script: &str) -> String {
    format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: migrate, annotations: {{helm.sh/hook: "pre-install,pre-upgrade"}}}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{{name: migrate, image: "{{{{ .Values.image }}}}", command: [sh, -c, "{script}"]}}]
"#
    )
}

/// A program that is ready after so many seconds, and its Service.
fn web(seconds: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: "{{{{ .Values.image }}}}"
          command: [sh, -c, "sleep {seconds}; exec python3 -m http.server 8080"]
          ports: [{{name: http, containerPort: 8080}}]
          readinessProbe: {{periodSeconds: 1, tcpSocket: {{port: http}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: http}}]}}
"#
    )
}

/// Starts the program on the cluster; what it prints goes into the file `log`.
fn start(folder: &Folder, command: &str, suite: &str, input: Stdio) -> Child {
    let log = File::create(folder.path().join("log")).unwrap();
    let is_run = command == "k8s-test";
    let mut command = xtask(folder, &[command, suite, "--kind-cluster", CLUSTER]);
    if is_run {
        command.args(["--output", folder.path().join("output").to_str().unwrap()]);
    }
    command.env(MARK, folder.path()).stdin(input);
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Runs a suite to its end, which must be with this exit code, and with these words.
fn ends(folder: &Folder, suite: &str, code: i32, words: &[&str]) {
    let status = start(folder, "k8s-test", suite, Stdio::null()).wait().unwrap();
    let text = folder.text("log");
    assert_eq!(status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in:\n{text}");
    }
}

/// Waits until `there` gives something.
fn until<T>(folder: &Folder, what: &str, there: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(begun.elapsed() < SOON, "waited in vain for {what}:\n{}", folder.text("log"));
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The namespaces where the release has a revision in this state.
fn revisions(state: &str) -> Vec<String> {
    let selector = format!("owner=helm,name=app,status={state}");
    let list = get(CLUSTER, &["secrets", "--all-namespaces", "--selector", &selector]);
    let namespace = |secret: &serde_json::Value| secret["metadata"]["namespace"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(namespace).collect()
}

#[test]
#[ignore = "makes a cluster: two minutes"]
fn what_charts_and_the_cluster_do_wrong_is_told_or_mended() {
    a_hook_that_fails_ends_the_wait_with_its_last_lines();
    a_hook_that_hangs_is_told_with_its_last_lines();
    a_hook_that_is_a_pod_and_hangs_is_told_too();
    a_kind_that_the_cluster_does_not_know_is_named();
    a_release_that_was_cut_off_is_installed_again();
    three_runs_at_once_do_not_disturb_each_other();
    an_api_server_that_ends_meanwhile_ends_no_wait();
    a_release_that_is_waited_for_is_ready_before_the_next();
    a_new_suite_runs();
    delete(CLUSTER);
}

fn a_hook_that_fails_ends_the_wait_with_its_last_lines() {
    let folder = suite(&hook("echo the table users is there already; exit 3"), 60);
    let words = [
        "Job migrate",
        "the table users is there already",
        "It is a hook of the release app, for which helm waits.",
    ];
    ends(&folder, &folder.suite(), 4, &words);
    let text = folder.text("log");
    assert!(!text.contains("Gave up"), "it was waited for to the end of its time:\n{text}");
}

fn a_release_that_is_waited_for_is_ready_before_the_next() {
    let folder = suite(&web(20), 90);
    folder.write("next/Chart.yaml", "apiVersion: v2\nname: next\nversion: 1.0.0\n");
    let ask = "python3 -c 'import urllib.request; urllib.request.urlopen(\\\"http://web\\\", timeout=3)'";
    folder.write("next/templates/all.yaml", &hook(ask));
    let file = |wait: bool| {
        format!(
            "images: [python-base]\nnamespaces: {{main: charts}}\nreleases: [{{name: app, chart: ../chart, namespace: main, values: [values.yaml], wait: {wait}}}, {{name: next, chart: ../next, namespace: main, values: [values.yaml]}}]\nrun: {{command: ['true']}}\n"
        )
    };
    folder.write("suite/suite.yaml", &file(false));
    ends(&folder, &folder.suite(), 4, &["It is a hook of the release next"]);
    folder.write("suite/suite.yaml", &file(true));
    ends(&folder, &folder.suite(), 0, &["1 passed, 0 failed"]);
}

fn a_hook_that_hangs_is_told_with_its_last_lines() {
    let folder = suite(&hook("echo waits for the lock of the table users; sleep 600"), 15);
    let words = [
        "Job migrate",
        "waits for the lock of the table users",
        "Gave up after ",
        "context deadline exceeded",
        "It is a hook of the release app, for which helm waits.",
    ];
    ends(&folder, &folder.suite(), 4, &words);
}

fn a_hook_that_is_a_pod_and_hangs_is_told_too() {
    let pod = r#"
apiVersion: v1
kind: Pod
metadata: {name: look, annotations: {helm.sh/hook: post-install}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{name: look, image: "{{ .Values.image }}", command: [sh, -c, "echo looks for the leader; sleep 600"]}]
"#;
    let folder = suite(pod, 15);
    ends(&folder, &folder.suite(), 4, &["Pod look", "it is at work", "looks for the leader"]);
}

fn a_kind_that_the_cluster_does_not_know_is_named() {
    let folder = suite("apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: one}\n", 60);
    let words = ["install the release app", "no matches for kind \"Widget\" in version \"example.com/v1\""];
    ends(&folder, &folder.suite(), 4, &words);
}

fn a_release_that_was_cut_off_is_installed_again() {
    let folder = suite(&hook("sleep 600"), 60);
    let mut cut = start(&folder, "up", &folder.suite(), Stdio::piped());
    let namespace = until(&folder, "helm to begin", || revisions("pending-install").pop());
    let mark = format!("{MARK}={}", folder.path().display());
    let is_helm = |id: &String| {
        let program = std::fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        program.file_name().is_some_and(|name| name.to_string_lossy().starts_with("helm"))
    };
    let helm = processes(&mark).into_iter().find(is_helm).expect("helm runs");
    // Asked to end, it would have written down that the release has failed.
    said("kill", &["-KILL", &helm]);
    cut.kill().unwrap();
    cut.wait().unwrap();
    assert_eq!(revisions("pending-install"), [namespace.as_str()]);

    folder.chart(&hook("true"));
    let mut again = start(&folder, "up", &folder.suite(), Stdio::piped());
    until(&folder, "the deployment", || folder.text("log").contains("the deployment stays").then_some(()));
    again.stdin.take().unwrap().write_all(b"q\n").unwrap();
    assert!(again.wait().unwrap().success(), "{}", folder.text("log"));
    assert_eq!((revisions("deployed"), revisions("pending-install")), (vec![namespace], vec![]));
}

fn three_runs_at_once_do_not_disturb_each_other() {
    let folders = [1, 2, 3].map(|_| suite(&web(30), 120));
    let mut runs = Vec::new();
    for folder in &folders {
        runs.push(start(folder, "k8s-test", &folder.suite(), Stdio::null()));
    }
    // None has ended before the last one has begun.
    let begun = |folder: &Folder| folder.text("log").contains("install app");
    until(&folders[2], "all to install", || folders.iter().all(begun).then_some(()));
    let ended = runs.iter_mut().filter_map(|run| run.try_wait().unwrap()).count();
    assert_eq!(ended, 0, "they were not at work at the same time");
    for (run, folder) in runs.iter_mut().zip(&folders) {
        let status = run.wait().unwrap();
        let text = folder.text("log");
        assert!(status.success() && text.contains("1 passed, 0 failed"), "{text}");
    }
}

fn an_api_server_that_ends_meanwhile_ends_no_wait() {
    let folder = suite(&web(12), 90);
    let mut run = start(&folder, "k8s-test", &folder.suite(), Stdio::null());
    until(&folder, "the container", || folder.text("log").contains("readiness probe fails").then_some(()));
    let node = format!("{CLUSTER}-control-plane");
    said("docker", &["exec", &node, "pkill", "-KILL", "-x", "kube-apiserver"]);
    assert!(run.wait().unwrap().success(), "{}", folder.text("log"));
}

/// A suite's folder in the workspace, until this is dropped.
struct Written(PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn a_new_suite_runs() {
    let folder = Folder::new();
    folder.chart(&web(0));
    let filter = "reference=k8s-test.local/python-base";
    let images = said("docker", &["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", filter]);
    folder.write("dev.yaml", &format!("image: {}\n", images.lines().next().unwrap()));
    // It is among the workspace's own for a while; one that a killed test has left goes first.
    let name = "trial-of-new";
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../test-suites")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    let _written = Written(path);
    let mut new: Command =
        xtask(&folder, &["new", "suite", name, "--chart", "chart", "--values", "dev.yaml"]);
    assert!(new.status().unwrap().success());
    ends(&folder, name, 0, &["forward", "1 passed, 0 failed"]);
}
