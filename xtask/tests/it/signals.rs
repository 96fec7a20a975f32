//! Ctrl-C and SIGTERM: what runs is ended, what was made goes, and the exit code says it.

use std::process::Child;
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
