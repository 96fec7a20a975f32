//! `bench cuts`: how much sooner a suite's deployment is ready and its tests are over by what its cuts.yaml tells: with all of it,
//! and without one cut after the other.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Result;
use camino::Utf8Path;
use jiff::Timestamp;
use serde::Serialize;

use super::report::{median, range};
use crate::cli::{BenchCuts, K8sTest};
use crate::commands::copied::{Changed, change};
use crate::commands::k8s_test::{self, Ended};
use crate::config::cuts::{Cut, CutsFile, FILE};
use crate::config::edit::Edit;
use crate::config::{SuiteFile, Workspace, suite};
use crate::env::Env;
use crate::exit::Exit;
use crate::fail;
use crate::names;
use crate::plan::{Files, Plan};
use crate::report::Recorder;

/// What a run took, in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
struct Took {
    /// From the releases' installation until what they made was ready and the forwards were proven.
    pods: f64,
    /// Of all tests, one after the other.
    tests: f64,
}

/// The suite without one cut, or with all of them.
#[derive(Debug, Serialize)]
struct Case {
    without: Option<String>,
    runs: Vec<Took>,
}

pub(super) async fn run(args: &BenchCuts, env: &Env) -> Result<Exit> {
    let workspace = Workspace::here();
    let files = Files::load(&workspace, std::slice::from_ref(&args.suite))?;
    let Some((folder, _)) = files.suites.first() else {
        fail!(Exit::Usage, "there is no suite {}", args.suite)
    };
    let cuts = CutsFile::load(folder)?.cuts;
    let scratch = workspace.root.join("target/bench/cuts");
    let _ = std::fs::remove_dir_all(&scratch);
    let name = folder.file_name().unwrap_or_default();
    let undone = |cut: Option<&Cut>| -> Vec<Edit> { cut.map_or(Vec::new(), |cut| cut.undo.clone()) };
    let mut cases = Vec::new();
    for (number, cut) in std::iter::once(None).chain(cuts.iter().map(Some)).enumerate() {
        let name = format!("{name}-{number}");
        let changed = change(&workspace, folder, (FILE, &undone(cut)), &name, &scratch)?;
        cases.push((changed, Case { without: cut.map(|cut| cut.what.clone()), runs: Vec::new() }));
    }
    for run in 0..usize::from(args.runs) {
        // None always follows the same one.
        let count = cases.len();
        for at in 0..count {
            let (changed, case) = &mut cases[(at + run) % count];
            match measure(args, env, &workspace, changed).await? {
                Ok(took) => case.runs.push(took),
                Err(exit) => return Ok(exit),
            }
        }
    }
    let cases: Vec<Case> = cases.into_iter().map(|(_, case)| case).collect();
    let table = table(&cases);
    write(&scratch, &cases, &table)?;
    print!("{table}");
    Ok(Exit::Passed)
}

/// Deploys the suite and runs its tests; the exit code where it came to no result.
async fn measure(
    args: &BenchCuts,
    env: &Env,
    workspace: &Workspace,
    Changed { folder, images }: &Changed,
) -> Result<Result<Took, Exit>> {
    let own = Files::load(workspace, &[])?.images;
    let images = images.clone().unwrap_or(own);
    let suites = vec![(folder.clone(), SuiteFile::load(&folder.join(suite::FILE))?)];
    let files = Files { workspace: workspace.clone(), images: images.clone(), suites };
    let flags = K8sTest { cluster: args.cluster.clone(), ..K8sTest::default() };
    let cpus = super::processors();
    let start = Timestamp::now();
    let plan = Plan::resolve(&flags, env, &files, &names::run_id(start), cpus)?;
    let recorder = Recorder::default();
    let mut session = crate::commands::session(env, Some(Box::new(recorder.clone())))?;
    session.images = images;
    let Ended { exit, error } = k8s_test::carry_out(&session, &plan, &recorder).await?;
    if exit != Exit::Passed {
        eprintln!(
            "\nerror: {}",
            error.unwrap_or_else(|| "tests failed: what they took means nothing".to_owned())
        );
        return Ok(Err(exit));
    }
    let record = recorder.record();
    let pods = record.times(start).map_or(Duration::ZERO, |times| times.pods).as_secs_f64();
    let tests = record.tests.iter().map(|test| test.took.as_secs_f64()).sum();
    Ok(Ok(Took { pods, tests }))
}

fn write(folder: &Utf8Path, cases: &[Case], table: &str) -> Result<()> {
    std::fs::write(folder.with_extension("json"), serde_json::to_string_pretty(cases)?)?;
    std::fs::write(folder.with_extension("md"), table)?;
    Ok(())
}

/// A row for each case: the medians, and what each is of the one with all cuts.
fn table(cases: &[Case]) -> String {
    let mut out = String::from("| | pods start | | all tests | |\n|---|---|---|---|---|\n");
    let sorted = |case: &Case, of: fn(&Took) -> f64| {
        let mut values: Vec<f64> = case.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let columns: [fn(&Took) -> f64; 2] = [|took| took.pods, |took| took.tests];
    for case in cases {
        let name = case.without.as_ref().map_or("with all".to_owned(), |what| format!("without {what}"));
        let _ = write!(out, "| {name} |");
        for of in columns {
            let (own, all) = (sorted(case, of), sorted(&cases[0], of));
            let ratio = median(&own).unwrap_or(0.0) / median(&all).unwrap_or(0.0).max(f64::MIN_POSITIVE);
            let _ = write!(out, " {} | {ratio:.2} |", range(&own, "s"));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Workspace;

    #[test]
    fn the_table_shows_what_each_is_of_the_one_with_all() {
        let case = |without: Option<&str>, pods: &[f64]| Case {
            without: without.map(str::to_owned),
            runs: pods.iter().map(|&pods| Took { pods, tests: 10.0 * pods }).collect(),
        };
        expect_test::expect![[r#"
            | | pods start | | all tests | |
            |---|---|---|---|---|
            | with all | 10.0 s (9.0 to 11.0) | 1.00 | 100.0 s (90.0 to 110.0) | 1.00 |
            | without probes each second | 21.0 s (20.0 to 30.0) | 2.10 | 210.0 s (200.0 to 300.0) | 2.10 |
        "#]]
        .assert_eq(&table(&[
            case(None, &[11.0, 10.0, 9.0]),
            case(Some("probes each second"), &[20.0, 21.0, 30.0]),
        ]));
    }

    #[test]
    fn each_cut_of_this_repository_can_be_undone() {
        let workspace = Workspace::here();
        let scratch = tempfile::tempdir().unwrap();
        let scratch = Utf8Path::from_path(scratch.path()).unwrap();
        let mut undone = 0;
        for folder in workspace.suites().read_dir_utf8().unwrap() {
            let folder = folder.unwrap().into_path();
            if !folder.join(FILE).exists() {
                continue;
            }
            for (number, cut) in CutsFile::load(&folder).unwrap().cuts.iter().enumerate() {
                change(&workspace, &folder, (FILE, &cut.undo), &format!("cut-{number}"), scratch).unwrap();
                undone += 1;
            }
        }
        assert!(undone > 0, "no suite of test-suites/ has a {FILE}");
    }
}
