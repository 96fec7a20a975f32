//! Which change leads to which stages.

use expect_test::{Expect, expect};

use super::*;
use crate::config::{self, SuiteFile};

const IMAGES: &str = "
images:
  base: {build: images/base}
  app: {build: images/app, needs: {BASE: base}}
  database: {pull: somewhere/database, recipe: images/database}
";
const SUITE: &str = "
images: [app, database]
namespaces: {user: example}
fixtures: [fixtures.yaml]
releases:
  - {name: app, chart: ../../chart, namespace: user, values: [../../ci/values.yaml, values.yaml]}
run: {tests: example}
";

const CHART: &str = "
name: app
dependencies:
  - {name: common, version: 0.1.0, repository: file://../common}
  - {name: gone, version: 0.1.0, repository: file://../gone}
  - {name: redis, version: 0.1.0, repository: https://charts.test}
";

/// A workspace with one suite.
struct World(tempfile::TempDir);

impl World {
    fn new() -> World {
        let world = World(tempfile::tempdir().unwrap());
        for (path, text) in [
            (".gitignore", "/target\n__pycache__/\n*.pyc\n"),
            ("ci/images.yaml", IMAGES),
            ("ci/images/base/Dockerfile", "FROM scratch"),
            ("ci/images/app/Dockerfile", "FROM scratch"),
            ("ci/images/app/.dockerignore", "*\n!app\n**/notes\n"),
            ("ci/images/app/app/.gitignore", "generated/\n!kept.pyc\n"),
            ("ci/images/database/build.sh", ""),
            ("chart/Chart.yaml", CHART),
            ("common/Chart.yaml", "name: common"),
            ("ci/values.yaml", ""),
            ("test-suites/example/suite.yaml", SUITE),
            ("test-suites/example/values.yaml", ""),
            ("test-suites/example/fixtures.yaml", ""),
            ("test-suites/support/src/lib.rs", ""),
        ] {
            let path = world.root().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        world
    }

    fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.0.path()).unwrap()
    }

    fn sources(&self) -> Sources {
        let root = self.root();
        let images = ImagesFile::load(&root.join("ci/images.yaml")).unwrap();
        let names = images.closure([&"app".to_owned(), &"database".to_owned()]).unwrap();
        let folder = root.join("test-suites/example");
        let suite: SuiteFile = config::load(&folder.join(FILE)).unwrap();
        let suite = suite.resolve(&folder, "default").unwrap();
        let tests = vec![folder, root.join("test-suites/support")];
        let workspace = Workspace { root: root.to_owned() };
        Sources::gather(&workspace, &images, &names, &suite, tests).unwrap()
    }

    /// What changes to `paths` ask for, in one line.
    fn todo(&self, paths: &[&str]) -> String {
        let paths: Vec<Utf8PathBuf> = paths.iter().map(|path| self.root().join(path)).collect();
        let todo = self.sources().todo(&paths);
        format!("{:?} {:?}", todo.stages, todo.images).replace('"', "")
    }
}

#[track_caller]
fn check(paths: &[&str], expected: Expect) {
    expected.assert_eq(&World::new().todo(paths));
}

#[test]
fn an_image_is_made_brought_and_rolled_out() {
    let rolled_out = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {app}"];
    check(&["ci/images/app/app/repo.py"], rolled_out);
}

#[test]
fn what_is_made_from_an_image_is_made_with_it() {
    let both = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {app, base}"];
    check(&["ci/images/base/install.sh"], both);
    let recipe = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {database}"];
    check(&["ci/images/database/build.sh"], recipe);
}

#[test]
fn what_docker_ignores_asks_for_nothing_but_its_own_files_count() {
    check(&["ci/images/app/README.md", "ci/images/app/app/notes"], expect!["{} {}"]);
    let rolled_out = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {app}"];
    check(&["ci/images/app/Dockerfile"], rolled_out);
    let rolled_out = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {app}"];
    check(&["ci/images/app/.dockerignore"], rolled_out);
}

#[test]
fn what_git_and_editors_leave_out_asks_for_nothing() {
    check(
        &[
            "ci/images/app/app/__pycache__",
            "ci/images/app/app/__pycache__/repo.pyc",
            "ci/images/app/app/generated/x.py",
            "test-suites/example/.git/index",
            "chart/.values.yaml.swp",
            "ci/images/app/app/repo.py~",
            "ci/images/app/app/4913",
        ],
        expect!["{} {}"],
    );
    // A deeper list has the last word.
    let rolled_out = expect!["{Images, Deliver, Fixtures, Releases, Ready, Forwards, Tests} {app}"];
    check(&["ci/images/app/app/kept.pyc"], rolled_out);
}

#[test]
fn charts_and_values_are_installed_without_an_image() {
    check(&["chart/templates/web.yaml"], expect!["{Releases, Ready, Forwards, Tests} {}"]);
    check(&["ci/values.yaml"], expect!["{Releases, Ready, Forwards, Tests} {}"]);
    check(&["test-suites/example/values.yaml"], expect!["{Releases, Ready, Forwards, Tests} {}"]);
}

#[test]
fn a_chart_that_another_takes_from_a_folder_counts_and_its_archive_does_not() {
    check(&["common/templates/_names.tpl"], expect!["{Releases, Ready, Forwards, Tests} {}"]);
    check(
        &["chart/charts/common-0.1.0.tgz", "chart/charts/.common-0.1.0.tgz", "gone/Chart.yaml"],
        expect!["{} {}"],
    );
    check(&["chart/charts/redis-0.1.0.tgz"], expect!["{Releases, Ready, Forwards, Tests} {}"]);
}

#[test]
fn fixtures_are_applied_and_tests_built_alone() {
    check(&["test-suites/example/fixtures.yaml"], expect!["{Fixtures, Tests} {}"]);
    check(&["test-suites/example/tests/it/main.rs"], expect!["{Compile, Tests} {}"]);
    check(&["test-suites/support/src/lib.rs"], expect!["{Compile, Tests} {}"]);
}

#[test]
fn definitions_are_read_anew() {
    check(&["test-suites/example/suite.yaml"], expect!["{Definitions, Tests} {}"]);
    check(&["ci/images.yaml"], expect!["{Definitions, Tests} {}"]);
}

#[test]
fn several_changes_ask_for_all_of_it_and_strangers_for_nothing() {
    let paths = ["test-suites/example/fixtures.yaml", "test-suites/example/tests/a.rs", "README.md"];
    check(&paths, expect!["{Fixtures, Compile, Tests} {}"]);
    check(&["README.md", "xtask/src/main.rs", "ci/tools.yaml"], expect!["{} {}"]);
}

#[test]
fn the_folders_of_files_are_watched_and_none_twice() {
    let world = World::new();
    let folders: Vec<String> = world
        .sources()
        .folders()
        .iter()
        .map(|folder| {
            let path = folder.path.strip_prefix(world.root()).unwrap();
            format!("{path}{}", if folder.whole { "/**" } else { "" })
        })
        .collect();
    expect![[r#"
        [
            "chart/**",
            "ci",
            "ci/images/app/**",
            "ci/images/base/**",
            "ci/images/database/**",
            "common/**",
            "test-suites/example/**",
            "test-suites/support/**",
        ]
    "#]]
    .assert_debug_eq(&folders);
}

#[test]
fn missed_changes_ask_for_everything() {
    let sources = World::new().sources();
    let all = sources.todo(&sources.all());
    assert_eq!(all.images, ["app", "base", "database"].map(str::to_owned).into());
    assert!(all.has(Stage::Compile) && all.has(Stage::Fixtures) && all.has(Stage::Definitions));
}
