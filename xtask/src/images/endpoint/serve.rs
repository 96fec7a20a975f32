//! Requests, each from its method and path to its answer.

use std::collections::BTreeMap;

use http::header::CONTENT_RANGE;
use http::{HeaderMap, Method, StatusCode};
use hyper::Request;
use hyper::body::Incoming;

use super::answer::{self, Answer, Refusal};
use super::manifests;
use super::route::{Route, is_digest};
use super::store::Store;
use super::uploads::Upload;

/// Answers a request.
pub(super) async fn serve(store: &Store, request: Request<Incoming>) -> Answer {
    let line = format!("{} {}", request.method(), request.uri());
    match dispatch(store, request).await {
        Ok(answer) => {
            tracing::trace!("{line}: {}", answer.status());
            answer
        }
        Err(refusal) => {
            tracing::debug!("{line}: {} {}: {}", refusal.status, refusal.code, refusal.message);
            refusal.answer()
        }
    }
}

async fn dispatch(store: &Store, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let uri = request.uri().clone();
    let Some(route) = Route::of(uri.path()) else {
        return Err(Refusal::name_unknown(uri.path()));
    };
    if let Some(repository) = route.repository().filter(|name| !store.serves(name)) {
        return Err(Refusal::name_unknown(repository));
    }
    let query = query(uri.query().unwrap_or_default());
    let method = request.method().clone();
    match (route, method) {
        (Route::Base, Method::GET | Method::HEAD) => Ok(answer::empty(StatusCode::OK)),
        (Route::Blob { digest, .. }, Method::HEAD) => match store.length(digest) {
            Some(length) => Ok(answer::blob_exists(digest, length)),
            None => Err(blob_unknown(digest)),
        },
        (Route::Blob { digest, .. }, Method::GET) => {
            // What only the nodes hold cannot be given; nobody who pushes asks for it.
            let blob = store.blob(digest).ok_or_else(|| blob_unknown(digest))?;
            let found = answer::with_body(StatusCode::OK, "application/octet-stream", blob);
            Ok(answer::about(found, digest))
        }
        (Route::Uploads { repository }, Method::POST) => begin(store, repository, &query, request).await,
        (Route::Upload { repository, id }, Method::PATCH) => {
            let mut upload = resume(store, repository, id, request.headers())?;
            upload.receive(store, request.into_body()).await?;
            let answer = answer::upload(StatusCode::ACCEPTED, repository, id, upload.length);
            store.put_upload(upload);
            Ok(answer)
        }
        (Route::Upload { repository, id }, Method::PUT) => {
            let digest = digest_of(&query)?;
            let mut upload = resume(store, repository, id, request.headers())?;
            upload.receive(store, request.into_body()).await?;
            upload.finish(store, digest)?;
            Ok(blob_created(repository, digest))
        }
        (Route::Upload { repository, id }, Method::GET) => {
            let upload = resume(store, repository, id, &HeaderMap::new())?;
            let answer = answer::upload(StatusCode::NO_CONTENT, repository, id, upload.length);
            store.put_upload(upload);
            Ok(answer)
        }
        (Route::Upload { repository, id }, Method::DELETE) => {
            resume(store, repository, id, &HeaderMap::new())?;
            Ok(answer::empty(StatusCode::NO_CONTENT))
        }
        (Route::Manifest { repository, reference }, Method::GET | Method::HEAD) => {
            manifests::get(store, repository, reference)
        }
        (Route::Manifest { repository, reference }, Method::PUT) => {
            manifests::put(store, repository, reference, request).await
        }
        (_, method) => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            format!("{method} is not served here"),
        )),
    }
}

/// Begins an upload, unless the blob is there to be mounted or comes along.
async fn begin(
    store: &Store,
    repository: &str,
    query: &BTreeMap<String, String>,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    if let Some(digest) = query.get("mount").filter(|digest| store.length(digest).is_some()) {
        return Ok(blob_created(repository, digest));
    }
    let mut upload = Upload::begin(store, repository)?;
    if query.contains_key("digest") {
        let digest = digest_of(query)?;
        upload.receive(store, request.into_body()).await?;
        upload.finish(store, digest)?;
        return Ok(blob_created(repository, digest));
    }
    let answer = answer::upload(StatusCode::ACCEPTED, repository, &upload.id, 0);
    store.put_upload(upload);
    Ok(answer)
}

/// Takes an upload out of the store to go on with it, from where its client thinks it is.
fn resume(store: &Store, repository: &str, id: &str, headers: &HeaderMap) -> Result<Upload, Refusal> {
    let unknown = || {
        let why = format!("there is no upload {id} in {repository}, or it is under way");
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", why)
    };
    let upload = store.take_upload(repository, id).ok_or_else(unknown)?;
    let Some(range) = headers.get(CONTENT_RANGE) else { return Ok(upload) };
    let start = range.to_str().ok().and_then(range_start);
    if start == Some(upload.length) {
        return Ok(upload);
    }
    let mut refusal = Refusal::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "BLOB_UPLOAD_INVALID",
        format!("{} bytes came so far, so that {range:?} does not go on from there", upload.length),
    );
    refusal.received = Some(upload.length);
    store.put_upload(upload);
    Err(refusal)
}

/// Where a range begins: `5-9`, or as HTTP has it `bytes 5-9/*`.
fn range_start(text: &str) -> Option<u64> {
    text.trim_start_matches("bytes ").split('-').next()?.trim().parse().ok()
}

fn blob_created(repository: &str, digest: &str) -> Answer {
    answer::created(&format!("/v2/{repository}/blobs/{digest}"), digest)
}

fn blob_unknown(digest: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("the nodes lack the blob {digest}"))
}

fn digest_of(query: &BTreeMap<String, String>) -> Result<&str, Refusal> {
    match query.get("digest") {
        Some(digest) if is_digest(digest) => Ok(digest),
        Some(digest) => Err(Refusal::digest_invalid(format!("`{digest}` is no digest by sha256"))),
        None => Err(Refusal::digest_invalid("the query has no digest, so the blob cannot be verified")),
    }
}

fn query(text: &str) -> BTreeMap<String, String> {
    let url = reqwest::Url::parse(&format!("http://127.0.0.1/?{text}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = query("mount=sha256%3A00&from=a%2Fb");
        assert_eq!((query["mount"].as_str(), query["from"].as_str()), ("sha256:00", "a/b"));
    }

    #[test]
    fn ranges_are_read_in_both_spellings() {
        assert_eq!(range_start("5-9"), Some(5));
        assert_eq!(range_start("bytes 5-9/*"), Some(5));
        assert_eq!(range_start("x"), None);
    }
}
