//! The events of a run as they happen: Dagster's subscription over a WebSocket. What it leaves out, `wait.rs` makes up for.
//!
//! The webserver speaks the old `graphql-ws` protocol (subscriptions-transport-ws). The Rust clients speak its successor,
//! and of the old one this needs no more than two messages to send and four to read.

use std::collections::VecDeque;

use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{self, ClientRequestBuilder, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{Dagster, Error, Event, FOLLOW, RunId, answer};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The events of a run, from its first one on; it does not end by itself.
#[derive(Debug)]
pub(super) struct RunLog<'a> {
    dagster: &'a Dagster,
    run: RunId,
    /// None yet, or it broke.
    socket: Option<Socket>,
    cursor: Option<String>,
    unread: VecDeque<Event>,
}

impl Dagster {
    /// Follows the events of a run; asks nothing yet.
    pub(super) fn follow(&self, run: &RunId) -> RunLog<'_> {
        RunLog { dagster: self, run: run.clone(), socket: None, cursor: None, unread: VecDeque::new() }
    }

    async fn subscribe(&self, run: &RunId, cursor: Option<&str>) -> Result<Socket, tungstenite::Error> {
        // The scheme is the only difference: http becomes ws, https becomes wss.
        let url = format!("{}/graphql", self.url).replacen("http", "ws", 1);
        let request = ClientRequestBuilder::new(url.parse()?).with_sub_protocol("graphql-ws");
        let (mut socket, _) = connect_async(request).await?;
        for message in [
            json!({"type": "connection_init"}),
            json!({
                "type": "start",
                "id": "run-log",
                "payload": {"query": FOLLOW, "variables": {"runId": run, "cursor": cursor}},
            }),
        ] {
            socket.send(Message::text(message.to_string())).await?;
        }
        Ok(socket)
    }
}

impl RunLog<'_> {
    /// The next event; waits until there is one, without a deadline of its own. None when the stream broke or cannot be
    /// opened; asked again, it goes on after the last event.
    ///
    /// # Errors
    /// There is no such run, or Dagster refuses the subscription.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.unread.pop_front() {
                return Ok(Some(event));
            }
            match self.receive().await {
                Ok(text) => {
                    if let Some(page) = page(&self.run, &text)? {
                        self.unread.extend(page.messages);
                        self.cursor = Some(page.cursor);
                    }
                }
                Err(source) => {
                    eprintln!("the stream of the events of run {} broke: {source}", self.run);
                    self.socket = None;
                    return Ok(None);
                }
            }
        }
    }

    /// The next message of the webserver.
    async fn receive(&mut self) -> Result<String, tungstenite::Error> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None => self.socket.insert(self.dagster.subscribe(&self.run, self.cursor.as_deref()).await?),
        };
        loop {
            match socket.next().await.ok_or(tungstenite::Error::ConnectionClosed)?? {
                Message::Text(text) => return Ok(text.as_str().to_owned()),
                Message::Close(_) => return Err(tungstenite::Error::ConnectionClosed),
                // Pings are answered by the library while it reads.
                _ => {}
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    messages: Vec<Event>,
    cursor: String,
}

#[derive(Deserialize)]
struct Frame {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    payload: Value,
}

/// The events in a message of the webserver; none in those that only keep the protocol going.
fn page(run: &RunId, text: &str) -> Result<Option<Page>, Error> {
    let operation = format!("follow run {run}");
    let frame: Frame = serde_json::from_str(text).map_err(|source| Error::Unreadable {
        operation: operation.clone(),
        answer: text.to_owned(),
        source,
    })?;
    match frame.kind.as_str() {
        "connection_ack" | "ka" => Ok(None),
        "data" => {
            // The payload is what an answer over HTTP would be.
            let answer = answer::field(&operation, 200, &frame.payload.to_string())?;
            answer::member(&operation, answer, "PipelineRunLogsSubscriptionSuccess").map(Some)
        }
        // The stream of a run has no end, so that its completion is a fault as well.
        kind => Err(answer::refused(&operation, kind, &frame.payload)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::fake::Subscription;
    use super::*;

    fn run() -> RunId {
        serde_json::from_value(json!("8a1f")).unwrap()
    }

    #[test]
    fn reads_events_and_where_to_go_on() {
        let page = page(
            &run(),
            r#"{"type": "data", "id": "run-log", "payload": {"data": {"pipelineRunLogs": {
                "__typename": "PipelineRunLogsSubscriptionSuccess", "cursor": "c1", "messages": [
                {"__typename": "RunStartEvent", "message": "Started", "eventType": "RUN_START", "stepKey": null}]}}}}"#,
        )
        .unwrap()
        .unwrap();
        assert_eq!(page.cursor, "c1");
        assert_eq!(page.messages.iter().map(Event::kind).collect::<Vec<_>>(), ["RUN_START"]);
    }

    #[test]
    fn what_keeps_the_protocol_going_has_no_events() {
        for kind in ["connection_ack", "ka"] {
            assert!(page(&run(), &format!(r#"{{"type": "{kind}"}}"#)).unwrap().is_none());
        }
    }

    #[test]
    fn a_run_that_does_not_exist_is_refused() {
        let error = page(
            &run(),
            r#"{"type": "data", "payload": {"data": {"pipelineRunLogs": {
                "__typename": "PipelineRunLogsSubscriptionFailure", "message": "Could not load run with id 8a1f"}}}}"#,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot follow run 8a1f: PipelineRunLogsSubscriptionFailure: Could not load run with id 8a1f"
        );
    }

    #[test]
    fn a_wrong_subscription_and_an_end_are_errors() {
        for (frame, message) in [
            (
                r#"{"type": "error", "payload": {"message": "Cannot query field 'x'"}}"#,
                "error: Cannot query field 'x'",
            ),
            (r#"{"type": "complete"}"#, "complete: null"),
        ] {
            let error = page(&run(), frame).unwrap_err();
            assert_eq!(error.to_string(), format!("cannot follow run 8a1f: {message}"));
        }
    }

    /// A webserver that answers each connection with its events and then cuts it; returns the cursors it was asked to
    /// go on from.
    async fn webserver(listener: TcpListener, answers: Vec<Vec<(&str, &str)>>) -> Vec<Value> {
        let mut cursors = Vec::new();
        for events in answers {
            let (mut subscription, cursor) = Subscription::accept(&listener).await;
            cursors.push(cursor);
            for (kind, cursor) in events {
                subscription.tell(&[kind], cursor).await;
            }
        }
        cursors
    }

    #[tokio::test]
    async fn goes_on_after_the_last_event_when_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dagster = Dagster::new(format!("http://{}", listener.local_addr().unwrap()));
        let answers =
            vec![vec![("RUN_STARTING", "c1"), ("RUN_START", "c2")], vec![], vec![("RUN_SUCCESS", "c3")]];
        let reading = async {
            let run = run();
            let mut log = dagster.follow(&run);
            let mut kinds = Vec::new();
            while kinds.len() < 3 {
                if let Some(event) = log.next().await.unwrap() {
                    kinds.push(event.kind().to_owned());
                }
            }
            kinds
        };
        let (cursors, kinds) = tokio::join!(webserver(listener, answers), reading);
        assert_eq!(kinds, ["RUN_STARTING", "RUN_START", "RUN_SUCCESS"]);
        assert_eq!(cursors, [Value::Null, json!("c2"), json!("c2")]);
    }
}
