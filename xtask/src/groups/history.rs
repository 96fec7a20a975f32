//! How long tests took when they last ran, from the reports of past runs.

use std::collections::BTreeMap;

use camino::Utf8Path;
use serde::Deserialize;

use super::Group;

/// Reports that are looked at, the newest first.
const REPORTS: usize = 20;
/// What a test that never ran is taken to last, in seconds.
const UNKNOWN: f64 = 20.0;

/// Seconds of tests, by suite, variant and name.
#[derive(Debug, Default)]
pub struct History(BTreeMap<(String, String, String), f64>);

#[derive(Deserialize)]
struct Report {
    tests: Vec<Test>,
}

#[derive(Deserialize)]
struct Test {
    suite: String,
    variant: String,
    name: String,
    seconds: f64,
}

impl History {
    /// Reads the reports of the runs in `folder`; one that cannot be read tells nothing.
    #[must_use]
    pub fn read(folder: &Utf8Path) -> History {
        let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
        // Runs are named by the time of their start; `latest` is one of them.
        let mut runs: Vec<_> = entries.map(|entry| entry.file_name().to_owned()).collect();
        runs.retain(|name| name.starts_with(|c: char| c.is_ascii_digit()));
        runs.sort_unstable_by(|one, other| other.cmp(one));
        let mut history = History::default();
        for run in runs.iter().take(REPORTS) {
            let text = std::fs::read_to_string(folder.join(run).join("report.json")).unwrap_or_default();
            let Ok(report) = serde_json::from_str::<Report>(&text) else { continue };
            for Test { suite, variant, name, seconds } in report.tests {
                history.0.entry((suite, variant, name)).or_insert(seconds);
            }
        }
        history
    }

    /// The seconds that the tests of a group take one after the other.
    #[must_use]
    pub fn expect(&self, group: &Group<'_>) -> f64 {
        let tests = group.0.iter().flat_map(|(suite, tests)| tests.iter().map(move |test| (suite, test)));
        let seconds = tests.map(|(suite, test)| {
            let key = (suite.name.clone(), suite.variant.clone(), test.name().to_owned());
            self.0.get(&key).copied().unwrap_or(UNKNOWN)
        });
        seconds.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_report_of_a_test_counts() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        for (run, report) in [
            (
                "20260101-000000-aaaaaa",
                r#"{"tests": [{"suite": "s", "variant": "v", "name": "a", "seconds": 1, "outcome": "passed"}, {"suite": "s", "variant": "v", "name": "b", "seconds": 2}]}"#,
            ),
            (
                "20260102-000000-bbbbbb",
                r#"{"tests": [{"suite": "s", "variant": "v", "name": "a", "seconds": 5}]}"#,
            ),
            ("20260103-000000-cccccc", "half of a rep"),
            ("latest", r#"{"tests": [{"suite": "s", "variant": "v", "name": "a", "seconds": 9}]}"#),
        ] {
            std::fs::create_dir(folder.join(run)).unwrap();
            std::fs::write(folder.join(run).join("report.json"), report).unwrap();
        }
        let history = History::read(folder);
        let of = |name: &str| history.0.get(&("s".to_owned(), "v".to_owned(), name.to_owned())).copied();
        assert_eq!((of("a"), of("b"), of("c")), (Some(5.0), Some(2.0), None));
    }
}
