//! What is done on a node.

use crate::fake::{Fake, report};
use expect_test::expect;
use kind_client::Role;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn tells_whether_a_node_runs() {
    for (text, runs) in [("true", true), ("false", false)] {
        let fake = Fake::docker(&format!("echo {text}"));
        assert_eq!(fake.client().node("one-worker").is_running().await.unwrap(), runs);
        assert_eq!(fake.calls("docker"), ["container inspect --format {{.State.Running}} one-worker"]);
    }
    let err = Fake::docker("echo perhaps").client().node("n").is_running().await.unwrap_err();
    expect![[r#"
        cannot inspect node `n`
        `docker container inspect --format '{{.State.Running}}' n`: output not understood: "perhaps""#]]
    .assert_eq(&report(&err));
}

#[tokio::test]
async fn tells_what_a_node_is_for() {
    let fake = Fake::docker("echo external-load-balancer");
    assert_eq!(fake.client().node("n").role().await.unwrap(), Role::ExternalLoadBalancer);
}

#[tokio::test]
async fn starts_a_node() {
    let fake = Fake::docker("echo one-worker");
    fake.client().node("one-worker").start().await.unwrap();
    assert_eq!(fake.calls("docker"), ["start one-worker"]);
}

#[tokio::test]
async fn copies_from_a_node() {
    let fake = Fake::docker(r#"echo v1.34.0 > "$3""#);
    let file = fake.path().join("version");
    fake.client().node("one-worker").copy_from("/kind/version", &file).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "v1.34.0\n");
    assert_eq!(fake.calls("docker"), ["cp one-worker:/kind/version FAKE/version"]);
    let err = Fake::docker("exit 1").client().node("n").copy_from("/none", "here").await.unwrap_err();
    expect![[r#"
        cannot copy `/none` from node `n`
        `docker cp n:/none here`: exit status: 1"#]]
    .assert_eq(&report(&err));
}

#[tokio::test]
async fn runs_a_command() {
    let fake = Fake::docker("echo out; echo err >&2");
    let node = fake.client().node("one-worker");
    assert_eq!(node.exec(["ctr", "-n", "k8s.io", "version"]).ensure_stdout().await.unwrap(), "out\n");
    node.exec(["true"]).env("A", "b c").ensure_success().await.unwrap();
    assert_eq!(
        fake.calls("docker"),
        ["exec --privileged one-worker ctr -n k8s.io version", "exec --privileged -e A=b c one-worker true",]
    );
}

#[tokio::test]
async fn tells_an_answer_of_no_from_a_command_that_cannot_run() {
    let node = |status: u8| Fake::docker(&format!("exit {status}"));
    assert!(node(0).client().node("n").exec(["test"]).is_success().await.unwrap());
    assert!(!node(1).client().node("n").exec(["test"]).is_success().await.unwrap());
    let err = node(127).client().node("n").exec(["test"]).is_success().await.unwrap_err();
    assert_eq!(err.failure().status().unwrap().code(), Some(127));
}

#[tokio::test]
async fn refuses_an_empty_command() {
    let fake = Fake::docker("");
    let err = fake.client().node("n").exec([""; 0]).ensure_success().await.unwrap_err();
    expect![[r#"
        a command failed on node `n`
        `docker exec --privileged n`: not run: the command for the node is empty"#]]
    .assert_eq(&report(&err));
    assert!(fake.calls("docker").is_empty());
}

#[tokio::test]
async fn streams_input_and_output_at_once() {
    // `cat` gives back what it gets: without both at once each side would wait for the other.
    let fake = Fake::docker("cat; echo done >&2");
    let input: Vec<u8> = (0..20_000_000_u32).map(|n| (n >> 8) as u8).collect();
    let mut output = Vec::new();
    let exec = fake.client().node("n").exec(["cat"]).stdin(&input[..]);
    exec.ensure_stdout_to(&mut output).await.unwrap();
    assert!(input == output);
    assert_eq!(fake.calls("docker"), ["exec --privileged -i n cat"]);
}

#[tokio::test]
async fn drains_a_flood_on_both_outputs() {
    let flood = "head -c 5000000 /dev/zero | tr '\\0' 'x' | fold -w 79";
    let fake = Fake::docker(&format!("{flood} >&2; echo; {flood}; echo >&2; echo the end >&2; exit 3"));
    let mut output = Vec::new();
    let err = fake.client().node("n").exec(["flood"]).ensure_stdout_to(&mut output).await.unwrap_err();
    assert!(output.len() > 5_000_000);
    assert_eq!(err.failure().status().unwrap().code(), Some(3));
    let tail = err.failure().tail();
    assert_eq!((tail.len(), tail.last().unwrap().as_str()), (20, "the end"));
}

#[tokio::test]
async fn succeeds_when_the_command_leaves_its_input_unread() {
    let fake = Fake::docker("exit 0");
    let exec = fake.client().node("n").exec(["true"]).stdin(tokio::io::repeat(7));
    exec.ensure_success().await.unwrap();
    // An input that neither ends nor comes must not hold the call either.
    let (_held, silent) = tokio::io::duplex(1);
    fake.client().node("n").exec(["true"]).stdin(silent).ensure_success().await.unwrap();
}

#[tokio::test]
async fn says_that_the_input_broke_off() {
    let fake = Fake::docker("echo $$ > \"$FAKE/pid\"; cat > /dev/null");
    let (held, waits) = tokio::io::duplex(1);
    let exec = fake.client().node("n").exec(["cat"]).stdin(waits.chain(Broken));
    let (result, pid) = tokio::join!(exec.ensure_success(), async {
        let pid = fake.written("pid").await;
        drop(held);
        pid
    });
    let err = result.unwrap_err();
    expect![[r#"
        a command failed on node `n`
        `docker exec --privileged -i n cat`: its input or output broke off
        the archive is gone"#]]
    .assert_eq(&report(&err));
    crate::ending::assert_gone(&pid);
}

#[tokio::test]
async fn hands_out_the_streams_of_a_command() {
    let fake = Fake::docker("read line; echo \"got $line\"; cat");
    let mut running = fake.client().node("n").exec(["ctr", "images", "import", "-"]).spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    let mut stdout = running.stdout.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    let mut answer = [0; 8];
    stdout.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"got one\n");
    stdin.write_all(b"two").await.unwrap();
    drop(stdin);
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "two");
    running.wait().await.unwrap();
}

#[tokio::test]
async fn waits_for_a_command_whose_streams_nobody_took() {
    let fake = Fake::docker("cat; head -c 1000000 /dev/zero; echo 'no space left' >&2; exit 2");
    let running = fake.client().node("n").exec(["cat"]).spawn().unwrap();
    expect![[r#"
        a command failed on node `n`
        `docker exec --privileged -i n cat`: exit status: 2
          | no space left"#]]
    .assert_eq(&report(&running.wait().await.unwrap_err()));
}

#[tokio::test]
async fn ends_a_stream_at_the_deadline() {
    let fake = Fake::docker("exec sleep 600");
    let exec = fake.client().node("n").exec(["cat"]).deadline(Duration::from_millis(300));
    let mut running = exec.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    // `sleep` reads nothing: writing blocks when the pipe is full, and breaks when the program is ended.
    let err = stdin.write_all(&vec![0; 1_000_000]).await.unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::BrokenPipe);
    assert!(report(&running.wait().await.unwrap_err()).contains("had not ended after 300ms"));
}

/// An input that fails.
struct Broken;

impl tokio::io::AsyncRead for Broken {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the archive is gone")))
    }
}
