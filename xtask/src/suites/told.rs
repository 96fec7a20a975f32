//! What a command tells of its tests by a JUnit file.

use std::io::BufReader;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;
use junit_parser::{TestCase, TestStatus, TestSuite};

use super::process;
use crate::events::{Outcome, TestId, TestResult};

/// The tests that a command tells of in `file`, in the order of the file; nothing where it has written no file. One that
/// passed and tells of no test has tested nothing, which is a failure.
///
/// # Errors
/// The file cannot be read, or is no JUnit file.
pub(super) fn tests(command: &TestResult, file: &Utf8Path) -> Result<Vec<TestResult>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let opened = std::fs::File::open(file).with_context(|| format!("read {file}"))?;
    let report = junit_parser::from_reader(BufReader::new(opened))
        .with_context(|| format!("read {file} as JUnit's XML"))?;
    let mut cases = Vec::new();
    report.suites.iter().for_each(|suite| collect(suite, &mut cases));
    if cases.is_empty() && command.outcome == Outcome::Passed {
        return Ok(vec![TestResult {
            outcome: Outcome::Failed,
            reason: Some("its JUnit file has no test: it ended well, but it has tested nothing".to_owned()),
            ..command.clone()
        }]);
    }
    Ok(cases.into_iter().map(|case| test(command, case)).collect())
}

fn collect<'a>(suite: &'a TestSuite, cases: &mut Vec<&'a TestCase>) {
    cases.extend(&suite.cases);
    suite.suites.iter().for_each(|inner| collect(inner, cases));
}

fn test(command: &TestResult, case: &TestCase) -> TestResult {
    let class = case.classname.as_deref().filter(|class| !class.is_empty());
    let name = &case.original_name;
    let (outcome, message, text) = match &case.status {
        TestStatus::Success => (Outcome::Passed, "", ""),
        TestStatus::Skipped(skipped) => (Outcome::Skipped, &*skipped.message, ""),
        TestStatus::Failure(failure) => (Outcome::Failed, &*failure.message, &*failure.text),
        TestStatus::Error(error) => (Outcome::Failed, &*error.message, &*error.text),
    };
    let written = [Some(text), case.system_out.as_deref(), case.system_err.as_deref()];
    let written: Vec<&str> = written.into_iter().flatten().filter(|part| !part.trim().is_empty()).collect();
    let result = TestResult {
        id: TestId {
            name: class.map_or_else(|| name.clone(), |class| format!("{class}::{name}")),
            ..command.id.clone()
        },
        outcome,
        took: seconds(case.time),
        reason: reason(outcome, message, text),
        tail: process::tail(&written.join("\n")),
        log: command.log.clone(),
        earlier: Vec::new(),
    };
    let earlier = case.reruns.iter().map(|rerun| TestResult {
        outcome: Outcome::Failed,
        took: seconds(rerun.time),
        reason: reason(Outcome::Failed, &rerun.message, &rerun.text),
        tail: process::tail(&rerun.text),
        ..result.clone()
    });
    TestResult { earlier: earlier.collect(), ..result }
}

/// Why a test did not pass: its message, or else the last that it wrote.
fn reason(outcome: Outcome, message: &str, text: &str) -> Option<String> {
    let mut said = message.lines().chain(text.lines().rev()).map(str::trim).filter(|line| !line.is_empty());
    match outcome {
        Outcome::Passed => None,
        Outcome::Skipped => said.next().map(str::to_owned),
        Outcome::Failed | Outcome::TimedOut => {
            Some(said.next().unwrap_or("it failed, and its report does not say why").to_owned())
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> TestResult {
        TestResult {
            id: TestId { suite: "web".to_owned(), variant: "default".to_owned(), name: "web".to_owned() },
            outcome: Outcome::Failed,
            took: Duration::ZERO,
            reason: None,
            tail: String::new(),
            log: "web.log".into(),
            earlier: Vec::new(),
        }
    }

    fn told(text: &str) -> Result<Vec<TestResult>> {
        told_by(&command(), text)
    }

    fn told_by(command: &TestResult, text: &str) -> Result<Vec<TestResult>> {
        let folder = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(folder.path()).unwrap().join("junit.xml");
        std::fs::write(&file, text).unwrap();
        super::tests(command, &file)
    }

    /// As pytest writes it.
    const PYTEST: &str = r#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="0" failures="1" skipped="1" tests="3" time="0.131" timestamp="2026-11-29T03:00:00.000000+00:00" hostname="h"><testcase classname="test_web" name="test_greets[one]" time="0.002" /><testcase classname="test_web" name="test_is_served" time="1.5"><failure message="AssertionError: assert 'a' == 'b'&#10;  - b&#10;  + a">def test_is_served():
&gt;       assert 'a' == 'b'
test_web.py:20: AssertionError</failure></testcase><testcase classname="test_web" name="test_later" time="0.0"><skipped type="pytest.skip" message="not yet">test_web.py:1: not yet</skipped></testcase></testsuite></testsuites>"#;

    #[test]
    fn each_case_is_a_test_of_the_suite() {
        let tests = told(PYTEST).unwrap();
        let all: Vec<(&str, Outcome, Option<&str>)> =
            tests.iter().map(|test| (&*test.id.name, test.outcome, test.reason.as_deref())).collect();
        let expected = [
            ("test_web::test_greets[one]", Outcome::Passed, None),
            ("test_web::test_is_served", Outcome::Failed, Some("AssertionError: assert 'a' == 'b'")),
            ("test_web::test_later", Outcome::Skipped, Some("not yet")),
        ];
        assert_eq!(all, expected);
        assert_eq!(tests[1].took, Duration::from_millis(1500));
        assert!(tests[1].tail.ends_with("test_web.py:20: AssertionError"), "{}", tests[1].tail);
        assert!(tests.iter().all(|test| test.id.suite == "web" && test.log == "web.log"));
    }

    #[test]
    fn suites_in_suites_and_what_passed_late_are_told() {
        let tests = told(r#"<testsuite name="outer"><testsuite name="inner"><testcase name="late" time="1"><flakyFailure message="not at once" type="x"/></testcase></testsuite></testsuite>"#).unwrap();
        assert_eq!(tests.len(), 1);
        assert_eq!(tests[0].id.name, "late");
        assert!(tests[0].is_flaky());
        assert_eq!(tests[0].earlier[0].reason.as_deref(), Some("not at once"));
    }

    #[test]
    fn a_command_that_tested_nothing_has_not_passed() {
        let none = r#"<testsuites><testsuite name="pytest" tests="0"></testsuite></testsuites>"#;
        let of = |outcome| told_by(&TestResult { outcome, ..command() }, none).unwrap();
        let passed = of(Outcome::Passed);
        assert_eq!((passed.len(), passed[0].outcome), (1, Outcome::Failed));
        assert!(passed[0].reason.as_deref().unwrap().contains("has no test"), "{:?}", passed[0].reason);
        // Its own end says why.
        assert!(of(Outcome::Failed).is_empty());
    }

    #[test]
    fn what_is_no_report_is_named() {
        let error = format!("{:#}", told("<html><testsuite").unwrap_err());
        assert!(error.contains("junit.xml as JUnit's XML"), "{error}");
        assert!(super::tests(&command(), "/nowhere/junit.xml".into()).unwrap().is_empty());
    }
}
