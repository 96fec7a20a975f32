//! `bench cuts`: how much sooner a suite's deployment is ready and its tests are over by what its cuts.yaml tells: with all of it,
//! and without one cut after the other.

use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Serialize;

use super::report::{median, range};
use crate::cli::{BenchCuts, K8sTest};
use crate::commands::copied::{Changed, carry_out, change};
use crate::commands::k8s_test::Ended;
use crate::config::Workspace;
use crate::config::cuts::{Cut, CutsFile, FILE};
use crate::config::edit::Edit;
use crate::env::Env;
use crate::exit::Exit;
use crate::plan::Files;

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
    let (folder, _) = files.suites.first().context("there is a suite of each name that was found")?;
    let cuts = CutsFile::load(folder)?.cuts;
    let scratch = workspace.root.join("target/bench/cuts");
    let _ = std::fs::remove_dir_all(&scratch);
    let name = folder.file_name().unwrap_or_default();
    let undone = |cut: Option<&Cut>| -> Vec<Edit> { cut.map_or(Vec::new(), |cut| cut.undo.clone()) };
    let (mut changed, mut cases) = (Vec::new(), Vec::new());
    for (number, cut) in std::iter::once(None).chain(cuts.iter().map(Some)).enumerate() {
        let name = format!("{name}-{number}");
        changed.push(change(&workspace, folder, (FILE, &undone(cut)), &name, &scratch)?);
        cases.push(Case { without: cut.map(|cut| cut.what.clone()), runs: Vec::new() });
    }
    let load = super::load_of_machine();
    let flags = K8sTest { cluster: args.cluster.clone(), ..K8sTest::default() };
    // The first one finds no cluster, or one where nothing was ever read: it does not count.
    let mut end = measure(&flags, env, &workspace, &changed[0]).await?.err();
    for case in turns(usize::from(args.runs), cases.len()) {
        if end.is_some() {
            break;
        }
        match measure(&flags, env, &workspace, &changed[case]).await? {
            Ok(took) => cases[case].runs.push(took),
            Err(exit) => end = Some(exit),
        }
    }
    let mut table = table(&cases);
    let _ = writeln!(table, "\n{} processors with a load of {load:.1} before.", super::processors());
    if end.is_some() {
        table.push_str("\n**The benchmark was interrupted or failed: runs are missing.**\n");
    }
    std::fs::write(scratch.with_extension("json"), serde_json::to_string_pretty(&cases)?)?;
    std::fs::write(scratch.with_extension("md"), &table)?;
    print!("{table}");
    Ok(end.unwrap_or(Exit::Passed))
}

/// The cases in the order of the runs; each second run goes through the cases backwards, so that none always follows the same one.
fn turns(runs: usize, cases: usize) -> impl Iterator<Item = usize> {
    (0..runs).flat_map(move |run| (0..cases).map(move |at| if run % 2 == 0 { at } else { cases - 1 - at }))
}

/// Deploys the suite and runs its tests; the exit code where it came to no result.
async fn measure(
    flags: &K8sTest,
    env: &Env,
    workspace: &Workspace,
    changed: &Changed,
) -> Result<Result<Took, Exit>> {
    let start = Timestamp::now();
    let (Ended { exit, error }, record) = carry_out(flags, env, workspace, &[changed], |_| {}).await?;
    if exit != Exit::Passed {
        let error = error.unwrap_or_else(|| "tests failed, so that what they took means nothing".to_owned());
        eprintln!("\nerror: {error}");
        return Ok(Err(exit));
    }
    let pods = record.times(start).map_or(Duration::ZERO, |times| times.pods).as_secs_f64();
    let tests = record.tests.iter().map(|test| test.took.as_secs_f64()).sum();
    Ok(Ok(Took { pods, tests }))
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
    use camino::Utf8Path;

    use super::*;

    #[test]
    fn every_second_run_goes_backwards() {
        assert_eq!(Vec::from_iter(turns(2, 3)), [0, 1, 2, 2, 1, 0]);
    }

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
        for folder in workspace.suites().read_dir_utf8().unwrap() {
            let folder = folder.unwrap().into_path();
            if !folder.join(FILE).exists() {
                continue;
            }
            for (number, cut) in CutsFile::load(&folder).unwrap().cuts.iter().enumerate() {
                change(&workspace, &folder, (FILE, &cut.undo), &format!("cut-{number}"), scratch).unwrap();
            }
        }
    }
}
