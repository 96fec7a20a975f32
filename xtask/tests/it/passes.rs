//! What passes forwards on a real cluster: gRPC and WebSockets, by each way, also where a proxy refuses SPDY.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use http::Request;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::simulated::wait_for;

const CLUSTER: &str = "k8s-test-passes";
/// How long opening the forwards may take: images are made for it.
const OPEN: Duration = Duration::from_secs(600);

const SUITE: &str = "
images: [python-base]
namespaces: {user: passes}
fixtures: [servers.yaml]
forwards:
  grpc: {namespace: user, selector: app=grpc, port: 5553, timeout: 120s}
  socket: {namespace: user, selector: app=socket, port: 8080, timeout: 120s}
run: {command: ['true']}
";

/// CoreDNS speaks gRPC, and every cluster has its image; one that knows no names refuses them all, which is an answer.
const SERVERS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: servers}
data:
  Corefile: |
    grpc://.:5553 {
      errors
    }
  echo.py: |
    import base64, hashlib, socketserver, struct

    class Handler(socketserver.StreamRequestHandler):
        def frame(self, kind, data):
            n = len(data)
            size = bytes([n]) if n < 126 else b"\x7e" + struct.pack(">H", n) if n < 65536 else b"\x7f" + struct.pack(">Q", n)
            self.wfile.write(bytes([0x80 | kind]) + size + data)

        def handle(self):
            head = {}
            while (line := self.rfile.readline().strip()):
                name, _, value = line.partition(b":")
                head[name.lower()] = value.strip()
            if b"sec-websocket-key" not in head:
                return
            accept = hashlib.sha1(head[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n")
            self.frame(1, b"welcome")
            while True:
                kind, n = self.rfile.read(2)
                n &= 127
                if n == 126: n, = struct.unpack(">H", self.rfile.read(2))
                elif n == 127: n, = struct.unpack(">Q", self.rfile.read(8))
                mask = self.rfile.read(4)
                data = self.rfile.read(n)
                mask = (mask * (n // 4 + 1))[:n]
                data = (int.from_bytes(data, "big") ^ int.from_bytes(mask, "big")).to_bytes(n, "big")
                self.frame(10 if kind & 15 == 9 else kind & 15, data)
                if kind & 15 == 8:
                    return

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    Server(("", 8080), Handler).serve_forever()
---
apiVersion: v1
kind: Pod
metadata: {name: grpc, labels: {app: grpc}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: dns, image: "@COREDNS@", imagePullPolicy: Never, args: [-conf, /etc/servers/Corefile], volumeMounts: [{name: servers, mountPath: /etc/servers}], readinessProbe: {tcpSocket: {port: 5553}, periodSeconds: 1}}
  volumes: [{name: servers, configMap: {name: servers}}]
---
apiVersion: v1
kind: Pod
metadata: {name: socket, labels: {app: socket}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: socket, image: '{{ images["python-base"].reference }}', imagePullPolicy: Never, command: [python3, -u, /srv/echo.py], volumeMounts: [{name: servers, mountPath: /srv}], readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}}
  volumes: [{name: servers, configMap: {name: servers}}]
"#;

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// kubectl in the cluster's node.
fn kubectl(arguments: &[&str]) -> String {
    let node = format!("{CLUSTER}-control-plane");
    let kubectl = ["exec", &node, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf"];
    said("docker", &[&kubectl[..], arguments].concat())
}

fn xtask(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(arguments).current_dir(folder).env_remove("CI").stdin(Stdio::null());
    command
}

/// A deployment that is up with its forwards; it goes when this is dropped.
struct Up {
    running: Child,
    grpc: SocketAddr,
    socket: SocketAddr,
}

impl Up {
    fn start(folder: &Path, more: &[&str]) -> Up {
        let suite = folder.join("suite");
        let log = std::fs::File::create(folder.join("up.log")).unwrap();
        let mut command = xtask(&[&["up", suite.to_str().unwrap()], more].concat(), folder);
        let mut running = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(running.stdout.take().unwrap()).lines();
        let (sender, addresses) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((name, url)) = line.split_once(": http://") {
                    let _ = sender.send((name.trim().to_owned(), url.parse::<SocketAddr>().unwrap()));
                }
            }
        });
        let next = || {
            let log = || std::fs::read_to_string(folder.join("up.log")).unwrap();
            addresses.recv_timeout(OPEN).unwrap_or_else(|_| panic!("no forward:\n{}", log()))
        };
        let (first, second) = (next(), next());
        assert_eq!((first.0.as_str(), second.0.as_str()), ("grpc", "socket"));
        Up { running, grpc: first.1, socket: second.1 }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.running.id()).unwrap()), Signal::SIGINT);
        let _ = self.running.wait();
    }
}

/// A DNS query for example.org in CoreDNS' message, as gRPC frames it.
fn query(id: u16) -> Bytes {
    let mut dns = BytesMut::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        dns.put_u16(word);
    }
    dns.put_slice(b"\x07example\x03org\0\0\x01\0\x01");
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(dns.len() as u32 + 2);
    framed.put_slice(&[0x0a, dns.len() as u8]);
    framed.put_slice(&dns);
    framed.freeze()
}

