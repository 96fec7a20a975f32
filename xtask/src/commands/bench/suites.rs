//! `bench suites` and `bench steady`: whole runs as programs of their own, as a person would start them: all suites at once
//! beside one at a time, and the same ones again and again in another order.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use xshell::{Shell, cmd};

use crate::cli::{BenchSteady, BenchSuites};
use crate::cmd::Run;
use crate::config::{Suite, Workspace};
use crate::env::{self, Env};
use crate::events::{Events, Phase};
use crate::exit::Exit;
use crate::pipeline::Session;
use crate::plan::{ALL_VARIANTS, DEFAULT_CLUSTER, Files};
use crate::{fail, groups, text};

/// A run of all suites on a slow machine.
const RUN: Duration = Duration::from_secs(2 * 60 * 60);
/// A run that is ended early removes its deployments first.
const GRACE: Duration = Duration::from_secs(180);
/// Numbers of variants whose growth is shown.
const GROWTH: [usize; 3] = [1, 2, 4];
/// The file in a run's folder with what it took.
const MEASURED: &str = "measured.json";

/// What was run, and what it took.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Measured {
    /// The commit that was run, with `-dirty` where files were changed; empty where git does not say.
    commit: String,
    /// What this was asked for with.
    asked: Vec<String>,
    /// Suites and variants, as `suite/variant`.
    what: Vec<String>,
    /// From the program's start to its end.
    seconds: f64,
    /// Of the tests, one after the other.
    tests_seconds: f64,
    /// Of our own process.
    cpu_seconds: f64,
    passed: usize,
    failed: usize,
    /// The tests that failed, as `suite/variant test`.
    failures: Vec<String>,
}

/// What is read of report.json.
#[derive(Deserialize)]
struct Report {
    cpu_seconds: f64,
    tests: Vec<Test>,
    verdict: Verdict,
}

#[derive(Deserialize)]
struct Verdict {
    passed: usize,
    failed: usize,
}

#[derive(Deserialize)]
struct Test {
    suite: String,
    variant: String,
    name: String,
    outcome: String,
    seconds: f64,
}

/// Starts runs.
struct Runs<'a> {
    program: Utf8PathBuf,
    workspace: &'a Workspace,
    cluster: &'a str,
    folder: Utf8PathBuf,
    /// What was measured before counts.
    resume: bool,
    events: &'a Events,
}

