//! What clients cannot do to it: fill memory, leave things behind, outlive it.

use super::*;

#[tokio::test]
async fn a_blob_that_is_too_big_is_verified_counted_and_dropped() {
    let world = World::new(Limits { blob: 2000, total: 1 << 20 }, &[]).await;
    let dropped = world.endpoint.dropped();
    let (small, big) = (vec![1; 2000], vec![2; 2001]);
    assert_eq!(world.upload(&small, &digest_of(&small)).await.status(), 201);
    assert_eq!(*dropped.borrow(), 0);
    assert_eq!(world.upload(&big, &digest_of(&big)).await.status(), 201);
    assert_eq!(*dropped.borrow(), 2001);
    // It was taken, so a manifest may name it.
    let answer = world.ask(Method::HEAD, &format!("blobs/{}", digest_of(&big))).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "2001".to_owned()));
    assert_eq!(code(world.upload(&big, &digest_of(&small)).await).await, (400, "DIGEST_INVALID".to_owned()));
    let received = world.endpoint.finish().await;
    assert_eq!(received.dropped, BTreeMap::from([(digest_of(&big), 2001)]));
    assert_eq!(received.blobs.keys().cloned().collect::<Vec<_>>(), [digest_of(&small)]);
}

#[tokio::test]
async fn one_blob_is_passed_on_and_no_other_is_let_in() {
    let (sender, mut pieces) = mpsc::channel(1);
    let world = World::taking(Take::Pass(sender), &[]).await;
    let blob: Vec<u8> = (0..50_000).map(|i: u32| i as u8).collect();
    let digest = digest_of(&blob);
    let pass = async {
        let mut passed = Vec::new();
        while let Some(piece) = pieces.recv().await {
            passed.extend_from_slice(&piece);
        }
        passed
    };
    let both = async { tokio::join!(world.upload(&blob, &digest), pass) };
    let (answer, passed) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("it hangs");
    assert_eq!(answer.status(), 201);
    assert!(passed == blob);
    let answer = world.ask(Method::POST, "blobs/uploads/").await;
    assert_eq!(code(answer).await, (429, "TOOMANYREQUESTS".to_owned()));
    let received = world.endpoint.finish().await;
    assert_eq!(received.dropped, BTreeMap::from([(digest, 50_000)]));
    assert!(received.blobs.is_empty());
}

#[tokio::test]
async fn what_is_passed_on_comes_no_faster_than_it_is_taken() {
    let (sender, mut pieces) = mpsc::channel(1);
    let world = World::taking(Take::Pass(sender), &[]).await;
    let location = world.begin().await;
    let mut connection = TcpStream::connect(("127.0.0.1", world.endpoint.port())).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 1 << 30);
    connection.write_all(head.as_bytes()).await.unwrap();
    let mebibyte = vec![7; 1 << 20];
    let mut written = 0;
    while tokio::time::timeout(Duration::from_millis(500), connection.write_all(&mebibyte)).await.is_ok() {
        written += 1;
        assert!(written < 64, "{written} MiB were taken while nobody took them");
    }
    assert!(pieces.recv().await.is_some());
}

#[tokio::test]
async fn an_upload_that_broke_off_is_not_passed_on_once_more() {
    let (sender, mut pieces) = mpsc::channel(8);
    let world = World::taking(Take::Pass(sender), &[]).await;
    let location = world.begin().await;
    let again = world.ask(Method::POST, "blobs/uploads/").await;
    assert_eq!(code(again).await, (429, "TOOMANYREQUESTS".to_owned()), "while it is under way");
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend([1; 100]);
    world.raw(&bytes).await;
    let count = async {
        let mut count = 0;
        while let Some(piece) = pieces.recv().await {
            count += piece.len();
        }
        count
    };
    let passed = tokio::time::timeout(Duration::from_secs(20), count).await.expect("the pieces have no end");
    assert_eq!(passed, 100);
    let again = world.ask(Method::POST, "blobs/uploads/").await;
    assert_eq!(code(again).await, (429, "TOOMANYREQUESTS".to_owned()), "after it has broken off");
}

#[tokio::test]
async fn where_no_upload_begins_the_pieces_end_with_the_endpoint() {
    let (sender, mut pieces) = mpsc::channel(1);
    let world = World::taking(Take::Pass(sender), &[]).await;
    world.endpoint.finish().await;
    let end = tokio::time::timeout(Duration::from_secs(20), pieces.recv()).await;
    assert!(end.expect("the pieces have no end").is_none());
}

