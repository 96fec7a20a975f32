//! Test binaries of cargo packages: built once for all suites, and asked for their tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use tempfile::TempPath;
use xshell::{Shell, cmd};

use crate::cmd::Run as Command;
use crate::config::{Run, Suite};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith, coded};

/// A first build of kube and its friends on a slow machine.
const BUILD: Duration = Duration::from_secs(30 * 60);

/// Lines of a compiler's output that are shown.
const ERROR_LINES: usize = 40;

/// A test binary.
#[derive(Clone, Debug)]
#[cfg_attr(test, derive(Default))]
pub struct Binary {
    /// The program.
    pub program: Utf8PathBuf,
    /// The package's folder, where cargo runs tests.
    pub folder: Utf8PathBuf,
    /// What tells it from the others of its package.
    pub target: String,
    /// The program's name of ours, which goes when nobody has it any more.
    _own: Option<Arc<TempPath>>,
}

impl Binary {
    /// Gives the program a name of our own: a build during the run, also one by hand, puts another program in the place of
    /// the first. It lies beside that, because tests may look for files by their program's place.
    fn hold(&mut self) -> Result<()> {
        let Binary { program, _own: own, .. } = self;
        let (Some(folder), Some(name)) = (program.parent(), program.file_name()) else { return Ok(()) };
        let prefix = format!("{name}.");
        let link = |path: &std::path::Path| match std::fs::hard_link(&*program, path) {
            // There are file systems without links.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                std::fs::copy(&*program, path).map(|_| ())
            }
            linked => linked,
        };
        let held = tempfile::Builder::new().prefix(&prefix).make_in(folder, link);
        let held = held.with_context(|| format!("link {program} in its folder"))?.into_temp_path();
        if let Some(path) = Utf8Path::from_path(&held) {
            *program = path.to_owned();
            *own = Some(Arc::new(held));
        }
        Ok(())
    }
}

/// The test binaries of each package.
#[derive(Clone, Debug, Default)]
pub struct Compiled(BTreeMap<String, Vec<Binary>>);

impl Compiled {
    pub(super) fn binaries(&self, package: &str) -> &[Binary] {
        self.0.get(package).map_or(&[], Vec::as_slice)
    }
}

/// Builds the tests of all `suites`.
///
/// # Errors
/// A package does not exist or does not build: the compiler's messages; exit 2.
pub async fn compile(cargo: &str, root: &Utf8Path, suites: &[Suite], events: &Events) -> Result<Compiled> {
    let packages: BTreeSet<&String> = suites
        .iter()
        .filter_map(|suite| match &suite.run {
            Run::Tests { tests } => Some(tests),
            Run::Command { .. } => None,
        })
        .collect();
    if packages.is_empty() {
        return Ok(Compiled::default());
    }
    let list = packages.iter().map(|package| package.as_str()).collect::<Vec<_>>().join(", ");
    let step = events.step(Phase::Suites, format!("build the tests of {list}"));
    let flags: Vec<&str> = packages.iter().flat_map(|package| ["--package", package.as_str()]).collect();
    let by_hand = format!("cargo test --no-run {}", flags.join(" "));
    let sh = Shell::new()?;
    sh.change_dir(root);
    let command =
        cmd!(sh, "{cargo} test --no-run --tests --message-format json-render-diagnostics {flags...}");
    let mut said = Vec::new();
    // Half of the output is JSON for programs.
    let keep = |line: &str| said.extend((!line.starts_with('{')).then(|| line.to_owned()));
    let output = Command::new(command, BUILD).as_cargo().on_line(keep).output().await?;
    if !output.status.success() {
        return Err(coded(
            Exit::Usage,
            anyhow!(
                "the tests of {list} do not build:\n{}\n  see all of it by `{by_hand}`",
                crate::text::indent(&first_errors(&said), "    ")
            ),
        ));
    }
    let mut compiled = binaries(&output.stdout).or_exit(Exit::Environment)?;
    compiled.0.values_mut().flatten().try_for_each(Binary::hold).or_exit(Exit::Environment)?;
    for package in packages {
        if compiled.binaries(package).is_empty() {
            crate::fail!(Exit::Usage, "the package {package} has no tests; put them under its tests/ folder");
        }
    }
    step.done("");
    Ok(compiled)
}

