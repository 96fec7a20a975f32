//! The client against a real kind and a real Docker: creates a cluster, works on it, deletes it.
//!
//! `KIND_CLIENT_REAL_KIND` is the path of kind, `KIND_CLIENT_REAL_IMAGE` a node image in the local Docker.
//! Run it with `cargo test -p kind-client --test real`; without the variables it fails.

use kind_client::{Address, Cause, CreateOptions, Error, Kind, Readiness, Role, Step, Targets, config};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const CLUSTER: &str = "kindclient-trial";

#[tokio::test]
async fn drives_a_real_kind() {
    let kind =
        Kind::builder().program(variable("KIND_CLIENT_REAL_KIND")).deadline(Duration::from_secs(600)).build();
    let folder = tempfile::tempdir().unwrap();
    // In a task of its own, where a failed assertion does not keep us from deleting the cluster.
    let outcome = tokio::spawn(use_cluster(kind.clone(), folder.path().to_owned())).await;
    kind.delete(CLUSTER, None).await.unwrap();
    outcome.unwrap().unwrap();
    assert!(!kind.clusters().await.unwrap().contains(&CLUSTER.to_owned()));
    assert!(kind.nodes(CLUSTER).await.unwrap().is_empty());
    kind.delete(CLUSTER, None).await.unwrap();
}

async fn use_cluster(kind: Kind, folder: PathBuf) -> Result<(), Error> {
    let version = kind.version().await?;
    assert!(version.is_supported(), "{version}");

    let err = kind.kubeconfig(CLUSTER, Address::External).await.unwrap_err();
    assert!(err.failure().tail().iter().any(|line| line.contains("could not locate")), "{err:?}");

    let kubeconfig = folder.join("kubeconfig");
    let label = [("tier".to_owned(), "trial".to_owned())].into();
    let node = config::Node { labels: label, ..config::Node::control_plane() };
    let options = CreateOptions {
        config: Some(config::Cluster::new(vec![node])),
        image: Some(variable("KIND_CLIENT_REAL_IMAGE")),
        wait: Some(Duration::from_secs(400)),
        ..CreateOptions::new(CLUSTER, &kubeconfig)
    };
    cancel_a_creation(&kind, options.clone()).await?;

    let mut done = Vec::new();
    let on_line = |line: &str| {
        println!("{line}");
        if let Some(Step::Done(title)) = Step::from_line(line) {
            done.push(title.to_owned());
        }
    };
    let created = kind.create_with(options.clone(), on_line).await?;
    assert_eq!(created.readiness, Readiness::Ready);
    assert!(done.iter().any(|title| title == "Preparing nodes"), "{done:?}");
    assert!(kubeconfig.exists());

    let err = kind.create(options).await.unwrap_err();
    assert!(err.failure().tail().iter().any(|line| line.contains("already exist")), "{err:?}");

    assert!(kind.clusters().await?.contains(&CLUSTER.to_owned()));
    let external = kind.kubeconfig(CLUSTER, Address::External).await?;
    assert!(external.contains("server: https://127.0.0.1:"));
    let internal = kind.kubeconfig(CLUSTER, Address::Internal).await?;
    assert!(internal.contains(&format!("server: https://{CLUSTER}-control-plane:6443")));

    let nodes = kind.nodes(CLUSTER).await?;
    let [node] = &nodes[..] else { panic!("{nodes:?}") };
    assert_eq!(node.name(), format!("{CLUSTER}-control-plane"));
    assert_eq!(node.role().await?, Role::ControlPlane);

    let labels =
        ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "get", "nodes", "-l", "tier=trial", "-oname"];
    let labelled = node.exec(labels).ensure_stdout().await?;
    assert_eq!(labelled, format!("node/{CLUSTER}-control-plane\n"));
    assert!(!node.exec(["test", "-e", "/nonexistent"]).is_success().await?);
    node.exec(["nonexistent-program"]).is_success().await.unwrap_err();

    let input = vec![7; 10_000_000];
    let mut output = Vec::new();
    node.exec(["cat"]).stdin(&input[..]).ensure_stdout_to(&mut output).await?;
    assert!(input == output);

    let err = node.exec(["sleep", "60"]).deadline(Duration::from_secs(1)).ensure_success().await.unwrap_err();
    assert!(matches!(err.failure().cause(), Cause::Deadline(_)), "{err:?}");

    load_an_archive(&kind, &folder).await?;

    let logs = folder.join("logs");
    // A node image need not have all programs that kind asks for logs: kind exports the rest, and fails.
    if let Err(err) = kind.export_logs(CLUSTER, &logs).await {
        let tail = err.failure().tail();
        assert!(tail.iter().any(|line| line.contains("executable file not found")), "{err:?}");
    }
    assert!(logs.join(node.name()).join("kubelet.log").exists());

    assert!(node.is_running().await?);
    let stopped = Command::new("docker").args(["stop", node.name()]).output().unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(!node.is_running().await?);
    node.copy_from("/kind", &folder).await?;
    assert!(std::fs::read_to_string(folder.join("kind/version")).unwrap().starts_with('v'));
    assert!(kind.clusters().await?.contains(&CLUSTER.to_owned()));
    node.start().await?;
    assert!(node.is_running().await?);
    Ok(())
}

/// A creation that is cancelled half-way ends at once, and leaves what `delete` takes away.
async fn cancel_a_creation(kind: &Kind, options: CreateOptions) -> Result<(), Error> {
    let cancel = CancellationToken::new();
    let mut since = None;
    let on_line = |line: &str| {
        if let Some(Step::Started("Starting control-plane")) = Step::from_line(line) {
            cancel.cancel();
            since = Some(Instant::now());
        }
    };
    let err = kind.with_cancel(cancel.clone()).create_with(options, on_line).await.unwrap_err();
    assert!(matches!(err.failure().cause(), Cause::Cancelled), "{err:?}");
    let took = since.unwrap().elapsed();
    println!("cancelled in {took:?}");
    assert!(took < Duration::from_secs(5));
    assert_eq!(kind.nodes(CLUSTER).await?.len(), 1);
    kind.delete(CLUSTER, None).await?;
    assert!(kind.nodes(CLUSTER).await?.is_empty());
    Ok(())
}

/// Loads an image that nobody else has: a single file under a name of its own.
async fn load_an_archive(kind: &Kind, folder: &Path) -> Result<(), Error> {
    let image = format!("kind-client.test/trial:{}", std::process::id());
    let archive = folder.join("image.tar");
    let script = format!(
        "set -e
        cd '{}'
        echo trial > file
        tar -cf - file | docker import - {image}
        trap 'docker rmi {image}' EXIT
        docker save --output image.tar {image}",
        folder.display()
    );
    let built = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    kind.load_archive(CLUSTER, &archive, &Targets::All).await?;
    let node = kind.node(format!("{CLUSTER}-control-plane"));
    let images = node.exec(["ctr", "-n", "k8s.io", "images", "list", "-q"]).ensure_stdout().await?;
    assert!(images.contains(&image), "{images}");
    Ok(())
}

/// A variable without which the test means nothing.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}: this test needs a real kind and a node image"))
}
