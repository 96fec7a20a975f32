//! The one stream of what happens; console, report and JUnit only consume it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::Serialize;

/// The stages, in the order of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// What the machine lacks is installed, started, downloaded.
    Setup,
    /// The cluster is created or found.
    Cluster,
    /// Images are built and brought to the nodes.
    Images,
    /// Namespaces are made.
    Namespaces,
    /// Manifests are applied.
    Fixtures,
    /// Charts are installed.
    Release,
    /// What was installed becomes ready.
    Ready,
    /// Ports are brought to this machine.
    Forward,
    /// Tests run.
    Suites,
    /// What was made is removed.
    Cleanup,
}

impl Phase {
    /// The name that messages use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Setup => "setup",
            Phase::Cluster => "cluster",
            Phase::Images => "images",
            Phase::Namespaces => "namespaces",
            Phase::Fixtures => "fixtures",
            Phase::Release => "release",
            Phase::Ready => "ready",
            Phase::Forward => "forward",
            Phase::Suites => "suites",
            Phase::Cleanup => "cleanup",
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A step began.
    Started {
        /// The step, unique in this run.
        step: u64,
        /// Its stage.
        phase: Phase,
        /// What it does.
        what: String,
        /// The stage that it is a part of, where a line for the whole stage is enough for the reader.
        within: Option<u64>,
    },
    /// A step got further.
    Progress {
        /// The step.
        step: u64,
        /// How far.
        text: String,
    },
    /// A step has moved so many bytes.
    Bytes {
        /// The step.
        step: u64,
        /// How many so far.
        done: u64,
        /// Of about how many.
        of: u64,
    },
    /// A step ended.
    Finished {
        /// The step.
        step: u64,
        /// What came of it.
        end: StepEnd,
    },
    /// Something to know.
    Note(String),
    /// Something that may matter later.
    Warning(String),
    /// A test began.
    TestStarted(TestId),
    /// A test ended.
    TestFinished(TestResult),
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepEnd {
    /// As it should, with a detail for the reader.
    Done(String),
    /// By an error or because the run was ended.
    Failed,
}

/// A test's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TestId {
    /// The suite.
    pub suite: String,
    /// The variant.
    pub variant: String,
    /// The test's name inside the suite.
    pub name: String,
}

/// What came of a test.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    /// The test.
    #[serde(flatten)]
    pub id: TestId,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took, in seconds.
    #[serde(serialize_with = "in_seconds", rename = "seconds")]
    pub took: Duration,
    /// In one line, why it did not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The end of its output.
    #[serde(skip)]
    pub tail: String,
    /// The file with all of its output.
    pub log: Utf8PathBuf,
    /// The attempts before this one, none of which passed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<TestResult>,
}

impl TestResult {
    /// Whether it passed, and not at once: then nobody knows whether it passes the next time.
    #[must_use]
    pub fn is_flaky(&self) -> bool {
        self.outcome == Outcome::Passed && !self.earlier.is_empty()
    }
}

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It did not end in its time.
    TimedOut,
    /// It is marked to be left out.
    Skipped,
}

impl Outcome {
    /// Whether the run fails by it.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Outcome::Failed | Outcome::TimedOut)
    }
}

/// A duration in seconds, to the millisecond.
///
/// # Errors
/// The serializer's.
pub fn in_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e3).round() / 1e3)
}

/// Takes events.
pub trait Consumer: Send {
    /// Takes one; it must not block for long.
    fn consume(&mut self, at: Timestamp, event: &Event);
}

/// Where stages say what happens; clones share the consumers.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Mutex<Inner>>,
    /// Whose steps these are, where those of several run at once.
    scope: Option<Arc<str>>,
}

struct Inner {
    consumers: Vec<Box<dyn Consumer>>,
    steps: u64,
    stage: Option<u64>,
}

impl Events {
    /// A stream into these consumers.
    #[must_use]
    pub fn new(consumers: Vec<Box<dyn Consumer>>) -> Events {
        Events { inner: Arc::new(Mutex::new(Inner { consumers, steps: 0, stage: None })), scope: None }
    }

