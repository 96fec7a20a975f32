//! The endpoint as its clients see it: by HTTP, by bare TCP where a client misbehaves, and by Docker.

use reqwest::{Body, Method, RequestBuilder, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

mod docker;
mod limits;
mod pushes;

const REPOSITORY: &str = "secret/app";
const ROOMY: Limits = Limits { blob: 1 << 20, total: 4 << 20 };

/// An endpoint and a client of it.
struct World {
    endpoint: Endpoint,
    http: reqwest::Client,
}

impl World {
    /// Nodes that hold the blobs `held`, by digest and length.
    async fn new(limits: Limits, held: &[(&str, u64)]) -> World {
        World::taking(Take::Keep(limits), held).await
    }

    async fn taking(take: Take, held: &[(&str, u64)]) -> World {
        let held: BTreeMap<String, u64> =
            held.iter().map(|(digest, length)| ((*digest).to_owned(), *length)).collect();
        let has: Arc<Has> = Arc::new(move |digest| held.get(digest).copied());
        let repositories = BTreeSet::from([REPOSITORY.to_owned()]);
        let endpoint = Endpoint::listen(None, repositories, take, has).await.unwrap();
        World { endpoint, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("http://127.0.0.1:{}{path}", self.endpoint.port()))
    }

    async fn send(&self, method: Method, path: &str) -> Response {
        self.request(method, path).send().await.unwrap()
    }

    /// A path below the repository's.
    async fn ask(&self, method: Method, path: &str) -> Response {
        self.send(method, &format!("/v2/{REPOSITORY}/{path}")).await
    }

    /// Begins an upload; gives its location.
    async fn begin(&self) -> String {
        let answer = self.ask(Method::POST, "blobs/uploads/").await;
        assert_eq!(answer.status(), 202);
        header(&answer, "location")
    }

    /// As Docker uploads: begin, one piece of unknown length, end.
    async fn upload(&self, content: &[u8], digest: &str) -> Response {
        let location = self.begin().await;
        let answer =
            self.request(Method::PATCH, &location).body(unknown_length(content)).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        let location = header(&answer, "location");
        self.send(Method::PUT, &format!("{location}?digest={digest}")).await
    }

    async fn put_manifest(&self, reference: &str, content: impl Into<Body>) -> Response {
        self.request(Method::PUT, &format!("/v2/{REPOSITORY}/manifests/{reference}"))
            .header("Content-Type", MEDIA_TYPE)
            .body(content)
            .send()
            .await
            .unwrap()
    }

    /// Sends bytes over a connection of its own, then nothing more; gives all that is answered.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut connection = TcpStream::connect(("127.0.0.1", self.endpoint.port())).await.unwrap();
        connection.write_all(bytes).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // The other side may reset a connection that it has given up.
        let _ = connection.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest_of(content: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    format!("sha256:{}", crate::images::key::hex(&Sha256::digest(content)))
}

fn header(answer: &Response, name: &str) -> String {
    let value = answer.headers().get(name).unwrap_or_else(|| panic!("no header {name} in {answer:?}"));
    value.to_str().unwrap().to_owned()
}

/// Sent in chunks, without saying how many bytes come.
fn unknown_length(content: &[u8]) -> Body {
    let pieces = content
        .chunks(1000)
        .map(|piece| Ok::<_, Infallible>(hyper::body::Frame::data(Bytes::copy_from_slice(piece))));
    let pieces: Vec<_> = pieces.collect();
    Body::wrap(http_body_util::StreamBody::new(futures::stream::iter(pieces)))
}

/// The answer's only error code.
async fn code(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: serde_json::Value = answer.json().await.unwrap();
    (status, body["errors"][0]["code"].as_str().unwrap().to_owned())
}