impl Runs<'_> {
    /// Makes a run, unless it was made before and that is to count.
    async fn run(&self, name: &str, suites: &[String], variant: &str, more: &[String]) -> Result<Measured> {
        let output = self.folder.join(name);
        let file = output.join(MEASURED);
        let asked = [suites, &["--variant".to_owned(), variant.to_owned()], more].concat();
        if self.resume
            && let Ok(text) = std::fs::read(&file)
        {
            let before: Measured =
                serde_json::from_slice(&text).with_context(|| format!("understand {file}"))?;
            if before.asked == asked {
                self.events.note(format!("{name}: measured before, at the commit {}", before.commit));
                return Ok(before);
            }
        }
        let measured = self.measure(name, &output, asked).await?;
        // What there is stays when the rest is interrupted.
        std::fs::write(&file, serde_json::to_string_pretty(&measured)?)
            .with_context(|| format!("write {file}"))?;
        Ok(measured)
    }

    async fn measure(&self, name: &str, output: &Utf8Path, asked: Vec<String>) -> Result<Measured> {
        let Runs { program, cluster, .. } = self;
        let sh = Shell::new()?;
        sh.change_dir(&self.workspace.root);
        let arguments = &asked;
        let command =
            cmd!(sh, "{program} k8s-test {arguments...} --kind-cluster {cluster} --output {output}");
        let step = self.events.step(Phase::Suites, name.to_owned());
        let begun = Instant::now();
        // The cluster is to stay, on a CI system too.
        let end = Run::new(command, RUN).env(env::CI, "false").grace(GRACE).output().await?;
        let seconds = begun.elapsed().as_secs_f64();
        if !matches!(end.status.code(), Some(0 | 1)) {
            let why = end.into_error().context(format!("the run {name} came to no result"));
            return Err(crate::exit::coded(Exit::Environment, why));
        }
        let report: Report = read(&output.join("report.json"))?;
        let failed = |test: &&Test| !matches!(test.outcome.as_str(), "passed" | "skipped");
        let failures = report.tests.iter().filter(failed);
        let mut what: Vec<_> =
            report.tests.iter().map(|test| format!("{}/{}", test.suite, test.variant)).collect();
        what.sort();
        what.dedup();
        let measured = Measured {
            commit: self.commit().await,
            asked,
            what,
            seconds,
            tests_seconds: report.tests.iter().map(|test| test.seconds).sum(),
            cpu_seconds: report.cpu_seconds,
            passed: report.verdict.passed,
            failed: report.verdict.failed,
            failures: failures.map(|test| format!("{}/{} {}", test.suite, test.variant, test.name)).collect(),
        };
        step.done(format!("{} passed, {} failed", measured.passed, measured.failed));
        Ok(measured)
    }

    async fn commit(&self) -> String {
        let Ok(sh) = Shell::new() else { return String::new() };
        sh.change_dir(&self.workspace.root);
        let command = cmd!(sh, "git describe --always --dirty --exclude *");
        let answer = Run::new(command, GRACE).success().await;
        answer.map(|answer| answer.stdout.trim().to_owned()).unwrap_or_default()
    }

    /// Brings what all runs need once, so that no run is measured with it.
    async fn prepare(&self) -> Result<()> {
        let Runs { program, cluster, .. } = self;
        let sh = Shell::new()?;
        sh.change_dir(&self.workspace.root);
        for (name, command) in [
            ("the cluster", cmd!(sh, "{program} cluster up --kind-cluster {cluster}")),
            ("the images", cmd!(sh, "{program} images load --kind-cluster {cluster}")),
        ] {
            let step = self.events.step(Phase::Setup, name);
            Run::new(command, RUN).env(env::CI, "false").grace(GRACE).success().await?;
            step.done("");
        }
        Ok(())
    }
}

fn read(path: &Utf8Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read the report {path}"))?;
    serde_json::from_str(&text).with_context(|| format!("understand the report {path}"))
}

fn runs<'a>(session: &'a Session, cluster: Option<&'a str>, name: &str, resume: bool) -> Result<Runs<'a>> {
    let program = std::env::current_exe().context("find this program's own file")?;
    let folder = session.workspace.root.join("target/bench").join(name);
    if !resume {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove the earlier results {folder}"));
            }
            _ => {}
        }
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("make the folder {folder}"))?;
    Ok(Runs {
        program: Utf8PathBuf::try_from(program)?,
        workspace: &session.workspace,
        cluster: cluster.unwrap_or(DEFAULT_CLUSTER),
        folder,
        resume,
        events: &session.events,
    })
}

pub(super) async fn run(args: &BenchSuites, env: &Env) -> Result<Exit> {
    let session = crate::commands::session(env, None)?;
    let runs = runs(&session, args.kind_cluster.as_deref(), "suites", args.resume)?;
    let files = Files::load(&session.workspace, &args.suites)?;
    let mut single = Vec::new();
    for (folder, file) in &files.suites {
        let name = folder.file_name().unwrap_or_default().to_owned();
        single.extend(file.variants().into_iter().map(|variant| (name.clone(), variant.to_owned())));
    }
    if single.is_empty() {
        fail!(Exit::Usage, "there is no suite to run");
    }
    runs.prepare().await?;
    let together = runs.run("together", &args.suites, ALL_VARIANTS, &[]).await?;
    let mut alone = Vec::new();
    for (suite, variant) in &single {
        let name = format!("{suite}-{variant}");
        alone.push(runs.run(&name, std::slice::from_ref(suite), variant, &[]).await?);
    }
    let growth = growth(&runs, &files).await?;
    let all = Results { together, alone, growth };
    let table = all.table();
    std::fs::write(runs.folder.join("suites.json"), serde_json::to_string_pretty(&all)?)?;
    std::fs::write(runs.folder.join("suites.md"), &table)?;
    print!("{table}");
    Ok(if all.failed() == 0 { Exit::Passed } else { Exit::TestsFailed })
}

