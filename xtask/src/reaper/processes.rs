//! Programs that a killed run, or a test, has left running.
//!
//! They are known by a variable in their environment, which also those have that went into another process group or
//! session. Groups written down by the run would be fewer words, but what was started and not yet written down would go on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env;

/// How long a program may take to end in peace: helm notes in its release that it has failed.
const GRACE: Duration = Duration::from_secs(5);
/// How long what was killed may take to be gone.
const KILLED: Duration = Duration::from_secs(5);

/// Ends the programs of a run, and what they start meanwhile; says how many there were.
pub async fn end(run: &str) -> usize {
    end_all(|| of(run)).await
}

/// As [`end`], of those alone that its tests have left running: another of its programs, such as cargo, may have left a server
/// that others use.
pub async fn end_of_tests(run: &str) -> usize {
    end_all(|| marked(run, &format!("{}=", env::suite::SUITE))).await
}

async fn end_all(find: impl Fn() -> Vec<i32>) -> usize {
    let start = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let alive = find();
        let late = start.elapsed() > GRACE;
        if alive.is_empty() || start.elapsed() > GRACE + KILLED {
            return told.len();
        }
        for id in alive {
            // It may have gone since, which is what we want.
            if told.insert(id) {
                let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            }
            if late {
                let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
            }
        }
        // Nobody tells us when somebody else's children are gone, so look until they are.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// The processes that carry the mark of a run.
///
/// Only Linux shows the environment of others as files; elsewhere they end by themselves.
#[must_use]
pub fn of(run: &str) -> Vec<i32> {
    marked(run, "")
}

/// Those of them that have a variable too which begins so.
fn marked(run: &str, also: &str) -> Vec<i32> {
    let mark = format!("{}={run}", env::PROGRAM_OF);
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        // Those of other users cannot be read, and are not ours.
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        let variables = || environment.split(|byte| *byte == 0);
        variables().any(|variable| variable == mark.as_bytes())
            && variables().any(|variable| variable.starts_with(also.as_bytes()))
    })
    .collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn start(script: &str, mark: &str) -> Child {
        start_with(script, mark, &[])
    }

    fn start_with(script: &str, mark: &str, more: &[(&str, &str)]) -> Child {
        Command::new("sh")
            .args(["-c", script])
            .env_remove(env::suite::SUITE)
            .env(env::PROGRAM_OF, mark)
            .envs(more.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap()
    }

    #[tokio::test]
    async fn of_a_run_that_lives_only_what_its_tests_have_left_is_ended() {
        let run = format!("{}-tests", crate::names::run_id(jiff::Timestamp::now()));
        let mut left = start_with("exec sleep 600", &run, &[(env::suite::SUITE, "example")]);
        let mut server = start("exec sleep 600", &run);
        while of(&run).len() < 2 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let reap = std::thread::spawn(move || left.wait().unwrap());
        assert_eq!(end_of_tests(&run).await, 1);
        reap.join().unwrap();
        assert!(server.try_wait().unwrap().is_none());
        server.kill().unwrap();
        server.wait().unwrap();
    }

    #[tokio::test]
    async fn what_left_its_group_or_ignores_a_signal_is_ended_too() {
        let run = crate::names::run_id(jiff::Timestamp::now());
        let mut stubborn = start("trap '' TERM; sleep 600 & wait", &run);
        let mut peaceful = start("exec sleep 600", &run);
        let mut other = start("exec sleep 600", "another-run");
        while of(&run).len() < 3 {
            std::thread::sleep(Duration::from_millis(10));
        }
        // As its parent, this test has to take note of its end.
        let reap = std::thread::spawn(move || (stubborn.wait().unwrap(), peaceful.wait().unwrap()));
        assert!(end(&run).await >= 3);
        assert!(of(&run).is_empty());
        reap.join().unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
