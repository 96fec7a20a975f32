//! The events that Dagster stores of a run.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// Something that happened in a run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(rename = "__typename")]
    typename: String,
    event_type: Option<String>,
    /// What Dagster says about it.
    #[serde(default)]
    pub message: String,
    /// Milliseconds since 1970, as text.
    #[serde(default)]
    timestamp: String,
    /// The step it belongs to.
    pub step_key: Option<String>,
    /// What went wrong.
    pub error: Option<PythonError>,
    #[serde(default)]
    metadata_entries: Vec<Metadata>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    label: String,
    bool_value: Option<bool>,
    text: Option<String>,
}

impl Event {
    /// Dagster's type of the event, such as `STEP_START`; for a line that an op logged, `LogMessageEvent`.
    pub fn kind(&self) -> &str {
        self.event_type.as_deref().unwrap_or(&self.typename)
    }

    /// How long after another event it happened; nothing when Dagster does not say.
    pub fn since(&self, earlier: &Self) -> Option<Duration> {
        let (then, now) = (earlier.milliseconds()?, self.milliseconds()?);
        Some(Duration::from_millis(now.saturating_sub(then)))
    }

    /// Whether it happened before another one, of whatever run; not when Dagster does not say.
    pub fn is_before(&self, later: &Self) -> bool {
        self.milliseconds().zip(later.milliseconds()).is_some_and(|(this, that)| this < that)
    }

    fn milliseconds(&self) -> Option<u64> {
        self.timestamp.parse().ok()
    }

    /// Whether it is of this type.
    pub fn is(&self, kind: &str) -> bool {
        self.kind() == kind
    }

    /// Whether the run does nothing after it.
    pub fn ends_run(&self) -> bool {
        matches!(self.kind(), "RUN_SUCCESS" | "RUN_FAILURE" | "RUN_CANCELED")
    }

    /// What it says of a made asset, where that is true or false.
    pub fn flag(&self, label: &str) -> Option<bool> {
        self.metadata_entries.iter().find(|entry| entry.label == label)?.bool_value
    }

    /// What Dagster's engine says besides its message, under a label of its own.
    pub fn detail(&self, label: &str) -> Option<&str> {
        self.metadata_entries.iter().find(|entry| entry.label == label)?.text.as_deref()
    }

    /// Type, step and message, without the error.
    pub fn headline(&self) -> String {
        let step = self.step_key.as_ref().map_or(String::new(), |step| format!(" [{step}]"));
        format!("{:<24}{step} {}", self.kind(), self.message.trim_end())
    }

    /// The messages of the error and of what caused it.
    pub fn error_messages(&self) -> impl Iterator<Item = &str> {
        self.error.iter().flat_map(|error| {
            std::iter::once(error.message.trim_end())
                .chain(error.causes.iter().map(|cause| cause.message.trim_end()))
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        if let Some(error) = &self.error {
            write!(f, "\n{error}")?;
        }
        Ok(())
    }
}

/// An exception in Dagster or in an op.
#[derive(Debug, Clone, Deserialize)]
pub struct PythonError {
    /// Its class and text.
    pub message: String,
    /// Its traceback.
    #[serde(default)]
    pub stack: Vec<String>,
    /// What it was raised from, nearest first.
    #[serde(default)]
    pub causes: Vec<PythonError>,
}

impl fmt::Display for PythonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "    {}", self.message.trim_end())?;
        // The innermost frames name the line to look at; the outer ones are Dagster's own.
        let skipped = self.stack.len().saturating_sub(4);
        for line in self.stack[skipped..].iter().flat_map(|frame| frame.lines()) {
            write!(f, "\n    {line}")?;
        }
        for cause in &self.causes {
            write!(f, "\n    caused by\n{cause}")?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    pub(super) events: Vec<Event>,
    pub(super) cursor: String,
    pub(super) has_more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> Event {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_line_an_op_logged_has_no_type_of_its_own() {
        let event = event(
            r#"{"__typename": "LogMessageEvent", "message": "hello", "timestamp": "1", "level": "INFO",
                "stepKey": "greet", "eventType": null}"#,
        );
        assert_eq!(event.kind(), "LogMessageEvent");
        assert_eq!(event.to_string(), "LogMessageEvent          [greet] hello");
    }

    #[test]
    fn a_failure_is_told_with_its_causes_and_the_innermost_frames() {
        let event = event(
            r#"{"__typename": "ExecutionStepFailureEvent", "message": "Execution of step \"boom\" failed.",
                "stepKey": "boom", "eventType": "STEP_FAILURE", "error": {"message": "StepError: in boom\n",
                "stack": ["  one\n", "  two\n", "  three\n", "  four\n", "  five\n"],
                "causes": [{"message": "Exception: why\n", "stack": ["  File \"boom.py\"\n"]}]}}"#,
        );
        assert_eq!(event.error_messages().collect::<Vec<_>>(), ["StepError: in boom", "Exception: why"]);
        assert_eq!(
            event.to_string(),
            "STEP_FAILURE             [boom] Execution of step \"boom\" failed.\n    StepError: in boom\
             \n      two\n      three\n      four\n      five\n    caused by\n    Exception: why\
             \n      File \"boom.py\""
        );
    }

    #[test]
    fn a_flag_of_an_asset_is_found_by_its_label() {
        let event = event(
            r#"{"__typename": "MaterializationEvent", "metadataEntries": [{"label": "path"},
                {"label": "is_even", "boolValue": true}]}"#,
        );
        assert_eq!(
            [event.flag("is_even"), event.flag("path"), event.flag("other")],
            [Some(true), None, None]
        );
    }

    #[test]
    fn a_detail_of_the_engine_is_found_by_its_label() {
        let event = event(
            r#"{"__typename": "EngineEvent", "metadataEntries": [{"label": "Step key", "text": "slow_op"}]}"#,
        );
        assert_eq!([event.detail("Step key"), event.detail("step key")], [Some("slow_op"), None]);
    }

    #[test]
    fn an_event_without_a_time_is_before_none() {
        let at = |time: &str| event(&format!(r#"{{"__typename": "X", "timestamp": "{time}"}}"#));
        assert!(at("999").is_before(&at("1000")));
        for (this, that) in [("1000", "999"), ("1000", "1000"), ("", "1"), ("1", "")] {
            assert!(!at(this).is_before(&at(that)), "{this} and {that}");
        }
    }

    #[test]
    fn only_three_types_end_a_run() {
        for (kind, ends) in [
            ("RUN_SUCCESS", true),
            ("RUN_FAILURE", true),
            ("RUN_CANCELED", true),
            ("RUN_CANCELING", false),
            ("STEP_FAILURE", false),
        ] {
            let event = event(&format!(r#"{{"__typename": "X", "message": "", "eventType": "{kind}"}}"#));
            assert_eq!(event.ends_run(), ends, "{kind}");
        }
    }
}
