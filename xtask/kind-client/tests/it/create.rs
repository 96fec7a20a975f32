//! `kind create cluster`.

use crate::fake::{Fake, report};
use expect_test::expect;
use kind_client::{CreateOptions, Readiness, Step, config};
use std::time::Duration;

/// What kind 0.33 writes, shortened.
const KIND: &str = r#"
cat > "$FAKE/config"
cat >&2 <<'END'
using docker due to KIND_EXPERIMENTAL_PROVIDER
Creating cluster "one" ...
 • Ensuring node image (example.test/node:v1.34.4) 🖼  ...
 ✓ Ensuring node image (example.test/node:v1.34.4) 🖼
 • Preparing nodes 📦 📦   ...
 ✓ Preparing nodes 📦 📦 
 • Waiting ≤ 1m0s for control-plane = Ready ⏳  ...
END
"#;
const READY: &str = r"
echo ' ✓ Waiting ≤ 1m0s for control-plane = Ready ⏳' >&2
echo ' • Ready after 15s 💚' >&2
";
const NOT_READY: &str = r"
echo ' ✗ Waiting ≤ 1m0s for control-plane = Ready ⏳' >&2
echo ' • WARNING: Timed out waiting for Ready ⚠️' >&2
";

#[tokio::test]
async fn passes_all_options() {
    let fake = Fake::kind(&format!("{KIND}{READY}"));
    let options = CreateOptions {
        config: Some(config::Cluster::new(vec![config::Node::control_plane(), config::Node::worker()])),
        image: Some("example.test/node:v1.34.4".into()),
        retain: true,
        wait: Some(Duration::from_millis(1500)),
        ..CreateOptions::new("one", fake.path().join("kubeconfig"))
    };
    let created = fake.client().create(options).await.unwrap();
    assert_eq!(created.readiness, Readiness::Ready);
    assert_eq!(
        fake.calls("kind"),
        [
            "create cluster --name one --kubeconfig FAKE/kubeconfig --config - --image example.test/node:v1.34.4 \
         --retain --wait 1500ms"
        ]
    );
    expect![[r#"
        kind: Cluster
        apiVersion: kind.x-k8s.io/v1alpha4
        nodes:
        - role: control-plane
        - role: worker"#]]
    .assert_eq(&fake.written("config").await);
}

#[tokio::test]
async fn passes_only_what_was_asked_for() {
    let fake = Fake::kind(KIND);
    let created = fake.client().create(CreateOptions::new("one", "/kubeconfig")).await.unwrap();
    assert_eq!(created.readiness, Readiness::Unknown);
    assert_eq!(fake.calls("kind"), ["create cluster --name one --kubeconfig /kubeconfig"]);
}

#[tokio::test]
async fn tells_that_the_control_plane_did_not_get_ready() {
    let fake = Fake::kind(&format!("{KIND}{NOT_READY}"));
    let options = CreateOptions { wait: Some(Duration::from_secs(60)), ..CreateOptions::new("one", "/k") };
    assert_eq!(fake.client().create(options).await.unwrap().readiness, Readiness::NotReady);
}

#[tokio::test]
async fn counts_the_wait_on_top_of_the_deadline() {
    let fake = Fake::kind(&format!("{KIND} sleep 1; {READY}"));
    let kind = fake.client().with_deadline(Duration::from_millis(500));
    let options = CreateOptions { wait: Some(Duration::from_secs(60)), ..CreateOptions::new("one", "/k") };
    assert_eq!(kind.create(options).await.unwrap().readiness, Readiness::Ready);
}

#[tokio::test]
async fn reports_lines_as_they_come() {
    let fake = Fake::kind(&format!(
        "{KIND}\nwhile ! [ -e \"$FAKE/seen\" ]; do sleep 0.01; done\necho ' ✓ Last 💾' >&2"
    ));
    let mut steps = Vec::new();
    let on_line = |line: &str| {
        if line.contains("Waiting") {
            // The script goes on only when this line has arrived here.
            std::fs::write(fake.path().join("seen"), "").unwrap();
        }
        if let Some(step) = Step::from_line(line) {
            steps.push(format!("{step:?}"));
        }
    };
    fake.client().create_with(CreateOptions::new("one", "/k"), on_line).await.unwrap();
    expect![[r#"
        Started("Ensuring node image (example.test/node:v1.34.4)")
        Done("Ensuring node image (example.test/node:v1.34.4)")
        Started("Preparing nodes")
        Done("Preparing nodes")
        Started("Waiting ≤ 1m0s for control-plane = Ready")
        Done("Last")"#]]
    .assert_eq(&steps.join("\n"));
}

#[tokio::test]
async fn reports_all_lines_of_a_failed_creation() {
    let fake = Fake::kind(&format!("{KIND} echo 'ERROR: failed to create cluster' >&2; exit 1"));
    let mut last = String::new();
    let on_line = |line: &str| line.clone_into(&mut last);
    let err = fake.client().create_with(CreateOptions::new("one", "/k"), on_line).await.unwrap_err();
    assert_eq!(last, "ERROR: failed to create cluster");
    expect![[r#"
        cannot create cluster `one`
        `kind create cluster --name one --kubeconfig /k`: exit status: 1
          | using docker due to KIND_EXPERIMENTAL_PROVIDER
          | Creating cluster "one" ...
          |  • Ensuring node image (example.test/node:v1.34.4) 🖼  ...
          |  ✓ Ensuring node image (example.test/node:v1.34.4) 🖼
          |  • Preparing nodes 📦 📦   ...
          |  ✓ Preparing nodes 📦 📦
          |  • Waiting ≤ 1m0s for control-plane = Ready ⏳  ...
          | ERROR: failed to create cluster"#]]
    .assert_eq(&report(&err));
}

#[test]
fn takes_remarks_for_no_steps() {
    assert_eq!(Step::from_line(" • Ready after 15s 💚"), None);
    assert_eq!(Step::from_line("Set kubectl context to \"kind-one\""), None);
    assert_eq!(Step::from_line(" ✗ Starting control-plane 🕹️"), Some(Step::Failed("Starting control-plane")));
}
