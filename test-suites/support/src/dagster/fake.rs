//! A webserver's half of a subscription, for tests.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// A subscription that a client has begun.
pub(super) struct Subscription(WebSocketStream<TcpStream>);

impl Subscription {
    /// Takes the next connection; gives the cursor that it was asked to go on from.
    pub(super) async fn accept(listener: &TcpListener) -> (Self, Value) {
        let (stream, _) = listener.accept().await.unwrap();
        #[expect(clippy::result_large_err, reason = "the signature is the library's")]
        let agree = |_: &Request, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", "graphql-ws".parse().unwrap());
            Ok(response)
        };
        let mut all = Self(accept_hdr_async(stream, agree).await.unwrap());
        assert_eq!(all.read().await["type"], "connection_init");
        let start = all.read().await;
        (all, start["payload"]["variables"]["cursor"].clone())
    }

    async fn read(&mut self) -> Value {
        let message = self.0.next().await.unwrap().unwrap();
        serde_json::from_str(message.to_text().unwrap()).unwrap()
    }

    /// Tells of events of these types, and that it stands at this cursor then.
    pub(super) async fn tell(&mut self, kinds: &[&str], cursor: &str) {
        let page = json!({"type": "data", "payload": {"data": {"pipelineRunLogs": {
            "__typename": "PipelineRunLogsSubscriptionSuccess", "cursor": cursor, "messages": events(kinds)}}}});
        self.0.send(Message::text(page.to_string())).await.unwrap();
    }
}

/// Events of these types, as Dagster tells them.
pub(super) fn events(kinds: &[&str]) -> Value {
    let event = |kind: &&str| json!({"__typename": "RunEvent", "message": "", "eventType": kind});
    kinds.iter().map(event).collect()
}
