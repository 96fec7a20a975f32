//! One test's process: its output into a file, its end into an outcome.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;

use crate::cmd::{Run, TimedOut};
use crate::events::Outcome;
use crate::text;

/// Lines of a failed test's output that reports repeat.
const TAIL_LINES: usize = 60;

/// The end of a test's output.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// How a test ended.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) reason: Option<String>,
    pub(super) tail: String,
    /// How many tests have passed, as a Rust test binary says in its closing line.
    passed: Option<usize>,
}

impl Ended {
    /// It did not even start, because the suite's time was over.
    pub(super) fn out_of_time(limit: Duration) -> Ended {
        let reason = format!("it did not start: the suite's {} were over", text::seconds(limit));
        Ended { outcome: Outcome::TimedOut, reason: Some(reason), tail: String::new(), passed: None }
    }

    /// The end of a Rust test binary that was asked for one test: it ends well also where it has no test of that name.
    pub(super) fn of_one_test(self) -> Ended {
        if self.outcome.is_failure() || self.passed == Some(1) {
            return self;
        }
        let why = match self.passed {
            Some(_) => "its binary has no such test any more, or has it marked #[ignore]",
            None => "its process ended with status 0 before the test had ended",
        };
        Ended { outcome: Outcome::Failed, reason: Some(why.to_owned()), ..self }
    }
}

/// Runs a test's command to its end or to `limit`.
pub(super) async fn run(
    command: Result<xshell::Cmd<'_>, &xshell::Error>,
    environment: &BTreeMap<String, String>,
    limit: Duration,
    log: &Utf8Path,
) -> Result<Ended> {
    let command = command.map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut file = std::fs::File::create(log).with_context(|| format!("write {log}"))?;
    let mut seen = Seen::default();
    // It is told its limit so that it can say why it takes so long, before it is ended.
    let mut run = Run::new(command, limit)
        .as_cargo()
        .forget_stdout()
        .env(crate::env::suite::TIMEOUT, limit.as_secs().to_string());
    for (name, value) in environment {
        run = run.env(name, value);
    }
    // Nobody else can end its port-forward.
    run = run.leaves_nothing();
    let output = run
        .on_line(|line| {
            // The outcome counts even where the disk is full.
            let _ = writeln!(file, "{line}");
            seen.line(line);
        })
        .output()
        .await;
    let tail = Vec::from(std::mem::take(&mut seen.tail)).join("\n");
    let (outcome, reason) = match output {
        Ok(output) if output.status.success() => (Outcome::Passed, None),
        Ok(output) => {
            let ended = || format!("it ended with {}", text::status(output.status));
            (Outcome::Failed, Some(seen.reason.unwrap_or_else(ended)))
        }
        Err(error) if error.is::<TimedOut>() => {
            (Outcome::TimedOut, Some(format!("it did not end within {}", text::seconds(limit))))
        }
        Err(error) => return Err(error),
    };
    Ok(Ended { outcome, reason, tail, passed: seen.passed })
}

