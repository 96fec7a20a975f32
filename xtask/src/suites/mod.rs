//! Runs a suite's tests against what was deployed for it: each test a process of its own, with a deadline.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::join_all;
use tokio::time::Instant;
use xshell::{Shell, cmd};

use crate::config::{Run, Suite};
use crate::events::{Event, Events, Outcome, TestId, TestResult};
use crate::exit::{Exit, ExitWith};
use crate::groups::Row;
use crate::{fail, text};

pub mod compile;
mod contract;
mod process;
mod told;

pub use compile::{Binary, Compiled};
pub use contract::{Given, environment};

/// What running a suite needs to know.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    /// The row in which they wait for places, with others of their deployment where these have none of their own.
    pub row: &'a Row,
    /// How often a test that failed is tried again.
    pub retries: u16,
    /// Where outputs go, a file for each test.
    pub logs: &'a Utf8Path,
    /// Where to say what happens.
    pub events: &'a Events,
}

/// A test about to run.
#[derive(Clone, Debug)]
pub struct Test {
    id: TestId,
    ignored: bool,
    work: Work,
}

impl Test {
    /// One that does nothing.
    #[cfg(test)]
    pub(crate) fn named(name: &str) -> Test {
        let id = TestId { suite: String::new(), variant: String::new(), name: name.to_owned() };
        Test { id, ignored: true, work: Work::Binary(Binary::default(), name.to_owned()) }
    }

    /// Its name inside its suite.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.id.name
    }

    /// Whether it is this test, or can be: what a command tests it tells only then.
    #[must_use]
    pub fn is_or_has(&self, name: &str) -> bool {
        matches!(self.work, Work::Command(..)) || self.name() == name
    }

    /// The name of the file for its output.
    fn log(&self, suffix: &str) -> String {
        format!("{}{suffix}.log", self.id.name.replace(['/', ':'], "_"))
    }
}

#[derive(Clone, Debug)]
enum Work {
    /// One test of a binary, by the name that it has there.
    Binary(Binary, String),
    /// A whole command.
    Command(Vec<String>, Utf8PathBuf),
}

/// The tests of each suite that the filters select, in the suites' order.
///
/// A suite that is a command is one test, named as the suite; of more it tells when it has run.
///
/// # Errors
/// Tests cannot be listed, or none is selected; exit 2.
pub async fn select(suites: &[Suite], compiled: &Compiled, filters: &[String]) -> Result<Vec<Vec<Test>>> {
    let mut selected = Vec::new();
    let mut known = Vec::new();
    for suite in suites {
        let mut tests = list(suite, compiled).await.or_exit(Exit::Usage)?;
        if tests.is_empty() {
            fail!(
                Exit::Usage,
                "{} has no tests: its package builds, but nothing under its tests/ folder is marked #[test]",
                suite.id()
            );
        }
        if let Some(missing) = suite.only.iter().find(|name| !tests.iter().any(|test| test.name() == *name)) {
            let near = text::suggestion(missing, tests.iter().map(Test::name));
            fail!(Exit::Usage, "{} has no test `{missing}`{near}", suite.id());
        }
        tests.retain(|test| suite.only.is_empty() || suite.only.contains(&test.id.name));
        known.extend(tests.iter().map(|test| test.id.name.clone()));
        tests.retain(|test| filters.is_empty() || filters.iter().any(|part| test.id.name.contains(part)));
        selected.push(tests);
    }
    if selected.iter().all(Vec::is_empty) {
        let near = text::suggestion(&filters.join(" "), known.iter().map(String::as_str));
        fail!(Exit::Usage, "no test's name contains `{}`{near}", filters.join("` or `"));
    }
    Ok(selected)
}

/// Counts the time in which any test of a suite runs: it may have to wait for tests of other deployments in between.
#[derive(Debug, Default)]
struct Clock {
    used: Duration,
    running: usize,
    since: Option<Instant>,
}

