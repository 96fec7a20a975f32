//! An API server with a kubelet behind it, for tests: it forwards to a server of this machine as containerd does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::spdy::Io;
use super::tunnel::Tunnel;
use super::upgrade::{SPDY, TUNNELLED};

const SYN_STREAM: u32 = 1;
const FIN: u8 = 1;
/// How long containerd waits for the other direction of a connection when one has ended.
const OTHER_DIRECTION: Duration = Duration::from_secs(1);

/// What the proxies before the API server let through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passes {
    pub(super) spdy: bool,
    pub(super) websockets: bool,
}

/// How often it was asked for a session.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) spdy: AtomicUsize,
    pub(super) websocket: AtomicUsize,
}

/// Starts one whose pods all are `pod`; a client of it, and what it counts.
pub(super) async fn start(pod: SocketAddr, passes: Passes) -> (Client, Arc<Asked>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Asked::default());
    let counts = asked.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let counts = counts.clone();
            let serve = service_fn(move |request| {
                let answer = answer(request, pod, passes, &counts);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection =
                http1::Builder::new().serve_connection(TokioIo::new(connection), serve).with_upgrades();
            tokio::spawn(connection);
        }
    });
    let config = Config::new(format!("http://{address}").parse().unwrap());
    (Client::try_from(config).unwrap(), asked)
}

fn answer(
    mut request: Request<Incoming>,
    pod: SocketAddr,
    passes: Passes,
    asked: &Asked,
) -> Response<String> {
    let pending = hyper::upgrade::on(&mut request);
    let said = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let switch = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header(CONNECTION, "Upgrade");
    let answer = match (request.method(), said(UPGRADE)) {
        (&Method::POST, SPDY) => {
            asked.spdy.fetch_add(1, Ordering::Relaxed);
            if passes.spdy {
                tokio::spawn(async move { serve(TokioIo::new(pending.await.unwrap()), pod).await });
                switch.header(UPGRADE, SPDY).body(String::new())
            } else {
                no(StatusCode::BAD_REQUEST, "Upgrade request required")
            }
        }
        (&Method::GET, "websocket") if said(SEC_WEBSOCKET_PROTOCOL) == TUNNELLED => {
            asked.websocket.fetch_add(1, Ordering::Relaxed);
            if passes.websockets {
                let accept = derive_accept_key(said(SEC_WEBSOCKET_KEY).as_bytes());
                tokio::spawn(async move {
                    let upgraded = TokioIo::new(pending.await.unwrap());
                    serve(Tunnel::new(upgraded, Role::Server).await, pod).await
                });
                let switch = switch.header(UPGRADE, "websocket").header(SEC_WEBSOCKET_ACCEPT, accept);
                switch.header(SEC_WEBSOCKET_PROTOCOL, TUNNELLED).body(String::new())
            } else {
                no(StatusCode::FORBIDDEN, "no WebSockets here")
            }
        }
        other => no(StatusCode::NOT_FOUND, &format!("{other:?}")),
    };
    answer.unwrap()
}

fn no(status: StatusCode, why: &str) -> http::Result<Response<String>> {
    let body = serde_json::json!({"kind": "Status", "message": why, "code": status.as_u16()});
    Response::builder().status(status).body(body.to_string())
}

fn frame(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let second = u32::from(flags) << 24 | payload.len() as u32;
    [&stream.to_be_bytes(), &second.to_be_bytes(), payload].concat()
}

fn reset(stream: u32) -> Vec<u8> {
    [&[0x80, 3, 0, 3, 0, 0, 0, 8][..], &stream.to_be_bytes(), &[0, 0, 0, 5]].concat()
}

/// Serves a session until its client goes.
async fn serve(io: impl Io + 'static, pod: SocketAddr) -> io::Result<()> {
    let (mut from, mut to) = split(io);
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(4);
    tokio::spawn(async move {
        while let Some(frame) = queue.recv().await {
            to.write_all(&frame).await?;
            to.flush().await?;
        }
        io::Result::Ok(())
    });
    let mut streams: BTreeMap<u32, mpsc::Sender<Vec<u8>>> = BTreeMap::new();
    loop {
        let (first, second) = (from.read_u32().await?, from.read_u32().await?);
        let mut payload = vec![0; (second & 0x00ff_ffff) as usize];
        from.read_exact(&mut payload).await?;
        let fin = (second >> 24) as u8 & FIN != 0;
        if first & 0x8000_0000 == 0 {
            if let Some(stream) = streams.get(&first) {
                if !payload.is_empty() {
                    let _ = stream.send(payload).await;
                }
                if fin {
                    streams.remove(&first);
                }
            }
        } else if first & 0xffff == SYN_STREAM {
            let id = u32::from_be_bytes(payload[..4].try_into().unwrap());
            // Our client does not compress.
            if payload.windows(18).any(|part| part == b"streamtype\0\0\0\x04data") {
                let (sender, sent) = mpsc::channel(4);
                streams.insert(id, sender);
                tokio::spawn(forward(id, pod, sent, frames.clone()));
            }
        }
    }
}

/// Passes on one connection; its error stream was opened just before it.
async fn forward(id: u32, pod: SocketAddr, mut sent: mpsc::Receiver<Vec<u8>>, frames: mpsc::Sender<Vec<u8>>) {
    let errors = id - 2;
    let send = async |frame| drop(frames.send(frame).await);
    let Ok(mut pod) = TcpStream::connect(pod).await else {
        send(frame(id, FIN, b"")).await;
        send(frame(errors, 0, b"failed to connect to localhost:80: connection refused")).await;
        send(reset(errors)).await;
        return;
    };
    let (mut from, mut to) = pod.split();
    let mut up = pin!(async {
        while let Some(bytes) = sent.recv().await {
            to.write_all(&bytes).await?;
        }
        io::Result::Ok(())
    });
    let mut down = pin!(async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match from.read(&mut buffer).await? {
                0 => return io::Result::Ok(()),
                n => send(frame(id, 0, &buffer[..n])).await,
            }
        }
    });
    // Whatever has not arrived by then.
    tokio::select! {
        _ = &mut up => drop(timeout(OTHER_DIRECTION, down).await),
        _ = &mut down => drop(timeout(OTHER_DIRECTION, up).await),
    }
    send(frame(id, FIN, b"")).await;
    send(frame(errors, FIN, b"")).await;
}
