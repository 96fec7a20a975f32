//! What remains of a run: report.json, junit.xml and the console.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;
use jiff::Timestamp;
use serde::Serialize;

use crate::events::{Consumer, Event, Outcome, Phase, StepEnd, TestResult};
use crate::images::Built;
use crate::images::deliver::Delivered;
use crate::plan::Plan;
use crate::text;

pub mod console;
mod junit;
mod path;

pub use path::{CriticalPath, OnPath};

/// Records a run's events; clones share the record.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Record>>);

/// What was recorded.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The steps, in the order of their starts.
    pub steps: Vec<StepRecord>,
    /// The tests, in the order of their ends.
    pub tests: Vec<TestResult>,
    /// When the first test began.
    pub first_test: Option<Timestamp>,
    /// What was decided and why, such as which deployments come in turn, and what is worth a warning.
    pub notes: Vec<String>,
}

/// What passed from the command to the first test.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// All of it.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds_to_first_test")]
    pub first_test: Duration,
    /// The part in which pods and the services in them were starting.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds_of_pods")]
    pub pods: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = self.first_test.saturating_sub(self.pods);
        let [all, pods, ours] = [self.first_test, self.pods, ours].map(text::seconds);
        write!(f, "{all} ({pods} pods starting, {ours} ours)")
    }
}

impl Record {
    /// What passed from `start` to the first test; nothing when none began.
    #[must_use]
    pub fn times(&self, start: Timestamp) -> Option<Times> {
        let first = self.first_test?;
        // Steps of these stages overlap; the longest run of each is what was waited.
        let waited = |phase: Phase| {
            let steps = || self.steps.iter().filter(|step| step.phase == phase && step.start < first);
            let from = steps().map(|step| step.start).min()?;
            // Of deployments beside the first, some may end later.
            let to = steps().filter_map(|step| Some(step.end?.min(first))).max()?;
            Duration::try_from(to.duration_since(from)).ok()
        };
        let pods = waited(Phase::Ready).unwrap_or_default() + waited(Phase::Forward).unwrap_or_default();
        let first_test = Duration::try_from(first.duration_since(start)).unwrap_or_default();
        Some(Times { first_test, pods })
    }
}

impl Record {
    /// The steps that took the time until the first test; nothing when none began.
    #[must_use]
    pub fn critical_path(&self) -> Option<CriticalPath> {
        Some(CriticalPath::to(self.first_test?, &self.steps))
    }
}

/// A step, with its times.
#[derive(Clone, Debug, Serialize)]
pub struct StepRecord {
    #[serde(skip)]
    step: u64,
    /// Its stage.
    pub phase: Phase,
    /// What it did.
    pub what: String,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Option<Timestamp>,
    /// `done` or `failed`; absent while it runs.
    pub outcome: Option<&'static str>,
    /// What came of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

impl Consumer for Recorder {
    fn consume(&mut self, at: Timestamp, event: &Event) {
        let mut record = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { step, phase, what, .. } => record.steps.push(StepRecord {
                step: *step,
                phase: *phase,
                what: what.clone(),
                start: at,
                end: None,
                outcome: None,
                detail: String::new(),
            }),
            Event::Finished { step, end } => {
                if let Some(of_step) = record.steps.iter_mut().find(|of_step| of_step.step == *step) {
                    of_step.end = Some(at);
                    (of_step.outcome, of_step.detail) = match end {
                        StepEnd::Done(detail) => (Some("done"), detail.clone()),
                        StepEnd::Failed => (Some("failed"), String::new()),
                    };
                }
            }
            Event::TestFinished(result) => record.tests.push(result.clone()),
            Event::TestStarted(_) => {
                record.first_test.get_or_insert(at);
            }
            Event::Note(text) | Event::Warning(text) => record.notes.push(text.clone()),
            Event::Progress { .. } | Event::Bytes { .. } => {}
        }
    }
}

impl Recorder {
    /// What was recorded so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The exit code.
    pub exit: u8,
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed or ran out of time.
    pub failed: usize,
    /// Tests marked to be left out.
    pub skipped: usize,
    /// Tests that passed, and not at their first attempt.
    pub flaky: usize,
    /// Why the run ended before its tests could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Verdict {
    /// Counts `tests`.
    #[must_use]
    pub fn of(tests: &[TestResult], exit: u8, error: Option<String>) -> Verdict {
        let count = |wanted: fn(Outcome) -> bool| tests.iter().filter(|test| wanted(test.outcome)).count();
        Verdict {
            exit,
            passed: count(|outcome| outcome == Outcome::Passed),
            failed: count(Outcome::is_failure),
            skipped: count(|outcome| outcome == Outcome::Skipped),
            flaky: tests.iter().filter(|test| test.is_flaky()).count(),
            error,
        }
    }
}

/// The parts of report.json.
#[derive(Serialize)]
pub struct Report<'a> {
    /// What was to be done.
    pub plan: &'a Plan,
    /// When the run began.
    pub start: Timestamp,
    /// How long it took, in seconds.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds")]
    pub took: Duration,
    /// The processor time of our own process, in seconds, without the programs that it ran.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "cpu_seconds")]
    pub cpu: Duration,
    /// What passed until the first test; absent when no test started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<&'a Times>,
    /// The steps that took the time until the first test; absent when no test started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub critical_path: Option<&'a CriticalPath>,
    /// The steps of all stages.
    pub steps: &'a [StepRecord],
    /// The images.
    pub images: Vec<&'a Built>,
    /// What was sent to the nodes.
    pub delivered: &'a [Delivered],
    /// What was decided and why, and warnings.
    pub notes: &'a [String],
    /// The tests.
    pub tests: &'a [TestResult],
    /// How it ended.
    pub verdict: &'a Verdict,
}

/// What [`write`] writes into a run's folder.
pub const FILES: [&str; 2] = ["report.json", "junit.xml"];

/// Writes report.json and junit.xml into `folder`.
///
/// # Errors
/// The folder cannot be written.
pub fn write(folder: &Utf8Path, report: &Report<'_>) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    let [report_json, junit_xml] = FILES.map(|file| folder.join(file));
    let json = serde_json::to_string_pretty(report).context("write the report as JSON")?;
    std::fs::write(&report_json, json).with_context(|| format!("write {report_json}"))?;
    let xml = junit::render(&report.plan.run, report.tests, report.verdict.error.as_deref())?;
    std::fs::write(&junit_xml, xml).with_context(|| format!("write {junit_xml}"))?;
    Ok(())
}

/// Points the link `latest` to `folder`.
pub fn link_latest(folder: &Utf8Path) {
    if let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) {
        let link = parent.join("latest");
        // Only a convenience: where it cannot be made, the report's own path is printed anyway.
        let _ = std::fs::remove_file(&link);
        let _ = std::os::unix::fs::symlink(name, &link);
    }
}
