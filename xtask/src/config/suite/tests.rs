//! Files that load, and those that must not.

use super::*;

const BASE: &str = "namespaces: {user: dagster-test}\nrun: {tests: example}\n";

fn file(more: &str) -> Result<SuiteFile> {
    super::super::parse("suite.yaml".into(), &format!("{BASE}{more}"))
}

fn resolve(more: &str, variant: &str) -> Result<Suite> {
    file(more)?.resolve("/w/test-suites/example".into(), variant)
}

#[test]
fn a_variant_replaces_whole_keys() {
    let more =
        "images: [a]\nvariants: {default: {}, split: {images: [b], namespaces: {user: u, system: s}}}\n";
    let split = resolve(more, "split").unwrap();
    assert_eq!(split.images, ["b"]);
    assert_eq!(split.namespaces.len(), 2);
    assert_eq!(resolve(more, "default").unwrap().images, ["a"]);
    assert_eq!(split.id(), "example/split");
}

#[test]
fn default_is_the_variant_of_a_suite_that_lists_none() {
    let listed = file("variants: {x: {}, y: {}}\n").unwrap();
    assert_eq!((listed.variants(), listed.first_variant()), (vec!["x", "y"], "x"));
    refused("variants: {x: {}}\n", "default", "there is no variant `default`");
    let both = file("variants: {x: {}, default: {}}\n").unwrap();
    assert_eq!((both.variants(), both.first_variant()), (vec!["x", "default"], "default"));
    assert_eq!(file("").unwrap().variants(), ["default"]);
    assert!(resolve("", "default").is_ok());
}

#[track_caller]
fn refused(more: &str, variant: &str, part: &str) {
    let error = resolve(more, variant).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage);
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn rejects_what_cannot_be_run() {
    refused("variants: {subchart: {}}\n", "subchrat", "did you mean `subchart`?");
    refused("fixtures: [nowhere.yaml]\n", "default", "fixture `nowhere.yaml` does not exist");
    refused(
        "forwards: {w: {namespace: sys, selector: a=b, port: 80}}\n",
        "default",
        "no namespace role `sys`",
    );
    let forward = |more: &str| format!("forwards: {{w: {{namespace: user, {more}}}}}\n");
    refused(&forward("selector: a=b, port: 0"), "default", "forward `w`: port 0");
    refused(&forward("selector: '', port: 80"), "default", "write it like");
    refused("timeout: soon\n", "default", "`soon` is no duration");
    refused("imagse: []\n", "default", "did you mean `images`?");
    refused("variants: {default: {imagse: []}}\n", "default", "did you mean `images`?");
}

#[test]
fn a_chart_is_a_folder_or_a_package() {
    let root = tempfile::tempdir().unwrap();
    // A suite is named by its folder.
    let root = &Utf8Path::from_path(root.path()).unwrap().join("suite");
    std::fs::create_dir_all(root.join("folder")).unwrap();
    for path in ["folder/Chart.yaml", "chart-0.1.0.tgz", "chart.yaml"] {
        std::fs::write(root.join(path), "").unwrap();
    }
    let chart = |chart: &str| {
        let release = format!("releases: [{{name: r, chart: {chart}, namespace: user}}]\n");
        Ok(file(&release)?.resolve(root, "default")?.releases[0].chart.clone())
    };
    for known in ["folder", "chart-0.1.0.tgz"] {
        assert_eq!(chart(known).unwrap(), root.join(known));
    }
    let refused = |named: &str| -> String {
        let error: anyhow::Error = chart(named).unwrap_err();
        error.to_string()
    };
    assert!(refused("chart.yaml").contains("it has no Chart.yaml, and is no .tgz"));
    assert!(refused("chart-0.2.0.tgz").contains("chart `chart-0.2.0.tgz` does not exist"));
}

#[test]
fn a_base_gives_what_the_suite_leaves_out_with_its_own_paths() {
    let root = tempfile::tempdir().unwrap();
    let root = Utf8Path::from_path(root.path()).unwrap();
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("shared/fixtures.yaml", "");
    write(
        "shared/base.yaml",
        "namespaces: {user: u}\nimages: [a]\nfixtures: [fixtures.yaml]\nvariants: {default: {}, split: {images: [b]}}\n",
    );
    let suite = |text: &str, variant: &str| {
        write("one/suite.yaml", text);
        let folder = root.join("one");
        SuiteFile::load(&folder.join(FILE))?.resolve(&folder, variant)
    };
    let one = suite("base: ../shared/base.yaml\nrun: {tests: one}\n", "split").unwrap();
    assert_eq!((one.images, one.fixtures), (vec!["b".to_owned()], vec![root.join("shared/fixtures.yaml")]));
    assert_eq!(one.base, Some(root.join("shared/base.yaml")));
    let more = "base: ../shared/base.yaml\nimages: [c]\nfixtures: []\nrun: {tests: one}\n";
    let one = suite(more, "default").unwrap();
    assert_eq!((one.images, one.fixtures), (vec!["c".to_owned()], Vec::new()));

    let error = |text: &str, variant: &str| suite(text, variant).unwrap_err().to_string();
    let gone = error("base: ../base.yaml\nrun: {tests: one}\n", "default");
    assert!(gone.contains("base `../base.yaml` does not exist"), "{gone}");
    let none = error("base: ../shared/base.yaml\n", "default");
    assert!(none.contains("one/suite.yaml: `run` is missing"), "{none}");
    let inside = error("namespaces: {user: u}\nrun: {tests: one}\nvariants: {v: {base: x}}\n", "v");
    assert!(inside.contains("variant `v`: `base` is a key of the suite"), "{inside}");
    write("shared/base.yaml", "base: further.yaml\n");
    let further = error("base: ../shared/base.yaml\nrun: {tests: one}\n", "default");
    assert!(further.contains("shared/base.yaml: a base has no `base`"), "{further}");
}

#[test]
fn durations_are_read() {
    assert_eq!(resolve("timeout: 1h30m\n", "default").unwrap().timeout, Duration::from_secs(5400));
}
