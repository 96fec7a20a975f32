//! What flags, files and the environment come to together.

use super::*;

fn files() -> Files {
    let suite = |name: &str, more: &str| {
        let text = format!("namespaces: {{user: dagster-test}}\nrun: {{tests: {name}}}\n{more}");
        let folder = Utf8PathBuf::from(format!("/w/test-suites/{name}"));
        (folder, config::parse("suite.yaml".into(), &text).unwrap())
    };
    Files {
        workspace: Workspace { root: "/w".into() },
        images: config::parse("images.yaml".into(), "images: {a: {pull: x}, b: {pull: y}}").unwrap(),
        suites: vec![
            suite("one", "images: [a]\n"),
            suite("two", "images: [a, b]\nvariants: {default: {}, subchart: {nightly: true}}\n"),
        ],
    }
}

fn env(ci: bool) -> Env {
    Env { ci, kubeconfig: Some("/home/x/.kube/config".into()), ..Env::default() }
}

fn resolve(args: &K8sTest, ci: bool) -> Result<Plan> {
    Plan::resolve(args, &env(ci), &files(), "20261122-141530-3fcd70", 4)
}

#[test]
fn locally_the_cluster_is_kept() {
    let plan = resolve(&K8sTest::default(), false).unwrap();
    assert_eq!(
        plan.cluster,
        ClusterPlan::Kind { name: "k8s-test".to_owned(), ephemeral: false, named: false }
    );
    assert_eq!((plan.keep, plan.jobs, plan.jobs_grow), (Keep::Never, 4, true));
    assert_eq!(plan.images, ["a", "b"]);
    assert_eq!(plan.output, "/w/target/k8s-test/20261122-141530-3fcd70");
}

#[test]
fn ci_makes_a_fresh_cluster_of_a_unique_name() {
    let plan = resolve(&K8sTest::default(), true).unwrap();
    assert_eq!(
        plan.cluster,
        ClusterPlan::Kind { name: "k8s-test-3fcd70".to_owned(), ephemeral: true, named: false }
    );
}

#[test]
fn no_cleanup_keeps_everything() {
    let plan = resolve(&K8sTest { no_cleanup: true, ..K8sTest::default() }, false).unwrap();
    assert_eq!(plan.keep, Keep::Always);
}

#[test]
fn a_variant_selects_the_suites_that_have_it() {
    let args = K8sTest { variant: vec!["subchart".to_owned()], ..K8sTest::default() };
    let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
    assert_eq!(ids, ["two/subchart"]);
}

#[test]
fn all_means_every_variant() {
    let args = K8sTest { variant: vec![ALL_VARIANTS.to_owned()], ..K8sTest::default() };
    let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
    assert_eq!(ids, ["one/default", "two/default", "two/subchart"]);
}

#[test]
fn daily_means_every_variant_that_is_not_for_the_night() {
    let args = K8sTest { variant: vec![DAILY_VARIANTS.to_owned()], ..K8sTest::default() };
    let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
    assert_eq!(ids, ["one/default", "two/default"]);
}

#[test]
fn a_named_cluster_that_was_there_is_not_said_to_go() {
    let mut args = K8sTest::default();
    args.cluster.kind_cluster = Some("mine".to_owned());
    let text = resolve(&args, true).unwrap().describe(&Workspace { root: "/w".into() });
    assert!(text.contains("unless it was there before"), "{text}");
}

#[track_caller]
fn refused(args: &K8sTest, ci: bool, part: &str) {
    let error = resolve(args, ci).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage);
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn rejects_contradictions() {
    let mut args = K8sTest { variant: vec!["subchrat".to_owned()], ..K8sTest::default() };
    refused(&args, false, "did you mean `subchart`?");
    args = K8sTest { variant: vec!["subchart".to_owned(), "all".to_owned()], ..K8sTest::default() };
    refused(&args, false, "--variant subchart,all: `all` stands alone");
    args = K8sTest::default();
    args.cluster.context = Some("x".to_owned());
    refused(&args, false, "add --cluster-provider kubeconfig");
    args.cluster.cluster_provider = Provider::Kubeconfig;
    args.cluster.kind_cluster = Some("y".to_owned());
    refused(&args, false, "contradict");
    args = K8sTest { existing_helm_namespace: Some("mine".to_owned()), ..K8sTest::default() };
    refused(&args, true, "needs a cluster that exists");
    args = K8sTest::default();
    args.cluster.kind_cluster = Some("x".repeat(55));
    refused(&args, false, "too long");
}

#[test]
fn a_users_cluster_comes_from_the_environment_when_not_named() {
    let mut args = K8sTest::default();
    args.cluster.cluster_provider = Provider::Kubeconfig;
    let plan = resolve(&args, true).unwrap();
    let file = Utf8PathBuf::from("/home/x/.kube/config");
    assert_eq!(plan.cluster, ClusterPlan::Kubeconfig { file, context: None });
}

#[test]
fn the_description_says_what_happens_to_the_cluster() {
    let text = resolve(&K8sTest::default(), true).unwrap().describe(&Workspace { root: "/w".into() });
    assert!(text.contains("made fresh and deleted at the end"), "{text}");
    assert!(text.contains("namespace user: dagster-test-<suffix>"), "{text}");
}
