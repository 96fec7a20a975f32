//! Answers, and refusals in the form that the OCI distribution specification gives them.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

/// What a client is answered.
pub(super) type Answer = Response<Full<Bytes>>;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Why a request is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// The length of the upload so far, where the client has lost count.
    pub(super) received: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), received: None }
    }

    pub(super) fn digest_invalid(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(super) fn name_unknown(name: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", format!("no repository {name} is served here"))
    }

    pub(super) fn answer(self) -> Answer {
        let error = serde_json::json!({"code": self.code, "message": self.message});
        let body = serde_json::json!({"errors": [error]}).to_string();
        let mut answer = with_body(self.status, "application/json", body.into());
        if let Some(length) = self.received {
            insert(&mut answer, RANGE, &range(length));
        }
        answer
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    answer
}

/// An answer with a body; hyper leaves it out where the request was HEAD.
pub(super) fn with_body(status: StatusCode, media_type: &str, body: Bytes) -> Answer {
    let mut answer = empty(status);
    *answer.body_mut() = Full::new(body);
    insert(&mut answer, CONTENT_TYPE, media_type);
    answer
}

/// That a blob of this length exists.
pub(super) fn blob_exists(digest: &str, length: u64) -> Answer {
    let mut answer = empty(StatusCode::OK);
    insert(&mut answer, CONTENT_TYPE, "application/octet-stream");
    insert(&mut answer, CONTENT_LENGTH, &length.to_string());
    about(answer, digest)
}

/// That something is there now, and where.
pub(super) fn created(location: &str, digest: &str) -> Answer {
    let mut answer = empty(StatusCode::CREATED);
    insert(&mut answer, LOCATION, location);
    about(answer, digest)
}

/// How far an upload is.
pub(super) fn upload(status: StatusCode, repository: &str, id: &str, length: u64) -> Answer {
    let mut answer = empty(status);
    insert(&mut answer, LOCATION, &format!("/v2/{repository}/blobs/uploads/{id}"));
    insert(&mut answer, UPLOAD_UUID, id);
    insert(&mut answer, RANGE, &range(length));
    answer
}

/// Says which digest an answer is about.
pub(super) fn about(mut answer: Answer, digest: &str) -> Answer {
    insert(&mut answer, CONTENT_DIGEST, digest);
    answer
}

/// From the first to the last byte. Nothing at all is `0-0` too: Docker's client takes no less.
fn range(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

fn insert(answer: &mut Answer, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => _ = answer.headers_mut().insert(name, value),
        // Names and digests are checked, so this is a media type that a client made up.
        Err(error) => tracing::debug!("leave the header {name} out: {error}"),
    }
}
