//! Several deployments of one run: what keeps them from being deployed at once is known before any of them is.

use std::sync::Arc;

use crate::simulated::{Cluster, HELM, Simulated};

const ROLE: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: shared}\n";

/// A suite of two variants that differ in their release's name; both claim a ClusterRole.
fn two_variants(second: &str) -> Simulated {
    let simulated = Simulated::new("true", Arc::new(|| ()));
    simulated.world.file("example/fixtures.yaml", ROLE);
    simulated.world.suite(&format!(
        "namespaces: {{user: user}}\nfixtures: [fixtures.yaml]\nrun: {{command: [/bin/true]}}\nvariants:\n  one: {{releases: [{{name: app, chart: ../chart, namespace: user}}]}}\n  two: {{releases: [{{name: {second}, chart: ../chart, namespace: user}}]}}\n"
    ));
    simulated
}

#[test]
fn two_that_claim_the_same_are_told_before_either_is_deployed_and_both_run() {
    let simulated = two_variants("other");
    let mut run = simulated.start_with(Cluster::Theirs, "run", &["--variant", "all"]);
    let ended = run.wait().unwrap();
    let said = simulated.said("run");
    assert!(ended.success(), "{said}");
    let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: not in\n{said}"));
    let told = at("example/one, example/two are deployed in turn: each has the ClusterRole shared;");
    assert!(told < at("example/one: 1 object"), "{said}");
    assert!(told < at("example/two: 1 object"), "{said}");
    assert!(said.contains("2 passed, 0 failed"), "{said}");
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new());
}

#[test]
fn a_chart_that_does_not_render_ends_the_run_before_anything_is_deployed() {
    let simulated = two_variants("broken");
    let fails = HELM.replacen("template) ;;", "template) [ $2 != broken ] || { echo no >&2; exit 1; } ;;", 1);
    simulated.world.tool("helm", &fails.replace("step;", ""));
    let mut run = simulated.start_with(Cluster::Theirs, "run", &["--variant", "all"]);
    let code = run.wait().unwrap().code();
    let said = simulated.said("run");
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("error: suite example/two\n  caused by: render the release broken from "),
        "{said}"
    );
    assert!(!said.contains("1 object"), "{said}");
    assert_eq!(simulated.left(Cluster::Theirs), Vec::<String>::new());
}

#[test]
fn a_cluster_of_the_run_s_own_goes_with_all_that_is_on_it() {
    // The only one, and the last of several, of which the first makes room.
    for (simulated, uninstalled) in [(Simulated::new("true", Arc::new(|| ())), 0), (two_variants("other"), 1)]
    {
        let mut run = simulated.start_with(Cluster::Ephemeral, "run", &["--variant", "all", "--jobs", "1"]);
        let ended = run.wait().unwrap();
        let said = simulated.said("run");
        assert!(ended.success(), "{said}");
        assert_eq!(said.matches("uninstall ").count(), uninstalled, "{said}");
        assert_eq!(simulated.left(Cluster::Ephemeral), Vec::<String>::new());
    }
}