#[tokio::test]
async fn dropped_bytes_are_told_while_they_come() {
    let world = World::new(Limits { blob: 10, total: 1 << 20 }, &[]).await;
    let mut dropped = world.endpoint.dropped();
    let location = world.begin().await;
    // A piece of an upload that never ends.
    let mut connection = TcpStream::connect(("127.0.0.1", world.endpoint.port())).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.write_all(&[0; 500]).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(20), dropped.wait_for(|bytes| *bytes >= 500)).await;
    assert_eq!(*seen.expect("nothing was told").unwrap(), 500);
}

#[tokio::test]
async fn what_goes_beyond_the_total_is_dropped_and_sent_twice_counts_once() {
    let world = World::new(Limits { blob: 2000, total: 4000 }, &[]).await;
    let blobs: Vec<Vec<u8>> = (0..3).map(|i| vec![i; 1900]).collect();
    for i in [0, 0, 1, 2] {
        assert_eq!(world.upload(&blobs[i], &digest_of(&blobs[i])).await.status(), 201);
    }
    let received = world.endpoint.finish().await;
    assert_eq!(received.blobs.len(), 2);
    assert_eq!(received.dropped, BTreeMap::from([(digest_of(&blobs[2]), 1900)]));
}

#[tokio::test]
async fn a_client_that_disconnects_leaves_nothing_and_gives_its_room_back() {
    let world = World::new(Limits { blob: 4000, total: 4000 }, &[]).await;
    let location = world.begin().await;
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend([1; 3999]);
    world.raw(&bytes).await;
    let answer = world.send(Method::PUT, &format!("{location}?digest={}", digest_of(&[1; 3999]))).await;
    assert_eq!(code(answer).await, (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    let next = vec![2; 4000];
    assert_eq!(world.upload(&next, &digest_of(&next)).await.status(), 201);
    let received = world.endpoint.finish().await;
    assert_eq!(received.blobs.keys().cloned().collect::<Vec<_>>(), [digest_of(&next)]);
}

#[tokio::test]
async fn uploads_are_limited_and_ended_ones_make_room() {
    let world = World::new(ROOMY, &[]).await;
    let mut locations = Vec::new();
    for _ in 0..16 {
        locations.push(world.begin().await);
    }
    let answer = world.ask(Method::POST, "blobs/uploads/").await;
    assert_eq!(code(answer).await, (429, "TOOMANYREQUESTS".to_owned()));
    assert_eq!(world.send(Method::DELETE, &locations[3]).await.status(), 204);
    world.begin().await;
}

#[tokio::test]
async fn a_manifest_of_more_than_4_mib_is_refused() {
    let world = World::new(ROOMY, &[]).await;
    let long = format!(r#"{{"x": "{}"}}"#, "x".repeat(4 << 20));
    let head = format!(
        "PUT /v2/{REPOSITORY}/manifests/v1 HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n",
        long.len()
    );
    let answer = world.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let path = format!("/v2/{REPOSITORY}/manifests/v1");
    let sent = world.request(Method::PUT, &path).body(unknown_length(long.as_bytes())).send().await;
    // The connection may be closed while the rest is being sent.
    assert!(sent.map_or(true, |answer| answer.status() == 413));
    assert!(world.endpoint.finish().await.manifests.is_empty());
}

#[tokio::test]
async fn a_client_that_tries_tls_is_answered_in_http() {
    let world = World::new(ROOMY, &[]).await;
    // How every ClientHello begins.
    let answer = world.raw(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn the_preferred_port_is_taken_where_it_is_free() {
    let world = World::new(ROOMY, &[]).await;
    let port = world.endpoint.port();
    let listen =
        || Endpoint::listen(Some(port), BTreeSet::new(), Take::Keep(ROOMY), Arc::new(|_: &str| None));
    let other = listen().await.unwrap();
    assert_ne!(other.port(), port);
    world.send(Method::GET, "/v2/").await;
    world.endpoint.finish().await;
    assert_eq!(listen().await.unwrap().port(), port);
}

#[tokio::test]
async fn nothing_outlives_the_endpoint() {
    let world = World::new(ROOMY, &[]).await;
    let port = world.endpoint.port();
    let location = world.begin().await;
    let mut connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n");
    connection.write_all(head.as_bytes()).await.unwrap();
    let store = Arc::downgrade(&world.endpoint.store);
    drop(world);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), connection.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection is served on");
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it listens on");
    assert!(store.upgrade().is_none(), "something holds what was received");
}
