//! `ci`: format, lints, unit tests, then all suites; the end is one line that counts all tests.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use xshell::{Shell, cmd};

use super::Signals;
use crate::cli::{Ci, K8sTest};
use crate::cmd::Run;
use crate::config::Workspace;
use crate::env::Env;
use crate::exit::{Exit, ExitWith, coded};
use crate::helm::Helm;
use crate::plan::{ALL_VARIANTS, DAILY_VARIANTS, Files};
use crate::text;

/// A first build on a slow machine.
const STEP: Duration = Duration::from_secs(40 * 60);

pub(super) async fn run(args: &Ci, env: &Env) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    let counts = tokio::select! {
        counts = checks(env) => counts?,
        signal = signals.next() => return Ok(Exit::Interrupted(signal)),
    };
    if args.no_cluster {
        println!("\n{} passed, {} failed", counts.passed, counts.failed);
        return Ok(if counts.failed > 0 { Exit::TestsFailed } else { Exit::Passed });
    }
    let variants = if args.nightly { ALL_VARIANTS } else { DAILY_VARIANTS };
    let all = K8sTest { variant: vec![variants.to_owned()], ..K8sTest::default() };
    let (exit, verdict) = super::k8s_test::run_counted(&all, env).await?;
    if !matches!(exit, Exit::Passed | Exit::TestsFailed) {
        return Ok(exit);
    }
    let real = tokio::select! {
        counts = real_tools(env, args.nightly) => counts?,
        signal = signals.next() => return Ok(Exit::Interrupted(signal)),
    };
    let passed = counts.passed + verdict.passed + real.passed;
    let failed = counts.failed + verdict.failed + real.failed;
    println!("\nunit tests, suites and tests of the real tools together:\n{passed} passed, {failed} failed");
    Ok(if exit == Exit::Passed && real.failed > 0 { Exit::TestsFailed } else { exit })
}

/// Tests of all binaries together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
}

async fn checks(env: &Env) -> Result<Counts> {
    let cargo = &env.cargo;
    let sh = Shell::new()?;
    sh.change_dir(Workspace::here().root);
    step("format", cmd!(sh, "{cargo} fmt --all --check"), "run `cargo fmt --all`").await?;
    let lints = cmd!(sh, "{cargo} clippy --workspace --all-targets --quiet -- --deny warnings");
    step("lints", lints, "see `cargo clippy --workspace --all-targets`").await?;
    let start = Timestamp::now();
    let output = Run::new(cmd!(sh, "{cargo} test --quiet"), STEP).as_cargo().output().await?;
    let counts = count(&output.stdout);
    if !output.status.success() {
        println!("{}", output.stdout);
        return Err(coded(
            Exit::TestsFailed,
            output.into_error().context("unit tests failed; run `cargo test`"),
        ));
    }
    report("unit tests", start, &format!("{} passed", counts.passed));
    Ok(counts)
}

