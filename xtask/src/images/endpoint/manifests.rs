//! Manifests: what they say is checked against what was received and what the nodes hold.

use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::{Body, Bytes, Incoming};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::answer::{self, Answer, Refusal};
use super::route::{is_digest, is_tag};
use super::store::Store;
use super::{IDLE, Manifest};
use crate::images::key::hex;

/// The longest manifest that the specification wants registries to take.
const MAX: usize = 4 << 20;

/// What is read of a manifest or an index.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    media_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    /// A layer that its owner wants to be got elsewhere is never pushed.
    #[serde(default)]
    urls: Vec<String>,
}

/// Takes a manifest by its tag or digest.
pub(super) async fn put(
    store: &Store,
    repository: &str,
    reference: &str,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let invalid = |why: String| Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why);
    if !is_digest(reference) && !is_tag(reference) {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "TAG_INVALID",
            format!("`{reference}` is neither a tag nor a digest by sha256"),
        ));
    }
    let said = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let bytes = read(request.into_body()).await?;
    store.count(bytes.len());
    let digest = format!("sha256:{}", hex(&Sha256::digest(&bytes)));
    if is_digest(reference) && digest != reference {
        return Err(Refusal::digest_invalid(format!(
            "the manifest's digest is {digest} and not {reference}"
        )));
    }
    let content: Content = serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    let media_type = said
        .or(content.media_type)
        .ok_or_else(|| invalid("neither the header Content-Type nor mediaType says what it is".to_owned()))?;
    let blobs = content.config.iter().chain(&content.layers).filter(|blob| blob.urls.is_empty());
    let missing =
        blobs.map(|blob| &blob.digest).find(|digest| store.length(digest).is_none()).or_else(|| {
            let mut children = content.manifests.iter().map(|child| &child.digest);
            children.find(|digest| store.manifest(repository, digest).is_none())
        });
    if let Some(missing) = missing {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "MANIFEST_BLOB_UNKNOWN",
            format!("it names {missing}, which was not sent and is nowhere"),
        ));
    }
    if !store.put_manifest(repository, reference, Manifest { bytes, media_type, digest: digest.clone() }) {
        let status = StatusCode::TOO_MANY_REQUESTS;
        return Err(Refusal::new(status, "TOOMANYREQUESTS", "no more manifests are taken"));
    }
    Ok(answer::created(&format!("/v2/{repository}/manifests/{reference}"), &digest))
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let too_long = || {
        let why = format!("a manifest may have {MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", why)
    };
    if body.size_hint().lower() > MAX as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(IDLE, Limited::new(body, MAX).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(error)) => {
            let why = format!("the body broke off: {error}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why))
        }
        Err(_) => {
            let why = format!("it did not come within {} s", IDLE.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "MANIFEST_INVALID", why))
        }
    }
}

/// Gives a manifest that was received.
pub(super) fn get(store: &Store, repository: &str, reference: &str) -> Result<Answer, Refusal> {
    let unknown = || {
        let why = format!("no manifest {reference} came for {repository}");
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", why)
    };
    let manifest = store.manifest(repository, reference).ok_or_else(unknown)?;
    let found = answer::with_body(StatusCode::OK, &manifest.media_type, manifest.bytes);
    Ok(answer::about(found, &manifest.digest))
}
