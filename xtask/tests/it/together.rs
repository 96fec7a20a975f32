//! Several runs on one cluster: each removes what is its own, and what has expired.

use std::collections::BTreeMap;
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::simulated::{Cluster, Simulated, wait_for};

/// A test that ends when it is told.
const WAITS: &str =
    "echo > $HOME/started-$K8S_TEST_RUN_ID; while [ ! -e $HOME/go ]; do /bin/sleep 0.02; done";

fn simulated() -> Simulated {
    Simulated::new(WAITS, Arc::new(|| ()))
}

fn started(simulated: &Simulated) -> usize {
    let names = std::fs::read_dir(simulated.world.path()).unwrap().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with("started-")).count()
}

/// How many objects each run has.
fn by_run(simulated: &Simulated) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, run) in simulated.api.ours() {
        *counts.entry(run).or_default() += 1;
    }
    counts
}

#[test]
fn three_runs_on_one_cluster_do_not_disturb_each_other() {
    let simulated = simulated();
    let mut runs = ["one", "two", "three"].map(|output| simulated.start(Cluster::Theirs, output));
    wait_for("all three test", || started(&simulated) == 3);
    let before = by_run(&simulated);
    // Two namespaces, what was applied into the first, and two objects outside.
    assert_eq!(before.values().collect::<Vec<_>>(), [&5, &5, &5]);
    runs[1].kill().unwrap();
    runs[1].wait().unwrap();
    wait_for("the killed one is cleaned up", || {
        simulated.reaped("two").contains("cleaned up after it was killed")
    });
    let after = by_run(&simulated);
    assert_eq!(after.len(), 2, "{after:?}");
    assert!(after.iter().all(|(run, count)| before[run] == *count), "{before:?} became {after:?}");
    simulated.world.file("go", "");
    for (mut run, output) in runs.into_iter().zip(["one", "two", "three"]) {
        if output != "two" {
            assert!(run.wait().unwrap().success(), "{}", simulated.said(output));
        }
    }
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new());
}

#[test]
fn a_fixture_that_two_runs_share_stays_until_both_have_ended() {
    const SHARED: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/shared";
    let simulated = simulated();
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: shared}\n";
    simulated.world.file("example/fixtures.yaml", role);
    let owner = || Some(simulated.api.get(SHARED)?["metadata"]["labels"]["k8s-test.local/run"].clone());
    let mut first = simulated.start(Cluster::Theirs, "one");
    wait_for("the first tests", || started(&simulated) == 1);
    let maker = owner();
    assert!(maker.is_some());
    let mut second = simulated.start(Cluster::Theirs, "two");
    wait_for("both test", || started(&simulated) == 2);
    assert_eq!(owner(), maker);
    kill(Pid::from_raw(i32::try_from(first.id()).unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(first.wait().unwrap().code(), Some(130), "{}", simulated.said("one"));
    assert!(owner().is_some_and(|by| by.is_string() && Some(&by) != maker.as_ref()), "{:?}", owner());
    simulated.world.file("go", "");
    assert!(second.wait().unwrap().success(), "{}", simulated.said("two"));
    assert_eq!(owner(), None);
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new());
}

/// What two runs have on the cluster, of which one is dead, and what is nobody's.
fn leftovers(simulated: &Simulated) {
    let ours = |run: &str, expires: Option<&str>| {
        let annotations = expires.map_or(json!({}), |time| json!({"k8s-test.local/expires": time}));
        json!({"labels": {"k8s-test.local/run": run}, "annotations": annotations})
    };
    let (past, future) = (Some("2026-01-01T00:00:00Z"), Some("2999-01-01T00:00:00Z"));
    let namespace = |name: &str, metadata: serde_json::Value| {
        let mut object = json!({"metadata": metadata});
        object["metadata"]["name"] = json!(name);
        simulated.api.put(&format!("/api/v1/namespaces/{name}"), object);
    };
    let role = |name: &str, metadata: serde_json::Value| {
        let mut object = json!({"metadata": metadata});
        object["metadata"]["name"] = json!(name);
        simulated.api.put(&format!("/apis/rbac.authorization.k8s.io/v1/clusterroles/{name}"), object);
    };
    namespace("dead-1", ours("dead", past));
    namespace("alive-1", ours("alive", future));
    namespace("theirs", json!({}));
    simulated.world.file("releases/dead-1_app", "");
    role("dead-1", ours("dead", None));
    role("dead-2", ours("dead", past));
    role("alive-1", ours("alive", None));
    role("alive-2", ours("alone", future));
    role("theirs", json!({}));
}

/// The names of what is left of [`leftovers`], kinds apart.
fn left(simulated: &Simulated) -> [Vec<String>; 2] {
    let names = ["/api/v1/namespaces", "/apis/rbac.authorization.k8s.io/v1/clusterroles"];
    names.map(|kind| {
        let known = ["dead-1", "dead-2", "alive-1", "alive-2", "theirs"];
        let is_there = |name: &&str| simulated.api.get(&format!("{kind}/{name}")).is_some();
        known.into_iter().filter(is_there).map(str::to_owned).collect()
    })
}

#[test]
fn a_start_removes_what_has_expired_and_nothing_else() {
    let simulated = simulated();
    leftovers(&simulated);
    let mut run = simulated.start(Cluster::Theirs, "output");
    wait_for("it is swept", || {
        left(&simulated) == [vec!["alive-1", "theirs"], vec!["alive-1", "alive-2", "theirs"]]
    });
    assert!(!simulated.world.path().join("releases/dead-1_app").exists());
    wait_for("it says so", || {
        simulated.said("output").contains("removed what had expired: namespace dead-1")
    });
    simulated.world.file("go", "");
    assert!(run.wait().unwrap().success(), "{}", simulated.said("output"));
}

#[test]
fn cleaning_by_hand_shows_first_what_it_does() {
    let simulated = simulated();
    leftovers(&simulated);
    let kubeconfig = simulated.world.path().join("kubeconfig");
    let clean = |more: &[&str]| {
        let file = kubeconfig.to_str().unwrap();
        let cluster =
            ["clean", "--cluster-provider", "kubeconfig", "--context", "fake", "--kubeconfig", file];
        simulated.world.run(&[&cluster, more].concat())
    };
    let lines = ["fake: namespace dead-1", "fake: ClusterRole dead-1", "fake: ClusterRole dead-2"];
    let before = left(&simulated);
    clean(&["--dry-run"]).says(0, &lines);
    assert_eq!(left(&simulated), before);
    clean(&["--run", "alone", "--dry-run"]).says(0, &["fake: ClusterRole alive-2"]);
    let end = clean(&[]);
    end.says(0, &lines);
    assert!(
        end.text.find("dead-2").unwrap() < end.text.find("remove what was deployed").unwrap(),
        "{}",
        end.text
    );
    assert_eq!(left(&simulated), [vec!["alive-1", "theirs"], vec!["alive-1", "alive-2", "theirs"]]);
    clean(&[]).says(0, &["nothing to remove"]);
    clean(&["--all"]).says(0, &["fake: namespace alive-1"]);
    assert_eq!(left(&simulated), [["theirs"], ["theirs"]]);
}
