//! Against the real Docker: `cargo test -p xtask --lib real_docker -- --ignored`.

use std::sync::Mutex;

use camino::Utf8Path;

use super::*;
use crate::docker::Docker;
use crate::names;

/// An image of four layers with content that no image had before, since Docker remembers every layer it pushed.
async fn build(folder: &Utf8Path, reference: &str, last: &str) {
    let mut dockerfile = "FROM scratch\n".to_owned();
    for (name, size) in [("small", 50 << 10), ("middle", 300 << 10), ("big", 11 << 20)] {
        let path = folder.join(name);
        if !path.exists() {
            std::fs::write(path, names::suffix().repeat(size / 6)).unwrap();
        }
        dockerfile.push_str(&format!("COPY {name} /\n"));
    }
    std::fs::write(folder.join("last"), last).unwrap();
    dockerfile.push_str("COPY last /\n");
    std::fs::write(folder.join("Dockerfile"), dockerfile).unwrap();
    Docker.build(folder, "Dockerfile".into(), &[], reference, |_| ()).await.unwrap();
}

/// Pushes `image` to an endpoint whose nodes hold `held`.
async fn push(
    image: &str,
    port: Option<u16>,
    repository: &str,
    held: BTreeMap<String, u64>,
) -> (u16, Received, Vec<String>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let has: Arc<Has> = Arc::new({
        let asked = asked.clone();
        move |digest: &str| {
            asked.lock().unwrap().push(digest.to_owned());
            held.get(digest).copied()
        }
    });
    let limits = Limits { blob: 64 << 20, total: 256 << 20 };
    let endpoint = Endpoint::listen(port, BTreeSet::from([repository.to_owned()]), Take::Keep(limits), has)
        .await
        .unwrap();
    let reference = endpoint.reference(repository, "1");
    Docker.tag(image, &reference).await.unwrap();
    let start = std::time::Instant::now();
    let pushed = Docker.push(&reference).await;
    let took = start.elapsed();
    Docker.remove(&reference).await.unwrap();
    let port = endpoint.port();
    let received = endpoint.finish().await;
    pushed.unwrap();
    eprintln!(
        "127.0.0.1:{port}/{repository}: {:.2} s, {} bytes, {} blobs",
        took.as_secs_f64(),
        received.bytes,
        received.blobs.len()
    );
    let asked = asked.lock().unwrap().clone();
    (port, received, asked)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Docker"]
async fn real_docker_sends_what_the_nodes_lack_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let secret = names::suffix();
    let (first, second) = (
        format!("k8s-test.local/endpoint-test:{secret}-1"),
        format!("k8s-test.local/endpoint-test:{secret}-2"),
    );
    let repository = format!("{secret}/app");
    build(folder, &first, "one").await;
    build(folder, &second, "two").await;

    let (port, all, _) = push(&first, None, &repository, BTreeMap::new()).await;
    assert_eq!((all.blobs.len(), all.manifests.len()), (5, 1), "four layers, a configuration, a manifest");
    let held: BTreeMap<String, u64> =
        all.blobs.iter().map(|(digest, blob)| (digest.clone(), blob.len() as u64)).collect();

    let (_, again, _) = push(&first, Some(port), &repository, held.clone()).await;
    assert_eq!(again.blobs.len(), 0);
    assert_eq!(again.manifests, all.manifests, "lengths or digests differ");

    let (_, anew, _) = push(&first, Some(port), &repository, BTreeMap::new()).await;
    assert_eq!(anew.manifests, all.manifests, "the same layers are compressed to other digests");

    let (_, changed, _) = push(&second, Some(port), &repository, held.clone()).await;
    assert_eq!(changed.blobs.len(), 2, "the last layer and the configuration");

    let (_, other_port, asked) = push(&first, None, &repository, held.clone()).await;
    eprintln!("another port: {} blobs, asked {} times", other_port.blobs.len(), asked.len());
    let (_, other_name, asked) = push(&first, Some(port), "other/name", held).await;
    eprintln!("another name: {} blobs, asked {} times", other_name.blobs.len(), asked.len());
    assert_eq!((other_port.blobs.len(), other_name.blobs.len()), (0, 0));

    for image in [first, second] {
        Docker.remove(&image).await.unwrap();
    }
}
