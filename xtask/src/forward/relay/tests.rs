//! Relays between local TCP servers.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::sync::watch::Sender;

use super::super::pods::Seen;
use super::*;

/// Dials what listens on this machine, in turn.
#[derive(Clone)]
struct Local(Arc<[SocketAddr]>);

impl Dial for Local {
    type Upstream = TcpStream;

    async fn dial(&self, _: &[Target], attempt: usize) -> Result<TcpStream> {
        Ok(TcpStream::connect(self.0[attempt % self.0.len()]).await?)
    }
}

fn seen(ready: bool) -> Seen {
    let pod = Target::placed("a", "1");
    Seen { ready: ready.then_some(pod).into_iter().collect(), ..Seen::default() }
}

struct Open {
    address: SocketAddr,
    pods: Sender<Seen>,
    trouble: Trouble,
    tasks: JoinSet<()>,
}

/// A relay to `upstreams`.
async fn open(upstreams: &[SocketAddr], ready: bool) -> Open {
    let (pods, sender) = Pods::of(seen(ready));
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    let trouble = Trouble::default();
    let relay = Relay {
        name: "web".to_owned(),
        selector: "app=web".to_owned(),
        pods,
        dial: Local(upstreams.into()),
        trouble: trouble.clone(),
        events: Events::new(Vec::new()),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(relay.run(listener));
    Open { address, pods: sender, trouble, tasks }
}

async fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

/// A server whose n-th connection is served by `serve`; its address.
async fn server<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = listen().await;
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for n in 0.. {
            let (connection, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(n, connection));
        }
    });
    address
}

/// Ends its first connections once something was sent to them, by a reset or not; answers the later ones with what
/// they were sent.
async fn dies_first(times: usize, reset: bool) -> SocketAddr {
    server(move |n, mut connection| async move {
        let mut bytes = vec![0; 4096];
        let len = connection.read(&mut bytes).await?;
        if n < times {
            return if reset { connection.set_zero_linger() } else { Ok(()) };
        }
        connection.write_all(&bytes[..len]).await
    })
    .await
}

async fn ask(address: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(request).await?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await?;
    Ok(answer)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const POST: &[u8] = b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn a_client_that_has_finished_still_gets_its_answer() {
    let upstream = server(|_, mut connection| async move {
        let mut all = Vec::new();
        connection.read_to_end(&mut all).await?;
        connection.write_all(format!("{} bytes", all.len()).as_bytes()).await
    })
    .await;
    let relay = open(&[upstream], true).await;
    let mut connection = TcpStream::connect(relay.address).await.unwrap();
    connection.write_all(&vec![1; 3 * KEPT]).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, format!("{} bytes", 3 * KEPT));
}

#[tokio::test]
async fn a_server_that_has_finished_still_gets_the_rest() {
    let (sender, mut received) = tokio::sync::mpsc::channel(1);
    let upstream = server(move |_, mut connection| {
        let sender = sender.clone();
        async move {
            connection.write_all(b"bye").await?;
            connection.shutdown().await?;
            let mut rest = Vec::new();
            connection.read_to_end(&mut rest).await?;
            let _ = sender.send(rest).await;
            Ok(())
        }
    })
    .await;
    let relay = open(&[upstream], true).await;
    let mut connection = TcpStream::connect(relay.address).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "bye");
    connection.write_all(b"thanks").await.unwrap();
    drop(connection);
    assert_eq!(received.recv().await.unwrap(), b"thanks");
}

#[tokio::test]
async fn bytes_pass_untouched_in_both_directions() {
    let echo = server(|_, mut connection| async move {
        let (mut from, mut to) = connection.split();
        tokio::io::copy(&mut from, &mut to).await.map(drop)
    })
    .await;
    let relay = open(&[echo], true).await;
    let upgrade = b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x81\x05hello\x00\xff".to_vec();
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
    let large: Vec<u8> = (0..8_000_000_u32).map(|n| (n % 251) as u8).collect();
    for bytes in [upgrade, http2, large] {
        let mut connection = TcpStream::connect(relay.address).await.unwrap();
        let (mut from, mut to) = connection.split();
        let mut back = Vec::new();
        let write = async {
            to.write_all(&bytes).await?;
            to.shutdown().await
        };
        let (written, read) = tokio::join!(write, from.read_to_end(&mut back));
        written.unwrap();
        read.unwrap();
        assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    }
}

#[tokio::test]
async fn a_get_is_sent_again_where_the_server_died_before_it_answered() {
    for reset in [false, true] {
        let relay = open(&[dies_first(2, reset).await], true).await;
        assert_eq!(ask(relay.address, GET).await.unwrap(), GET);
    }
}

#[tokio::test]
async fn a_post_is_never_sent_again() {
    let relay = open(&[dies_first(1, false).await], true).await;
    assert_eq!(ask(relay.address, POST).await.unwrap(), b"");
    let relay = open(&[dies_first(1, true).await], true).await;
    assert!(ask(relay.address, POST).await.is_err(), "a cut answer must not look like an empty one");
}

#[tokio::test]
async fn a_post_behind_a_get_is_never_sent_again() {
    let both = [GET, POST].concat();
    let relay = open(&[dies_first(1, false).await], true).await;
    assert_eq!(ask(relay.address, &both).await.unwrap(), b"");
    let relay = open(&[dies_first(1, true).await], true).await;
    assert!(ask(relay.address, &both).await.is_err());
}

#[tokio::test]
async fn a_request_that_ends_every_server_is_given_up() {
    let relay = open(&[dies_first(usize::MAX, true).await], true).await;
    assert!(ask(relay.address, GET).await.is_err());
    assert!(relay.trouble.get().is_some());
}

#[tokio::test]
async fn a_server_that_refuses_is_passed_over() {
    let closed = listen().await.local_addr().unwrap();
    let relay = open(&[closed, dies_first(0, false).await], true).await;
    assert_eq!(ask(relay.address, POST).await.unwrap(), POST);
}

#[tokio::test]
async fn a_connection_is_held_until_a_pod_is_ready() {
    let relay = open(&[dies_first(0, false).await], false).await;
    let asked = tokio::spawn(ask(relay.address, POST));
    // It has been taken and nobody has answered.
    sleep(Duration::from_millis(50)).await;
    assert!(!asked.is_finished());
    relay.pods.send_replace(seen(true));
    assert_eq!(asked.await.unwrap().unwrap(), POST);
}

#[tokio::test]
async fn connections_end_with_the_forward() {
    let (sender, mut reached) = tokio::sync::mpsc::channel(1);
    // It stays until its client has gone.
    let silent = server(move |_, mut connection| {
        let sender = sender.clone();
        async move {
            connection.read_exact(&mut [0; 5]).await?;
            let _ = sender.send(()).await;
            connection.read_to_end(&mut Vec::new()).await.map(drop)
        }
    });
    let relay = open(&[silent.await], true).await;
    let mut connection = TcpStream::connect(relay.address).await.unwrap();
    connection.write_all(b"hello").await.unwrap();
    reached.recv().await.unwrap();
    drop(relay.tasks);
    let end = timeout(Duration::from_secs(5), connection.read(&mut [0; 9])).await.expect("it is still open");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert!(TcpStream::connect(relay.address).await.is_err());
}
