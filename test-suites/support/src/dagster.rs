//! A client of Dagster's webserver: what the suites ask it over GraphQL, with answers as types.

mod answer;
mod automation;
mod event;
#[cfg(test)]
mod fake;
mod run;
mod run_log;
mod wait;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

pub use automation::{Instigator, Repository, Tick};
pub use event::{Event, PythonError};
pub use run::{Launch, Location, Run, RunId, RunStatus, Tag};

/// The mutation that launches asks the code location, which may be busy with the runs of other tests; Dagster gives it a minute, and
/// is to have the time to say so.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// How often a query is sent whose connection breaks. A mutation may have been carried out.
const ATTEMPTS: usize = 3;
/// Between two of them.
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };

/// What stopped a question to Dagster from being answered as hoped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer came.
    #[error("cannot {operation}: no answer from the webserver at {url}")]
    Unreachable {
        /// What was to be done.
        operation: String,
        /// The base URL that was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is not one of a GraphQL server.
    #[error("cannot {operation}: the webserver answered HTTP {status}, and no GraphQL: {body}")]
    NotGraphql {
        /// What was to be done.
        operation: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        body: String,
    },
    /// The query is wrong, or Dagster broke while it answered.
    #[error("cannot {operation}: {message}{}", indented(.stack))]
    Failed {
        /// What was to be done.
        operation: String,
        /// Dagster's own words.
        message: String,
        /// Dagster's stack, when it sent one.
        stack: Vec<String>,
    },
    /// Dagster answered with another member of the union than the one hoped for.
    #[error("cannot {operation}: {typename}: {message}{}", indented(.stack))]
    Refused {
        /// What was to be done.
        operation: String,
        /// The `__typename` of the answer.
        typename: String,
        /// Dagster's own words.
        message: String,
        /// Dagster's stack, when it sent one.
        stack: Vec<String>,
    },
    /// The answer has another form than this client knows.
    #[error("cannot {operation}: the answer has an unknown form: {answer}")]
    Unreadable {
        /// What was to be done.
        operation: String,
        /// The beginning of the answer.
        answer: String,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
    /// The run ended before it did what was awaited.
    #[error("run {run} ended with {} before {awaited}; its events: {}", last(.seen), told(.seen))]
    EndedBefore {
        /// The run.
        run: RunId,
        /// What was awaited.
        awaited: String,
        /// The events until its end.
        seen: Vec<Event>,
    },
    /// What was awaited did not come in time.
    #[error("waited {} s in vain for run {run}: {awaited}; its events: {}", .limit.as_secs(), told(.seen))]
    TimedOut {
        /// The run.
        run: RunId,
        /// What was awaited.
        awaited: String,
        /// How long.
        limit: Duration,
        /// The events until then.
        seen: Vec<Event>,
    },
}

fn indented(stack: &[String]) -> String {
    stack.iter().flat_map(|entry| entry.lines()).map(|line| format!("\n    {line}")).collect()
}

fn last(seen: &[Event]) -> &str {
    seen.last().map_or("no event", Event::kind)
}

fn told(seen: &[Event]) -> String {
    if seen.is_empty() {
        return "none".to_owned();
    }
    seen.iter().map(Event::kind).collect::<Vec<_>>().join(", ")
}

/// A webserver of Dagster.
#[derive(Debug, Clone)]
pub struct Dagster {
    http: reqwest::Client,
    url: String,
}

impl Dagster {
    /// A client of the webserver at a base URL; asks nothing yet.
    ///
    /// # Panics
    /// The TLS library cannot be set up.
    pub fn new(url: impl Into<String>) -> Self {
        // The webserver closes connections that idle for some seconds. Through a forward that is noticed only when the
        // next question has been sent, and a mutation must not be asked twice.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build();
        Self { http: http.expect("a client without options can be built"), url: url.into() }
    }

    /// Launches a run.
    ///
    /// # Errors
    /// Dagster refuses, for instance because the run config does not fit the job.
    pub async fn launch(&self, launch: &Launch) -> Result<Run, Error> {
        let operation = format!("launch {}", launch.job);
        let answer = self.ask(&operation, LAUNCH, json!({"params": launch.params()})).await?;
        let launched: run::Launched = answer::member(&operation, answer, "LaunchRunSuccess")?;
        self.run(&launched.run.run_id).await
    }

    /// What Dagster knows of a run now.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn run(&self, run: &RunId) -> Result<Run, Error> {
        let operation = format!("read run {run}");
        let answer = self.ask(&operation, RUN, json!({"runId": run})).await?;
        answer::member(&operation, answer, "Run")
    }

    /// All events of a run so far.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn events(&self, run: &RunId) -> Result<Vec<Event>, Error> {
        let operation = format!("read the events of run {run}");
        let mut events = Vec::new();
        let mut cursor = None;
        loop {
            let answer = self.ask(&operation, EVENTS, json!({"runId": run, "cursor": cursor})).await?;
            let page: event::Page = answer::member(&operation, answer, "EventConnection")?;
            events.extend(page.events);
            if !page.has_more {
                return Ok(events);
            }
            cursor = Some(page.cursor);
        }
    }

    /// Asks the run's launcher to end it; the run itself ends later.
    ///
    /// # Errors
    /// Dagster refuses, for instance because the run has ended.
    pub async fn terminate(&self, run: &RunId) -> Result<(), Error> {
        let operation = format!("terminate run {run}");
        let answer = self.ask(&operation, TERMINATE, json!({"runId": run})).await?;
        answer::member::<Value>(&operation, answer, "TerminateRunSuccess").map(drop)
    }

    /// A code location of the workspace.
    ///
    /// # Errors
    /// The workspace has no such location, or it cannot be loaded; then the error has its stack.
    pub async fn location(&self, name: &str) -> Result<Location, Error> {
        let operation = format!("read code location {name}");
        let answer = self.ask(&operation, LOCATION, json!({"name": name})).await?;
        run::location(&operation, answer)
    }

    /// Makes the webserver ask the code server of a location anew.
    ///
    /// # Errors
    /// The workspace has no such location, or it cannot be loaded; then the error has its stack.
    pub async fn reload_location(&self, name: &str) -> Result<Location, Error> {
        let operation = format!("reload code location {name}");
        let answer = self.ask(&operation, RELOAD, json!({"name": name})).await?;
        run::location(&operation, answer)
    }

    async fn ask(&self, operation: &str, query: &str, variables: Value) -> Result<Value, Error> {
        let body = json!({"query": query, "variables": variables});
        let again = if query.starts_with("query") { ATTEMPTS - 1 } else { 0 };
        for _ in 0..again {
            match self.ask_once(operation, &body).await {
                // One that is too slow has had its time.
                Err(Error::Unreachable { source, .. }) if !source.is_timeout() => sleep(PAUSE).await,
                answered => return answered,
            }
        }
        self.ask_once(operation, &body).await
    }

    async fn ask_once(&self, operation: &str, body: &Value) -> Result<Value, Error> {
        let unreachable =
            |source| Error::Unreachable { operation: operation.to_owned(), url: self.url.clone(), source };
        let response = self
            .http
            .post(format!("{}/graphql", self.url))
            .timeout(ANSWER_LIMIT)
            .json(body)
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(unreachable)?;
        answer::field(operation, status, &body)
    }
}

