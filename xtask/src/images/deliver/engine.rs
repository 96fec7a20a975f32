//! The two ends of a delivery, as the simulation replaces them: the local image store and a node's.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kind_client::{Node, Running};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};

use super::held::{Held, SOURCE, script};
use crate::cmd::Group;
use crate::docker::Docker;
use crate::text;

/// How long a node may take to say what it holds.
const ASK: Duration = Duration::from_secs(60);
/// How long sending may take in all. What a node takes is bounded by its pauses and, after the last byte, by the size.
pub(super) const IMPORT: Duration = Duration::from_secs(60 * 60);
/// The size of a pipe in bytes: the most that Linux lets everybody have.
#[cfg(target_os = "linux")]
const PIPE: i32 = 1 << 20;
/// What is kept of a program's complaint.
const COMPLAINT: u64 = 16 << 10;

/// The local image store.
pub(super) trait Engine {
    /// Its archive under way.
    type Save: Save;

    /// Starts an archive of these references or ids.
    fn save(&self, what: &[String]) -> Result<Self::Save>;

    /// Sends an image by its id to a registry on this machine, under a name that is left behind.
    async fn push(&self, id: &str, to: &str) -> Result<()>;

    /// Takes such names away, without waiting for it.
    fn forget(&self, names: &[String]);
}

/// An archive under way.
pub(super) trait Save {
    /// Its bytes.
    type Stream: AsyncRead + Unpin + Send;

    /// The bytes; once.
    fn stream(&mut self) -> Result<Self::Stream>;

    /// Waits for the end, after all bytes were read.
    async fn end(self) -> Result<()>;
}

/// A node's image store.
pub(super) trait Store {
    /// An import under way.
    type Import: Import;

    /// The node's name.
    fn name(&self) -> &str;

    /// What it holds; of images that are not ours by name, what those of `names` are.
    async fn held(&self, names: &[String]) -> Result<Held>;

    /// Starts an import, whose end tells as [`Store::held`] does.
    async fn import(&self, names: &[String]) -> Result<Self::Import>;

    /// Labels images with what they were made from: full name and value.
    async fn label(&self, images: &[(String, String)]) -> Result<()>;
}

/// An import under way; dropping it ends it.
pub(super) trait Import {
    /// Where the archive goes.
    type Writer: AsyncWrite + Unpin;

    /// Where the archive goes; once.
    fn writer(&mut self) -> Result<Self::Writer>;

    /// Waits for the end, after the writer was shut down; gives what the node holds then.
    async fn end(self) -> Result<Held>;
}

/// `docker save` under way.
pub(super) struct DockerSave {
    shown: String,
    group: Group,
    stderr: Option<ChildStderr>,
}

impl Engine for Docker {
    type Save = DockerSave;

    fn save(&self, what: &[String]) -> Result<DockerSave> {
        let mut group = Docker::save(*self, what)?;
        let stderr = group.child.stderr.take();
        Ok(DockerSave { shown: format!("docker save {}", what.join(" ")), group, stderr })
    }

    async fn push(&self, id: &str, to: &str) -> Result<()> {
        self.tag(id, to).await?;
        Docker::push(*self, to).await
    }

    fn forget(&self, names: &[String]) {
        self.remove_later(names);
    }
}

/// Lets a pipe hold more, so that its ends wake each other less often. Only Linux can, and not for everybody.
fn widen(pipe: &impl std::os::fd::AsFd) {
    #[cfg(target_os = "linux")]
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(PIPE));
    #[cfg(not(target_os = "linux"))]
    let _ = pipe;
}

impl Save for DockerSave {
    type Stream = ChildStdout;

    fn stream(&mut self) -> Result<ChildStdout> {
        let stdout = self.group.child.stdout.take().context("the output of docker save was not captured")?;
        widen(&stdout);
        Ok(stdout)
    }

    async fn end(mut self) -> Result<()> {
        let mut complaint = String::new();
        if let Some(stderr) = self.stderr.take() {
            // What docker says is short; what is not UTF-8 is left out.
            let _ = stderr.take(COMPLAINT).read_to_string(&mut complaint).await;
        }
        let status = self.group.child.wait().await.context("wait for docker save")?;
        self.group.disarm();
        if !status.success() {
            bail!("`{}` ended with {}: {}", self.shown, text::status(status), complaint.trim());
        }
        Ok(())
    }
}

impl Store for Node {
    type Import = Running;

    fn name(&self) -> &str {
        Node::name(self)
    }

    async fn held(&self, names: &[String]) -> Result<Held> {
        let asked = self.exec(["sh", "-c", &script(names)]).deadline(ASK).ensure_stdout().await;
        Ok(Held::parse(&asked.map_err(why)?))
    }

    async fn import(&self, names: &[String]) -> Result<Running> {
        // What came of it is asked in the same process: another one would take longer than the answer.
        // By itself ctr has containerd read the archive, which takes half as long again (measured with containerd 2.3); older
        // ones do not know the difference.
        let script = format!(
            "local=$(ctr images import --help 2>&1 | grep -o -m 1 -e ' --local ')
ctr --namespace k8s.io images import $local - >&2 && {{\n{}\n}}",
            script(names)
        );
        let running = self.exec(["sh", "-c", &script]).deadline(4 * IMPORT).spawn()?;
        if let Some(stdin) = &running.stdin {
            widen(stdin);
        }
        Ok(running)
    }

    async fn label(&self, images: &[(String, String)]) -> Result<()> {
        let label = |(name, id): &(String, String)| {
            format!("ctr --namespace k8s.io images label {name} {SOURCE}={id}")
        };
        let script = images.iter().map(label).collect::<Vec<_>>().join(" && ");
        Ok(self.exec(["sh", "-c", &script]).deadline(ASK).ensure_success().await?)
    }
}

/// What a node's programs said last, without the script that ran them; only where they said nothing, all that is known.
fn why(error: kind_client::Error) -> anyhow::Error {
    let failure = error.failure();
    let mut lines = failure.tail().iter().rev().map(|line| line.trim());
    let said = lines.find(|line| !line.is_empty() && !line.contains("level=warning"));
    match (said, failure.status()) {
        (Some(said), Some(_)) => anyhow!("{said}"),
        (None, Some(status)) if status.code() == Some(137) => {
            anyhow!("the import was killed: the node was stopped, or is out of memory")
        }
        _ => error.into(),
    }
}

impl Import for Running {
    type Writer = ChildStdin;

    fn writer(&mut self) -> Result<ChildStdin> {
        self.stdin.take().context("the input of the import was not captured")
    }

    async fn end(mut self) -> Result<Held> {
        let mut stdout = self.stdout.take().context("the output of the import was not captured")?;
        let mut answer = String::new();
        let (read, ended) = tokio::join!(stdout.read_to_string(&mut answer), self.wait());
        ended.map_err(why)?;
        read.context("read what the import says")?;
        Ok(Held::parse(&answer))
    }
}