impl Clock {
    /// A test starts; gives the time that was used before.
    fn start(&mut self, now: Instant) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.running += 1;
        self.used + (now - since)
    }

    /// A test has ended.
    fn stop(&mut self, now: Instant) {
        self.running -= 1;
        if let Some(since) = self.since.take_if(|_| self.running == 0) {
            self.used += now - since;
        }
    }
}

/// Runs `tests` of `suite`; that some fail is in their results. A command that tells of its tests has one for each of these.
///
/// # Errors
/// The folder for their outputs cannot be made; exit 3.
pub async fn run(
    runner: Runner<'_>,
    suite: &Suite,
    tests: &[&Test],
    environment: &BTreeMap<String, String>,
) -> Result<Vec<TestResult>> {
    std::fs::create_dir_all(runner.logs).with_context(|| format!("make the folder {}", runner.logs))?;
    let clock = Mutex::new(Clock::default());
    let clock = || clock.lock().unwrap_or_else(PoisonError::into_inner);
    let running = tests.iter().map(|test| async {
        let _place = runner.row.take().await;
        let now = Instant::now();
        let used = clock().start(now);
        let end = now + suite.timeout.saturating_sub(used);
        let results = attempts(runner, suite, test, environment, end).await;
        clock().stop(Instant::now());
        for result in &results {
            runner.events.emit(&Event::TestFinished(result.clone()));
        }
        results
    });
    Ok(join_all(running).await.concat())
}

/// Runs a test until it does not fail, or has no attempt or no time left.
async fn attempts(
    runner: Runner<'_>,
    suite: &Suite,
    test: &Test,
    environment: &BTreeMap<String, String>,
    end: Instant,
) -> Vec<TestResult> {
    let mut earlier: Vec<TestResult> = Vec::new();
    let mut attempt = 1;
    loop {
        let log = match attempt {
            1 => test.log(""),
            // The first attempt's output says most; it keeps its name.
            again => test.log(&format!(".{again}")),
        };
        let results = run_one(runner, suite, test, environment, end, &log).await;
        let last = attempt > runner.retries || Instant::now() >= end;
        let Some(failed) = results.iter().find(|result| result.outcome.is_failure()).filter(|_| !last) else {
            return after(earlier, results);
        };
        let why = failed.reason.as_deref().unwrap_or("no reason known");
        runner.events.warn(format!("{} {} failed and is tried again: {why}", suite.id(), failed.id.name));
        earlier.extend(results.into_iter().filter(|result| result.outcome.is_failure()));
        attempt += 1;
    }
}

/// The results, each with the failures that came before it.
fn after(earlier: Vec<TestResult>, mut results: Vec<TestResult>) -> Vec<TestResult> {
    for failure in earlier {
        // One that is there no more, such as a command that told of no test then, must not be forgotten.
        let same = results.iter().position(|result| result.id.name == failure.id.name).unwrap_or(0);
        if let Some(result) = results.get_mut(same) {
            result.earlier.push(failure);
        }
    }
    results
}

/// The tests of `suite`, from its binaries or as the one command that it is.
async fn list(suite: &Suite, compiled: &Compiled) -> Result<Vec<Test>> {
    let id = |name: &str| TestId {
        suite: suite.name.clone(),
        variant: suite.variant.clone(),
        name: name.to_owned(),
    };
    let package = match &suite.run {
        Run::Command { command } => {
            let name = &suite.name;
            let work = Work::Command(command.clone(), suite.folder.clone());
            return Ok(vec![Test { id: id(name), ignored: false, work }]);
        }
        Run::Tests { tests } => tests,
    };
    let mut listed = Vec::new();
    for binary in compiled.binaries(package) {
        listed.push((binary, compile::tests_of(binary).await?));
    }
    listed.retain(|(_, tests)| !tests.is_empty());
    // Each file under tests/ is a binary, and two may have tests of one name.
    let several = listed.len() > 1;
    let mut tests = Vec::new();
    for (binary, names) in listed {
        for (name, ignored) in names {
            let id = if several { id(&format!("{}::{name}", binary.target)) } else { id(&name) };
            tests.push(Test { id, ignored, work: Work::Binary(binary.clone(), name) });
        }
    }
    Ok(tests)
}

