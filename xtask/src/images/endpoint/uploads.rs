//! Uploads: a blob taken in pieces, verified while it comes, kept or dropped.

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
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
    /// What came so far with the room it takes; nothing once it is too much.
    kept: Option<(Vec<u8>, OwnedSemaphorePermit)>,
    touched: Instant,
    _slot: OwnedSemaphorePermit,
}

impl Upload {
    /// Begins one.
    pub(super) fn begin(store: &Store, repository: &str) -> Result<Upload, Refusal> {
        let too_many = || {
            let status = StatusCode::TOO_MANY_REQUESTS;
            Refusal::new(status, "TOOMANYREQUESTS", "too many uploads are under way; try again later")
        };
        let slot = store.slot().ok_or_else(too_many)?;
        Ok(Upload {
            // Not to be guessed; there is no other use of it.
            id: [names::suffix(), names::suffix(), names::suffix()].concat(),
            repository: repository.to_owned(),
            length: 0,
            hash: Sha256::new(),
            kept: store.room(0, 0).map(|room| (Vec::new(), room)),
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
            if let Some(data) = frame.data_ref() {
                self.take(store, data);
            }
        }
        self.touched = Instant::now();
        Ok(())
    }

    fn take(&mut self, store: &Store, data: &[u8]) {
        store.count(data.len());
        self.hash.update(data);
        self.length += data.len() as u64;
        match &mut self.kept {
            Some((bytes, room)) => match store.room(bytes.len(), data.len()) {
                Some(more) => {
                    bytes.extend_from_slice(data);
                    room.merge(more);
                }
                None => {
                    self.kept = None;
                    store.count_dropped(self.length);
                }
            },
            None => store.count_dropped(data.len() as u64),
        }
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
        match self.kept {
            Some((bytes, room)) => store.put_blob(digest, bytes.into(), room),
            None => store.put_dropped(digest, self.length),
        }
        Ok(())
    }
}
