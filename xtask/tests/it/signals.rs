//! Ctrl-C and SIGTERM: what runs is ended, what was made goes, and the exit code says it.

use std::process::{Child, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::simulated::{Cluster, Simulated, wait_for};

const HANGS: &str = "/bin/sleep 600 & echo > $HOME/started; wait";

fn send(run: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(run.id()).unwrap()), signal).unwrap();
}

fn simulated(test: &str) -> Simulated {
    Simulated::new(test, Arc::new(|| ()))
}

fn wait_until_it_tests(simulated: &Simulated) {
    let started = simulated.world.path().join("started");
    wait_for("the test starts", || started.exists());
}

#[test]
fn a_signal_ends_the_tests_and_cleans_up() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        for cluster in [Cluster::Ephemeral, Cluster::Theirs] {
            let simulated = simulated(HANGS);
            let mut run = simulated.start(cluster, "output");
            wait_until_it_tests(&simulated);
            send(&run, signal);
            assert_eq!(run.wait().unwrap().code(), Some(code), "{}", simulated.said("output"));
            assert_eq!(simulated.left(cluster), Vec::<String>::new(), "{}", simulated.said("output"));
            let report = std::fs::read_to_string(simulated.world.path().join("output/report.json")).unwrap();
            assert!(report.contains("interrupted"), "{report}");
            // It was the run that cleaned up.
            assert_eq!(simulated.reaped("output"), "");
        }
    }
}

#[test]
fn a_second_signal_leaves_at_once_and_says_what_is_left() {
    let simulated = simulated(HANGS);
    let mut run = simulated.start(Cluster::Theirs, "output");
    wait_until_it_tests(&simulated);
    simulated.api.hold_deletions(true);
    send(&run, Signal::SIGINT);
    wait_for("it cleans up", || simulated.said("output").contains("uninstall app"));
    send(&run, Signal::SIGINT);
    // No deletion has been answered.
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let said = simulated.said("output");
    for part in ["left at once; still there: namespace ", "ClusterRole reader-", "cargo xtask clean --run "] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
    assert!(!simulated.api.ours().is_empty());
    simulated.api.hold_deletions(false);
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new(), "{}", simulated.reaped("output"));
}

#[test]
fn a_signal_after_the_tests_is_the_first_and_no_success() {
    let simulated = simulated("true");
    simulated.api.hold_deletions(true);
    let mut run = simulated.start(Cluster::Theirs, "output");
    wait_for("it cleans up", || simulated.said("output").contains("uninstall app"));
    send(&run, Signal::SIGTERM);
    wait_for("it says so", || simulated.said("output").contains("once more leaves at once"));
    assert!(run.try_wait().unwrap().is_none(), "it did not wait for its cleanup");
    simulated.api.hold_deletions(false);
    assert_eq!(run.wait().unwrap().code(), Some(143), "{}", simulated.said("output"));
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new());
    assert_eq!(simulated.reaped("output"), "");
}

/// A kind whose creation does not end and whose deletion fails.
const HELD: &str = r#"
case "$1 $2" in
  "version "*) echo "kind v0.33.0 go1.26.8 linux/amd64" ;;
  "get clusters") [ -e $HOME/creating ] && echo held; true ;;
  "get nodes") [ -e $HOME/creating ] && echo held-control-plane; true ;;
  "create cluster") echo > $HOME/creating; exec /bin/sleep 600 ;;
  *) echo "fake kind: $*" >&2; exit 1 ;;
esac"#;

#[test]
fn what_cannot_be_removed_after_a_signal_is_named_and_the_signal_is_the_end() {
    for command in ["cluster up", "up", "dev"] {
        let simulated = simulated("true");
        simulated.world.tool("kind", HELD);
        let suite = simulated.world.path().join("example");
        let mut arguments: Vec<&str> = command.split(' ').collect();
        if command != "cluster up" {
            arguments.extend([suite.to_str().unwrap(), "--no-setup"]);
        }
        arguments.extend(["--kind-cluster", "held"]);
        let log = std::fs::File::create(simulated.world.path().join("output.log")).unwrap();
        let mut run = simulated.world.command(&arguments);
        run.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut run = run.spawn().unwrap();
        let creating = simulated.world.path().join("creating");
        wait_for("it creates the cluster", || creating.exists());
        send(&run, Signal::SIGINT);
        let code = run.wait().unwrap().code();
        let said = simulated.said("output");
        assert_eq!(code, Some(130), "{command}: {said}");
        for part in ["not everything could be removed", "cluster held", "cluster down --kind-cluster held"] {
            assert!(said.contains(part), "{command}: `{part}` is not in:\n{said}");
        }
    }
}
