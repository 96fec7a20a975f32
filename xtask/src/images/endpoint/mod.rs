//! A registry on 127.0.0.1 that `docker push` sends to, so that Docker itself leaves out the layers that the
//! nodes hold.
//!
//! Before Docker sends a layer it asks for it (`HEAD …/blobs/<digest>`). The answer is "exists" for what the nodes
//! hold, so what arrives is what they lack, in the digests that Docker will ask for the next time.
//!
//! What to know of Docker's classic store (moby `distribution/push_v2.go`, tried with 20.10.24 by `tests/docker.rs`):
//! - It keeps layers unpacked and compresses them anew to send them. It remembers the digests that this gave, by the
//!   layer's diff id, each with the repository (`host:port/name`) it was pushed to or pulled from. It can only ask for
//!   what it remembers: a layer that was neither pushed nor pulled is always sent.
//! - It first asks for one remembered digest, of whichever repository and whatever the layer's size
//!   (`layerAlreadyExists(…, true, 1, …)`). So another port or name does no harm while a layer has one digest. Where it
//!   has several, that of the repository most alike is asked for, then the youngest: the same port and name get ours.
//!   Only the later questions depend on size and repository.
//! - A digest of this very repository that we say not to have is forgotten, and the layer sent.
//! - The length in the answer to HEAD becomes the layer's `size` in the manifest, so [`Has`] must know it.
//! - It asks for the configuration too, whose digest is the image's id, and always sends the manifest.
//! - It tries TLS first, on 127.0.0.0/8 without insisting on it; containerd's client needs an answer in HTTP to that,
//!   which hyper's `400 Bad Request` is.
//! - A layer that fails is tried five times with growing pauses (`xfer/upload.go`), unless the code is one like
//!   `TOOMANYREQUESTS` or `NAME_UNKNOWN`: so end a push rather than refuse what it sends.
//! - Pushing leaves a reference `host:port/name@sha256:…` on the image, which goes with the tag of that name.
//!
//! Only local processes reach it, and they are served only the repositories they know the names of: let a part
//! of the name be a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

mod answer;
mod manifests;
mod route;
mod serve;
mod store;
#[cfg(test)]
mod tests;
mod uploads;

use store::Store;

/// Connections served at the same time; Docker uses one for each of its five uploads.
const CONNECTIONS: usize = 32;
/// How long a client may say nothing, between requests or within one. Docker goes on with a connection after it
/// has sent a big layer on another one, so this is generous.
const IDLE: Duration = Duration::from_secs(120);

/// What Docker pushed.
#[derive(Debug, Default)]
pub struct Received {
    /// Manifests by `repository:tag` and by `repository@digest`, as they were named; without the host.
    pub manifests: BTreeMap<String, Manifest>,
    /// The blobs that were kept, by digest (`sha256:…`).
    pub blobs: BTreeMap<String, Bytes>,
    /// Blobs that were not kept: read to their end, verified, and dropped or passed on. From the digest to the length.
    pub dropped: BTreeMap<String, u64>,
    /// Bytes received in all.
    pub bytes: u64,
}

/// A manifest or an index as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its bytes, of which the digest was made.
    pub bytes: Bytes,
    /// Its media type.
    pub media_type: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
}

/// How much is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one blob: a bigger one is dropped.
    pub blob: usize,
    /// Bytes of all blobs: one that goes beyond is dropped.
    pub total: usize,
}

impl Default for Limits {
    /// Most changes of an image are smaller, and what is bigger is not to fill memory.
    fn default() -> Limits {
        Limits { blob: 16 << 20, total: 32 << 20 }
    }
}

/// What becomes of the blobs that come.
#[derive(Debug)]
pub enum Take {
    /// They are kept in memory; what is too big is dropped.
    Keep(Limits),
    /// One is passed on while it comes, and comes no faster than it is taken; no other is let in.
    Pass(mpsc::Sender<Bytes>),
}

/// The length of the blob of this digest where every node that needs it holds it, else nothing.
///
/// It has to be the true one: Docker writes it into the manifest.
pub type Has = dyn Fn(&str) -> Option<u64> + Send + Sync;

/// A registry on 127.0.0.1; dropping it ends all it does.
#[derive(Debug)]
pub struct Endpoint {
    port: u16,
    store: Arc<Store>,
    stop: CancellationToken,
    serving: JoinSet<()>,
}

impl Endpoint {
    /// Listens on 127.0.0.1, on `preferred` where that port is free, else on a free one, and serves
    /// `repositories` and no others.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn listen(
        preferred: Option<u16>,
        repositories: BTreeSet<String>,
        take: Take,
        has: Arc<Has>,
    ) -> Result<Endpoint> {
        let listener = match preferred {
            Some(port) => match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::debug!("127.0.0.1:{port} cannot be listened on, so take another port: {error}");
                    any_port().await?
                }
            },
            None => any_port().await?,
        };
        let port = listener.local_addr().context("ask for the port that was got")?.port();
        let store = Arc::new(Store::new(repositories, take, has));
        let stop = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, store.clone(), stop.clone()));
        Ok(Endpoint { port, store, stop, serving })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name under which an image is pushed to a repository here.
    #[must_use]
    pub fn reference(&self, repository: &str, tag: &str) -> String {
        format!("127.0.0.1:{}/{repository}:{tag}", self.port)
    }

    /// Bytes of blobs that are not kept, while they come: for whoever wants to give up early.
    #[must_use]
    pub fn dropped(&self) -> watch::Receiver<u64> {
        self.store.dropped()
    }

    /// Stops listening, ends what is under way, and gives what came.
    pub async fn finish(mut self) -> Received {
        self.stop.cancel();
        while self.serving.join_next().await.is_some() {}
        self.store.take()
    }
}

async fn any_port() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listen on a free port of 127.0.0.1, to have images pushed to")
}

async fn accept(listener: TcpListener, store: Arc<Store>, stop: CancellationToken) {
    // Of this task, so that aborting it aborts them.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((connection, _)) => {
                    connections.spawn(serve_connection(connection, store.clone()));
                }
                Err(error) => {
                    // Out of file descriptors, say: others may be closed soon.
                    tracing::debug!("cannot take a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve_connection(connection: TcpStream, store: Arc<Store>) {
    let service = service_fn(move |request| {
        let store = store.clone();
        async move { Ok::<_, Infallible>(serve::serve(&store, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .serve_connection(TokioIo::new(connection), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection ended early: {error}");
    }
}