/// The charts of all suites, looked over by helm; kind-client against kind itself, faulty charts, killed runs and readiness against
/// failures, each with a cluster of its own; at night also the forwards through rollouts, a killed pod and the end of an API server.
async fn real_tools(env: &Env, nightly: bool) -> Result<Counts> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let helm = Helm { program: machine.helm.clone(), version: None, kubeconfig: "/dev/null".into() };
    let files = Files::load(&session.workspace, &[])?;
    for (folder, file) in &files.suites {
        for release in file.resolve(folder, file.first_variant())?.releases {
            let start = Timestamp::now();
            helm.lint(&release.chart).await.or_exit(Exit::TestsFailed)?;
            report("chart lint", start, session.workspace.show(&release.chart).as_str());
        }
    }
    let spec = session.tools.node_image.spec();
    let Some(image) = crate::images::source::present("node", &spec, &crate::images::Local::default()).await?
    else {
        crate::fail!(Exit::Environment, "the node image is gone from the local Docker");
    };
    let cargo = &env.cargo;
    let sh = Shell::new()?;
    sh.change_dir(Workspace::here().root);
    let tests = Run::new(cmd!(sh, "{cargo} test --quiet --package kind-client --test real"), STEP)
        .env("KIND_CLIENT_REAL_KIND", machine.kind.as_str())
        .env("KIND_CLIENT_REAL_IMAGE", image);
    let client = counted("kind-client against kind", tests).await?;
    // Marked `ignore` is what takes longer than a developer wants to wait, or needs Docker.
    let tests = Run::new(
        cmd!(sh, "{cargo} test --quiet --package xtask --lib --test it -- --ignored --test-threads 1"),
        STEP,
    );
    let tests = if nightly { tests } else { tests.env("K8S_TEST_FEW_KILLS", "1") };
    let long = counted("long tests", tests).await?;
    if nightly {
        let program = std::env::current_exe().context("find this program's own file")?;
        let rollouts = cmd!(sh, "{program} bench forward --runs 0 --rollouts 10");
        step("forward", rollouts, "requests failed; see target/bench/forward.md").await?;
    }
    let start = Timestamp::now();
    let mut sabotage = Counts::default();
    let (passed, failed) = super::corpus::live_afresh(&session, &machine, async |cluster| {
        let start = Timestamp::now();
        let Ok((passed, failed)) = super::sabotage::sample(env, cluster).await? else {
            crate::fail!(Exit::TestsFailed, "`cargo xtask sabotage` came to no result, see above");
        };
        sabotage = Counts { passed, failed };
        report("sabotage", start, &format!("{passed} noticed, {failed} not noticed"));
        Ok(())
    })
    .await?;
    report("corpus and sabotage", start, &format!("{passed} cases passed, {failed} failed"));
    let all = [client, long, sabotage, Counts { passed, failed }];
    Ok(Counts {
        passed: all.iter().map(|counts| counts.passed).sum(),
        failed: all.iter().map(|counts| counts.failed).sum(),
    })
}

/// Runs tests by cargo and counts them.
async fn counted(name: &str, tests: Run<'_>) -> Result<Counts> {
    let start = Timestamp::now();
    let output = tests.as_cargo().output().await?;
    let counts = count(&output.stdout);
    if !output.status.success() {
        println!("{}", output.stdout);
        if counts.failed == 0 {
            // It did not even come to a verdict: not built, or ended by a signal.
            return Err(coded(Exit::TestsFailed, output.into_error().context(name.to_owned())));
        }
    }
    report(name, start, &format!("{} passed, {} failed", counts.passed, counts.failed));
    Ok(counts)
}

async fn step(name: &str, command: xshell::Cmd<'_>, remedy: &str) -> Result<()> {
    let start = Timestamp::now();
    let output = Run::new(command, STEP).as_cargo().output().await?;
    if !output.status.success() {
        let error = anyhow!("{}", output.into_error());
        return Err(coded(Exit::TestsFailed, error.context(format!("{name}: {remedy}"))));
    }
    report(name, start, "ok");
    Ok(())
}

fn report(name: &str, start: Timestamp, end: &str) {
    let took = Duration::try_from(Timestamp::now().duration_since(start)).unwrap_or_default();
    eprintln!("  {name:<11} {end} {}", text::seconds(took));
}

/// Adds up the closing lines of test binaries: `test result: ok. 12 passed; 0 failed; …`.
fn count(output: &str) -> Counts {
    let mut counts = Counts::default();
    for line in output.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        let number = |what: &str| {
            let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            let at = words.iter().position(|word| *word == what)?;
            words.get(at.checked_sub(1)?)?.parse::<usize>().ok()
        };
        counts.passed += number("passed").unwrap_or(0);
        counts.failed += number("failed").unwrap_or(0);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up() {
        let output = "running 2 tests\n..\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\ntest result: FAILED. 3 passed; 1 failed; 0 ignored\n";
        assert_eq!(count(output), Counts { passed: 5, failed: 1 });
    }
}