    /// The same stream, for steps that are named as those of `scope`.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Events {
        Events { inner: self.inner.clone(), scope: Some(scope.into()) }
    }

    /// Hands an event to every consumer.
    pub fn emit(&self, event: &Event) {
        let at = Timestamp::now();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for consumer in &mut inner.consumers {
            consumer.consume(at, event);
        }
    }

    /// Says something to know.
    pub fn note(&self, text: impl Into<String>) {
        self.emit(&Event::Note(self.of_scope(text.into())));
    }

    /// Says something that may matter later.
    pub fn warn(&self, text: impl Into<String>) {
        self.emit(&Event::Warning(self.of_scope(text.into())));
    }

    /// Begins a step; it has failed when the value is dropped before [`Step::done`].
    #[must_use]
    pub fn step(&self, phase: Phase, what: impl Into<String>) -> Step {
        self.begin(phase, what.into(), false)
    }

    /// Begins a step that those begun until its end are parts of.
    #[must_use]
    pub fn stage(&self, phase: Phase, what: impl Into<String>) -> Step {
        self.begin(phase, what.into(), true)
    }

    /// Says whose it is, unless it does already.
    fn of_scope(&self, text: String) -> String {
        match &self.scope {
            Some(scope) if !text.starts_with(&**scope) => format!("{scope}: {text}"),
            _ => text,
        }
    }

    fn begin(&self, phase: Phase, what: String, whole: bool) -> Step {
        let what = self.of_scope(what);
        let (step, within) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.steps += 1;
            let within = inner.stage;
            if whole {
                inner.stage = Some(inner.steps);
            }
            (inner.steps, within)
        };
        self.emit(&Event::Started { step, phase, what, within });
        Step { events: self.clone(), step, open: true }
    }

    fn finish(&self, step: u64, end: StepEnd) {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.stage == Some(step) {
                inner.stage = None;
            }
        }
        self.emit(&Event::Finished { step, end });
    }
}

/// A step under way.
pub struct Step {
    events: Events,
    step: u64,
    open: bool,
}

impl Step {
    /// Says how far it got.
    pub fn progress(&self, text: impl Into<String>) {
        self.events.emit(&Event::Progress { step: self.step, text: text.into() });
    }

    /// Says how many bytes it has moved, of about how many.
    pub fn bytes(&self, done: u64, of: u64) {
        self.events.emit(&Event::Bytes { step: self.step, done, of });
    }

    /// Ends it as it should, with a detail for the reader, which may be empty.
    pub fn done(mut self, detail: impl Into<String>) {
        self.open = false;
        self.events.finish(self.step, StepEnd::Done(detail.into()));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if self.open {
            self.events.finish(self.step, StepEnd::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Collect(Arc<Mutex<Vec<Event>>>);

    impl Consumer for Collect {
        fn consume(&mut self, _: Timestamp, event: &Event) {
            self.0.lock().unwrap().push(event.clone());
        }
    }

    #[test]
    fn a_step_that_is_dropped_has_failed() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = Events::new(vec![Box::new(Collect(seen.clone()))]);
        drop(events.step(Phase::Images, "build x"));
        events.step(Phase::Images, "build y").done("1 s");
        let ends: Vec<StepEnd> = seen
            .lock()
            .unwrap()
            .iter()
            .filter_map(|event| match event {
                Event::Finished { end, .. } => Some(end.clone()),
                _ => None,
            })
            .collect();
        assert_eq!(ends, [StepEnd::Failed, StepEnd::Done("1 s".to_owned())]);
    }

    #[test]
    fn steps_are_parts_of_the_stage_under_way() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = Events::new(vec![Box::new(Collect(seen.clone()))]);
        let stage = events.stage(Phase::Images, "make x");
        events.step(Phase::Images, "x").done("");
        stage.done("");
        events.step(Phase::Images, "y").done("");
        let parts: Vec<Option<u64>> = seen
            .lock()
            .unwrap()
            .iter()
            .filter_map(|event| match event {
                Event::Started { within, .. } => Some(*within),
                _ => None,
            })
            .collect();
        assert_eq!(parts, [None, Some(1), None]);
    }
}
