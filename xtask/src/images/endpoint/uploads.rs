//! Uploads: a blob taken in pieces, verified while it comes, kept, passed on or dropped.

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use super::IDLE;
use super::answer::Refusal;
use super::store::Store;
use crate::images::key::hex;
use crate::names;

/// A blob under way. Dropping it gives its room back and leaves nothing.
pub(super) struct Upload {
    pub(super) id: String,
    pub(super) repository: String,
    pub(super) length: u64,
    hash: Sha256,
    fate: Fate,
    touched: Instant,
    _slot: OwnedSemaphorePermit,
}

/// What becomes of what comes.
enum Fate {
    /// It is kept, with the room it takes.
    Kept(Vec<u8>, OwnedSemaphorePermit),
    Passed(mpsc::Sender<Bytes>),
    /// It was too much.
    Dropped,
}

impl Upload {
    /// Begins one.
    pub(super) fn begin(store: &Store, repository: &str) -> Result<Upload, Refusal> {
        // By this code Docker's classic store does not try again.
        let too_many = |why: &str| Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", why);
        let slot = store.slot().ok_or_else(|| too_many("too many uploads are under way; try again later"))?;
        let fate = match store.pass() {
            Some(Some(to)) => Fate::Passed(to),
            Some(None) => return Err(too_many("one blob is awaited here, and it has come")),
            None => store.room(0, 0).map_or(Fate::Dropped, |room| Fate::Kept(Vec::new(), room)),
        };
        Ok(Upload {
            // Not to be guessed; there is no other use of it.
            id: [names::suffix(), names::suffix(), names::suffix()].concat(),
            repository: repository.to_owned(),
            length: 0,
            hash: Sha256::new(),
            fate,
            touched: Instant::now(),
            _slot: slot,
        })
    }

    /// Whether its client seems to be gone.
    pub(super) fn is_stale(&self) -> bool {
        self.touched.elapsed() > IDLE
    }

    /// Reads a request's body to its end.
    pub(super) async fn receive(&mut self, store: &Store, mut body: Incoming) -> Result<(), Refusal> {
        let refusal = |status, why: String| Refusal::new(status, "BLOB_UPLOAD_INVALID", why);
        loop {
            let frame = tokio::time::timeout(IDLE, body.frame()).await.map_err(|_| {
                refusal(StatusCode::REQUEST_TIMEOUT, format!("nothing came for {} s", IDLE.as_secs()))
            })?;
            let Some(frame) = frame else { break };
            let frame = frame
                .map_err(|error| refusal(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                self.take(store, data).await?;
            }
        }
        self.touched = Instant::now();
        Ok(())
    }

    async fn take(&mut self, store: &Store, data: Bytes) -> Result<(), Refusal> {
        store.count(data.len());
        self.hash.update(&data);
        self.length += data.len() as u64;
        match &mut self.fate {
            Fate::Kept(bytes, room) => match store.room(bytes.len(), data.len()) {
                Some(more) => {
                    bytes.extend_from_slice(&data);
                    room.merge(more);
                }
                None => {
                    self.fate = Fate::Dropped;
                    store.count_dropped(self.length);
                }
            },
            Fate::Passed(to) => to.send(data).await.map_err(|_| {
                Refusal::new(StatusCode::GONE, "BLOB_UPLOAD_INVALID", "nobody takes the blob any more")
            })?,
            Fate::Dropped => store.count_dropped(data.len() as u64),
        }
        Ok(())
    }

    /// Ends it: it becomes the blob `digest`, or nothing where that is not its digest.
    pub(super) fn finish(self, store: &Store, digest: &str) -> Result<(), Refusal> {
        let actual = format!("sha256:{}", hex(&self.hash.finalize()));
        if actual != digest {
            return Err(Refusal::digest_invalid(format!(
                "{} bytes came, whose digest is {actual} and not {digest}",
                self.length
            )));
        }
        match self.fate {
            Fate::Kept(bytes, room) => store.put_blob(digest, bytes.into(), room),
            Fate::Passed(_) | Fate::Dropped => store.put_dropped(digest, self.length),
        }
        Ok(())
    }
}
