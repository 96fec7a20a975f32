//! What is done with a cluster as a whole.

use crate::fake::{Fake, report};
use expect_test::expect;
use kind_client::{Address, Provider, Targets};

#[tokio::test]
async fn lists_clusters() {
    let fake = Fake::kind("echo two; echo one");
    assert_eq!(fake.client().clusters().await.unwrap(), ["one", "two"]);
    assert_eq!(fake.calls("kind"), ["get clusters"]);
}

#[tokio::test]
async fn takes_the_absence_of_clusters_for_an_empty_list() {
    let fake = Fake::kind("echo 'No kind clusters found.' >&2");
    assert!(fake.client().clusters().await.unwrap().is_empty());
}

#[tokio::test]
async fn lists_nodes() {
    let fake = Fake::kind("echo one-worker; echo one-control-plane");
    let nodes = fake.client().nodes("one").await.unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node.name()).collect();
    assert_eq!(names, ["one-control-plane", "one-worker"]);
    assert_eq!(fake.calls("kind"), ["get nodes --name one"]);
}

#[tokio::test]
async fn takes_the_absence_of_a_cluster_for_no_nodes() {
    let fake = Fake::kind(r#"echo 'No kind nodes found for cluster "one".' >&2"#);
    assert!(fake.client().nodes("one").await.unwrap().is_empty());
}

#[tokio::test]
async fn gets_the_kubeconfig_for_either_address() {
    let fake = Fake::kind(r#"echo "server: $*"; echo"#);
    let kind = fake.client();
    let external = kind.kubeconfig("one", Address::External).await.unwrap();
    assert_eq!(external, "server: get kubeconfig --name one\n");
    let internal = kind.kubeconfig("one", Address::Internal).await.unwrap();
    assert_eq!(internal, "server: get kubeconfig --name one --internal\n");
}

#[tokio::test]
async fn refuses_an_empty_kubeconfig() {
    let err = Fake::kind("echo").client().kubeconfig("one", Address::External).await.unwrap_err();
    expect![[r#"
        cannot get the kubeconfig of cluster `one`
        `kind get kubeconfig --name one`: output not understood: the kubeconfig is empty"#]]
    .assert_eq(&report(&err));
}

#[tokio::test]
async fn deletes_with_a_kubeconfig_of_its_own() {
    let fake =
        Fake::kind(r#"dirname "$6" > "$FAKE/folder"; ls -A "$(dirname "$6")" | wc -l > "$FAKE/entries""#);
    fake.client().delete("one", None).await.unwrap();
    assert!(fake.calls("kind")[0].starts_with("delete cluster --name one --kubeconfig /"));
    assert_eq!(fake.written("entries").await.trim(), "0");
    assert!(!std::path::Path::new(&fake.written("folder").await).exists());
}

#[tokio::test]
async fn deletes_from_the_kubeconfig_that_was_named() {
    let fake = Fake::kind(r#"echo 'Deleting cluster "one" ...' >&2"#);
    fake.client().delete("one", Some(&fake.path().join("kubeconfig"))).await.unwrap();
    assert_eq!(fake.calls("kind"), ["delete cluster --name one --kubeconfig FAKE/kubeconfig"]);
}

#[tokio::test]
async fn loads_an_archive() {
    let fake = Fake::kind("");
    let kind = fake.client();
    kind.load_archive("one", "images.tar", &Targets::All).await.unwrap();
    let some = Targets::Nodes(vec!["one-worker".into(), "one-worker2".into()]);
    kind.load_archive("one", "-odd.tar", &some).await.unwrap();
    assert_eq!(
        fake.calls("kind"),
        [
            "load image-archive --name one -- images.tar",
            "load image-archive --name one --nodes one-worker,one-worker2 -- -odd.tar",
        ]
    );
}

#[tokio::test]
async fn loads_images_of_the_engine() {
    let fake = Fake::kind("");
    let kind = fake.client();
    kind.load_images("one", &["a:1", "b:2"], &Targets::All).await.unwrap();
    kind.load_images("one", &["a:1"], &Targets::Nodes(vec!["one-worker".into()])).await.unwrap();
    assert_eq!(
        fake.calls("kind"),
        ["load docker-image --name one -- a:1 b:2", "load docker-image --name one --nodes one-worker -- a:1",]
    );
}

#[tokio::test]
async fn does_not_load_to_all_nodes_when_asked_to_load_to_none() {
    let fake = Fake::kind("");
    let err = fake.client().load_archive("one", "a.tar", &Targets::Nodes(vec![])).await.unwrap_err();
    expect![[r#"
        cannot load the image archive a.tar into cluster `one`
        `kind load image-archive --name one`: not run: the list of nodes is empty"#]]
    .assert_eq(&report(&err));
    assert!(fake.calls("kind").is_empty());
}

#[tokio::test]
async fn exports_logs() {
    let fake = Fake::kind(r#"echo "$6""#);
    fake.client().export_logs("one", fake.path().join("logs")).await.unwrap();
    assert_eq!(fake.calls("kind"), ["export logs --name one -- FAKE/logs"]);
}

#[tokio::test]
async fn refuses_names_that_kind_would_take_for_its_default_cluster_or_for_a_flag() {
    let fake = Fake::kind("");
    for name in ["", "One", "a b", "a/b"] {
        let err = fake.client().delete(name, None).await.unwrap_err();
        assert!(report(&err).contains("cannot name a cluster; use lower-case"), "{}", report(&err));
    }
    assert!(fake.calls("kind").is_empty());
}

#[tokio::test]
async fn names_the_provider_to_kind() {
    let script = r#"echo "$KIND_EXPERIMENTAL_PROVIDER""#;
    assert_eq!(Fake::kind(script).client().clusters().await.unwrap(), ["docker"]);

    let fake = Fake::kind(&format!("{script}; [ $1 = get ]"));
    let kind = fake.builder().provider(Provider::Podman).build();
    assert_eq!(kind.clusters().await.unwrap(), ["podman"]);
    expect![[r#"
        cannot find out the version of kind
        `KIND_EXPERIMENTAL_PROVIDER=podman kind version`: exit status: 1"#]]
    .assert_eq(&report(&kind.version().await.unwrap_err()));
}
