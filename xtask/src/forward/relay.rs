//! Takes connections on 127.0.0.1 and passes each on, first accepting and then dialling: a rollout delays a connection
//! instead of refusing it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::http1;
use super::pods::{Pods, ReadyPod};
use crate::events::Events;

/// How long a connection is held while no pod is ready or none takes it.
pub(super) const HOLD: Duration = Duration::from_secs(5);
/// How long it is held while the API server does not answer: one that restarts needs most of it.
const OUTAGE: Duration = Duration::from_secs(30);
/// Between two attempts to dial; nothing tells when a pod or the node's rules are ready for it.
const DIAL_AGAIN: Duration = Duration::from_millis(20);
/// How much of what a client has sent is kept to be sent again.
const KEPT: usize = 64 * 1024;
/// How often the same request is sent again: it may be the request that ends the pod.
const REPEATS: usize = 5;
/// How long a client's first bytes are awaited, so that they travel with what opens the connection.
const FIRST_BYTES: Duration = Duration::from_millis(1);
/// A buffer for each direction of a connection.
const BUFFER: usize = 128 * 1024;

/// A way to a pod's port.
pub(super) trait Dial: Clone + Send + Sync + 'static {
    /// The connection.
    type Upstream: AsyncRead + AsyncWrite + Send + Unpin;

    /// One attempt to connect to one of `pods`, which are ready, the newest first; `attempt` counts from 0.
    fn dial(&self, pods: &[ReadyPod], attempt: usize) -> impl Future<Output = Result<Self::Upstream>> + Send;
}

/// The API server cannot be reached, so that nothing can be said of the pods.
#[derive(Debug)]
pub(super) struct Outage(pub(super) String);

impl std::fmt::Display for Outage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the API server cannot be reached: {}", self.0)
    }
}

impl std::error::Error for Outage {}

/// Why connections fail at this moment; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble(Arc<Mutex<Reasons>>);

#[derive(Debug, Default)]
struct Reasons {
    last: Option<String>,
    told: Option<String>,
}

impl Trouble {
    fn reasons(&self) -> MutexGuard<'_, Reasons> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the last connection failed, unless it was answered.
    pub(super) fn get(&self) -> Option<String> {
        self.reasons().last.clone()
    }

    fn set(&self, error: &impl ToString) {
        self.reasons().last = Some(error.to_string());
    }

    fn clear(&self) {
        *self.reasons() = Reasons::default();
    }

    /// Why a connection was given up, unless that was the last that was said.
    fn news(&self) -> Option<String> {
        let mut reasons = self.reasons();
        let news = reasons.last.clone().filter(|last| reasons.told.as_ref() != Some(last));
        reasons.told = reasons.last.clone();
        news
    }
}

/// A forward's listener and what is behind it.
pub(super) struct Relay<D> {
    pub(super) name: String,
    pub(super) selector: String,
    pub(super) pods: Pods,
    pub(super) dial: D,
    pub(super) trouble: Trouble,
    pub(super) events: Events,
}

