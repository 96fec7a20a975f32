//! From the text of a GraphQL answer to the member of the union that was hoped for, or to an error in Dagster's words.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Error;

/// Long enough for a traceback's end, short enough for a terminal.
const EXCERPT: usize = 2000;

#[derive(Deserialize)]
struct Envelope {
    data: Option<Map<String, Value>>,
    #[serde(default)]
    errors: Vec<TopLevelError>,
}

#[derive(Deserialize)]
struct TopLevelError {
    message: String,
    #[serde(default)]
    extensions: Value,
}

/// The value of the only field that was asked for.
pub(super) fn field(operation: &str, status: u16, body: &str) -> Result<Value, Error> {
    let Ok(envelope) = serde_json::from_str::<Envelope>(body) else {
        return Err(Error::NotGraphql { operation: operation.to_owned(), status, body: excerpt(body) });
    };
    // A field may fail below one that did not: then there are data and errors, and the errors count.
    if !envelope.errors.is_empty() {
        let message =
            envelope.errors.iter().map(|error| error.message.as_str()).collect::<Vec<_>>().join("; ");
        let stack =
            envelope.errors.iter().flat_map(|error| strings(error.extensions.pointer("/errorInfo/stack")));
        return Err(Error::Failed { operation: operation.to_owned(), message, stack: stack.collect() });
    }
    match envelope.data.and_then(|data| data.into_iter().next()) {
        Some((_, value)) => Ok(value),
        None => Err(Error::NotGraphql { operation: operation.to_owned(), status, body: excerpt(body) }),
    }
}

/// The answer, if its `__typename` is the wanted one.
pub(super) fn member<T: DeserializeOwned>(operation: &str, answer: Value, wanted: &str) -> Result<T, Error> {
    match answer.get("__typename").and_then(Value::as_str) {
        Some(typename) if typename == wanted => read(operation, answer),
        Some(typename) => Err(refused(operation, typename, &answer)),
        None => Err(Error::Refused {
            operation: operation.to_owned(),
            typename: "no answer".to_owned(),
            message: format!("there is no {wanted} of that name"),
            stack: Vec::new(),
        }),
    }
}

pub(super) fn read<T: DeserializeOwned>(operation: &str, answer: Value) -> Result<T, Error> {
    T::deserialize(&answer).map_err(|source| Error::Unreadable {
        operation: operation.to_owned(),
        answer: excerpt(&answer.to_string()),
        source,
    })
}

pub(super) fn refused(operation: &str, typename: &str, answer: &Value) -> Error {
    let message = match answer.get("message").and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        // A wrong run config comes as a list of errors; the few members that have neither tell it all in their fields.
        None => match answer.get("errors").and_then(Value::as_array) {
            Some(errors) => {
                errors.iter().filter_map(|error| error["message"].as_str()).collect::<Vec<_>>().join("; ")
            }
            None => excerpt(&answer.to_string()),
        },
    };
    Error::Refused {
        operation: operation.to_owned(),
        typename: typename.to_owned(),
        message: message.trim_end().to_owned(),
        stack: strings(answer.get("stack")).collect(),
    }
}

fn strings(list: Option<&Value>) -> impl Iterator<Item = String> {
    list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
}

fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::Run;
    use super::*;

    fn refusal(body: &str, wanted: &str) -> String {
        field("launch demo_job", 200, body)
            .and_then(|answer| member::<Value>("launch demo_job", answer, wanted))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_the_wanted_member() {
        let body = r#"{"data": {"runOrError": {"__typename": "Run", "runId": "8a1f", "jobName": "demo_job",
            "status": "STARTED", "canTerminate": true, "tags": [{"key": "docker/image", "value": "test:1"}]}}}"#;
        let run: Run = member("read run 8a1f", field("read run 8a1f", 200, body).unwrap(), "Run").unwrap();
        assert_eq!(run.job_name, "demo_job");
        assert_eq!(run.tag("docker/image"), Some("test:1"));
        assert!(run.can_terminate);
    }

    #[test]
    fn a_python_error_comes_with_its_stack() {
        let body = r#"{"data": {"launchRun": {"__typename": "PythonError", "message": "ValueError: no\n",
            "stack": ["  File \"repo.py\", line 1, in f\n    raise ValueError('no')\n"]}}}"#;
        assert_eq!(
            refusal(body, "LaunchRunSuccess"),
            "cannot launch demo_job: PythonError: ValueError: no\n      File \"repo.py\", line 1, in f\
             \n        raise ValueError('no')"
        );
    }

    #[test]
    fn a_refused_run_config_lists_every_error() {
        let body = r#"{"data": {"launchRun": {"__typename": "RunConfigValidationInvalid",
            "errors": [{"message": "missing \"ops\""}, {"message": "unexpected \"op\""}]}}}"#;
        assert_eq!(
            refusal(body, "LaunchRunSuccess"),
            "cannot launch demo_job: RunConfigValidationInvalid: missing \"ops\"; unexpected \"op\""
        );
    }

    #[test]
    fn a_member_without_message_is_shown_whole() {
        let body = r#"{"data": {"launchRun": {"__typename": "InvalidStepError", "invalidStepKey": "x"}}}"#;
        assert_eq!(
            refusal(body, "LaunchRunSuccess"),
            r#"cannot launch demo_job: InvalidStepError: {"__typename":"InvalidStepError","invalidStepKey":"x"}"#
        );
    }

    #[test]
    fn an_unknown_query_is_an_error_even_next_to_data() {
        for data in ["null", r#"{"launchRun": {"__typename": "LaunchRunSuccess"}}"#] {
            let body = format!(r#"{{"data": {data}, "errors": [{{"message": "Cannot query field 'x'"}}]}}"#);
            assert_eq!(refusal(&body, "LaunchRunSuccess"), "cannot launch demo_job: Cannot query field 'x'");
        }
    }

    #[test]
    fn a_break_inside_dagster_comes_with_its_stack() {
        let body = r#"{"data": null, "errors": [{"message": "boom",
            "extensions": {"errorInfo": {"__class__": "SerializableErrorInfo", "stack": ["  in resolve\n"]}}}]}"#;
        assert_eq!(refusal(body, "LaunchRunSuccess"), "cannot launch demo_job: boom\n      in resolve");
    }

    #[test]
    fn what_is_no_graphql_is_shown_with_its_status() {
        let error = field("launch demo_job", 502, "<html>bad gateway</html>").unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot launch demo_job: the webserver answered HTTP 502, and no GraphQL: <html>bad gateway</html>"
        );
        assert!(matches!(field("read", 200, r#"{"data": {}}"#), Err(Error::NotGraphql { .. })));
    }

    #[test]
    fn an_empty_answer_names_what_is_not_there() {
        let body = r#"{"data": {"workspaceLocationEntryOrError": null}}"#;
        assert_eq!(
            refusal(body, "WorkspaceLocationEntry"),
            "cannot launch demo_job: no answer: there is no WorkspaceLocationEntry of that name"
        );
    }

    #[test]
    fn another_form_than_known_is_shown() {
        let answer = serde_json::json!({"__typename": "Run", "runId": 7});
        let error = member::<Run>("read run 7", answer, "Run").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"cannot read run 7: the answer has an unknown form: {"__typename":"Run","runId":7}"#
        );
    }

    #[test]
    fn a_long_body_is_cut_between_characters() {
        let cut = excerpt(&"é".repeat(EXCERPT + 1));
        assert_eq!(cut.chars().count(), EXCERPT + 1);
        assert!(cut.ends_with("é…"));
    }
}
