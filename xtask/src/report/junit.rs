//! junit.xml, as CI systems read it.

use anyhow::{Context, Result};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use crate::events::{Outcome, TestResult};

/// The whole file; an `error` that ended the run before its tests could is a failing case of its own, so that a
/// CI system that only reads this file shows it.
pub(super) fn render(run: &str, tests: &[TestResult], error: Option<&str>) -> Result<String> {
    let mut report = Report::new("k8s-test");
    let mut names: Vec<String> = tests.iter().map(suite_name).collect();
    names.sort();
    names.dedup();
    for name in names {
        let mut suite = TestSuite::new(name.clone());
        suite.add_property(("run", run));
        for test in tests.iter().filter(|test| suite_name(test) == name) {
            suite.add_test_case(case(test, &name));
        }
        report.add_test_suite(suite);
    }
    if let Some(error) = error {
        let mut suite = TestSuite::new("k8s-test");
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(error.lines().next().unwrap_or_default()).set_description(error);
        suite.add_test_case(TestCase::new("deployment", status));
        report.add_test_suite(suite);
    }
    report.to_string().context("write the report as JUnit XML")
}

fn suite_name(test: &TestResult) -> String {
    format!("{}/{}", test.id.suite, test.id.variant)
}

fn case(test: &TestResult, class: &str) -> TestCase {
    let mut status = match test.outcome {
        Outcome::Passed => TestCaseStatus::success(),
        Outcome::Failed | Outcome::TimedOut => TestCaseStatus::non_success(kind(test.outcome)),
        Outcome::Skipped => TestCaseStatus::skipped(),
    };
    // Of a test that passed these become `flakyFailure`, else `rerunFailure`.
    status.add_reruns(test.earlier.iter().map(|attempt| {
        let mut rerun = TestRerun::new(kind(attempt.outcome));
        rerun.set_time(attempt.took).set_system_out(attempt.tail.clone());
        if let Some(reason) = &attempt.reason {
            rerun.set_message(reason.clone());
        }
        rerun
    }));
    if let Some(reason) = &test.reason {
        status.set_message(reason.clone()).set_description(test.tail.clone());
    }
    let mut case = TestCase::new(test.id.name.clone(), status);
    case.set_classname(class).set_time(test.took);
    if test.outcome.is_failure() {
        case.set_system_out(test.tail.clone());
    }
    case
}

fn kind(outcome: Outcome) -> NonSuccessKind {
    if outcome == Outcome::TimedOut { NonSuccessKind::Error } else { NonSuccessKind::Failure }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::events::TestId;

    fn test(name: &str, outcome: Outcome, reason: Option<&str>) -> TestResult {
        TestResult {
            id: TestId { suite: "s".to_owned(), variant: "default".to_owned(), name: name.to_owned() },
            outcome,
            took: Duration::from_millis(1500),
            reason: reason.map(str::to_owned),
            tail: "last <line>".to_owned(),
            log: "x.log".into(),
            earlier: Vec::new(),
        }
    }

    #[test]
    fn a_test_that_passed_late_is_flaky() {
        let failed = || vec![test("x", Outcome::Failed, Some("status is FAILURE"))];
        let late = TestResult { earlier: failed(), ..test("late", Outcome::Passed, None) };
        let never = TestResult { earlier: failed(), ..test("never", Outcome::Failed, Some("again")) };
        let xml = render("r", &[late, never], None).unwrap();
        assert!(xml.contains(r#"<flakyFailure time="1.500" message="status is FAILURE">"#), "{xml}");
        assert!(xml.contains(r#"<rerunFailure time="1.500" message="status is FAILURE">"#), "{xml}");
        assert!(xml.contains(r#"failures="1""#), "{xml}");
    }

    #[test]
    fn failures_carry_their_reason() {
        let tests = [
            test("good", Outcome::Passed, None),
            test("bad", Outcome::Failed, Some("status is FAILURE")),
            test("slow", Outcome::TimedOut, Some("it did not end")),
            test("left_out", Outcome::Skipped, None),
        ];
        let xml = render("r", &tests, None).unwrap();
        assert!(
            xml.contains(r#"<testsuite name="s/default" tests="4" skipped="1" errors="1" failures="1">"#),
            "{xml}"
        );
        assert!(xml.contains(r#"message="status is FAILURE""#), "{xml}");
        assert!(xml.contains(r#"time="1.500""#), "{xml}");
        assert!(xml.contains("last &lt;line&gt;"), "{xml}");
    }

    #[test]
    fn an_error_before_the_tests_is_a_case() {
        let xml = render("r", &[], Some("docker is not installed\nmore")).unwrap();
        assert!(xml.contains(r#"message="docker is not installed""#), "{xml}");
    }
}