/// The compiler's output from its first error on: the errors after it often come of it. Where it names none, what it said last.
fn first_errors(said: &[String]) -> String {
    let error = said.iter().position(|line| line.starts_with("error"));
    let from = error.unwrap_or(said.len().saturating_sub(ERROR_LINES));
    let (shown, rest) = said[from..].split_at(ERROR_LINES.min(said.len() - from));
    let more = (!rest.is_empty()).then(|| format!("… and {}", crate::text::count(rest.len(), "more line")));
    shown.iter().cloned().chain(more).collect::<Vec<_>>().join("\n")
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    executable: Option<Utf8PathBuf>,
    #[serde(default)]
    manifest_path: Option<Utf8PathBuf>,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    profile: Profile,
    #[serde(default)]
    target: Target,
}

#[derive(Default, Deserialize)]
struct Target {
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

impl Target {
    /// What no other target of the package is called: a library's often has the name of a program's.
    fn id(self) -> String {
        match self.kind.first().map(String::as_str) {
            None | Some("test") => self.name,
            Some(kind) => format!("{kind}/{}", self.name),
        }
    }
}

#[derive(Default, Deserialize)]
struct Profile {
    #[serde(default)]
    test: bool,
}

/// Reads cargo's messages (doc.rust-lang.org/cargo/reference/external-tools.html).
fn binaries(messages: &str) -> Result<Compiled> {
    let mut found = Compiled::default();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message =
            serde_json::from_str(line).with_context(|| format!("understand cargo's message {line}"))?;
        let (Some(program), Some(manifest)) = (message.executable, message.manifest_path) else { continue };
        if message.reason == "compiler-artifact" && message.profile.test {
            let folder = manifest.parent().unwrap_or(&manifest).to_owned();
            let binary = Binary { program, folder, target: message.target.id(), _own: None };
            found.0.entry(package_name(&message.package_id)).or_default().push(binary);
        }
    }
    Ok(found)
}

/// The name in a package id: `path+file:///w/support#0.1.0`, or with `#name@0.1.0` where the folder differs.
fn package_name(id: &str) -> String {
    let (url, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => url.rsplit('/').next().unwrap_or(url).to_owned(),
    }
}

/// The folders of a package and of those of this workspace that it is built with.
///
/// # Errors
/// cargo does not know the package or cannot read a manifest; exit 2.
pub async fn sources(cargo: &str, root: &Utf8Path, package: &str) -> Result<Vec<Utf8PathBuf>> {
    let sh = Shell::new()?;
    sh.change_dir(root);
    let command = cmd!(sh, "{cargo} metadata --no-deps --format-version 1");
    let output =
        Command::new(command, Duration::from_secs(60)).as_cargo().success().await.or_exit(Exit::Usage)?;
    folders(&output.stdout, package).or_exit(Exit::Usage)
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: Utf8PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    path: Option<Utf8PathBuf>,
}

fn folders(metadata: &str, package: &str) -> Result<Vec<Utf8PathBuf>> {
    let Metadata { packages } = serde_json::from_str(metadata).context("understand cargo's metadata")?;
    let folder = |package: &Package| package.manifest_path.parent().map(Utf8Path::to_owned);
    let first = packages.iter().find(|known| known.name == package);
    let mut found: Vec<Utf8PathBuf> = first.and_then(folder).into_iter().collect();
    let mut at = 0;
    while let Some(of) = found.get(at).cloned() {
        let needs = packages.iter().filter(|known| folder(known).as_ref() == Some(&of));
        for path in needs.flat_map(|known| &known.dependencies).filter_map(|needed| needed.path.as_ref()) {
            if !found.contains(path) {
                found.push(path.clone());
            }
        }
        at += 1;
    }
    Ok(found)
}

