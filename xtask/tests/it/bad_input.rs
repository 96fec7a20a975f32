//! What was typed or written wrongly: exit 2, the place, and what was probably meant.

use crate::world::{World, a_suite, an_image, misspelt};

const SUITE: &str = "namespaces: {user: example}\nrun: {command: ['true']}\n";

#[test]
fn an_unknown_flag_is_a_usage_error() {
    World::new().run(&["k8s-test", "--no-such-flag"]).says(2, &["--no-such-flag"]);
}

#[test]
fn an_unknown_suite_gets_the_nearest_name() {
    let suite = a_suite();
    World::new().k8s_test(&[misspelt(&suite)]).says(2, &[&format!("did you mean `{suite}`?")]);
}

#[test]
fn an_unknown_variant_gets_the_nearest_name() {
    let world = World::new();
    let suite = world.suite(&format!("{SUITE}variants: {{subchart: {{}}}}\n"));
    world.k8s_test(&[&suite, "--variant", "subchrat"]).says(2, &["suite.yaml", "did you mean `subchart`?"]);
}

#[test]
fn broken_suite_files_are_placed() {
    let world = World::new();
    let check = |yaml: &str, parts: &[&str]| world.k8s_test(&[&world.suite(yaml)]).says(2, parts);
    check(
        &format!("{SUITE}imagse: []\n"),
        &["suite.yaml:3:1", "unknown key `imagse`; did you mean `images`?"],
    );
    check(&format!("{SUITE}images: 5\n"), &["suite.yaml:3:", "images: invalid type"]);
    check("namespaces: {user: [\n", &["suite.yaml:"]);
    let image = an_image("build");
    check(&format!("{SUITE}images: [{}]\n", misspelt(&image)), &[&format!("did you mean `{image}`?")]);
    check(&SUITE.replace("example", &"x".repeat(60)), &["too long", "shorten it by 4"]);
    check(
        &format!("{SUITE}releases: [{{name: r, chart: ./nowhere, namespace: user}}]\n"),
        &["release `r`: chart `./nowhere` does not exist"],
    );
    check(
        &format!("{SUITE}releases: [{{name: r, chart: ., namespace: user}}]\n"),
        &["is not a chart: it has no Chart.yaml"],
    );
}

#[test]
fn two_suites_of_one_name_are_refused() {
    let world = World::new();
    let first = world.suite(SUITE);
    let second = world.path().join("other/example");
    std::fs::create_dir_all(&second).unwrap();
    world.file("other/example/suite.yaml", SUITE);
    let end = world.k8s_test(&[&first, second.to_str().unwrap()]);
    end.says(2, &["two suites have one name", "other/example", "rename one folder"]);
}

#[test]
fn contradicting_flags_are_explained() {
    let world = World::new();
    let suite = world.suite(SUITE);
    world.k8s_test(&[&suite, "--context", "x"]).says(2, &["add --cluster-provider kubeconfig"]);
    world
        .k8s_test(&[&suite, "--kind-cluster", "Upper"])
        .says(2, &["--kind-cluster `Upper` is not a valid name"]);
    world.k8s_test(&[&suite, "--no-cleanup", "--keep", "never"]).says(2, &["cannot be used with"]);
}

#[test]
fn kubeconfigs_that_cannot_be_used_are_explained() {
    let world = World::new();
    let suite = world.suite(SUITE);
    let existing = ["--cluster-provider", "kubeconfig"];
    let run = |more: &[&str]| world.k8s_test(&[&[suite.as_str()], &existing[..], more].concat());
    run(&["--kubeconfig", "nowhere"]).says(2, &["the kubeconfig nowhere does not exist"]);
    let file = world.file(
        "config",
        "apiVersion: v1\nkind: Config\ncontexts: [{name: mine, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n",
    );
    run(&["--kubeconfig", &file]).says(2, &["has no current context", "mine"]);
    run(&["--kubeconfig", &file, "--context", "mien"]).says(2, &["did you mean `mine`?"]);
    run(&["--kubeconfig", &file, "--context", "mine"]).says(3, &["does not answer at https://127.0.0.1:1"]);
}

#[test]
fn the_plan_is_printed_and_nothing_is_done() {
    let world = World::new();
    world.without("docker");
    let end = world.k8s_test(&[&world.suite(SUITE), "--dry-run"]);
    end.says(0, &["Kind cluster k8s-test", "namespace user: example-<suffix>", "command true"]);
    assert!(!world.path().join("output").exists());
}

#[test]
fn local_commands_explain_wrong_names() {
    let world = World::new();
    for command in ["up", "dev"] {
        let suite = a_suite();
        world.run(&[command, misspelt(&suite)]).says(2, &[&format!("did you mean `{suite}`?")]);
        let suite = world.suite(&format!("{SUITE}variants: {{subchart: {{}}}}\n"));
        world.run(&[command, &suite, "--variant", "subchrat"]).says(2, &["did you mean `subchart`?"]);
        world.run(&[command, &suite, "--context", "x"]).says(2, &["add --cluster-provider kubeconfig"]);
    }
    world.run(&["down", "--kind-cluster", "Upper"]).says(2, &["--kind-cluster `Upper` is not a valid name"]);
}
