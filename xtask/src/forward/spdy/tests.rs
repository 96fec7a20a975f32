//! Sessions with a server whose frames are written by hand.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

fn session() -> (Session, DuplexStream) {
    let (ours, theirs) = duplex(1 << 20);
    (Session::new(ours), theirs)
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    frame.put_u32(stream);
    frame.put_u32(u32::from(flags) << 24 | payload.len() as u32);
    frame.put_slice(payload);
    frame.to_vec()
}

fn reset(stream: u32) -> Vec<u8> {
    [&[0x80, 3, 0, 3, 0, 0, 0, 8][..], &stream.to_be_bytes(), &[0, 0, 0, 5]].concat()
}

#[tokio::test]
async fn opening_names_the_port_and_travels_with_the_first_bytes() {
    let (session, mut server) = session();
    let mut stream = session.open(8080);
    stream.write_all(b"hello").await.unwrap();
    let mut wire = vec![0; 4096];
    let n = server.read(&mut wire).await.unwrap();
    let wire = &wire[..n];
    // A frame that opens stream 1 and ends our side of it.
    assert_eq!(wire[..8], [0x80, 3, 0, 1, 1, 0, 0, wire[7]]);
    // zlib with SPDY's dictionary.
    assert_eq!(wire[18..24], [0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
    let text = String::from_utf8_lossy(wire);
    for part in ["streamtype\0\0\0\u{5}error", "streamtype\0\0\0\u{4}data", "port\0\0\0\u{4}8080"] {
        assert!(text.contains(part), "{part}");
    }
    assert!(wire.ends_with(&data(3, 0, b"hello")));
}

#[tokio::test]
async fn an_answer_is_read_from_among_other_frames() {
    let (session, mut server) = session();
    let mut stream = session.open(80);
    let reply = [0x80, 3, 0, 2, 0, 0, 0, 4, 0, 0, 0, 3];
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2];
    let large = vec![7; 100_000];
    let wire = [
        &reply[..],
        &ping,
        &data(99, 0, b"stale"),
        &data(3, 0, &large),
        &data(3, FIN, b"end"),
        &data(1, FIN, b""),
    ];
    server.write_all(&wire.concat()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer == [&large[..], b"end"].concat());
    assert!(stream.is_over());
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_where_nothing_else_is_said() {
    let (session, mut server) = session();
    let mut stream = session.open(80);
    let reader = tokio::spawn(async move { stream.read(&mut [0; 9]).await });
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2];
    server.write_all(&ping).await.unwrap();
    let answered = async {
        let mut wire = BytesMut::new();
        while !wire.ends_with(&ping) {
            assert_ne!(server.read_buf(&mut wire).await.unwrap(), 0);
        }
    };
    timeout(Duration::from_secs(60), answered).await.expect("the ping has no answer");
    assert!(!reader.is_finished());
}

#[tokio::test]
async fn a_refused_connection_is_told_from_one_that_broke() {
    let refused = "failed to connect to localhost:81: connection refused";
    for (before, message, kind) in [
        (&b""[..], refused, io::ErrorKind::ConnectionRefused),
        (b"half", refused, io::ErrorKind::ConnectionReset),
        (b"", "read tcp: connection reset by peer", io::ErrorKind::ConnectionReset),
        (b"", "", io::ErrorKind::ConnectionReset),
    ] {
        let (session, mut server) = session();
        let mut stream = session.open(81);
        // In the order of containerd, whose data ends before it says why.
        let end = if message.is_empty() { reset(3) } else { data(3, FIN, b"") };
        let wire = [data(3, 0, before), end, data(1, 0, message.as_bytes()), reset(1)];
        server.write_all(&wire.concat()).await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{message}");
    }
}

#[tokio::test]
async fn a_session_takes_one_connection_after_the_other() {
    let (session, mut server) = session();
    let mut session = session.open(80).into_session();
    server.write_all(&[data(3, FIN, b"late"), data(1, FIN, b"")].concat()).await.unwrap();
    assert!(session.is_usable());
    let mut stream = session.open(80);
    server.write_all(&[data(7, FIN, b"new"), data(5, FIN, b"")].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "new");
    let mut session = stream.into_session();
    drop(server);
    assert!(!session.is_usable(), "the server has gone");
}
