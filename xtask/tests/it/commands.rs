//! Suites that are commands, which tell of their tests by a JUnit file.

use std::sync::Arc;

use crate::simulated::{Cluster, Simulated};

/// Runs a suite whose command is this script; gives the exit code, what was printed and junit.xml.
fn run(script: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let simulated = Simulated::new("true", Arc::new(|| ()));
    simulated.world.file("example/run.sh", script);
    simulated.world.suite("namespaces: {user: user}\nrun: {command: [/bin/sh, run.sh]}\n");
    let code = simulated.start_with(Cluster::Theirs, "output", more).wait().unwrap().code();
    let junit = std::fs::read_to_string(simulated.world.path().join("output/junit.xml")).unwrap_or_default();
    (code, simulated.said("output"), junit)
}

/// A report of one test that passes, and one that does only when there is the file `again`.
const TESTS: &str = r#"
bad='<failure message="not at once"/>'; code=1
[ -e again ] && bad= && code=0
echo > again
echo "<testsuite name='s'><testcase classname='web' name='greets'/><testcase classname='web' name='late'>$bad</testcase></testsuite>" > $K8S_TEST_JUNIT
exit $code
"#;

#[track_caller]
fn says(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part}: not in\n{said}");
    }
}

#[test]
fn each_test_that_a_command_tells_of_is_reported() {
    let (code, said, junit) = run(TESTS, &[]);
    assert_eq!(code, Some(1), "{said}");
    says(&said, &["PASS example/default web::greets", "FAIL example/default web::late", "not at once"]);
    says(&said, &["1 passed, 1 failed"]);
    says(&junit, &[r#"name="web::greets""#, r#"name="web::late""#]);
}

#[test]
fn one_that_passes_late_is_flaky() {
    let (code, said, junit) = run(TESTS, &["--retries", "1"]);
    assert_eq!(code, Some(0), "{said}");
    says(&said, &["PASS example/default web::greets", "FLAKY example/default web::late"]);
    says(&junit, &["flakyFailure"]);
}

#[test]
fn an_end_that_no_test_explains_is_told_beside_them() {
    let (code, said, _) = run(
        "echo \"<testsuite name='s'><testcase name='greets'/></testsuite>\" > $K8S_TEST_JUNIT; exit 3\n",
        &[],
    );
    assert_eq!(code, Some(1), "{said}");
    says(&said, &["PASS example/default greets", "FAIL example/default example", "it ended with status 3"]);
}

#[test]
fn a_report_that_cannot_be_read_is_named_and_the_command_is_one_test() {
    let (code, said, _) = run("echo '<testsuite' > $K8S_TEST_JUNIT\n", &[]);
    assert_eq!(code, Some(0), "{said}");
    says(&said, &["example.xml as JUnit's XML", "PASS example/default example", "1 passed, 0 failed"]);
}
