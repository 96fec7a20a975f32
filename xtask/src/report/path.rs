//! The critical path: the steps that together took the time until the first test. Shortening any other step gains nothing.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::StepRecord;
use crate::events::Phase;
use crate::text;

/// By how much clocks and channels may let a step seem to begin before the one that it waited for ended.
const SLACK: SignedDuration = SignedDuration::from_millis(20);
/// What is too short to be printed.
const SHORT: Duration = Duration::from_millis(50);

/// The critical path, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CriticalPath(Vec<OnPath>);

/// A step of the critical path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OnPath {
    /// The step's stage.
    pub phase: Phase,
    /// What it did.
    pub what: String,
    /// What it took of the time.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds")]
    pub took: Duration,
}

impl CriticalPath {
    /// The path to `end`: from there always back to the step that ended last.
    #[must_use]
    pub fn to(end: Timestamp, steps: &[StepRecord]) -> CriticalPath {
        let mut path = Vec::new();
        let mut at = end;
        while let Some((step, ended)) = steps
            .iter()
            .filter_map(|step| Some((step, step.end?)))
            .filter(|(step, ended)| *ended <= at + SLACK && step.start < at && step.start < *ended)
            .max_by_key(|(step, ended)| (*ended, step.start))
        {
            let took = Duration::try_from(ended.min(at).duration_since(step.start)).unwrap_or_default();
            path.push(OnPath { phase: step.phase, what: step.what.clone(), took });
            at = step.start;
        }
        path.reverse();
        CriticalPath(path)
    }
}

impl fmt::Display for CriticalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().filter(|step| step.took >= SHORT);
        let shown: Vec<String> = shown
            .map(|step| format!("{} {} {}", step.phase.name(), step.what, text::seconds(step.took)))
            .collect();
        f.write_str(&shown.join(" > "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(what: &str, start: i64, end: i64) -> StepRecord {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        StepRecord {
            step: 0,
            phase: Phase::Images,
            what: what.to_owned(),
            start: at(start),
            end: Some(at(end)),
            outcome: Some("done"),
            detail: String::new(),
        }
    }

    #[test]
    fn the_path_is_what_was_waited_for() {
        let steps = [
            step("look", 0, 1000),
            step("cluster", 1001, 9000),
            step("build", 1001, 12_000),
            step("compile", 1002, 4000),
            step("bring", 12_005, 13_000),
            step("later", 13_500, 90_000),
        ];
        let path = CriticalPath::to(Timestamp::from_millisecond(13_100).unwrap(), &steps);
        assert_eq!(path.to_string(), "images look 1.0 s > images build 11.0 s > images bring 1.0 s");
        assert_eq!(CriticalPath::to(Timestamp::UNIX_EPOCH, &steps), CriticalPath::default());
    }
}
