//! What has been received, within its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::body::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::uploads::Upload;
use super::{Has, Limits, Manifest, Received, Take};

/// Uploads under way at the same time; Docker has five.
const UPLOADS: usize = 16;
/// Manifests that are kept; a push of one image brings a handful.
const MANIFESTS: usize = 256;

/// What all connections share.
pub(super) struct Store {
    repositories: BTreeSet<String>,
    has: Arc<Has>,
    /// The longest blob that is kept.
    blob_max: usize,
    /// A permit for each upload that may begin.
    slots: Arc<Semaphore>,
    /// A permit for each byte that may be kept.
    room: Arc<Semaphore>,
    /// Whether the one blob that is let in is passed on.
    passes: bool,
    dropped: watch::Sender<u64>,
    bytes: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    manifests: BTreeMap<String, Manifest>,
    blobs: BTreeMap<String, Bytes>,
    dropped: BTreeMap<String, u64>,
    /// Uploads between two requests; one that is being received belongs to its request, and goes with it.
    uploads: BTreeMap<String, Upload>,
    /// Where the blob goes that is passed on, until its upload begins.
    pass: Option<mpsc::Sender<Bytes>>,
}

impl Store {
    pub(super) fn new(repositories: BTreeSet<String>, take: Take, has: Arc<Has>) -> Store {
        let (limits, pass) = match take {
            Take::Keep(limits) => (limits, None),
            Take::Pass(to) => (Limits { blob: 0, total: 0 }, Some(to)),
        };
        Store {
            repositories,
            has,
            blob_max: limits.blob,
            slots: Arc::new(Semaphore::new(UPLOADS)),
            room: Arc::new(Semaphore::new(limits.total.min(Semaphore::MAX_PERMITS))),
            passes: pass.is_some(),
            dropped: watch::Sender::new(0),
            bytes: AtomicU64::new(0),
            held: Mutex::new(Held { pass, ..Held::default() }),
        }
    }

    pub(super) fn serves(&self, repository: &str) -> bool {
        self.repositories.contains(repository)
    }

    pub(super) fn dropped(&self) -> watch::Receiver<u64> {
        self.dropped.subscribe()
    }

    /// Bytes have come.
    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes have come, or are given up, that will not be kept.
    pub(super) fn count_dropped(&self, bytes: u64) {
        self.dropped.send_modify(|sum| *sum += bytes);
    }

    /// A place for an upload, if there is one.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.held().uploads.retain(|_, upload| !upload.is_stale());
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Whether blobs are passed on; the first one that asks is told where to.
    pub(super) fn pass(&self) -> Option<Option<mpsc::Sender<Bytes>>> {
        self.passes.then(|| self.held().pass.take())
    }

    /// Room for `more` bytes of a blob that has `length`, if there is any.
    pub(super) fn room(&self, length: usize, more: usize) -> Option<OwnedSemaphorePermit> {
        if length.saturating_add(more) > self.blob_max {
            return None;
        }
        self.room.clone().try_acquire_many_owned(u32::try_from(more).ok()?).ok()
    }

    /// The length of a blob that was received or that the nodes hold.
    pub(super) fn length(&self, digest: &str) -> Option<u64> {
        let held = self.held();
        let received = held.blobs.get(digest).map(|blob| blob.len() as u64);
        let received = received.or_else(|| held.dropped.get(digest).copied());
        drop(held);
        received.or_else(|| (self.has)(digest))
    }

    pub(super) fn blob(&self, digest: &str) -> Option<Bytes> {
        self.held().blobs.get(digest).cloned()
    }

    pub(super) fn put_blob(&self, digest: &str, blob: Bytes, room: OwnedSemaphorePermit) {
        let mut held = self.held();
        // Sent twice, it takes its room once.
        if held.blobs.insert(digest.to_owned(), blob).is_none() {
            held.dropped.remove(digest);
            room.forget();
        }
    }

    pub(super) fn put_dropped(&self, digest: &str, length: u64) {
        let mut held = self.held();
        if !held.blobs.contains_key(digest) {
            held.dropped.insert(digest.to_owned(), length);
        }
    }

    pub(super) fn put_upload(&self, upload: Upload) {
        self.held().uploads.insert(upload.id.clone(), upload);
    }

    /// Takes an upload out, so that nobody else can go on with it.
    pub(super) fn take_upload(&self, repository: &str, id: &str) -> Option<Upload> {
        let mut held = self.held();
        if held.uploads.get(id)?.repository != repository {
            return None;
        }
        held.uploads.remove(id)
    }

    /// The manifest of a tag or a digest.
    pub(super) fn manifest(&self, repository: &str, reference: &str) -> Option<Manifest> {
        let held = self.held();
        if reference.contains(':') {
            let of_repository =
                |name: &str| name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']));
            let mut found = held.manifests.iter();
            return found
                .find(|(name, manifest)| manifest.digest == reference && of_repository(name))
                .map(|(_, manifest)| manifest.clone());
        }
        held.manifests.get(&format!("{repository}:{reference}")).cloned()
    }

    /// Keeps a manifest by its tag or digest; `false` where there are too many.
    pub(super) fn put_manifest(&self, repository: &str, reference: &str, manifest: Manifest) -> bool {
        let separator = if reference.contains(':') { '@' } else { ':' };
        let name = format!("{repository}{separator}{reference}");
        let mut held = self.held();
        if held.manifests.len() >= MANIFESTS && !held.manifests.contains_key(&name) {
            return false;
        }
        held.manifests.insert(name, manifest);
        true
    }

    /// Takes out what was received; uploads under way are given up.
    pub(super) fn take(&self) -> Received {
        let held = std::mem::take(&mut *self.held());
        Received {
            manifests: held.manifests,
            blobs: held.blobs,
            dropped: held.dropped,
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("repositories", &self.repositories).finish_non_exhaustive()
    }
}
