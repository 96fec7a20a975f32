//! The way to a pod through the API server, which exists on every cluster: sessions of the pod's `portforward`, opened
//! ahead and used again.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use anyhow::{Result, anyhow};
use http::header::{CONNECTION, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use super::http1::Ends;
use super::pods::{Pods, Seen, Target};
use super::relay::{Dial, Outage};
use super::spdy::{Session, Stream};

/// Sessions that wait for the next connection; opening one takes several TLS handshakes.
const SPARE: usize = 2;
/// Sessions that are kept for later.
const KEPT: usize = 16;
/// How long a session waits; load balancers before API servers forget idle connections.
const AGE: Duration = Duration::from_secs(45);
/// How long opening a session may take.
const OPEN: Duration = Duration::from_secs(5);
/// Between the first two attempts to open one ahead, from where it doubles: who may not forward by the API will not be
/// allowed to a moment later.
const OPEN_AGAIN: Duration = Duration::from_millis(250);
/// Between two attempts at most.
const OPEN_AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long a server that speaks no HTTP may be silent after its client has finished, before that counts as the end.
const SILENCE: Duration = Duration::from_secs(5);

/// Pods' ports by the API; clones share the sessions.
#[derive(Clone)]
pub(super) struct Api(Arc<Inner>);

struct Inner {
    client: Client,
    namespace: String,
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
        Api(Arc::new(Inner { client, namespace: namespace.to_owned(), port, idle, taken }))
    }

    /// Keeps sessions to the newest ready pod, and to the newest that may become ready, ahead of who will want them; the caller
    /// runs it.
    pub(super) async fn keep_ahead(self, mut pods: Pods) {
        let mut failure: Option<Failure> = None;
        loop {
            let seen = pods.seen();
            self.forget_others(&seen);
            let newest = seen.ready.first();
            // It says little of another pod.
            failure.take_if(|failure| newest.is_none_or(|pod| pod.uid != failure.uid));
            let waits = failure.as_ref().is_some_and(|failure| Instant::now() < failure.until);
            // Before it has an address there is nothing to lead to.
            let coming = seen.coming.first().filter(|pod| pod.address.is_some());
            let (filled, _) = tokio::join!(self.fill(newest.filter(|_| !waits)), self.fill(coming));
            if let Some(pod) = newest.filter(|_| !waits) {
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

    /// Opens the sessions to this pod that are missing.
    async fn fill(&self, pod: Option<&Target>) -> Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        let there = self.idle().iter().filter(|idle| idle.uid == pod.uid).count();
        for _ in there..SPARE {
            let opened = self.open(pod).await;
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

    /// Opens a session.
    async fn open(&self, pod: &Target) -> Result<Session> {
        let Inner { client, namespace, .. } = &*self.0;
        let name = &pod.name;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/portforward");
        let request = Request::post(path)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "SPDY/3.1")
            .header("X-Stream-Protocol-Version", "portforward.k8s.io")
            .body(Body::empty())?;
        let answer = match timeout(OPEN, client.send(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Outage(crate::exit::message(&error.into())).into()),
            Err(_) => return Err(Outage(format!("no answer within {} s", OPEN.as_secs())).into()),
        };
        let status = answer.status();
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Session::new(TokioIo::new(hyper::upgrade::on(answer).await?)));
        }
        let text = timeout(OPEN, answer.into_body().collect()).await??.to_bytes();
        let said: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let why = said["message"]
            .as_str()
            .map_or_else(|| String::from_utf8_lossy(&text).into_owned(), str::to_owned);
        // A server that is starting or ending.
        if status.is_server_error() {
            return Err(Outage(format!("{status}: {why}")).into());
        }
        Err(anyhow!("the API server does not forward to pod {name}: {status}: {why}"))
    }
}

impl Dial for Api {
    type Upstream = Upstream;

    async fn dial(&self, pods: &[Target], attempt: usize) -> Result<Upstream> {
        let pod = &pods[attempt % pods.len()];
        let session = match self.take(&pod.uid) {
            Some(session) => session,
            None => self.open(pod).await?,
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
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::super::pods::Seen;
    use super::*;

    /// A connection and the server's end of its session.
    fn upstream() -> (Api, Upstream, DuplexStream) {
        let (ours, theirs) = duplex(1 << 20);
        let api = Api::new(crate::fake_api::client().0, "ns", 80);
        let upstream = api.upstream("1", Session::new(ours));
        (api, upstream, theirs)
    }

    /// Data of the first connection of a session.
    fn data(text: &str) -> Vec<u8> {
        [&3_u32.to_be_bytes(), &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
    }

    fn pod(uid: &str) -> Target {
        Target { name: "b".to_owned(), uid: uid.to_owned(), address: None, ports: Vec::new() }
    }

    const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const BYE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

    async fn read_all(upstream: &mut Upstream) -> String {
        let mut text = String::new();
        let read = timeout(1000 * SILENCE, upstream.read_to_string(&mut text)).await;
        read.expect("no end").unwrap();
        text
    }

    // None of these servers ends its stream, as containerd does not within the first second.
    #[tokio::test(start_paused = true)]
    async fn an_answer_after_which_the_server_closes_ends_at_once() {
        let (api, mut upstream, mut server) = upstream();
        upstream.write_all(GET).await.unwrap();
        server.write_all(&data(BYE)).await.unwrap();
        assert_eq!(read_all(&mut upstream).await, BYE);
        drop(upstream);
        assert_eq!(api.idle().len(), 1, "the session is not kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_finished_gets_its_answer_however_late() {
        let (_, mut upstream, mut server) = upstream();
        upstream.write_all(GET).await.unwrap();
        upstream.shutdown().await.unwrap();
        tokio::spawn(async move {
            sleep(60 * SILENCE).await;
            server.write_all(&data(OK)).await.unwrap();
            sleep(60 * SILENCE).await;
        });
        assert_eq!(read_all(&mut upstream).await, OK);
    }

    #[tokio::test(start_paused = true)]
    async fn without_http_silence_is_the_end_once_the_client_has_finished() {
        let (api, mut upstream, mut server) = upstream();
        upstream.write_all(b"\0\0").await.unwrap();
        upstream.shutdown().await.unwrap();
        server.write_all(&data("bye")).await.unwrap();
        assert_eq!(read_all(&mut upstream).await, "bye");
        drop(upstream);
        assert_eq!(api.idle().len(), 0, "more may come on that session");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_whose_server_has_gone_is_not_used() {
        let (api, mut upstream, mut server) = upstream();
        upstream.write_all(GET).await.unwrap();
        server.write_all(&data(BYE)).await.unwrap();
        read_all(&mut upstream).await;
        drop(upstream);
        drop(server);
        assert!(api.take("1").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_has_waited_too_long_is_not_used() {
        let (api, ..) = upstream();
        let (ours, _theirs) = duplex(64);
        api.put("1".to_owned(), Session::new(ours));
        assert!(api.take("1").is_some());
        let (ours, _theirs) = duplex(64);
        api.put("1".to_owned(), Session::new(ours));
        tokio::time::advance(AGE).await;
        assert!(api.take("1").is_none());
        // As after the machine was suspended.
        let (ours, _theirs) = duplex(64);
        api.put("1".to_owned(), Session::new(ours));
        api.idle()[0].wall -= AGE;
        assert!(api.take("1").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_forward_is_not_asked_for_all_the_time() {
        let (client, mut server) = crate::fake_api::client();
        let (pods, sender) = Pods::of(Seen { ready: [pod("1")].into(), ..Seen::default() });
        let ahead = tokio::spawn(Api::new(client, "ns", 80).keep_ahead(pods));
        let mut asked = async |time| {
            let mut count = 0;
            let answers = async {
                while let Some((_, answer)) = server.next_request().await {
                    let why = serde_json::json!({ "message": "no" });
                    answer.send_response(crate::fake_api::answer(StatusCode::FORBIDDEN, &why));
                    count += 1;
                }
            };
            assert!(timeout(time, answers).await.is_err(), "it has ended");
            count
        };
        let early = asked(Duration::from_secs(10)).await;
        assert!((4..8).contains(&early), "{early} requests");
        let later = asked(10 * OPEN_AGAIN_MAX).await;
        assert!((9..13).contains(&later), "{later} requests");
        // What else is told of the same pod is no reason to ask; another pod is.
        sender.send_modify(|_| {});
        assert_eq!(asked(Duration::from_millis(1)).await, 0);
        sender.send_modify(|seen| seen.ready = [pod("2")].into());
        assert_eq!(asked(OPEN_AGAIN / 2).await, 1);
        ahead.abort();
    }

    #[tokio::test]
    async fn sessions_of_pods_that_are_not_ready_are_closed() {
        let (api, upstream, mut server) = upstream();
        drop(upstream);
        api.put("1".to_owned(), Session::new(duplex(64).0));
        api.put("2".to_owned(), Session::new(duplex(64).0));
        api.forget_others(&Seen { ready: [pod("2")].into(), ..Seen::default() });
        assert_eq!(api.idle().iter().map(|idle| idle.uid.as_str()).collect::<Vec<_>>(), ["2"]);
        // One without an answer is not kept at all.
        assert_eq!(server.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
}