/// The names of a binary's tests, and whether each is marked `#[ignore]`.
pub(super) async fn tests_of(binary: &Binary) -> Result<Vec<(String, bool)>> {
    let list = async |ignored: &[&str]| {
        let sh = Shell::new()?;
        let program = &binary.program;
        let command = cmd!(sh, "{program} --list --format terse {ignored...}");
        anyhow::Ok(names(&Command::new(command, Duration::from_secs(60)).success().await?.stdout))
    };
    let (all, ignored) = tokio::try_join!(list(&[]), list(&["--ignored"]))?;
    Ok(all
        .into_iter()
        .map(|name| (ignored.contains(&name), name))
        .map(|(ignored, name)| (name, ignored))
        .collect())
}

fn names(listing: &str) -> Vec<String> {
    listing.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Test, Work};
    use super::*;

    fn suite(package: &str) -> Suite {
        let text = format!("namespaces: {{user: u}}\nrun: {{tests: {package}}}\n");
        let file: crate::config::SuiteFile = crate::config::parse("suite.yaml".into(), &text).unwrap();
        file.resolve(&Utf8Path::new("/w/test-suites").join(package), "default").unwrap()
    }

    fn binary(program: Utf8PathBuf, target: &str) -> Binary {
        Binary { program, folder: "/w".into(), target: target.to_owned(), _own: None }
    }

    fn program(folder: &Utf8Path, script: &str) -> Utf8PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn tests_that_do_not_build_are_told_once_for_all_suites() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        // Colours as with CARGO_TERM_COLOR=always; cargo goes on with other packages after an error.
        let script = "echo called >> calls; echo 'warning: unused' >&2; \
            printf '\\033[1merror[E0425]\\033[0m: cannot find value\\n' >&2; \
            for line in $(seq 100); do echo '{}'; echo \"error: follows $line\" >&2; done; exit 101";
        let cargo = program(root, script);
        let events = Events::new(Vec::new());
        let suites = [suite("one"), suite("two")];
        let error = compile(cargo.as_str(), root, &suites, &events).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let told = crate::exit::message(&error);
        assert!(told.contains("the tests of one, two do not build"), "{told}");
        assert!(told.contains("cargo test --no-run --package one --package two"), "{told}");
        assert!(told.contains("\n    error[E0425]: cannot find value\n    error: follows 1\n"), "{told}");
        assert!(told.contains("error: follows 39\n    … and 61 more lines\n"), "{told}");
        assert!(!told.contains("unused") && told.matches("E0425").count() == 1, "{told}");
        assert_eq!(std::fs::read_to_string(root.join("calls")).unwrap(), "called\n");
    }

    #[tokio::test]
    async fn a_suite_whose_package_has_no_test_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let binary = binary(program(root, ""), "it");
        let compiled = Compiled(BTreeMap::from([("one".to_owned(), vec![binary])]));
        let error = super::super::select(&[suite("one")], &compiled, &[]).await.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        let told = crate::exit::message(&error);
        assert!(told.contains("one/default has no tests"), "{told}");
    }

    #[tokio::test]
    async fn tests_of_one_name_in_two_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let lists = |target: &str, listing: &str| {
            let folder = root.join(target);
            std::fs::create_dir_all(&folder).unwrap();
            let script = format!("case \"$*\" in *--ignored*) ;; *) echo '{listing}';; esac");
            binary(program(&folder, &script), target)
        };
        let (a, b, empty) = (lists("a", "smoke: test"), lists("b", "smoke: test"), lists("lib/one", ""));
        let selected = async |binaries: &[&Binary], filters: &[String]| {
            let binaries = binaries.iter().map(|binary| (*binary).clone()).collect();
            let compiled = Compiled(BTreeMap::from([("one".to_owned(), binaries)]));
            super::super::select(&[suite("one")], &compiled, filters).await.unwrap().concat()
        };
        let names = |tests: &[Test]| tests.iter().map(|test| test.name().to_owned()).collect::<Vec<_>>();
        let tests = selected(&[&a, &b, &empty], &[]).await;
        assert_eq!(names(&tests), ["a::smoke", "b::smoke"]);
        // The binary itself knows nothing of that.
        assert!(tests.iter().all(|test| matches!(&test.work, Work::Binary(_, name) if name == "smoke")));
        assert_eq!(names(&selected(&[&a, &b], &["b::".to_owned()]).await), ["b::smoke"]);
        assert_eq!(names(&selected(&[&a, &empty], &[]).await), ["smoke"]);
    }

    #[test]
    fn a_build_during_a_run_does_not_change_its_tests() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let built = program(root, "echo first");
        let mut binary = binary(built.clone(), "it");
        binary.hold().unwrap();
        // As linkers do.
        std::fs::remove_file(&built).unwrap();
        program(root, "echo second");
        let held = binary.program.clone();
        assert_eq!(held.parent(), built.parent());
        assert!(std::fs::read_to_string(&held).unwrap().contains("first"));
        let of_test = binary.clone();
        drop(binary);
        assert!(held.exists());
        drop(of_test);
        assert!(!held.exists() && built.exists());
    }

    #[test]
    fn finds_test_binaries_among_cargos_messages() {
        let messages = r#"
{"reason":"compiler-artifact","package_id":"path+file:///w/test-suites/support#suite-support@0.1.0","manifest_path":"/w/test-suites/support/Cargo.toml","target":{"kind":["lib"],"name":"suite-support"},"executable":null,"profile":{"test":false}}
{"reason":"compiler-artifact","package_id":"path+file:///w/test-suites/k8s-run-launcher#0.1.0","manifest_path":"/w/test-suites/k8s-run-launcher/Cargo.toml","target":{"kind":["test"],"name":"it"},"executable":"/w/target/debug/deps/it-1","profile":{"test":true}}
{"reason":"compiler-artifact","package_id":"path+file:///w/test-suites/k8s-run-launcher#0.1.0","manifest_path":"/w/test-suites/k8s-run-launcher/Cargo.toml","target":{"kind":["lib"],"name":"it"},"executable":"/w/target/debug/deps/it-2","profile":{"test":true}}
{"reason":"build-finished","success":true}
"#;
        let found = binaries(messages).unwrap();
        let [tests, units] = found.binaries("k8s-run-launcher") else { panic!("{found:?}") };
        assert_eq!(tests.program, "/w/target/debug/deps/it-1");
        assert_eq!(tests.folder, "/w/test-suites/k8s-run-launcher");
        assert_eq!((tests.target.as_str(), units.target.as_str()), ("it", "lib/it"));
        assert!(found.binaries("suite-support").is_empty());
    }

    #[test]
    fn package_ids_of_both_forms_are_read() {
        assert_eq!(package_name("path+file:///w/support#suite-support@0.1.0"), "suite-support");
        assert_eq!(package_name("path+file:///w/k8s-run-launcher#0.1.0"), "k8s-run-launcher");
    }

    #[test]
    fn a_packages_sources_are_those_of_what_it_is_built_with() {
        let package = |name: &str, needs: &str| {
            format!(
                r#"{{"name": "{name}", "manifest_path": "/w/{name}/Cargo.toml", "dependencies": [{needs}]}}"#
            )
        };
        let metadata = format!(
            r#"{{"packages": [{}, {}, {}, {}]}}"#,
            package("a", r#"{"name": "b", "path": "/w/b"}, {"name": "serde", "path": null}"#),
            package("b", r#"{"name": "c", "path": "/w/c"}, {"name": "a", "path": "/w/a"}"#),
            package("c", ""),
            package("d", ""),
        );
        assert_eq!(folders(&metadata, "a").unwrap(), ["/w/a", "/w/b", "/w/c"]);
        assert!(folders(&metadata, "e").unwrap().is_empty());
    }

    #[test]
    fn benchmarks_are_no_tests() {
        assert_eq!(names("a::b: test\nc: benchmark\n"), ["a::b"]);
    }
}
