//! `sabotage`: breaks on purpose what suites deploy, and demands that their tests notice.
//!
//! A copy of the files is changed, never the files themselves; each change is a deployment of its own, and only the tests
//! that must notice it are run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use xshell::{Shell, cmd};

use super::copied::{Changed, carry_out, change, plan};
use super::k8s_test::Ended;
use crate::cli::{ClusterArgs, K8sTest, Sabotage as Args};
use crate::cmd::Run;
use crate::config::Workspace;
use crate::config::sabotage::{FILE, Sabotage, SabotageFile};
use crate::env::Env;
use crate::events::{Outcome, TestResult};
use crate::exit::Exit;
use crate::fail;
use crate::pipeline;
use crate::plan::Files;
use crate::suites::Test;

/// A change, in a copy of the files.
struct Broken {
    suite: String,
    sabotage: Sabotage,
    changed: Changed,
}

impl Broken {
    /// The suite's name as it is deployed.
    fn name(&self) -> &str {
        self.changed.folder.file_name().unwrap_or_default()
    }
}

/// What one test made of a change.
struct Finding {
    suite: String,
    what: String,
    test: String,
    /// Why the test failed; nothing where it passed or was not run.
    noticed: Option<String>,
    ran: Ran,
}

/// Whether a test was run on a change.
#[derive(Clone, Copy)]
enum Ran {
    Yes,
    /// Not to its end, so that it has noticed nothing.
    TooLong,
    /// Something came in between.
    No,
    /// No change names it.
    Never,
}

/// Of all changes, CI tries one in so many.
const SAMPLE: u16 = 10;
const QUICK: Duration = Duration::from_secs(30);

pub(super) async fn run(args: &Args, env: &Env) -> Result<Exit> {
    Ok(match tried(args, env).await? {
        Ok((_, 0)) => Exit::Passed,
        Ok(_) => Exit::TestsFailed,
        Err(ended) => ended,
    })
}

/// How many tests notice a sample of the changes, and how many do not; on a Kind cluster that exists. Which they are the commit
/// chooses: in time all have their turn, and a commit that is tried again is tried with the same.
pub(super) async fn sample(env: &Env, cluster: &str) -> Result<Result<(usize, usize), Exit>> {
    let workspace = Workspace::here();
    let count = changes(&with_changes(&workspace, &[])?)?.len();
    // The suites may have none of their own yet.
    let Some(every) = u16::try_from(count).ok().map(|count| count.min(SAMPLE)).filter(|every| *every > 0)
    else {
        println!("no suite has a {FILE}, so nothing is broken to see its tests fail");
        return Ok(Ok((0, 0)));
    };
    let sh = Shell::new()?;
    sh.change_dir(workspace.root);
    let commit = Run::new(cmd!(sh, "git rev-parse HEAD"), QUICK).success().await;
    let first = commit.ok().and_then(|answer| chosen(answer.stdout.trim(), every)).unwrap_or(every);
    println!(
        "a sample of the changes, chosen by the commit: cargo xtask sabotage --every {every} --first {first}"
    );
    let cluster = ClusterArgs { kind_cluster: Some(cluster.to_owned()), ..ClusterArgs::default() };
    tried(&Args { every: Some(every), first: Some(first), cluster, ..Args::default() }, env).await
}

/// The first of a commit's sample of one in so many.
fn chosen(commit: &str, every: u16) -> Option<u16> {
    let digits = u16::from_str_radix(commit.get(..4)?, 16).ok()?;
    Some(digits % every + 1)
}

/// The suites that are wanted; none means all that have changes.
fn with_changes(workspace: &Workspace, wanted: &[String]) -> Result<Files> {
    let mut files = Files::load(workspace, wanted)?;
    if wanted.is_empty() {
        files.suites.retain(|(folder, _)| folder.join(FILE).exists());
    }
    Ok(files)
}

/// All changes, with the folder of the suite and their number there.
fn changes(files: &Files) -> Result<Vec<(&Utf8PathBuf, usize, Sabotage)>> {
    let mut changes = Vec::new();
    for (folder, _) in &files.suites {
        let file = SabotageFile::load(folder)?;
        let of_suite = file.into_iter().flat_map(|file| file.sabotage);
        changes.extend((1..).zip(of_suite).map(|(number, sabotage)| (folder, number, sabotage)));
    }
    Ok(changes)
}