/// Calls, one after the other and several at once, on one connection.
async fn call(address: SocketAddr) {
    let connection = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(connection).await.unwrap();
    tokio::spawn(connection);
    let one = async |id: u16| {
        let request = Request::post("http://pod/coredns.dns.DnsService/Query")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut client = client.clone().ready().await.unwrap();
        let (answer, mut asks) = client.send_request(request, false).unwrap();
        asks.send_data(query(id), true).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 200);
        let mut body = answer.into_body();
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            received.extend_from_slice(&data);
        }
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        // The frame, the field with its length, then the answer to this query.
        let dns = &received[received.windows(2).position(|part| part == id.to_be_bytes()).unwrap()..];
        assert!(dns[2] & 0x80 != 0, "{dns:?}");
    };
    for id in 1000..1020 {
        one(id).await;
    }
    futures::future::join_all((2000..2020).map(one)).await;
}

/// A conversation over a WebSocket.
async fn talk(address: SocketAddr) {
    let connection = TcpStream::connect(address).await.unwrap();
    let (mut socket, _) = client_async("ws://pod/", connection).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), "welcome".into());
    let mut messages: Vec<Message> = (0..20).map(|n| Message::text(format!("message {n}"))).collect();
    let large: Bytes = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    messages.extend([Message::binary(large), "the last".into()]);
    for message in messages {
        socket.send(message.clone()).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap() == message);
    }
    socket.close(None).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().is_close());
}

fn converse(way: &str, up: &Up) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let both = async {
        tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(call(up.grpc), talk(up.socket)) })
            .await
    };
    runtime.block_on(both).unwrap_or_else(|_| panic!("{way}: it takes too long"));
}

/// A proxy to `server` that refuses upgrades to SPDY; its address, and how many it has refused.
fn without_spdy(server: SocketAddr) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let refused = std::sync::Arc::new(AtomicUsize::new(0));
    let counts = refused.clone();
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((mut client, _)) = listener.accept().await {
                let counts = counts.clone();
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
                    loop {
                        tokio::select! {
                            n = client.read(&mut asked) => match n {
                                Ok(n) if n > 0 => {
                                    let text = String::from_utf8_lossy(&asked[..n]).to_lowercase();
                                    if text.contains("upgrade: spdy") {
                                        counts.fetch_add(1, Ordering::Relaxed);
                                        let no = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
                                        return drop(client.write_all(no).await);
                                    }
                                    if server.write_all(&asked[..n]).await.is_err() { return }
                                }
                                _ => return,
                            },
                            n = server.read(&mut answered) => match n {
                                Ok(n) if n > 0 => if client.write_all(&answered[..n]).await.is_err() { return },
                                _ => return,
                            },
                        }
                    }
                });
            }
        });
    });
    (address.recv().unwrap(), refused)
}

#[test]
#[ignore = "makes a cluster: two minutes"]
fn grpc_and_websockets_pass_real_forwards() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    assert!(xtask(&["cluster", "up", "--kind-cluster", CLUSTER], path).status().unwrap().success());
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    let image = kubectl(&["get", "deployment", "--namespace", "kube-system", "coredns", "--output", image]);
    std::fs::create_dir(path.join("suite")).unwrap();
    std::fs::write(path.join("suite/suite.yaml"), SUITE).unwrap();
    std::fs::write(path.join("suite/servers.yaml"), SERVERS.replace("@COREDNS@", image.trim())).unwrap();
    // As a proxy that logs in for its users and lets WebSockets through alone.
    let node = format!("{CLUSTER}-control-plane");
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = said("docker", &["inspect", "--format", address, &node]);
    let address: SocketAddr = format!("{}:8001", address.trim()).parse().unwrap();
    let proxy = ["kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "proxy", "--port", "8001"];
    let open = ["--address", "0.0.0.0", "--accept-hosts", ".*", "--reject-paths", "^$"];
    said("docker", &[&["exec", "--detach", &node], &proxy[..], &open[..]].concat());
    wait_for("the proxy listens", || Blocking::connect(address).is_ok());
    let (address, refused) = without_spdy(address);
    let kubeconfig = path.join("kubeconfig");
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, contexts: [{{name: c, context: {{cluster: c, user: u}}}}], clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}], users: [{{name: u, user: {{}}}}]}}"
    );
    std::fs::write(&kubeconfig, text).unwrap();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let cluster = ["--cluster-provider", "kubeconfig", "--kubeconfig", kubeconfig, "--context", "c"];
    let up = Up::start(path, &[&cluster[..], &["--forward", "api"]].concat());
    converse("by WebSockets", &up);
    drop(up);
    assert!(refused.load(std::sync::atomic::Ordering::Relaxed) > 0, "nobody asked for SPDY");
    for way in ["api", "direct"] {
        let up = Up::start(path, &["--kind-cluster", CLUSTER, "--forward", way]);
        converse(way, &up);
    }
    assert!(xtask(&["cluster", "down", "--kind-cluster", CLUSTER], path).status().unwrap().success());
}
