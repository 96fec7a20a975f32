//! The way to a pod through the API server, which exists on every cluster: sessions of the pod's `portforward`, opened
//! ahead and used again.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use kube::Client;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::http1::Ends;
use super::pods::{Pods, Seen, Target};
use super::relay::Dial;
use super::spdy::{Session, Stream};
use super::upgrade::Upgrade;

/// Sessions that wait for the next connection; opening one takes several TLS handshakes.
const SPARE: usize = 2;
/// Sessions that are kept for later.
const KEPT: usize = 16;
/// How long a session waits; load balancers before API servers forget idle connections.
const AGE: Duration = Duration::from_secs(45);
/// Between the first two attempts to open one ahead, from where it doubles: who may not forward by the API will not be
/// allowed to a moment later.
const OPEN_AGAIN: Duration = Duration::from_millis(250);
/// Between two attempts at most.
const OPEN_AGAIN_MAX: Duration = Duration::from_secs(30);
/// Between the first two attempts to open one to a pod that may become ready, from where it grows by a quarter each time: its
/// sandbox is there a moment after its node was chosen, and nothing tells when.
const EARLY_AGAIN: Duration = Duration::from_millis(100);
/// How long a server that speaks no HTTP may be silent after its client has finished, before that counts as the end.
const SILENCE: Duration = Duration::from_secs(5);

/// Pods' ports by the API; clones share the sessions.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    upgrade: Upgrade,
    port: u16,
    idle: Mutex<Vec<Idle>>,
    /// A session was taken.
    taken: Notify,
}

struct Idle {
    uid: String,
    session: Session,
    since: Instant,
    /// The same by the wall clock, which goes on while the machine is suspended.
    wall: SystemTime,
}

impl Idle {
    fn is_fresh(&self) -> bool {
        self.since.elapsed() < AGE && self.wall.elapsed().is_ok_and(|age| age < AGE)
    }
}

/// No session could be opened ahead.
struct Failure {
    /// The pod's.
    uid: String,
    /// How long the next attempt waits, and until when.
    wait: Duration,
    until: Instant,
}

impl Failure {
    /// One to this pod after `last`.
    fn next(last: Option<Failure>, uid: &str) -> Failure {
        let wait = last.map_or(OPEN_AGAIN, |last| (2 * last.wait).min(OPEN_AGAIN_MAX));
        Failure { uid: uid.to_owned(), wait, until: Instant::now() + wait }
    }
}

impl Api {
    pub(super) fn new(client: Client, namespace: &str, port: u16) -> Api {
        let (idle, taken) = (Mutex::default(), Notify::new());
        let upgrade = Upgrade::new(client, namespace);
        Api(Arc::new(Inner { upgrade, port, idle, taken }))
    }

    /// Keeps sessions to the newest ready pod, and to the newest that may become ready, ahead of who will want them; the caller
    /// runs it.
    pub(super) async fn keep_ahead(self, pods: Pods) {
        tokio::join!(self.keep_to_ready(pods.clone()), self.keep_to_coming(pods));
    }

    async fn keep_to_ready(&self, mut pods: Pods) {
        let mut failure: Option<Failure> = None;
        loop {
            let seen = pods.seen();
            self.forget_others(&seen);
            let newest = seen.ready.first();
            // It says little of another pod.
            failure.take_if(|failure| newest.is_none_or(|pod| pod.uid != failure.uid));
            let waits = failure.as_ref().is_some_and(|failure| Instant::now() < failure.until);
            if let Some(pod) = newest.filter(|_| !waits) {
                let filled = self.fill(pod, false).await;
                failure = filled.err().map(|_| Failure::next(failure, &pod.uid));
            }
            let until = failure.as_ref().map(|failure| failure.until);
            tokio::select! {
                () = pods.changed() => {}
                () = self.0.taken.notified(), if until.is_none() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
                () = sleep(AGE / 2) => {}
            }
        }
    }

    /// The pod's address and its readiness may be told at the same time, so neither is waited for.
    async fn keep_to_coming(&self, mut pods: Pods) {
        let mut of: Option<(Target, Instant)> = None;
        loop {
            let coming = pods.seen().coming.first().filter(|pod| pod.is_placed).cloned();
            let since = of.filter(|(last, _)| coming.as_ref().is_some_and(|pod| pod.uid == last.uid));
            let since = since.map_or_else(Instant::now, |(_, since)| since);
            let wait = match &coming {
                Some(pod) if self.fill(pod, true).await.is_err() => {
                    (since.elapsed() / 4).clamp(EARLY_AGAIN, OPEN_AGAIN_MAX)
                }
                _ => AGE / 2,
            };
            let another = async {
                while pods.seen().coming.first().filter(|pod| pod.is_placed) == coming.as_ref() {
                    pods.changed().await;
                }
            };
            let _ = timeout(wait, another).await;
            of = coming.map(|pod| (pod, since));
        }
    }

