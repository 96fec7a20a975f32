//! Runs and the code locations they come from.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Error, answer};

/// The code location that the shared Helm values deploy.
const LOCATION: &str = "user-code-deployment-1";
/// The repository of the test project's image.
const REPOSITORY: &str = "demo_execution_repo";

/// Identifies a run, also in the names and labels of its Jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// The id as Dagster spells it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RunId {
    fn from(id: &str) -> Self {
        Self(id.to_owned())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// Waits for a place.
    Queued,
    /// Made, and not given to the launcher.
    NotStarted,
    /// Somebody else drives it.
    Managed,
    /// The launcher has it; its worker does not work yet.
    Starting,
    /// Its worker works.
    Started,
    /// Waits for work outside, without a worker.
    Suspended,
    /// Ended well.
    Success,
    /// Ended with an error.
    Failure,
    /// Asked to end.
    Canceling,
    /// Ended because somebody asked.
    Canceled,
    /// A state this client does not know.
    #[serde(other)]
    Unknown,
}

impl RunStatus {
    /// Whether it can change no more.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::Canceled)
    }
}

/// A tag of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tag {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// What Dagster knows of a run.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// The run's id.
    pub run_id: RunId,
    /// The job it executes.
    pub job_name: String,
    /// Where it stands.
    pub status: RunStatus,
    /// Whether Dagster would accept a request to end it.
    pub can_terminate: bool,
    /// Its tags, those of Dagster included.
    pub tags: Vec<Tag>,
}

impl Run {
    /// The value of a tag.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.as_str())
    }
}

#[derive(Deserialize)]
pub(super) struct Launched {
    pub(super) run: LaunchedRun,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LaunchedRun {
    pub(super) run_id: RunId,
}

/// A run to be launched: a job of the test project, unless said otherwise, with an empty run config.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The job.
    pub job: String,
    /// The repository that has the job.
    pub repository: String,
    /// The code location that has the repository.
    pub location: String,
    /// The run config.
    pub config: Value,
    /// The tags of the run.
    pub tags: Vec<Tag>,
    /// The only ops that run; all of the job's if none is named.
    pub ops: Vec<String>,
}

impl Launch {
    /// A run of a job of the test project.
    pub fn job(name: impl Into<String>) -> Self {
        Self {
            job: name.into(),
            repository: REPOSITORY.to_owned(),
            location: LOCATION.to_owned(),
            config: json!({}),
            tags: Vec::new(),
            ops: Vec::new(),
        }
    }

    /// The same with this run config.
    #[must_use]
    pub fn config(self, config: Value) -> Self {
        Self { config, ..self }
    }

    /// The same with one more tag.
    #[must_use]
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.push(Tag { key: key.into(), value: value.into() });
        self
    }

    /// The same with one more of the ops that run.
    #[must_use]
    pub fn op(mut self, name: impl Into<String>) -> Self {
        self.ops.push(name.into());
        self
    }

    pub(super) fn params(&self) -> Value {
        let ops = (!self.ops.is_empty()).then_some(&self.ops);
        json!({
            "selector": {
                "repositoryLocationName": self.location,
                "repositoryName": self.repository,
                "jobName": self.job,
                "solidSelection": ops,
            },
            "runConfigData": self.config,
            "executionMetadata": {"tags": self.tags},
        })
    }
}

/// A code location of the workspace that is, or is about to be, usable.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Its name.
    pub name: String,
    /// Whether the webserver has read its definitions; `LOADING` while it does.
    pub load_status: String,
    #[serde(rename = "locationOrLoadError")]
    loaded: Option<Loaded>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Loaded {
    server_id: Option<String>,
}

impl Location {
    /// Whether runs of its jobs can be launched.
    pub fn is_loaded(&self) -> bool {
        self.load_status == "LOADED"
    }

    /// The id of the code server that its definitions are from, another for each process; nothing while it is being loaded.
    pub fn server(&self) -> Option<&str> {
        self.loaded.as_ref()?.server_id.as_deref()
    }
}

/// Dagster calls a location loaded as well when all it has loaded is an error; here that is one.
pub(super) fn location(operation: &str, answer: Value) -> Result<Location, Error> {
    if let Some(inner) =
        answer.get("locationOrLoadError").filter(|inner| inner["__typename"] == "PythonError")
    {
        return Err(answer::refused(operation, "PythonError", inner));
    }
    answer::member(operation, answer, "WorkspaceLocationEntry")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_status_is_no_end() {
        let status: RunStatus = serde_json::from_value(json!("PAUSED")).unwrap();
        assert_eq!(status, RunStatus::Unknown);
        assert!(!status.is_end());
    }

    #[test]
    fn only_three_states_are_an_end() {
        let ends = ["QUEUED", "NOT_STARTED", "MANAGED", "STARTING", "STARTED", "SUSPENDED", "CANCELING"];
        for status in ends {
            assert!(!serde_json::from_value::<RunStatus>(json!(status)).unwrap().is_end(), "{status}");
        }
        for status in ["SUCCESS", "FAILURE", "CANCELED"] {
            assert!(serde_json::from_value::<RunStatus>(json!(status)).unwrap().is_end(), "{status}");
        }
    }

    #[test]
    fn a_launch_selects_the_job_in_its_location() {
        let launch = Launch::job("demo_job").config(json!({"ops": {}})).tag("team", "data");
        assert_eq!(
            launch.params(),
            json!({
                "selector": {
                    "repositoryLocationName": "user-code-deployment-1",
                    "repositoryName": "demo_execution_repo",
                    "jobName": "demo_job",
                    "solidSelection": null,
                },
                "runConfigData": {"ops": {}},
                "executionMetadata": {"tags": [{"key": "team", "value": "data"}]},
            })
        );
        let launch = Launch::job("demo_job").op("count_letters");
        assert_eq!(launch.params()["selector"]["solidSelection"], json!(["count_letters"]));
    }

    #[test]
    fn a_location_that_loaded_an_error_is_an_error() {
        let entry = |inner: Value| {
            json!({"__typename": "WorkspaceLocationEntry", "name": "code", "loadStatus": "LOADED",
                   "locationOrLoadError": inner})
        };
        let loaded =
            location("read", entry(json!({"__typename": "RepositoryLocation", "serverId": "5e"}))).unwrap();
        assert!(loaded.is_loaded());
        assert_eq!(loaded.server(), Some("5e"));
        let error = location(
            "read code location code",
            entry(json!({"__typename": "PythonError", "message": "ModuleNotFoundError: no repo\n", "stack": []})),
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read code location code: PythonError: ModuleNotFoundError: no repo"
        );
    }

    #[test]
    fn a_location_that_loads_has_no_content_yet() {
        let answer = json!({"__typename": "WorkspaceLocationEntry", "name": "code", "loadStatus": "LOADING",
                            "locationOrLoadError": null});
        let loading = location("read", answer).unwrap();
        assert!(!loading.is_loaded());
        assert_eq!(loading.server(), None);
    }
}
