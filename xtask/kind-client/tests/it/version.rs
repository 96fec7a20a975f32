//! `kind version`.

use crate::fake::{Fake, report};
use expect_test::{Expect, expect};
use kind_client::Version;

#[tokio::test]
async fn reads_a_release() {
    let fake = Fake::kind("echo 'kind v0.33.0 go1.26.1 linux/amd64'");
    let version = fake.client().version().await.unwrap();
    assert_eq!(version.to_string(), "0.33.0");
    assert!(version.is_supported());
    assert_eq!(fake.calls("kind"), ["version"]);
}

#[tokio::test]
async fn reads_a_development_build() {
    let fake = Fake::kind("echo 'kind v0.34.0-alpha.12+1a2b3c4d5e6f78 go1.26.1 darwin/arm64'");
    let version = fake.client().version().await.unwrap();
    assert_eq!(version.to_string(), "0.34.0-alpha.12+1a2b3c4d5e6f78");
    let release = Version { major: 0, minor: 34, patch: 0, pre_release: String::new() };
    assert!(version < release);
    assert!(Version { patch: 1, ..version } > release);
}

#[tokio::test]
async fn does_not_support_an_old_version() {
    let fake = Fake::kind("echo 'kind v0.9.0 go1.15.2 linux/amd64'");
    assert!(!fake.client().version().await.unwrap().is_supported());
}

#[tokio::test]
async fn refuses_what_is_not_a_version() {
    check(
        "echo 'kind is a sort'",
        expect![[r#"
        cannot find out the version of kind
        `kind version`: output not understood: "kind is a sort" is not a version of kind"#]],
    )
    .await;
    check(
        "echo 'kind v0.33 go1.26 linux/amd64'",
        expect![[r#"
        cannot find out the version of kind
        `kind version`: output not understood: "kind v0.33 go1.26 linux/amd64" is not a version of kind"#]],
    )
    .await;
    check(
        r"printf '\377\n'",
        expect![[r#"
        cannot find out the version of kind
        `kind version`: output not understood: invalid utf-8 sequence of 1 bytes from index 0"#]],
    )
    .await;
}

#[track_caller]
fn check(script: &str, expected: Expect) -> impl Future<Output = ()> {
    let fake = Fake::kind(script);
    async move {
        let err = fake.client().version().await.unwrap_err();
        expected.assert_eq(&report(&err));
    }
}