/// More and more variants at once, each with a deployment of its own.
async fn growth(runs: &Runs<'_>, files: &Files) -> Result<Vec<Measured>> {
    let deployed = variants_apart(files)?;
    let mut measured = Vec::new();
    for count in GROWTH {
        let Some(chosen) = deployed.get(..count) else { break };
        let names: BTreeSet<_> = chosen.iter().map(|suite| suite.name.clone()).collect();
        let variants: BTreeSet<_> = chosen.iter().map(|suite| suite.variant.as_str()).collect();
        let variants = Vec::from_iter(variants).join(",");
        measured.push(runs.run(&format!("growth-{count}"), &Vec::from_iter(names), &variants, &[]).await?);
    }
    Ok(measured)
}

/// Suites and variants of which each deploys something of its own. All have the same variants, so that some of both can be asked for
/// in one command: those that most suites have.
fn variants_apart(files: &Files) -> Result<Vec<Suite>> {
    let mut alike: IndexMap<Vec<&str>, Vec<_>> = IndexMap::new();
    for suite in files.suites.iter().filter(|(_, file)| file.variants().len() > 1) {
        alike.entry(suite.1.variants()).or_default().push(suite);
    }
    let mut deployed: Vec<Suite> = Vec::new();
    let Some((variants, suites)) = alike.into_iter().rev().max_by_key(|(_, suites)| suites.len()) else {
        return Ok(deployed);
    };
    for (folder, file) in suites {
        for variant in &variants {
            let suite = file.resolve(folder, variant)?;
            if !deployed.iter().any(|other| groups::deploy_the_same(other, &suite)) {
                deployed.push(suite);
            }
        }
    }
    Ok(deployed)
}

#[derive(Debug, Serialize)]
struct Results {
    together: Measured,
    alone: Vec<Measured>,
    growth: Vec<Measured>,
}

impl Results {
    fn failed(&self) -> usize {
        self.together.failed + self.alone.iter().map(|measured| measured.failed).sum::<usize>()
    }

    fn table(&self) -> String {
        let mut out = String::from(
            "| run | seconds | its tests' | own processor time | passed, failed |\n|---|---|---|---|---|\n",
        );
        let mut row = |name: &str, runs: &[&Measured]| {
            let sum = |of: fn(&Measured) -> f64| runs.iter().map(|run| of(run)).sum::<f64>();
            let count = |of: fn(&Measured) -> usize| runs.iter().map(|run| of(run)).sum::<usize>();
            let (seconds, cpu) = (sum(|run| run.seconds), sum(|run| run.cpu_seconds));
            let _ = writeln!(
                out,
                "| {name} | {seconds:.0} | {:.0} | {cpu:.1} s, {:.1} % | {}, {} |",
                sum(|run| run.tests_seconds),
                100.0 * cpu / seconds.max(f64::MIN_POSITIVE),
                count(|run| run.passed),
                count(|run| run.failed),
            );
            seconds
        };
        for measured in &self.alone {
            row(&measured.what.join(" "), &[measured]);
        }
        let one_at_a_time = row("**one at a time**", &Vec::from_iter(&self.alone));
        let at_once = row("**all at once**", &[&self.together]);
        let _ = writeln!(out, "\nAll at once is {:.2} times as fast.", one_at_a_time / at_once);
        if let Some(one) = self.growth.first() {
            let _ = writeln!(out, "\n| variants | seconds | of one |\n|---|---|---|");
            for measured in &self.growth {
                let Measured { what, seconds, .. } = measured;
                let of_one = seconds / one.seconds;
                let _ = writeln!(out, "| {}: {} | {seconds:.0} | {of_one:.2} |", what.len(), what.join(", "));
            }
        }
        out
    }
}