/// How many tests notice and how many do not; the exit code where it ended before that is known.
async fn tried(args: &Args, env: &Env) -> Result<Result<(usize, usize), Exit>> {
    let workspace = Workspace::here();
    let files = with_changes(&workspace, &args.suites)?;
    let scratch = workspace.root.join("target/sabotage");
    let _ = std::fs::remove_dir_all(&scratch);
    let changes = changes(&files)?;
    let every = args.every.map_or(1, usize::from);
    let first = args.first.map_or(every, usize::from);
    let said = |(folder, _, change): &(&Utf8PathBuf, usize, Sabotage)| -> Vec<(Utf8PathBuf, String)> {
        change.fails.iter().map(|test| ((*folder).clone(), test.clone())).collect()
    };
    let named: BTreeSet<(Utf8PathBuf, String)> = changes.iter().flat_map(said).collect();
    let mut broken = Vec::new();
    for (folder, number, sabotage) in changes.into_iter().skip(first - 1).step_by(every) {
        broken.push(break_suite(&workspace, folder, number, sabotage, &scratch)?);
    }
    if broken.is_empty() {
        fail!(Exit::Usage, "there is nothing to break: none of the suites has a {FILE} with so many changes");
    }
    let mut findings = untried(args, env, &files, &named).await?;
    let (of_images, rest): (Vec<_>, Vec<_>) =
        broken.into_iter().partition(|broken| broken.changed.images.is_some());
    // Deployments of the same images stand side by side; one with an image of its own stands alone.
    let runs = std::iter::once(rest).chain(of_images.into_iter().map(|broken| vec![broken]));
    for changes in runs.filter(|changes| !changes.is_empty()) {
        match try_out(args, env, &workspace, &changes).await? {
            Ok(found) => findings.extend(found),
            Err(ended) => return Ok(Err(ended)),
        }
    }
    let table = table(&findings);
    std::fs::create_dir_all(&scratch)?;
    std::fs::write(scratch.join("sabotage.md"), &table)?;
    print!("{table}");
    let unnoticed = findings.iter().filter(|finding| finding.noticed.is_none()).count();
    let noticed = findings.len() - unnoticed;
    println!("\n{noticed} noticed, {unnoticed} not noticed");
    Ok(Ok((noticed, unnoticed)))
}

/// The tests that are not `named`, by their suite's folder, as broken by a change: nobody knows whether they test anything.
async fn untried(
    args: &Args,
    env: &Env,
    files: &Files,
    named: &BTreeSet<(Utf8PathBuf, String)>,
) -> Result<Vec<Finding>> {
    let plan = plan(&flags(args), env, files)?;
    let tests = pipeline::select(&super::session(env, None)?, &plan).await?;
    let mut untried = Vec::new();
    for (suite, tests) in plan.suites.iter().zip(tests) {
        let is_named =
            |test: &Test| named.iter().any(|(folder, name)| *folder == suite.folder && test.is_or_has(name));
        let unnamed = tests.iter().filter(|test| !is_named(test));
        untried.extend(unnamed.map(|test| Finding {
            suite: suite.name.clone(),
            what: "nothing".to_owned(),
            test: test.name().to_owned(),
            noticed: None,
            ran: Ran::Never,
        }));
    }
    Ok(untried)
}

/// The flags of a run.
fn flags(args: &Args) -> K8sTest {
    K8sTest { cluster: args.cluster.clone(), no_setup: args.no_setup, jobs: args.jobs, ..K8sTest::default() }
}

/// A copy of the files with a change of a suite in it, the suite's change of that number.
fn break_suite(
    workspace: &Workspace,
    folder: &Utf8Path,
    number: usize,
    sabotage: Sabotage,
    scratch: &Utf8Path,
) -> Result<Broken> {
    let suite = folder.file_name().unwrap_or_default().to_owned();
    let name = format!("{suite}-{number}");
    let changed = change(workspace, folder, (FILE, &sabotage.edits), &name, scratch)?;
    Ok(Broken { suite, sabotage, changed })
}

/// Deploys changed suites and runs the tests that must notice; the exit code where a signal came.
async fn try_out(
    args: &Args,
    env: &Env,
    workspace: &Workspace,
    changes: &[Broken],
) -> Result<Result<Vec<Finding>, Exit>> {
    let changed: Vec<&Changed> = changes.iter().map(|change| &change.changed).collect();
    let (Ended { exit, error }, record) = carry_out(&flags(args), env, workspace, &changed, |plan| {
        plan.evidence = false;
        for (suite, change) in plan.suites.iter_mut().zip(changes) {
            // What a command tests it tells only when it has run.
            if matches!(suite.run, crate::config::Run::Tests { .. }) {
                suite.only = change.sabotage.fails.clone();
            }
        }
    })
    .await?;
    match exit {
        Exit::Interrupted(_) | Exit::Usage | Exit::Environment => {
            if let Some(error) = error {
                eprintln!("\nerror: {error}");
            }
            return Ok(Err(exit));
        }
        _ => {}
    }
    Ok(Ok(changes.iter().flat_map(|change| findings(change, &record.tests)).collect()))
}

