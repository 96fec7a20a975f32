//! How long tests took when they last passed, for the order of the next run.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::Group;
use crate::config::Suite;
use crate::events::{Outcome, TestResult};
use crate::suites::Test;

/// What a test that never ran is taken to last, in seconds.
const UNKNOWN: f64 = 20.0;

/// Seconds by suite, variant and test.
#[derive(Debug, Default)]
pub struct History(BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>>);

impl History {
    /// Reads what `runs` have left, and of tests that have left nothing what is committed with the `suites`, of other machines; where neither can be
    /// read, nothing is known.
    #[must_use]
    pub fn read(runs: &Utf8Path, suites: &Utf8Path) -> History {
        let mut history = History::of(suites);
        for (suite, variants) in History::of(runs).0 {
            let known = history.0.entry(suite).or_default();
            for (variant, tests) in variants {
                known.entry(variant).or_default().extend(tests);
            }
        }
        history
    }

    fn of(folder: &Utf8Path) -> History {
        let text = std::fs::read_to_string(file(folder)).unwrap_or_default();
        History(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Keeps how long the tests that passed took; what is known of others stays.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn record<'a>(folder: &Utf8Path, results: impl Iterator<Item = &'a TestResult>) -> Result<()> {
        let mut history = History::of(folder);
        for test in results.filter(|test| test.outcome == Outcome::Passed) {
            let suite = history.0.entry(test.id.suite.clone()).or_default();
            let variant = suite.entry(test.id.variant.clone()).or_default();
            // What is less than a tenth is nothing, for the order and for who reads the file.
            variant.insert(test.id.name.clone(), (test.took.as_secs_f64() * 10.0).round() / 10.0);
        }
        let file = file(folder);
        let write = || {
            std::fs::create_dir_all(folder)?;
            // Another run may read it now, or end at the same moment.
            let new = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&new, &history.0)?;
            new.persist(&file)?;
            anyhow::Ok(())
        };
        write().with_context(|| format!("write {file}"))
    }

    /// Puts first the groups that take longest: what is long and comes last is waited for alone. Their suites and tests keep their order: a group is
    /// called by its first suite, and what takes longest in one often waits to be alone with the deployment.
    pub fn sort(&self, groups: &mut [Group<'_>]) {
        let of_suite = |(suite, tests): &(&Suite, Vec<&Test>)| -> f64 {
            tests.iter().map(|test| self.expect(suite, test)).sum()
        };
        let of_group = |group: &Group<'_>| -> f64 { group.0.iter().map(of_suite).sum() };
        groups.sort_by(|one, other| of_group(other).total_cmp(&of_group(one)));
    }

    /// The seconds that a test takes; a command takes those of all that it told of.
    fn expect(&self, suite: &Suite, test: &Test) -> f64 {
        let known = self.0.get(&suite.name).and_then(|variants| variants.get(&suite.variant));
        let mut of_test = known.into_iter().flatten().filter(|(name, _)| test.is_or_has(name)).peekable();
        match of_test.peek() {
            Some(_) => of_test.map(|(_, seconds)| seconds).sum(),
            None => UNKNOWN,
        }
    }
}

fn file(folder: &Utf8Path) -> Utf8PathBuf {
    folder.join("durations.json")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::suite;
    use super::*;
    use crate::events::TestId;

    fn result(name: &str, seconds: u64, outcome: Outcome) -> TestResult {
        TestResult {
            id: TestId { suite: "one".into(), variant: "default".into(), name: name.into() },
            outcome,
            took: Duration::from_secs(seconds),
            reason: None,
            tail: String::new(),
            log: "x.log".into(),
            earlier: Vec::new(),
        }
    }

    #[test]
    fn what_took_longest_when_it_last_passed_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let runs = folder.join("runs");
        std::fs::write(folder.join("f.yaml"), "").unwrap();
        let (passed, failed) = (Outcome::Passed, Outcome::Failed);
        History::record(&runs, [result("a", 50, passed), result("b", 1, passed)].iter()).unwrap();
        History::record(&runs, [result("a", 5, passed), result("b", 99, failed)].iter()).unwrap();
        let [one, two] = ["one", "two"].map(|name| suite(name, folder, ""));
        let tests = ["b", "a", "unknown"].map(Test::named);
        let of = |suite| (suite, tests.iter().collect::<Vec<_>>());
        let mut groups = [Group(vec![of(&one)]), Group(vec![of(&one), of(&two)])];
        History::read(&runs, folder).sort(&mut groups);
        let order = |group: &Group<'_>| {
            let names = |(suite, tests): &(&Suite, Vec<&Test>)| {
                format!(
                    "{}: {}",
                    suite.name,
                    tests.iter().map(|test| test.name()).collect::<Vec<_>>().join(", ")
                )
            };
            group.0.iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(order(&groups[0]), ["one: b, a, unknown", "two: b, a, unknown"]);
        assert_eq!(order(&groups[1]), ["one: b, a, unknown"]);
    }

    #[test]
    fn what_is_committed_counts_where_no_run_has_been() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (runs, suites) = (folder.join("runs"), folder.join("suites"));
        History::record(
            &suites,
            [("a", 50), ("b", 70)].map(|(name, seconds)| result(name, seconds, Outcome::Passed)).iter(),
        )
        .unwrap();
        History::record(&runs, [result("a", 5, Outcome::Passed)].iter()).unwrap();
        let known = &History::read(&runs, &suites).0["one"]["default"];
        assert_eq!((known["a"], known["b"]), (5.0, 70.0));
        History::record(&runs, [result("c", 5, Outcome::Passed)].iter()).unwrap();
        let kept = &History::of(&runs).0["one"]["default"];
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a", "c"], "a run keeps what it has seen");
    }

    #[test]
    fn a_history_that_cannot_be_read_tells_nothing_and_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::write(file(folder), "half of a fi").unwrap();
        assert!(History::read(folder, folder).0.is_empty());
        History::record(folder, [result("a", 5, Outcome::Passed)].iter()).unwrap();
        assert_eq!(History::read(folder, folder).0["one"]["default"]["a"], 5.0);
    }
}