    /// Opens the sessions to this pod that are missing, `early` where it is not ready.
    async fn fill(&self, pod: &Target, early: bool) -> Result<()> {
        let there = self.idle().iter().filter(|idle| idle.uid == pod.uid).count();
        for _ in there..SPARE {
            let upgrade = &self.0.upgrade;
            let opened =
                if early { upgrade.early(&pod.name).await } else { upgrade.session(&pod.name).await };
            let session = opened.inspect_err(|error| tracing::debug!("no session ahead: {error:#}"))?;
            self.put(pod.uid.clone(), session);
        }
        Ok(())
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_others(&self, seen: &Seen) {
        self.idle().retain(|idle| idle.is_fresh() && seen.of(&idle.uid).is_some());
    }

    fn put(&self, uid: String, session: Session) {
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(Idle { uid, session, since: Instant::now(), wall: SystemTime::now() });
        }
    }

    fn take(&self, uid: &str) -> Option<Session> {
        let mut idle = self.idle();
        // The last one is the likeliest to be alive.
        while let Some(place) = idle.iter().rposition(|idle| idle.uid == uid) {
            let mut kept = idle.remove(place);
            self.0.taken.notify_one();
            if kept.is_fresh() && kept.session.is_usable() {
                return Some(kept.session);
            }
        }
        None
    }

    /// A connection to the pod of this id.
    fn upstream(&self, uid: &str, session: Session) -> Upstream {
        Upstream {
            stream: Some(session.open(self.0.port)),
            api: self.clone(),
            uid: uid.to_owned(),
            ends: Ends::default(),
            finished: false,
            silence: Box::pin(sleep(Duration::ZERO)),
            reader: None,
        }
    }
}

impl Dial for Api {
    type Upstream = Upstream;

    async fn dial(&self, pods: &[Target], attempt: usize) -> Result<Upstream> {
        let pod = &pods[attempt % pods.len()];
        let session = match self.take(&pod.uid) {
            Some(session) => session,
            None => self.0.upgrade.session(&pod.name).await?,
        };
        Ok(self.upstream(&pod.uid, session))
    }
}

/// A connection to a pod.
///
/// To containerd, a stream that ends in one direction ends in the other a second later, whatever has not arrived by then.
/// So the end of what a client sends is kept back until the answer is there; and the end of an answer is taken from
/// HTTP, because the server's own would come that second late.
pub(super) struct Upstream {
    /// There until it is dropped.
    stream: Option<Stream>,
    api: Api,
    uid: String,
    ends: Ends,
    /// The client has.
    finished: bool,
    silence: Pin<Box<Sleep>>,
    reader: Option<Waker>,
}

impl Upstream {
    fn stream(&mut self) -> io::Result<Pin<&mut Stream>> {
        self.stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn is_over(&self) -> bool {
        self.ends.is_over() || self.finished && self.ends.is_settled()
    }
}

impl AsyncRead for Upstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let read = self.stream()?.poll_read(cx, buf);
        match &read {
            Poll::Pending if self.finished && self.ends.is_opaque() => {
                ready!(self.silence.as_mut().poll(cx));
                return Poll::Ready(Ok(()));
            }
            Poll::Pending => self.reader = Some(cx.waker().clone()),
            Poll::Ready(_) => {
                self.ends.answer(&buf.filled()[before..]);
                if self.finished {
                    self.silence.as_mut().reset(Instant::now() + SILENCE);
                }
            }
        }
        read
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(self.stream()?.poll_write(cx, buf))?;
        self.ends.request(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        self.silence.as_mut().reset(Instant::now() + SILENCE);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        self.stream()?.poll_flush(cx)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // Of an answer that nobody has waited for, the rest would still come.
        let whole = self.is_over() || self.ends.is_settled();
        if let Some(stream) = self.stream.take().filter(|stream| whole || stream.is_over()) {
            let mut session = stream.into_session();
            // Writes what ends the stream.
            if session.is_usable() {
                self.api.put(std::mem::take(&mut self.uid), session);
            }
        }
    }
}

#[cfg(test)]
mod tests;
