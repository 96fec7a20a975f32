//! How failures are told.

use crate::fake::{Fake, report};
use expect_test::expect;
use kind_client::{Cause, Kind};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn says_what_to_do_when_kind_is_missing() {
    let empty = tempfile::tempdir().unwrap();
    let kind = Kind::builder().env("PATH", empty.path()).build();
    let err = kind.clusters().await.unwrap_err();
    expect![[r#"
        cannot list the clusters
        `kind get clusters`: the program is missing; install it (https://kind.sigs.k8s.io/docs/user/quick-start/#installation) or set its path
        No such file or directory (os error 2)"#]]
    .assert_eq(&report(&err));
    assert!(matches!(err.failure().cause(), Cause::NotFound { .. }));
}

#[tokio::test]
async fn says_what_to_do_when_the_container_engine_is_missing() {
    let kind = Kind::builder().container_program("/nonexistent/docker").build();
    let err = kind.node("n").start().await.unwrap_err();
    expect![[r#"
        cannot start node `n`
        `/nonexistent/docker start n`: the program is missing; install it, set its path, or choose another provider
        No such file or directory (os error 2)"#]]
    .assert_eq(&report(&err));
}

#[tokio::test]
async fn says_that_a_program_may_not_be_run() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("kind");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).unwrap();
    let err = Kind::builder().program(&program).build().version().await.unwrap_err();
    let text = report(&err).replace(&program.display().to_string(), "KIND");
    expect![[r#"
        cannot find out the version of kind
        `KIND version`: may not be run by this user; make the program executable
        Permission denied (os error 13)"#]]
    .assert_eq(&text);
}

#[tokio::test]
async fn tells_the_status_and_the_end_of_the_output() {
    let script = "n=0; while [ $n -lt 50 ]; do n=$((n + 1)); echo \"line $n\" >&2; done; exit 7";
    let err = Fake::kind(script).client().nodes("one").await.unwrap_err();
    assert_eq!(err.failure().status().unwrap().code(), Some(7));
    assert_eq!(err.failure().command(), "kind get nodes --name one");
    let lines: Vec<String> = (31..=50).map(|n| format!("line {n}")).collect();
    assert_eq!(err.failure().tail(), lines);
}

#[tokio::test]
async fn tells_the_signal_that_ended_a_program() {
    let err = Fake::kind("kill -9 $$").client().clusters().await.unwrap_err();
    expect![[r#"
        cannot list the clusters
        `kind get clusters`: signal: 9 (SIGKILL)"#]]
    .assert_eq(&report(&err));
}

#[tokio::test]
async fn shows_a_command_that_can_be_pasted() {
    let err = Fake::docker("exit 1").client().node("n").exec(["sh", "-c", "echo 'a b' | wc"]);
    let err = err.ensure_success().await.unwrap_err();
    assert_eq!(err.failure().command(), r"docker exec --privileged n sh -c 'echo '\''a b'\'' | wc'");
}

#[tokio::test]
async fn is_an_error_that_may_cross_threads() {
    fn takes(_: impl std::error::Error + Send + Sync + 'static) {}
    takes(Fake::kind("exit 1").client().clusters().await.unwrap_err());
}
