//! What ends a program: its deadline, its cancellation, the end of its caller.

use crate::fake::{Fake, report};
use expect_test::expect;
use kind_client::{Cause, CreateOptions};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::{Pid, getpgrp};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Starts a program of its own, tells both process ids, and waits.
const HANGS: &str = r#"
sleep 600 & echo $! > "$FAKE/child"
echo "$$" > "$FAKE/pid"
echo 'Creating cluster' >&2
wait
"#;
/// As [`HANGS`], but takes no notice of SIGTERM. Neither does its child, which inherits that.
const DEAF: &str = r#"
trap '' TERM
sleep 600 & echo $! > "$FAKE/child"
echo "$$" > "$FAKE/pid"
wait
"#;

#[tokio::test]
async fn ends_at_the_deadline() {
    let fake = Fake::kind(HANGS);
    let kind = fake.client().with_deadline(Duration::from_secs(2));
    let err = kind.create(CreateOptions::new("one", "/k")).await.unwrap_err();
    expect![[r#"
        cannot create cluster `one`
        `kind create cluster --name one --kubeconfig /k`: had not ended after 2s and was stopped; allow it more time
          | Creating cluster"#]]
    .assert_eq(&report(&err));
    assert_all_gone(&fake).await;
}

#[tokio::test]
async fn ends_when_cancelled() {
    let fake = Fake::kind(HANGS);
    let cancel = CancellationToken::new();
    let kind = fake.client().with_cancel(cancel.clone());
    let call = tokio::spawn(async move { kind.create(CreateOptions::new("one", "/k")).await });
    fake.written("pid").await;
    cancel.cancel();
    let err = call.await.unwrap().unwrap_err();
    assert!(matches!(err.failure().cause(), Cause::Cancelled), "{err:?}");
    assert_eq!(err.failure().tail(), ["Creating cluster"]);
    assert_all_gone(&fake).await;
}

#[tokio::test]
async fn starts_nothing_once_cancelled() {
    let fake = Fake::kind("");
    let cancel = CancellationToken::new();
    cancel.cancel();
    let err = fake.client().with_cancel(cancel).clusters().await.unwrap_err();
    expect![[r#"
        cannot list the clusters
        `kind get clusters`: cancelled"#]]
    .assert_eq(&report(&err));
    assert!(fake.calls("kind").is_empty());
}

#[tokio::test]
async fn kills_what_is_deaf_when_the_grace_is_over() {
    let fake = Fake::kind(DEAF);
    let cancel = CancellationToken::new();
    let kind = fake.builder().grace(Duration::from_millis(300)).cancel(cancel.clone()).build();
    let call = tokio::spawn(async move { kind.clusters().await });
    fake.written("pid").await;
    let start = Instant::now();
    cancel.cancel();
    call.await.unwrap().unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_all_gone(&fake).await;
}

#[tokio::test]
async fn lets_a_program_end_in_its_own_way() {
    let fake = Fake::kind(
        r#"trap 'echo cleaned > "$FAKE/cleaned"; exit 0' TERM; echo "$$" > "$FAKE/pid"; sleep 600 & wait"#,
    );
    let cancel = CancellationToken::new();
    let kind = fake.client().with_cancel(cancel.clone());
    let call = tokio::spawn(async move { kind.clusters().await });
    fake.written("pid").await;
    cancel.cancel();
    let err = call.await.unwrap().unwrap_err();
    assert!(matches!(err.failure().cause(), Cause::Cancelled), "{err:?}");
    assert_eq!(fake.written("cleaned").await, "cleaned");
}

#[tokio::test]
async fn ends_when_the_future_is_dropped() {
    for script in [HANGS, DEAF] {
        let fake = Fake::kind(script);
        let kind = fake.builder().grace(Duration::from_millis(200)).build();
        tokio::select! {
            result = kind.clusters() => panic!("{result:?}"),
            _ = fake.written("pid") => {}
        }
        assert_all_gone(&fake).await;
    }
}

#[tokio::test]
async fn ends_when_a_running_command_is_dropped() {
    let fake = Fake::docker(HANGS);
    let running = fake.client().node("n").exec(["cat"]).spawn().unwrap();
    fake.written("pid").await;
    drop(running);
    assert_all_gone(&fake).await;
}

#[test]
fn ends_when_the_runtime_is_dropped() {
    for script in [HANGS, DEAF] {
        let fake = Fake::kind(script);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let kind = fake.client();
            tokio::spawn(async move { kind.clusters().await });
            fake.written("pid").await;
        });
        drop(runtime);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(assert_all_gone(&fake));
    }
}

#[tokio::test]
async fn keeps_the_terminal_s_interrupt_from_its_programs() {
    let fake = Fake::kind(r#"ps -o pgid= -p "$$" 2>/dev/null || cut -d ' ' -f 5 "/proc/$$/stat""#);
    let groups = fake.client().clusters().await.unwrap();
    assert_ne!(groups, [getpgrp().to_string()]);
}

#[tokio::test]
async fn does_not_wait_for_what_a_program_leaves_behind_on_its_standard_error() {
    let fake = Fake::kind(r#"sleep 600 > /dev/null & echo $! > "$FAKE/child"; echo one"#);
    let start = Instant::now();
    assert_eq!(fake.client().clusters().await.unwrap(), ["one"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    let child = fake.written("child").await.parse().unwrap();
    kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn waits_no_longer_than_the_deadline_for_output_that_others_hold_open() {
    let fake = Fake::kind(r#"sleep 600 2> /dev/null & echo $! > "$FAKE/child"; echo one"#);
    let err = fake.client().with_deadline(Duration::from_secs(2)).clusters().await.unwrap_err();
    assert!(matches!(err.failure().cause(), Cause::Deadline(_)), "{err:?}");
    let child = fake.written("child").await.parse().unwrap();
    kill(Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Both processes of [`HANGS`] or [`DEAF`] go within ten seconds.
async fn assert_all_gone(fake: &Fake) {
    for file in ["pid", "child"] {
        let pid = fake.written(file).await;
        let start = Instant::now();
        while is_there(&pid) {
            assert!(start.elapsed() < Duration::from_secs(10), "process {pid} ({file}) is still there");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The process is gone already.
#[track_caller]
pub(crate) fn assert_gone(pid: &str) {
    assert!(!is_there(pid), "process {pid} is still there");
}

fn is_there(pid: &str) -> bool {
    // An orphan that has ended stays a zombie where no init reaps it, as in a container.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
    !is_zombie && kill(Pid::from_raw(pid.parse().unwrap()), None) != Err(Errno::ESRCH)
}
