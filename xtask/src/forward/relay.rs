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
use super::pods::{Pods, Target};
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
    fn dial(&self, pods: &[Target], attempt: usize) -> impl Future<Output = Result<Self::Upstream>> + Send;
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
mod tests;
