//! Sessions of a pod's `portforward`, as the API server opens them: SPDY itself, or SPDY inside of a WebSocket, for proxies
//! that pass WebSockets on and nothing else that upgrades.
//!
//! Kubernetes knows the second since 1.30, by default since 1.31 (KEP 4006). kube's own WebSocket is older and was refused:
//! it forwards one connection and is gone, where a session takes one after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::relay::Outage;
use super::spdy::Session;
use super::tunnel::Tunnel;

/// The protocol of an upgrade to SPDY.
pub(super) const SPDY: &str = "SPDY/3.1";
/// The WebSocket protocol that carries the same.
pub(super) const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
/// How long opening a session may take.
const OPEN: Duration = Duration::from_secs(5);

/// Opens sessions to the pods of a namespace.
pub(super) struct Upgrade {
    client: Client,
    namespace: String,
    /// Whether something between us and the API server has refused SPDY and passed on a WebSocket.
    tunnels: AtomicBool,
}

/// An answer that is no upgrade.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    why: String,
    /// The API server itself has said so, and would say it of a WebSocket too.
    is_final: bool,
}

impl Refused {
    async fn read(answer: Response<Body>) -> Result<Refused> {
        let status = answer.status();
        let text = timeout(OPEN, answer.into_body().collect()).await??.to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let own = said["kind"] == "Status";
        let why = said["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&text).into_owned(), str::to_owned);
        let about_us = matches!(
            status,
            StatusCode::UNAUTHORIZED
                | StatusCode::FORBIDDEN
                | StatusCode::NOT_FOUND
                | StatusCode::TOO_MANY_REQUESTS
        );
        Ok(Refused { status, why, is_final: own && about_us })
    }

    fn into_error(self, pod: &str) -> anyhow::Error {
        let Refused { status, why, .. } = self;
        // A server that is starting or ending.
        if status.is_server_error() {
            return Outage(format!("{status}: {why}")).into();
        }
        anyhow!("the API server does not forward to pod {pod}: {status}: {why}")
    }
}

impl Upgrade {
    pub(super) fn new(client: Client, namespace: &str) -> Upgrade {
        Upgrade { client, namespace: namespace.to_owned(), tunnels: AtomicBool::new(false) }
    }

    /// A session to this pod.
    ///
    /// # Errors
    /// [`Outage`] where the API server does not answer or is not well; else why it opens none.
    pub(super) async fn session(&self, pod: &str) -> Result<Session> {
        if self.tunnels.load(Ordering::Relaxed) {
            return self.tunnel(pod).await?.map_err(|refused| refused.into_error(pod));
        }
        let refused = match self.spdy(pod).await? {
            Ok(session) => return Ok(session),
            Err(refused) if refused.is_final => return Err(refused.into_error(pod)),
            Err(refused) => refused,
        };
        match self.tunnel(pod).await {
            Ok(Ok(session)) => {
                // A server that is starting may take the next SPDY.
                let lasting = !refused.status.is_server_error();
                if lasting && !self.tunnels.swap(true, Ordering::Relaxed) {
                    tracing::debug!("SPDY is refused ({refused:?}), WebSockets are not");
                }
                Ok(session)
            }
            Ok(Err(other)) if !refused.status.is_server_error() => {
                let error = refused.into_error(pod);
                Err(anyhow!("{error}; nor by a WebSocket: {}: {}", other.status, other.why))
            }
            _ => Err(refused.into_error(pod)),
        }
    }

    /// A session to a pod that may have no sandbox yet, by the way that is known to pass: what the kubelet says of such a pod
    /// is nothing about the way.
    ///
    /// # Errors
    /// As those of [`Upgrade::session`].
    pub(super) async fn early(&self, pod: &str) -> Result<Session> {
        let tunnels = self.tunnels.load(Ordering::Relaxed);
        let opened = if tunnels { self.tunnel(pod).await? } else { self.spdy(pod).await? };
        opened.map_err(|refused| refused.into_error(pod))
    }

    async fn spdy(&self, pod: &str) -> Result<Result<Session, Refused>> {
        let protocol = HeaderName::from_static("x-stream-protocol-version");
        let headers = [(UPGRADE, SPDY), (protocol, "portforward.k8s.io")];
        let answer = self.ask(pod, Method::POST, &headers).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(Refused::read(answer).await?));
        }
        Ok(Ok(Session::new(TokioIo::new(hyper::upgrade::on(answer).await?))))
    }

    async fn tunnel(&self, pod: &str) -> Result<Result<Session, Refused>> {
        let key = generate_key();
        let headers = [
            (UPGRADE, "websocket"),
            (SEC_WEBSOCKET_VERSION, "13"),
            (SEC_WEBSOCKET_KEY, key.as_str()),
            (SEC_WEBSOCKET_PROTOCOL, TUNNELLED),
        ];
        let answer = self.ask(pod, Method::GET, &headers).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(Refused::read(answer).await?));
        }
        if let Err(why) = agrees(answer.headers(), &key) {
            return Ok(Err(Refused { status: answer.status(), why, is_final: false }));
        }
        let upgraded = TokioIo::new(hyper::upgrade::on(answer).await?);
        Ok(Ok(Session::new(Tunnel::new(upgraded, Role::Client).await)))
    }

    async fn ask(&self, pod: &str, method: Method, headers: &[(HeaderName, &str)]) -> Result<Response<Body>> {
        let Upgrade { client, namespace, .. } = self;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/portforward");
        let mut request = Request::builder().method(method).uri(path).header(CONNECTION, "Upgrade");
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        match timeout(OPEN, client.send(request.body(Body::empty())?)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Outage(crate::exit::message(&error.into())).into()),
            Err(_) => Err(Outage(format!("no answer within {} s", OPEN.as_secs())).into()),
        }
    }
}

/// Whether the answer to a WebSocket's handshake is one to this key, for the protocol that was asked for.
fn agrees(headers: &HeaderMap, key: &str) -> Result<(), String> {
    let said = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if said(SEC_WEBSOCKET_ACCEPT) != derive_accept_key(key.as_bytes()) {
        return Err("it has answered another handshake".to_owned());
    }
    match said(SEC_WEBSOCKET_PROTOCOL) {
        TUNNELLED => Ok(()),
        other => Err(format!("it speaks `{other}` and not `{TUNNELLED}`, which Kubernetes 1.31 brought")),
    }
}
