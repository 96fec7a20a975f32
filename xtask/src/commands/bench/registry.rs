//! A registry on this machine, which a peer pushes to and pulls from: Debian's `docker-registry`.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

use crate::cmd::Group;
use crate::env::Env;

/// The names of the program, in Debian and elsewhere.
const PROGRAMS: [&str; 2] = ["docker-registry", "registry"];
/// How long it may take to listen.
const LISTENS: Duration = Duration::from_secs(15);

/// Two servers of one folder: Docker pushes without TLS to 127.0.0.1 only, and nodes reach only the bridge.
pub(super) struct Registry {
    folder: Utf8PathBuf,
    /// Where Docker pushes to.
    pub(super) push: String,
    /// Where nodes pull from.
    pub(super) pull: String,
    _servers: [Group; 2],
}

/// The program, where it is installed.
pub(super) fn program() -> Option<Utf8PathBuf> {
    let folders = Env::search_path();
    let paths = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    paths.filter(|path| path.is_file()).find_map(|path| Utf8PathBuf::from_path_buf(path).ok())
}

impl Registry {
    /// Starts it with its data in `folder`, reachable for the nodes at `bridge`, an address of this machine.
    pub(super) async fn start(program: &Utf8Path, folder: &Utf8Path, bridge: Ipv4Addr) -> Result<Registry> {
        let (push, first) = serve(program, folder, Ipv4Addr::LOCALHOST).await?;
        let (pull, second) = serve(program, folder, bridge).await?;
        Ok(Registry { folder: folder.to_owned(), push, pull, _servers: [first, second] })
    }

    /// Forgets all that was pushed. It keeps nothing in memory.
    pub(super) fn clear(&self) -> Result<()> {
        let data = self.folder.join("docker");
        if data.exists() {
            std::fs::remove_dir_all(&data).with_context(|| format!("remove {data}"))?;
        }
        Ok(())
    }
}

async fn serve(program: &Utf8Path, folder: &Utf8Path, address: Ipv4Addr) -> Result<(String, Group)> {
    let free = TcpListener::bind((address, 0)).with_context(|| format!("listen on a port of {address}"))?;
    let port = free.local_addr()?.port();
    drop(free);
    let config = serde_json::json!({
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": true}},
        "storage": {
            "filesystem": {"rootdirectory": folder},
            "maintenance": {"uploadpurging": {"enabled": false}},
        },
        "http": {"addr": format!("{address}:{port}")},
    });
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    let path = folder.join(format!("{address}.yml"));
    // JSON is YAML.
    std::fs::write(&path, config.to_string()).with_context(|| format!("write {path}"))?;
    let mut server = Group::spawn(Command::new(program).args(["serve", path.as_str()]), false)
        .with_context(|| format!("start {program}"))?;
    let deadline = Instant::now() + LISTENS;
    // A server that does not listen yet cannot be watched.
    while TcpStream::connect((address, port)).await.is_err() {
        if let Some(status) = server.child.try_wait()? {
            let mut said = String::new();
            if let Some(mut stderr) = server.child.stderr.take() {
                stderr.read_to_string(&mut said).await?;
            }
            bail!("`{program} serve {path}` ended with {}: {}", crate::text::status(status), said.trim());
        }
        if Instant::now() > deadline {
            bail!("`{program} serve {path}` does not listen within {} s", LISTENS.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A server whose outputs nobody reads stands still once they are full, in the middle of a push.
    drain(server.child.stdout.take());
    drain(server.child.stderr.take());
    Ok((format!("{address}:{port}"), server))
}

/// Reads to the end, whatever it says.
fn drain(output: Option<impl AsyncRead + Unpin + Send + 'static>) {
    if let Some(mut output) = output {
        tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::sink()).await });
    }
}
