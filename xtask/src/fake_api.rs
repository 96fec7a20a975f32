//! An API server for unit tests: each request is taken and answered by hand.

use http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use tower_test::mock::{self, Handle};

/// Where requests come out and are answered.
pub(crate) type Server = Handle<Request<Body>, Response<Body>>;

/// A client whose requests come out of the server.
pub(crate) fn client() -> (Client, Server) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Client::new(service, "default"), handle)
}

/// A JSON answer.
pub(crate) fn answer(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap()
}
