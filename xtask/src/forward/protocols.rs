//! What passes a forward, by each of its ways, between real clients and real servers.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::join_all;
use futures::{SinkExt, StreamExt};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, client_async};

use super::api::Api;
use super::kubelet::{self, Passes};
use super::pods::{Pods, Seen, Target};
use super::relay::{Dial, Relay, Trouble};
use crate::events::Events;

/// Everything passes.
const OPEN: Passes = Passes { spdy: true, websockets: true };
/// As some proxies before API servers do.
const NO_SPDY: Passes = Passes { spdy: false, websockets: true };

/// As the direct way does.
#[derive(Clone)]
struct Straight(SocketAddr);

impl Dial for Straight {
    type Upstream = TcpStream;

    async fn dial(&self, _: &[Target], _: usize) -> Result<TcpStream> {
        Ok(TcpStream::connect(self.0).await?)
    }
}

fn seen() -> Seen {
    let pod = Target::placed("a", "1");
    Seen { ready: [pod].into(), ..Seen::default() }
}

/// The port of a forward; it is open as long as the tasks are.
async fn open(dial: impl Dial) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (pods, known) = Pods::of(seen());
    let relay = Relay {
        name: "web".to_owned(),
        selector: "app=web".to_owned(),
        pods,
        dial,
        trouble: Trouble::default(),
        events: Events::new(Vec::new()),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        relay.run(listener).await;
        drop(known);
    });
    (address, tasks)
}

/// Does `check` with the address of a forward to `server`, by each way.
async fn by_each_way(server: SocketAddr, check: impl AsyncFn(SocketAddr)) {
    let check = async |way: &str, address| {
        let checked = timeout(Duration::from_secs(60), check(address)).await;
        checked.unwrap_or_else(|_| panic!("it takes too long {way}"));
    };
    let (address, _tasks) = open(Straight(server)).await;
    check("directly", address).await;
    for (way, passes) in [("by SPDY", OPEN), ("by a WebSocket", NO_SPDY)] {
        let (client, _) = kubelet::start(server, passes).await;
        let (address, _tasks) = open(Api::new(client, "ns", 80)).await;
        check(way, address).await;
    }
}

/// A server whose connections are served by `serve`; its address.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(serve(connection));
        }
    });
    address
}

/// Bytes that show it when one is missing or in the wrong place.
fn bytes(len: usize) -> Bytes {
    (0..len).map(|n| (n % 251) as u8).collect()
}

/// Sends all of it as the receiver's window lets it.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let n = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        stream.send_data(bytes.split_to(n), false).unwrap();
    }
}

/// One message as gRPC frames it: not compressed, its length, itself.
fn message(payload: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(payload.len() as u32);
    framed.put_slice(payload);
    framed.freeze()
}

/// The next message of a stream.
async fn receive(stream: &mut RecvStream, rest: &mut BytesMut) -> Option<Bytes> {
    loop {
        if rest.len() >= 5 {
            let len = (&rest[1..5]).get_u32() as usize;
            if rest.len() >= 5 + len {
                rest.advance(5);
                return Some(rest.split_to(len).freeze());
            }
        }
        let data = stream.data().await?.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        rest.extend_from_slice(&data);
    }
}

