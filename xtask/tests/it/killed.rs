//! `kill -9` at any point of a run: its reaper leaves nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::simulated::{Cluster, Simulated, wait_for};
use crate::world::World;

/// A test that has a child of its own.
const TEST: &str =
    "echo step > $HOME/steps; /bin/sleep 600 & /bin/sleep 0.1; kill $!; echo step > $HOME/steps";

/// Kills a process at one of its steps.
#[derive(Default)]
struct Killer {
    steps: AtomicUsize,
    at: AtomicUsize,
    victim: AtomicI32,
}

impl Killer {
    fn step(&self) {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        if step == self.at.load(Ordering::SeqCst) {
            let victim = Pid::from_raw(self.victim.load(Ordering::SeqCst));
            // It may have come to its end by itself.
            let _ = kill(victim, Signal::SIGKILL);
        }
    }
}

/// How one case went.
struct Case {
    /// The steps of the run and of what came after it.
    steps: usize,
    /// Whether it was killed before its end.
    killed: bool,
    left: Vec<String>,
    said: String,
}

/// Runs, kills at step `at` (0 is never), and looks at what is left.
fn case(cluster: Cluster, at: usize) -> Case {
    let killer = Arc::new(Killer::default());
    killer.at.store(at, Ordering::SeqCst);
    let told = killer.clone();
    let simulated = Simulated::new(TEST, Arc::new(move || told.step()));
    let mut run = simulated.start(cluster, "output");
    killer.victim.store(i32::try_from(run.id()).unwrap(), Ordering::SeqCst);
    let status = run.wait().unwrap();
    let left = simulated.left(cluster);
    let said = format!("{}\n{}", simulated.said("output"), simulated.reaped("output"));
    Case { steps: killer.steps.load(Ordering::SeqCst), killed: !status.success(), left, said }
}

/// Kills `count` runs at points that are spread by `seed`, on all processors.
fn campaign(count: usize, seed: u64) {
    let clusters = [Cluster::Ephemeral, Cluster::Kept, Cluster::Theirs];
    let steps = clusters.map(|cluster| {
        let whole = case(cluster, 0);
        assert!(!whole.killed, "{cluster:?} does not even pass unharmed:\n{}", whole.said);
        assert!(whole.left.is_empty(), "{cluster:?} leaves {:?}:\n{}", whole.left, whole.said);
        whole.steps
    });
    let next = AtomicUsize::new(0);
    let killed = AtomicUsize::new(0);
    let threads = 2 * std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::SeqCst);
                    if n >= count {
                        return;
                    }
                    let which = n % clusters.len();
                    let at = 1 + spread(seed.wrapping_add(n as u64)) as usize % steps[which];
                    let case = case(clusters[which], at);
                    let cluster = clusters[which];
                    assert!(
                        case.left.is_empty(),
                        "{cluster:?} at step {at} leaves {:?}:\n{}",
                        case.left,
                        case.said
                    );
                    killed.fetch_add(usize::from(case.killed), Ordering::SeqCst);
                }
            });
        }
    });
    let killed = killed.into_inner();
    println!("{killed} of {count} runs were killed before their end (steps: {steps:?}); nothing was left");
    assert!(killed * 10 >= count * 8, "only {killed} of {count} runs were killed");
}

/// splitmix64: the same everywhere.
fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    campaign(9, 0);
}

#[test]
#[ignore = "takes a minute"]
fn two_hundred_runs_that_are_killed_leave_nothing() {
    campaign(200, 1000);
}

#[test]
fn a_reaper_that_is_held_up_gives_up_and_says_what_is_left() {
    let world = World::new();
    // A login that waits for somebody, as the program that a kubeconfig names for its credentials may.
    world.tool("login", "echo $$ > $HOME/login; exec /bin/sleep 600");
    let folder = world.path().join("output");
    std::fs::create_dir(&folder).unwrap();
    world.file(
        "output/kubeconfig",
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: u, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: login, interactiveMode: Never}}}]}",
    );
    let entry = serde_json::json!({
        "at": "2026-01-01T00:00:00Z",
        "policy": {"run": "r", "keep": "never", "cluster": {"provider": "kubeconfig", "file": "/k", "context": "c"}, "output": folder},
        "tools": {"kind": "kind", "helm": "helm"},
        "made": {"cluster": null, "cluster_complete": false, "namespaces": ["a-3fcd70"], "objects": [], "releases": []},
    });
    world.file("output/journal.jsonl", &format!("{entry}\n"));
    let end = world.run(&["reap", folder.to_str().unwrap(), "--limit", "1"]);
    for part in ["run r: not cleaned up within 1", "may be namespace a-3fcd70", "`cargo xtask clean --run r "]
    {
        assert!(end.text.contains(part), "`{part}` is not in:\n{}", end.text);
    }
    let login = std::fs::read_to_string(world.path().join("login")).unwrap();
    wait_for("the login is gone too", || !std::path::Path::new("/proc").join(login.trim()).exists());
}