/// How many tests have passed by a closing line: `test result: ok. 1 passed; 0 failed; …`.
fn passed(line: &str) -> Option<usize> {
    let (before, _) = line.strip_prefix("test result: ")?.split_once(" passed")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// How much of a compared value stands in a reason, in characters.
const COMPARED: usize = 200;

/// What is kept of an output; the file has all of it.
#[derive(Default)]
struct Seen {
    tail: VecDeque<String>,
    /// Why a Rust test failed: its first panic's message or the error that it returned.
    reason: Option<String>,
    panicked: bool,
    /// Where it panicked.
    place: String,
    /// Whether a backtrace passes, which the file has and on a console hides all else.
    backtrace: bool,
    /// How many of the two compared values stand in the reason.
    compared: usize,
    /// How many tests have passed, by the last line that tells it.
    passed: Option<usize>,
}

impl Seen {
    fn line(&mut self, line: &str) {
        let text = line.trim();
        self.passed = passed(text).or(self.passed);
        // Of Rust, and of anyhow with a capital letter.
        let begins = text.eq_ignore_ascii_case("stack backtrace:");
        let frame = text.starts_with("at ")
            || text.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        self.backtrace = begins || self.backtrace && frame;
        if self.panicked && self.reason.is_none() && (begins || text.starts_with("note: ")) {
            self.reason = Some(format!("it panicked without a message at {}", self.place));
        }
        if self.backtrace {
            return;
        }
        if let Some(reason) = self.reason.as_mut().filter(|_| self.panicked) {
            // What `assert_eq!` says below its message.
            let side = ["left: ", "right: "].get(self.compared);
            if side.is_some_and(|side| text.starts_with(side)) {
                let value: String = text.chars().take(COMPARED).collect();
                reason.push_str(&format!("; {value}"));
                self.compared += 1;
            }
        } else if self.reason.is_none() {
            if self.panicked && !text.is_empty() {
                self.reason = Some(text.to_owned());
            } else if let Some(error) = line.strip_prefix("Error: ") {
                self.reason = Some(error.to_owned());
            }
            if let Some((_, place)) = line.split_once("panicked at ") {
                self.panicked = true;
                self.place = place.trim_end_matches(':').to_owned();
            }
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use xshell::{Shell, cmd};

    use super::*;

    async fn ended(script: &str, limit: Duration) -> Ended {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("test.log");
        let sh = Shell::new().unwrap();
        let environment = BTreeMap::from([("K8S_TEST_SUITE".to_owned(), "example".to_owned())]);
        let end = run(Ok(cmd!(sh, "sh -c {script}")), &environment, limit, &log).await.unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap().trim(), end.tail.trim());
        end
    }

    #[tokio::test]
    async fn the_environment_and_the_output_are_passed_on() {
        let script = "echo suite is $K8S_TEST_SUITE, for $K8S_TEST_TIMEOUT s";
        let end = ended(script, Duration::from_secs(20)).await;
        assert_eq!((end.outcome, end.tail.trim()), (Outcome::Passed, "suite is example, for 20 s"));
    }

    #[tokio::test]
    async fn a_test_is_told_nothing_of_our_own_package() {
        let end = ended("echo it is [$CARGO_PKG_NAME$CARGO_MANIFEST_DIR]", Duration::from_secs(20)).await;
        assert_eq!(end.tail.trim(), "it is []");
    }

    #[tokio::test]
    async fn a_panic_is_the_reason() {
        let script = "echo \"thread 't' panicked at src/a.rs:1:2:\"; echo 'status is FAILURE'; echo 'note: left'; exit 101";
        let end = ended(script, Duration::from_secs(20)).await;
        assert_eq!((end.outcome, end.reason.as_deref()), (Outcome::Failed, Some("status is FAILURE")));
        let script = "echo \"thread 't' panicked at src/a.rs:1:2:\"; echo 'not equal'; echo '  left: [1]'; echo ' right: []'; exit 101";
        let end = ended(script, Duration::from_secs(20)).await;
        assert_eq!(end.reason.as_deref(), Some("not equal; left: [1]; right: []"));
    }

    #[test]
    fn a_backtrace_is_left_to_the_file() {
        let seen = |lines: &[&str]| {
            let mut seen = Seen::default();
            lines.iter().for_each(|line| seen.line(line));
            (seen.reason.unwrap(), Vec::from(seen.tail))
        };
        let panicked = "thread 't' panicked at src/a.rs:1:2:";
        let trace = ["stack backtrace:", "   0: core::panicking", "             at /rustc/panicking.rs:1:1"];
        let (reason, tail) = seen(&[&[panicked, "not so"], &trace[..], &["note: more", "end"]].concat());
        assert_eq!(reason, "not so");
        assert_eq!(tail, [panicked, "not so", "note: more", "end"]);
        let (reason, _) = seen(&[&[panicked, ""], &trace[..]].concat());
        assert_eq!(reason, "it panicked without a message at src/a.rs:1:2");
        let (reason, _) = seen(&[panicked, "", "note: run with `RUST_BACKTRACE=1`"]);
        assert_eq!(reason, "it panicked without a message at src/a.rs:1:2");
        let (reason, tail) = seen(&["Error: no pod", "", "Stack backtrace:", "   0: anyhow", "last"]);
        assert_eq!((reason.as_str(), tail.last().unwrap().as_str()), ("no pod", "last"));
        assert_eq!(tail.len(), 3);
    }

    #[tokio::test]
    async fn of_a_long_output_the_end_and_the_reason_are_kept() {
        let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done; echo 'Error: too much'; echo last; exit 1";
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("test.log");
        let sh = Shell::new().unwrap();
        let end = run(Ok(cmd!(sh, "sh -c {script}")), &BTreeMap::new(), Duration::from_secs(20), &log)
            .await
            .unwrap();
        assert_eq!(end.reason.as_deref(), Some("too much"));
        assert!(end.tail.ends_with("line 4999\nError: too much\nlast"), "{}", end.tail);
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 5002);
    }

    #[tokio::test]
    async fn without_a_message_the_status_is_the_reason() {
        let end = ended("exit 7", Duration::from_secs(20)).await;
        assert_eq!(end.reason.as_deref(), Some("it ended with status 7"));
    }

    #[tokio::test]
    async fn a_test_that_its_binary_did_not_run_has_not_passed() {
        let one = async |script: &str| {
            let end = ended(script, Duration::from_secs(20)).await.of_one_test();
            (end.outcome, end.reason.unwrap_or_default())
        };
        let closing = |counts: &str| {
            format!("echo; echo 'test result: ok. {counts}; 0 measured; 7 filtered out; finished in 0.01s'")
        };
        let (outcome, _) = one(&closing("1 passed; 0 failed; 0 ignored")).await;
        assert_eq!(outcome, Outcome::Passed);
        for counts in ["0 passed; 0 failed; 0 ignored", "0 passed; 0 failed; 1 ignored"] {
            let (outcome, reason) = one(&closing(counts)).await;
            assert_eq!(outcome, Outcome::Failed);
            assert!(reason.contains("no such test any more"), "{reason}");
        }
        let (outcome, reason) = one("echo 'test a ...'").await;
        assert_eq!(outcome, Outcome::Failed);
        assert!(reason.contains("before the test had ended"), "{reason}");
        // What it says itself comes first.
        assert_eq!(one("echo 'Error: no pod'; exit 1").await, (Outcome::Failed, "no pod".to_owned()));
    }

    #[tokio::test]
    async fn a_hanging_test_is_ended() {
        let end = ended("echo before; sleep 600", Duration::from_millis(300)).await;
        assert_eq!(end.outcome, Outcome::TimedOut);
        assert_eq!(end.tail.trim(), "before");
    }
}
