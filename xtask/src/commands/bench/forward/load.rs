//! Requests as a client makes them that keeps no connection: one connection, one request, one answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a request may take; longer than any forward holds one.
const LIMIT: Duration = Duration::from_secs(60);
/// Failures that are kept in full.
const SHOWN: usize = 5;

/// One GET; gives how many bytes the body had and its beginning.
pub(super) async fn get(address: SocketAddr, path: &str) -> Result<(u64, String)> {
    timeout(LIMIT, ask(address, path)).await.context("no answer in time")?
}

async fn ask(address: SocketAddr, path: &str) -> Result<(u64, String)> {
    let mut connection = TcpStream::connect(address).await.context("connect")?;
    connection.set_nodelay(true)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.context("send")?;
    let mut bytes = Vec::with_capacity(1 << 16);
    let (head, length) = loop {
        if connection.read_buf(&mut bytes).await.context("read the head")? == 0 {
            bail!("the connection ended after {} bytes", bytes.len());
        }
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut answer = httparse::Response::new(&mut fields);
        if let httparse::Status::Complete(head) = answer.parse(&bytes)? {
            if answer.code != Some(200) {
                bail!("{}", String::from_utf8_lossy(&bytes));
            }
            let length =
                answer.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
            let length: u64 = str::from_utf8(length.context("no length")?.value)?.parse()?;
            break (head, length);
        }
    };
    let mut body = bytes.split_off(head);
    let mut got = body.len() as u64;
    let mut more = vec![0; 1 << 18];
    while got < length {
        match connection.read(&mut more).await.context("read the body")? {
            0 => bail!("the answer broke off after {got} of {length} bytes"),
            n if body.len() < 64 => {
                body.extend_from_slice(&more[..n]);
                got += n as u64;
            }
            n => got += n as u64,
        }
    }
    body.truncate(64);
    Ok((got, String::from_utf8_lossy(&body).into_owned()))
}

/// Requests without a pause, until they are ended.
pub(super) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    made: AtomicU64,
    failed: AtomicU64,
    seen: Mutex<Seen>,
}

/// What a load has met.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Some failures.
    pub(super) failures: Vec<String>,
    /// When each pod answered first.
    pub(super) first: BTreeMap<String, Instant>,
    /// How long the longest answer took.
    pub(super) longest: Duration,
}

impl Load {
    /// Starts `workers` clients of `address`.
    pub(super) fn start(address: SocketAddr, workers: usize) -> Load {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            tasks.spawn(work(address, shared.clone()));
        }
        Load { shared, workers: tasks }
    }

    /// The requests that were made so far.
    pub(super) fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }

    /// Ends it; gives how many requests there were, how many of them failed, and what else was seen.
    pub(super) async fn end(mut self) -> (u64, u64, Seen) {
        self.shared.ended.store(true, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
        let seen = self.shared.seen().clone();
        (self.made(), self.shared.failed.load(Ordering::Relaxed), seen)
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(address: SocketAddr, shared: Arc<Shared>) {
    while !shared.ended.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answer = get(address, "/").await;
        shared.made.fetch_add(1, Ordering::Relaxed);
        let mut seen = shared.seen();
        seen.longest = seen.longest.max(begun.elapsed());
        match answer {
            Ok((_, text)) => {
                let pod = text.trim().rsplit(' ').next().unwrap_or_default();
                if !seen.first.contains_key(pod) {
                    seen.first.insert(pod.to_owned(), Instant::now());
                }
            }
            Err(error) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                if seen.failures.len() < SHOWN {
                    seen.failures.push(format!("{error:#}"));
                }
            }
        }
    }
}