pub(super) async fn run_steady(args: &BenchSteady, env: &Env) -> Result<Exit> {
    let session = crate::commands::session(env, None)?;
    let runs = runs(&session, args.kind_cluster.as_deref(), "steady", args.resume)?;
    runs.prepare().await?;
    let mut table =
        String::from("| run | commit | order | seconds | passed, failed |\n|---|---|---|---|---|\n");
    let (mut passed, mut failures) = (0, Vec::new());
    for run in 1..=args.runs {
        let seed = args.seed.wrapping_add(u64::from(run));
        let order = ["--shuffle".to_owned(), seed.to_string()];
        let measured = runs.run(&format!("run-{run}"), &args.suites, ALL_VARIANTS, &order).await?;
        let _ = writeln!(
            table,
            "| {run} | {} | {seed} | {:.0} | {}, {} |",
            measured.commit, measured.seconds, measured.passed, measured.failed
        );
        std::fs::write(runs.folder.join("steady.md"), &table)?;
        passed += measured.passed;
        failures.extend(measured.failures.iter().map(|test| format!("run {run}, --shuffle {seed}: {test}")));
    }
    let _ = writeln!(
        table,
        "\n{}: {passed} passed, {} failed",
        text::count(usize::from(args.runs), "run"),
        failures.len()
    );
    for failure in &failures {
        let _ = writeln!(table, "- {failure}");
    }
    std::fs::write(runs.folder.join("steady.md"), &table)?;
    print!("{table}");
    Ok(if failures.is_empty() { Exit::Passed } else { Exit::TestsFailed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(what: &[&str], seconds: f64) -> Measured {
        let what = what.iter().map(|what| (*what).to_owned()).collect();
        let (commit, asked) = ("c0ffee".to_owned(), Vec::new());
        Measured {
            commit,
            asked,
            what,
            seconds,
            tests_seconds: 2.0 * seconds,
            cpu_seconds: 1.5,
            passed: 3,
            failed: 0,
            failures: Vec::new(),
        }
    }

    #[test]
    fn variants_that_grow_are_of_suites_that_have_all_of_them() {
        let files = Files::load(&Workspace::here(), &[]).unwrap();
        let deployed = variants_apart(&files).unwrap();
        for suite in &deployed {
            let file = files.suites.iter().find(|(folder, _)| *folder == suite.folder).map(|(_, file)| file);
            for other in &deployed {
                assert!(file.unwrap().variants().contains(&other.variant.as_str()), "{}", suite.id());
            }
        }
    }

    #[test]
    fn the_table_compares_all_at_once_with_one_at_a_time() {
        let results = Results {
            together: measured(&["a/default", "a/subchart"], 100.0),
            alone: vec![measured(&["a/default"], 90.0), measured(&["a/subchart"], 60.0)],
            growth: vec![measured(&["a/default"], 50.0), measured(&["a/default", "a/subchart"], 75.0)],
        };
        expect_test::expect![[r#"
            | run | seconds | its tests' | own processor time | passed, failed |
            |---|---|---|---|---|
            | a/default | 90 | 180 | 1.5 s, 1.7 % | 3, 0 |
            | a/subchart | 60 | 120 | 1.5 s, 2.5 % | 3, 0 |
            | **one at a time** | 150 | 300 | 3.0 s, 2.0 % | 6, 0 |
            | **all at once** | 100 | 200 | 1.5 s, 1.5 % | 3, 0 |

            All at once is 1.50 times as fast.

            | variants | seconds | of one |
            |---|---|---|
            | 1: a/default | 50 | 1.00 |
            | 2: a/default, a/subchart | 75 | 1.50 |
        "#]]
        .assert_eq(&results.table());
    }
}