// Every query selects one field, and in its unions whatever Dagster has to say about a refusal.

const LAUNCH: &str = "mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on InvalidStepError { invalidStepKey }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const RUN: &str = "query ($runId: ID!) {
  runOrError(runId: $runId) {
    __typename
    ... on Run { runId jobName status canTerminate tags { key value } }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const EVENTS: &str = "query ($runId: ID!, $cursor: String) {
  logsForRun(runId: $runId, afterCursor: $cursor) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message timestamp level stepKey eventType }
        ... on ErrorEvent { error { message stack causes { message stack } } }
        ... on MaterializationEvent { metadataEntries { label ... on BoolMetadataEntry { boolValue } } }
        ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } ... on PipelineRunMetadataEntry { text: runId } } }
      }
    }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const FOLLOW: &str = "subscription ($runId: ID!, $cursor: String) {
  pipelineRunLogs(runId: $runId, cursor: $cursor) {
    __typename
    ... on PipelineRunLogsSubscriptionSuccess {
      cursor
      messages {
        __typename
        ... on MessageEvent { message timestamp level stepKey eventType }
        ... on ErrorEvent { error { message stack causes { message stack } } }
        ... on MaterializationEvent { metadataEntries { label ... on BoolMetadataEntry { boolValue } } }
        ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } ... on PipelineRunMetadataEntry { text: runId } } }
      }
    }
    ... on PipelineRunLogsSubscriptionFailure { message }
  }
}";

const TERMINATE: &str = "mutation ($runId: String!) {
  terminateRun(runId: $runId) {
    __typename
    ... on TerminateRunFailure { message }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const LOCATION: &str = "query ($name: String!) {
  workspaceLocationEntryOrError(name: $name) {
    __typename
    ... on WorkspaceLocationEntry {
      name
      loadStatus
      locationOrLoadError { __typename ... on RepositoryLocation { serverId } ... on PythonError { message stack } }
    }
    ... on PythonError { message stack }
  }
}";

const RELOAD: &str = "mutation ($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry {
      name
      loadStatus
      locationOrLoadError { __typename ... on RepositoryLocation { serverId } ... on PythonError { message stack } }
    }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_query_that_is_cut_is_asked_again_and_a_mutation_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dagster = Dagster::new(format!("http://{}", listener.local_addr().unwrap()));
        let run = RunId::from("8a1f");
        let mut asked = 0;
        let cut = async {
            loop {
                drop(listener.accept().await.unwrap());
                asked += 1;
            }
        };
        let asking = async {
            assert!(matches!(dagster.run(&run).await, Err(Error::Unreachable { .. })));
            assert!(matches!(dagster.terminate(&run).await, Err(Error::Unreachable { .. })));
        };
        tokio::select! { () = cut => {}, () = asking => {} }
        assert_eq!(asked, ATTEMPTS + 1);
    }
}