fn findings(change: &Broken, tests: &[TestResult]) -> Vec<Finding> {
    let suite = change.name();
    let of = |test: &String| {
        let mut of_suite = tests.iter().filter(|result| result.id.suite == suite);
        let result = if *test == change.suite {
            // A command named as a whole: it has failed with any of its tests.
            of_suite.clone().find(|result| result.outcome.is_failure()).or_else(|| of_suite.next())
        } else {
            of_suite.find(|result| result.id.name == *test)
        };
        let failed = result.filter(|result| result.outcome == Outcome::Failed);
        let noticed = failed.map(|result| result.reason.clone().unwrap_or_else(|| "it failed".to_owned()));
        let what = change.sabotage.what.clone();
        let ran = match result.map(|result| result.outcome) {
            None => Ran::No,
            Some(Outcome::TimedOut) => Ran::TooLong,
            Some(_) => Ran::Yes,
        };
        Finding { suite: change.suite.clone(), what, test: test.clone(), noticed, ran }
    };
    change.sabotage.fails.iter().map(of).collect()
}

fn table(findings: &[Finding]) -> String {
    let mut out = String::from("| suite | what is wrong | test | how it notices |\n|---|---|---|---|\n");
    for Finding { suite, what, test, noticed, ran } in findings {
        let how = match (noticed, ran) {
            (Some(reason), _) => cell(reason),
            (None, Ran::Yes) => "**it passes**".to_owned(),
            (None, Ran::TooLong) => "**it ran out of time**, which shows nothing".to_owned(),
            (None, Ran::No) => "**it was not run**: see above".to_owned(),
            (None, Ran::Never) => format!("**no change in {FILE} is to make it fail**"),
        };
        let _ = writeln!(out, "| {suite} | {what} | `{test}` | {how} |");
    }
    out
}

/// The beginning of a reason, in one line of a table.
fn cell(reason: &str) -> String {
    let line = reason.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    line.replace('|', "\\|").chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_chooses_the_first_change_of_its_sample() {
        assert_eq!(chosen("0000c0ffee", 10), Some(1));
        assert_eq!(chosen("000913af", 10), Some(10));
        assert_eq!(chosen("000913af", 2), Some(2));
        assert_eq!(chosen("000a13af", 10), Some(1));
        assert_eq!(chosen("no commit", 10), None);
    }

    #[test]
    fn a_test_that_passes_is_shown_as_such() {
        let finding = |test: &str, noticed: Option<&str>, ran| Finding {
            suite: "s".to_owned(),
            what: "no secret".to_owned(),
            test: test.to_owned(),
            noticed: noticed.map(str::to_owned),
            ran,
        };
        let all = [
            finding("a", Some("left\n  right | wrong"), Ran::Yes),
            finding("b", None, Ran::Yes),
            finding("c", None, Ran::TooLong),
            finding("d", None, Ran::No),
            finding("e", None, Ran::Never),
        ];
        expect_test::expect![[r"
            | suite | what is wrong | test | how it notices |
            |---|---|---|---|
            | s | no secret | `a` | left right \| wrong |
            | s | no secret | `b` | **it passes** |
            | s | no secret | `c` | **it ran out of time**, which shows nothing |
            | s | no secret | `d` | **it was not run**: see above |
            | s | no secret | `e` | **no change in sabotage.yaml is to make it fail** |
        "]]
        .assert_eq(&table(&all));
    }

    #[test]
    fn a_change_is_made_in_a_copy() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        let workspace = Workspace { root: root.join("w") };
        let folder = workspace.suites().join("one");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::create_dir_all(workspace.ci()).unwrap();
        std::fs::write(workspace.ci().join("images.yaml"), "images: {}").unwrap();
        let values = workspace.ci().join("values.yaml");
        std::fs::write(&values, "replicas: 1\n").unwrap();
        let text =
            "sabotage: [{what: none, edits: [{file: ../../ci/values.yaml, from: '1', to: '0'}], fails: [t]}]";
        std::fs::write(folder.join(FILE), text).unwrap();
        let sabotage = SabotageFile::load(&folder).unwrap().unwrap().sabotage.remove(0);
        let broken = break_suite(&workspace, &folder, 1, sabotage, &root.join("scratch")).unwrap();
        let Changed { folder, images } = broken.changed;
        assert_eq!(folder, root.join("scratch/one-1/test-suites/one-1"));
        assert!(folder.exists() && images.is_none());
        let copied = std::fs::read_to_string(root.join("scratch/one-1/ci/values.yaml")).unwrap();
        assert_eq!(copied, "replicas: 0\n");
        assert_eq!(std::fs::read_to_string(&values).unwrap(), "replicas: 1\n");
    }

    #[test]
    fn each_change_of_this_repository_can_be_made() {
        let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace = Workspace { root: root.to_owned() };
        let scratch = tempfile::tempdir().unwrap();
        for folder in workspace.suites().read_dir_utf8().unwrap() {
            let folder = folder.unwrap().into_path();
            let Some(file) = SabotageFile::load(&folder).unwrap() else { continue };
            for (index, sabotage) in file.sabotage.into_iter().enumerate() {
                let scratch = Utf8Path::from_path(scratch.path()).unwrap();
                break_suite(&workspace, &folder, index + 1, sabotage, scratch).unwrap();
            }
        }
    }
}