/// Answers every message of a stream with itself, and its end with a status in trailers.
async fn echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut answer = respond.send_response(head, false).unwrap();
    let (mut asked, mut rest) = (request.into_body(), BytesMut::new());
    while let Some(payload) = receive(&mut asked, &mut rest).await {
        send(&mut answer, message(&payload)).await;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    answer.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn grpc_passes_with_several_streams_in_both_directions() {
    let server = server(async |connection| {
        let mut connection = h2::server::handshake(connection).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(echo(request, respond));
        }
    });
    by_each_way(server.await, async |address| {
        let connection = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(connection).await.unwrap();
        let connection = tokio::spawn(connection);
        let calls = (0..4).map(async |_| {
            let request =
                Request::post("http://pod/test.Echo/Talk").header("content-type", "application/grpc");
            let mut client = client.clone().ready().await.unwrap();
            let (answer, mut asks) = client.send_request(request.body(()).unwrap(), false).unwrap();
            let mut answer = answer.await.unwrap().into_body();
            let mut rest = BytesMut::new();
            // Each but the first waits for the answer before it, as a stream of calls does; the last is longer than a window.
            for payload in (0..20).map(|n| bytes(n * 10)).chain([bytes(1 << 20)]) {
                send(&mut asks, message(&payload)).await;
                assert!(receive(&mut answer, &mut rest).await.unwrap() == payload);
            }
            asks.send_data(Bytes::new(), true).unwrap();
            assert!(receive(&mut answer, &mut rest).await.is_none());
            let trailers = answer.trailers().await.unwrap().unwrap();
            assert_eq!(trailers["grpc-status"], "0");
        });
        join_all(calls).await;
        drop(client);
        connection.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_websocket_passes_until_both_have_closed_it() {
    let server = server(async |connection| {
        let mut socket = accept_async(connection).await.unwrap();
        // Servers may speak first.
        socket.send("welcome".into()).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    });
    by_each_way(server.await, async |address| {
        let connection = TcpStream::connect(address).await.unwrap();
        let (mut socket, _) = client_async("ws://pod/talk", connection).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), "welcome".into());
        let mut messages: Vec<Message> = (0..20).map(|n| Message::text(format!("message {n}"))).collect();
        messages.extend([Message::binary(bytes(2 << 20)), "the last".into()]);
        for message in messages {
            socket.send(message.clone()).await.unwrap();
            assert!(socket.next().await.unwrap().unwrap() == message);
        }
        socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
        let pong = socket.next().await.unwrap().unwrap();
        assert_eq!(pong, Message::Pong(Bytes::from_static(b"there?")));
        socket.close(None).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().is_close());
        assert!(socket.next().await.is_none());
    })
    .await;
}

/// Answers a request whose length is known with its body, as it comes.
async fn mirror(mut connection: TcpStream, pause: Duration) {
    let mut head = BytesMut::new();
    let body = loop {
        connection.read_buf(&mut head).await.unwrap();
        if let Some(end) = head.windows(4).position(|part| part == b"\r\n\r\n") {
            break head.split_off(end + 4);
        }
        if head.is_empty() {
            return;
        }
    };
    let text = String::from_utf8(head.to_vec()).unwrap();
    let len: u64 =
        text.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    tokio::time::sleep(pause).await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&body).await.unwrap();
    let (mut from, mut to) = connection.split();
    let mut rest = (&mut from).take(len - body.len() as u64);
    tokio::io::copy(&mut rest, &mut to).await.unwrap();
}

/// The body that comes back for `body`; with `finish` the client says that it has no more.
async fn post(address: SocketAddr, body: &[u8], finish: bool) -> Bytes {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let (mut from, mut to) = connection.split();
    let head = format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    let write = async {
        to.write_all(head.as_bytes()).await?;
        to.write_all(body).await?;
        if finish { to.shutdown().await } else { Ok(()) }
    };
    let mut answer = Vec::new();
    let (written, read) = tokio::join!(write, from.read_to_end(&mut answer));
    written.unwrap();
    read.unwrap();
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n").expect("no answer");
    Bytes::from(answer).split_off(end + 4)
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions_at_once() {
    let body = bytes(8 << 20);
    by_each_way(server(|connection| mirror(connection, Duration::ZERO)).await, async |address| {
        assert!(post(address, &body, false).await == body);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_finished_gets_an_answer_that_comes_later() {
    // Through containerd a client's end would cost it all that comes more than a second after it.
    let late = server(|connection| mirror(connection, Duration::from_millis(1500)));
    by_each_way(late.await, async |address| assert_eq!(post(address, b"hello", true).await, "hello")).await;
}

#[tokio::test]
async fn where_spdy_is_refused_sessions_are_websockets_and_used_again() {
    let server = server(|connection| mirror(connection, Duration::ZERO)).await;
    let (client, asked) = kubelet::start(server, NO_SPDY).await;
    let (address, _tasks) = open(Api::new(client, "ns", 80)).await;
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(post(address, b"hello", false).await, "hello");
    }
    // Each end of an answer would be a second late.
    assert!(begun.elapsed() < Duration::from_secs(4));
    let count = |count: &std::sync::atomic::AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!((count(&asked.spdy), count(&asked.websocket)), (1, 1));
}

#[tokio::test]
async fn where_neither_passes_both_answers_are_told() {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let (client, _) = kubelet::start(nobody, Passes { spdy: false, websockets: false }).await;
    let error = Api::new(client, "ns", 80).dial(&seen().ready, 0).await.err().unwrap().to_string();
    for part in
        ["forward to pod a: 400", "Upgrade request required", "nor by a WebSocket: 403", "no WebSockets"]
    {
        assert!(error.contains(part), "{error}");
    }
}