async fn run_one(
    runner: Runner<'_>,
    suite: &Suite,
    test: &Test,
    environment: &BTreeMap<String, String>,
    end: Instant,
    log: &str,
) -> Vec<TestResult> {
    let log = runner.logs.join(log);
    let junit = log.with_extension("xml");
    let mut result = TestResult {
        id: test.id.clone(),
        outcome: Outcome::Skipped,
        took: Duration::ZERO,
        reason: None,
        tail: String::new(),
        log: log.clone(),
        earlier: Vec::new(),
    };
    if !test.ignored {
        runner.events.emit(&Event::TestStarted(test.id.clone()));
        let start = Instant::now();
        let left = end.saturating_duration_since(start);
        let limit = match &test.work {
            Work::Binary(..) => suite.test_timeout.min(left),
            // The command is the whole suite.
            Work::Command(..) => left,
        };
        let ended = match &test.work {
            _ if left.is_zero() => Ok(process::Ended::out_of_time(suite.timeout)),
            Work::Binary(binary, name) => {
                let program = &binary.program;
                let sh = in_folder(&binary.folder);
                let command =
                    sh.as_ref().map(|sh| cmd!(sh, "{program} --exact {name} --nocapture --test-threads 1"));
                let mut environment = environment.clone();
                environment.insert(crate::env::CARGO_MANIFEST_DIR.to_owned(), binary.folder.to_string());
                process::run(command, &environment, limit, &log).await.map(process::Ended::of_one_test)
            }
            Work::Command(command, folder) => {
                let sh = in_folder(folder);
                let (program, arguments) = (&command[0], &command[1..]);
                let command = sh.as_ref().map(|sh| cmd!(sh, "{program} {arguments...}"));
                // Of an earlier pass.
                let _ = std::fs::remove_file(&junit);
                let mut environment = environment.clone();
                environment.insert(crate::env::suite::JUNIT.to_owned(), junit.to_string());
                process::run(command, &environment, limit, &log).await
            }
        };
        result.took = start.elapsed();
        match ended {
            Ok(ended) => {
                result.outcome = ended.outcome;
                result.reason = ended.reason;
                result.tail = ended.tail;
            }
            Err(error) => {
                result.outcome = Outcome::Failed;
                result.reason = Some(crate::exit::message(&error));
            }
        }
    }
    let mut tests = Vec::new();
    if matches!(test.work, Work::Command(..)) {
        tests = told::tests(&result, &junit).unwrap_or_else(|error| {
            runner.events.warn(format!("{}: {error:#}; the command counts as one test", suite.id()));
            Vec::new()
        });
    }
    // Its own end is told where the tests do not explain it.
    let explained = !result.outcome.is_failure() || tests.iter().any(|test| test.outcome.is_failure());
    if tests.is_empty() || !explained {
        tests.push(result);
    }
    tests
}

fn in_folder(folder: &Utf8Path) -> Result<Shell, xshell::Error> {
    let sh = Shell::new()?;
    sh.change_dir(folder);
    Ok(sh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suite_s_time_is_that_in_which_a_test_of_its_own_runs() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut clock = Clock::default();
        assert_eq!(clock.start(at(0)), Duration::ZERO);
        // Two at once count once.
        assert_eq!(clock.start(at(2)), Duration::from_secs(2));
        clock.stop(at(3));
        clock.stop(at(5));
        // Nothing of it ran until now.
        assert_eq!(clock.start(at(100)), Duration::from_secs(5));
        clock.stop(at(101));
        assert_eq!(clock.start(at(200)), Duration::from_secs(6));
    }
}