impl<D: Dial> Relay<D> {
    /// Serves until it is dropped, which ends all connections.
    pub(super) async fn run(self, listener: TcpListener) {
        let relay = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((connection, _)) => {
                    let relay = relay.clone();
                    connections.spawn(async move { relay.serve(connection).await });
                }
                // Out of file descriptors, say: others may be closed soon.
                Err(error) => {
                    relay.events.warn(format!("forward {}: cannot take a connection: {error}", relay.name));
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(&self, mut client: TcpStream) {
        if let Err(error) = self.pass_on(&mut client).await {
            // Half an answer must not look like a whole one.
            let _ = client.set_zero_linger();
            tracing::debug!("forward {}: {error:#}", self.name);
        }
    }

    async fn pass_on(&self, client: &mut TcpStream) -> Result<()> {
        client.set_nodelay(true)?;
        let begun = Instant::now();
        let mut sent = Sent::default();
        let mut repeats = 0;
        loop {
            let (upstream, _) = tokio::join!(self.connect(), timeout(FIRST_BYTES, client.readable()));
            let upstream = match upstream {
                Ok(upstream) => upstream,
                Err(error) => {
                    self.trouble.set(&format!("{error:#}"));
                    return Err(self.give_up(error));
                }
            };
            let error = match exchange(client, upstream, &mut sent).await {
                Exchange::Answered(end) => {
                    self.trouble.clear();
                    return Ok(end?);
                }
                Exchange::Unanswered(error) => error,
            };
            let Some(error) = error else {
                // A server may well answer nothing to a client that has nothing more to say.
                if sent.finished || repeats == REPEATS || !sent.may_be_repeated(false) {
                    return Ok(client.shutdown().await?);
                }
                repeats += 1;
                sleep(DIAL_AGAIN).await;
                continue;
            };
            self.trouble.set(&error);
            // Refused connections take nothing with them: a container may be starting again.
            let refused = error.kind() == io::ErrorKind::ConnectionRefused;
            let again = if refused { begun.elapsed() < HOLD } else { repeats < REPEATS };
            if !again || !sent.may_be_repeated(refused) {
                return Err(self.give_up(error.into()));
            }
            tracing::debug!("forward {}: again, because {error} came before an answer", self.name);
            repeats += usize::from(!refused);
            sleep(DIAL_AGAIN).await;
        }
    }

    fn give_up(&self, error: anyhow::Error) -> anyhow::Error {
        if let Some(news) = self.trouble.news() {
            self.events.warn(format!("forward {}: {news}", self.name));
        }
        error
    }

    /// A connection to a ready pod, as soon as there is one that takes it.
    async fn connect(&self) -> Result<D::Upstream> {
        let mut pods = self.pods.clone();
        let begun = Instant::now();
        let mut refused = None;
        let mut attempt = 0;
        loop {
            let ready = match pods.ready(begun + HOLD).await {
                Ok(ready) => ready,
                // It may be ready, and nobody can tell us.
                Err(seen) if seen.error.is_some() && begun.elapsed() < OUTAGE => {
                    let _ = timeout(OUTAGE.saturating_sub(begun.elapsed()), pods.changed()).await;
                    continue;
                }
                Err(seen) => return Err(anyhow!(seen.why_none(&self.selector, begun.elapsed()))),
            };
            match self.dial.dial(&ready, attempt).await {
                Ok(upstream) => return Ok(upstream),
                Err(error) if error.is::<Outage>() => {
                    refused = None;
                    if begun.elapsed() > OUTAGE {
                        return Err(error);
                    }
                }
                // An API server that has just started may refuse for a moment what it allows.
                Err(error) => {
                    if refused.get_or_insert_with(Instant::now).elapsed() > HOLD {
                        return Err(error);
                    }
                }
            }
            attempt += 1;
            sleep(DIAL_AGAIN).await;
        }
    }
}

/// What a client has sent before it was answered.
#[derive(Default)]
struct Sent {
    bytes: Vec<u8>,
    /// It was too much to keep.
    overflow: bool,
    /// The client has said that it will send no more.
    finished: bool,
}

impl Sent {
    fn push(&mut self, bytes: &[u8]) {
        self.overflow |= self.bytes.len() + bytes.len() > KEPT;
        if !self.overflow {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Whether sending it to another pod does no harm; `refused` says that nobody has got it.
    fn may_be_repeated(&self, refused: bool) -> bool {
        let unheard = refused || self.bytes.is_empty() && !self.finished;
        !self.overflow && (unheard || http1::may_be_repeated(&self.bytes))
    }
}

/// How far a client got with one connection to a pod.
enum Exchange {
    /// It was answered, then the connection ended.
    Answered(io::Result<()>),
    /// The connection ended, by an error or not, before one byte of an answer.
    Unanswered(Option<io::Error>),
}

async fn exchange(
    client: &mut TcpStream,
    mut upstream: impl AsyncRead + AsyncWrite + Send + Unpin,
    sent: &mut Sent,
) -> Exchange {
    match first_answer(client, &mut upstream, sent).await {
        Ok(()) => {}
        Err(Lost::Upstream(error)) => return Exchange::Unanswered(error),
        Err(Lost::Client(error)) => return Exchange::Answered(Err(error)),
    }
    let copied = copy_bidirectional_with_sizes(client, &mut upstream, BUFFER, BUFFER).await;
    Exchange::Answered(copied.map(drop))
}

/// Which side an exchange has lost.
enum Lost {
    Client(io::Error),
    Upstream(Option<io::Error>),
}

/// Passes bytes on in both directions until the first of an answer, or until more was sent than is kept.
async fn first_answer(
    client: &mut TcpStream,
    upstream: &mut (impl AsyncRead + AsyncWrite + Send + Unpin),
    sent: &mut Sent,
) -> Result<(), Lost> {
    let (mut question, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let mut said = say(upstream, &sent.bytes, sent.finished).await;
    loop {
        tokio::select! {
            // What opens a connection waits for the first bytes to travel with it.
            biased;
            read = client.read(&mut question), if !sent.finished && said.is_ok() => {
                let n = read.map_err(Lost::Client)?;
                sent.push(&question[..n]);
                sent.finished = n == 0;
                said = say(upstream, &question[..n], sent.finished).await;
                if sent.overflow && said.is_ok() {
                    return Ok(());
                }
            }
            read = upstream.read(&mut answer) => {
                return match (read, said) {
                    (Ok(n), _) if n > 0 => client.write_all(&answer[..n]).await.map_err(Lost::Client),
                    // It may have answered before it refused to hear more; else that is the cause.
                    (_, Err(error)) | (Err(error), Ok(())) => Err(Lost::Upstream(Some(error))),
                    (Ok(_), Ok(())) => Err(Lost::Upstream(None)),
                };
            }
        }
    }
}

async fn say(upstream: &mut (impl AsyncWrite + Unpin), bytes: &[u8], finished: bool) -> io::Result<()> {
    if !bytes.is_empty() {
        upstream.write_all(bytes).await?;
        upstream.flush().await?;
    }
    if finished { upstream.shutdown().await } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::sync::watch::Sender;

    use super::super::pods::Seen;
    use super::*;

    /// Dials what listens on this machine, in turn.
    #[derive(Clone)]
    struct Local(Arc<[SocketAddr]>);

    impl Dial for Local {
        type Upstream = TcpStream;

        async fn dial(&self, _: &[ReadyPod], attempt: usize) -> Result<TcpStream> {
            Ok(TcpStream::connect(self.0[attempt % self.0.len()]).await?)
        }
    }

    fn seen(ready: bool) -> Seen {
        let pod = ReadyPod { name: "a".to_owned(), uid: "1".to_owned(), address: None, ports: Vec::new() };
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
        let silent = server(|_, mut connection| async move { connection.read(&mut [0; 9]).await.map(drop) });
        let relay = open(&[silent.await], true).await;
        let mut connection = TcpStream::connect(relay.address).await.unwrap();
        connection.write_all(b"hello").await.unwrap();
        drop(relay.tasks);
        let end =
            timeout(Duration::from_secs(5), connection.read(&mut [0; 9])).await.expect("it is still open");
        assert!(matches!(end, Ok(0) | Err(_)));
        assert!(TcpStream::connect(relay.address).await.is_err());
    }
}
