//! Connections over sessions whose server's frames are written by hand.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

/// A connection and the server's end of its session.
fn upstream() -> (Api, Upstream, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    let api = Api::new(crate::fake_api::client().0, "ns", 80);
    let upstream = api.upstream("1", Session::new(ours));
    (api, upstream, theirs)
}

/// Data of the first connection of a session.
fn data(text: &str) -> Vec<u8> {
    [&3_u32.to_be_bytes(), &(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn pod(uid: &str) -> Target {
    Target::placed("b", uid)
}

const GET: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const BYE: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

async fn read_all(upstream: &mut Upstream) -> String {
    let mut text = String::new();
    let read = timeout(1000 * SILENCE, upstream.read_to_string(&mut text)).await;
    read.expect("no end").unwrap();
    text
}

// None of these servers ends its stream, as containerd does not within the first second.
#[tokio::test(start_paused = true)]
async fn an_answer_after_which_the_server_closes_ends_at_once() {
    let (api, mut upstream, mut server) = upstream();
    upstream.write_all(GET).await.unwrap();
    server.write_all(&data(BYE)).await.unwrap();
    assert_eq!(read_all(&mut upstream).await, BYE);
    drop(upstream);
    assert_eq!(api.idle().len(), 1, "the session is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_finished_gets_its_answer_however_late() {
    let (_, mut upstream, mut server) = upstream();
    upstream.write_all(GET).await.unwrap();
    upstream.shutdown().await.unwrap();
    tokio::spawn(async move {
        sleep(60 * SILENCE).await;
        server.write_all(&data(OK)).await.unwrap();
        sleep(60 * SILENCE).await;
    });
    assert_eq!(read_all(&mut upstream).await, OK);
}

#[tokio::test(start_paused = true)]
async fn without_http_silence_is_the_end_once_the_client_has_finished() {
    let (api, mut upstream, mut server) = upstream();
    upstream.write_all(b"\0\0").await.unwrap();
    upstream.shutdown().await.unwrap();
    server.write_all(&data("bye")).await.unwrap();
    assert_eq!(read_all(&mut upstream).await, "bye");
    drop(upstream);
    assert_eq!(api.idle().len(), 0, "more may come on that session");
}

#[tokio::test(start_paused = true)]
async fn a_session_whose_server_has_gone_is_not_used() {
    let (api, mut upstream, mut server) = upstream();
    upstream.write_all(GET).await.unwrap();
    server.write_all(&data(BYE)).await.unwrap();
    read_all(&mut upstream).await;
    drop(upstream);
    drop(server);
    assert!(api.take("1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_has_waited_too_long_is_not_used() {
    let (api, ..) = upstream();
    let (ours, _theirs) = duplex(64);
    api.put("1".to_owned(), Session::new(ours));
    assert!(api.take("1").is_some());
    let (ours, _theirs) = duplex(64);
    api.put("1".to_owned(), Session::new(ours));
    tokio::time::advance(AGE).await;
    assert!(api.take("1").is_none());
    // As after the machine was suspended.
    let (ours, _theirs) = duplex(64);
    api.put("1".to_owned(), Session::new(ours));
    api.idle()[0].wall -= AGE;
    assert!(api.take("1").is_none());
}

/// Refuses what is asked for in this time; how much it was.
async fn refused(
    server: &mut crate::fake_api::Server,
    status: StatusCode,
    why: &serde_json::Value,
    time: Duration,
) -> usize {
    let mut count = 0;
    let answers = async {
        while let Some((_, answer)) = server.next_request().await {
            answer.send_response(crate::fake_api::answer(status, why));
            count += 1;
        }
    };
    assert!(timeout(time, answers).await.is_err(), "it has ended");
    count
}

#[tokio::test(start_paused = true)]
async fn who_may_not_forward_is_not_asked_for_all_the_time() {
    let (client, mut server) = crate::fake_api::client();
    let (pods, sender) = Pods::of(Seen { ready: [pod("1")].into(), ..Seen::default() });
    let ahead = tokio::spawn(Api::new(client, "ns", 80).keep_ahead(pods));
    let why = serde_json::json!({ "kind": "Status", "message": "no" });
    let mut asked = async |time| refused(&mut server, StatusCode::FORBIDDEN, &why, time).await;
    let early = asked(Duration::from_secs(10)).await;
    assert!((4..8).contains(&early), "{early} requests");
    let later = asked(10 * OPEN_AGAIN_MAX).await;
    assert!((9..13).contains(&later), "{later} requests");
    // What else is told of the same pod is no reason to ask; another pod is.
    sender.send_modify(|_| {});
    assert_eq!(asked(Duration::from_millis(1)).await, 0);
    sender.send_modify(|seen| seen.ready = [pod("2")].into());
    assert_eq!(asked(OPEN_AGAIN / 2).await, 1);
    ahead.abort();
}

#[tokio::test(start_paused = true)]
async fn a_session_to_a_pod_that_may_become_ready_is_asked_for_until_its_sandbox_is_there() {
    let (client, mut server) = crate::fake_api::client();
    let placed = Target { is_placed: false, ..pod("1") };
    let (pods, sender) = Pods::of(Seen { coming: [placed].into(), ..Seen::default() });
    let ahead = tokio::spawn(Api::new(client, "ns", 80).keep_ahead(pods));
    // The kubelet's own words, which are no Status.
    let why = serde_json::json!("pod does not exist");
    let mut asked = async |time| refused(&mut server, StatusCode::NOT_FOUND, &why, time).await;
    assert_eq!(asked(AGE / 4).await, 0, "no node was chosen");
    sender.send_modify(|seen| seen.coming = [pod("1")].into());
    let first = asked(Duration::from_secs(1)).await;
    assert!((8..11).contains(&first), "{first} requests in the first second");
    let later = asked(Duration::from_secs(100)).await;
    assert!((14..25).contains(&later), "{later} requests later");
    // What else is told is no reason to ask; that it has an address is one.
    sender.send_modify(|seen| seen.unready = vec!["pod b is not ready".to_owned()]);
    assert_eq!(asked(Duration::from_millis(1)).await, 0);
    sender.send_modify(|seen| seen.coming = [Target { address: "10.0.0.1".parse().ok(), ..pod("1") }].into());
    assert_eq!(asked(Duration::from_millis(1)).await, 1);
    ahead.abort();
}

#[tokio::test]
async fn sessions_of_pods_that_are_not_ready_are_closed() {
    let (api, upstream, mut server) = upstream();
    drop(upstream);
    api.put("1".to_owned(), Session::new(duplex(64).0));
    api.put("2".to_owned(), Session::new(duplex(64).0));
    api.forget_others(&Seen { ready: [pod("2")].into(), ..Seen::default() });
    assert_eq!(api.idle().iter().map(|idle| idle.uid.as_str()).collect::<Vec<_>>(), ["2"]);
    // One without an answer is not kept at all.
    assert_eq!(server.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}
