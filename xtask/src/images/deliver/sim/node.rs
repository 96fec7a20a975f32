//! A node's store that behaves as containerd's does: what comes is kept by the digest it has, whatever its name, and an image
//! needs all of its layers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::rc::Rc;

use anyhow::{Result, anyhow, bail};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::sync::oneshot;

use super::super::engine::{Import, Store};
use super::super::held::{Held, SOURCE};
use super::super::layout::{Document, NAME, digest};

/// What goes wrong at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// It is stopped.
    Dead,
    /// It is stopped after this many bytes of an import.
    Dies(usize),
    /// It takes no more after this many bytes.
    Paused(usize),
    /// The import fails at its end.
    Full,
    /// The import's client loses its connection, and the import goes on without what follows.
    Reset(usize),
    /// containerd is restarted after an import that looked well, and has lost a blob.
    Lost,
    /// The import ends well and does nothing.
    Lies,
    /// A layer is removed between the look and the import.
    Collected,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    pub(super) images: BTreeMap<String, String>,
    sources: BTreeMap<String, String>,
    dead: bool,
}

pub(super) struct FakeNode {
    pub(super) name: String,
    pub(super) state: Rc<RefCell<State>>,
    /// For the first import and for later ones.
    pub(super) faults: [Fault; 2],
    pub(super) imports: std::cell::Cell<usize>,
}

pub(super) struct FakeImport {
    writer: Option<DuplexStream>,
    end: oneshot::Receiver<Result<()>>,
    state: Rc<RefCell<State>>,
}

impl FakeNode {
    /// Whether it loses what it had.
    pub(super) fn loses(&self) -> bool {
        self.faults.iter().any(|fault| matches!(fault, Fault::Lost | Fault::Collected))
    }
}

impl Store for FakeNode {
    type Import = FakeImport;

    fn name(&self) -> &str {
        &self.name
    }

    async fn held(&self, _: &[String]) -> Result<Held> {
        if self.faults[0] == Fault::Dead || self.state.borrow().dead {
            bail!("container {} is not running", self.name);
        }
        Ok(self.state.borrow().held())
    }

    async fn import(&self, _: &[String]) -> Result<FakeImport> {
        let fault = self.faults[self.imports.get().min(1)];
        self.imports.set(self.imports.get() + 1);
        if fault == Fault::Collected {
            let mut state = self.state.borrow_mut();
            let layer = state
                .blobs
                .iter()
                .find(|(_, blob)| !blob.starts_with(b"{"))
                .map(|(digest, _)| digest.clone());
            layer.map(|layer| state.blobs.remove(&layer));
        }
        let (writer, mut reader) = tokio::io::duplex(1 << 10);
        let (ended, end) = oneshot::channel();
        let state = self.state.clone();
        tokio::task::spawn_local(async move {
            let limit = match fault {
                Fault::Dies(at) | Fault::Paused(at) | Fault::Reset(at) => at,
                _ => usize::MAX,
            };
            let mut archive = Vec::new();
            // What is read has to be what is written, or the reader takes more than it should.
            let _ = (&mut reader).take(limit as u64).read_to_end(&mut archive).await;
            let whole = archive.len() < limit;
            let outcome = match fault {
                Fault::Dies(_) if !whole => {
                    state.borrow_mut().dead = true;
                    drop(reader);
                    Err(anyhow!("the container stopped"))
                }
                Fault::Paused(_) if !whole => {
                    let keep = reader;
                    std::future::pending::<()>().await;
                    drop(keep);
                    Ok(())
                }
                // The node's side sees an end, and takes what came for all.
                Fault::Reset(_) if !whole => {
                    let _ = state.borrow_mut().import(&archive);
                    Err(anyhow!("connection reset by peer"))
                }
                Fault::Full => Err(anyhow!("no space left on device")),
                Fault::Lies => Ok(()),
                _ => state.borrow_mut().import(&archive),
            };
            if fault == Fault::Lost && outcome.is_ok() {
                let mut state = state.borrow_mut();
                let layer = state
                    .blobs
                    .iter()
                    .rev()
                    .find(|(_, blob)| !blob.starts_with(b"{"))
                    .map(|(digest, _)| digest.clone());
                layer.map(|layer| state.blobs.remove(&layer));
            }
            let _ = ended.send(outcome);
        });
        Ok(FakeImport { writer: Some(writer), end, state: self.state.clone() })
    }

    async fn label(&self, images: &[(String, String)]) -> Result<()> {
        self.state.borrow_mut().sources.extend(images.iter().cloned());
        Ok(())
    }
}

impl Import for FakeImport {
    type Writer = DuplexStream;

    fn writer(&mut self) -> Result<DuplexStream> {
        Ok(self.writer.take().unwrap())
    }

    async fn end(self) -> Result<Held> {
        self.end.await.unwrap_or_else(|_| bail!("the import vanished"))?;
        Ok(self.state.borrow().held())
    }
}

impl State {
    /// What `ctr images import` does, down to a client that went away in the middle.
    pub(super) fn import(&mut self, archive: &[u8]) -> Result<()> {
        let mut files = BTreeMap::new();
        let mut at = 0;
        while at + 512 <= archive.len() && archive[at] != 0 {
            let header = &archive[at..at + 512];
            let name = String::from_utf8(header[..100].to_vec())?.trim_end_matches('\0').to_owned();
            let size = std::str::from_utf8(&header[124..135])?.trim_matches(['\0', ' ']);
            let size = usize::from_str_radix(size, 8)?;
            at += 512;
            let Some(content) = archive.get(at..at + size) else { bail!("unexpected EOF") };
            self.blobs.insert(digest(content), content.to_vec());
            files.insert(name, content.to_vec());
            at += size.next_multiple_of(512);
        }
        if !files.contains_key("oci-layout") {
            bail!("unrecognized image format");
        }
        let index: Document =
            serde_json::from_slice(files.get("index.json").ok_or_else(|| anyhow!("missing index.json"))?)?;
        for manifest in index.manifests {
            // As containerd does: the image is recorded first, and then it may turn out that it cannot be unpacked.
            self.images.insert(manifest.annotations[NAME].clone(), manifest.digest.clone());
            let document: Document = serde_json::from_slice(
                self.blobs.get(&manifest.digest).ok_or_else(|| anyhow!("no manifest"))?,
            )?;
            for layer in &document.layers {
                if !self.blobs.contains_key(&layer.digest) {
                    bail!("content digest {}: not found", layer.digest);
                }
            }
        }
        Ok(())
    }

    /// The layers' plain digests by blob: those that were compressed say so.
    fn plain(blob: &[u8]) -> String {
        digest(blob.strip_prefix(b"\x1f\x8b").unwrap_or(blob))
    }

    fn manifests(&self) -> BTreeMap<String, Document> {
        let read = |(digest, blob): (&String, &Vec<u8>)| {
            Some((digest.clone(), serde_json::from_slice::<Document>(blob).ok()?))
        };
        self.blobs.iter().filter_map(read).filter(|(_, document)| document.config.is_some()).collect()
    }

    /// The answer of a real node, read as a real one's.
    pub(super) fn held(&self) -> Held {
        let mut answer = "MACHINE x86_64\n".to_owned();
        for (digest, blob) in &self.blobs {
            let _ = writeln!(answer, "SIZE {} {}", digest.trim_start_matches("sha256:"), blob.len());
        }
        for name in self.images.keys() {
            let _ = writeln!(answer, "NAME {name}");
        }
        answer.push_str("REF\tTYPE\tDIGEST\tSIZE\tPLATFORMS\tLABELS\n");
        for (name, target) in &self.images {
            let source = self.sources.get(name).map_or("-".to_owned(), |id| format!("{SOURCE}={id}"));
            let _ = writeln!(answer, "{name} type {target} 1.0 MiB linux/amd64 {source}");
        }
        answer.push_str("DIGEST\tSIZE\tAGE\tLABELS\n");
        let manifests = self.manifests();
        let layers: BTreeSet<&String> =
            manifests.values().flat_map(|manifest| &manifest.layers).map(|layer| &layer.digest).collect();
        for (digest, blob) in &self.blobs {
            let labels = if let Some(Document { config: Some(config), layers, .. }) = manifests.get(digest) {
                let mut labels = vec![format!("containerd.io/gc.ref.content.config={}", config.digest)];
                labels.extend(
                    layers
                        .iter()
                        .enumerate()
                        .map(|(at, layer)| format!("containerd.io/gc.ref.content.l.{at}={}", layer.digest)),
                );
                labels.join(",")
            } else if layers.contains(digest) {
                format!("containerd.io/uncompressed={}", State::plain(blob))
            } else {
                "-".to_owned()
            };
            let _ = writeln!(answer, "{digest}\t1kB\t2 minutes\t{labels}");
        }
        Held::parse(&answer)
    }

    /// Whether the image of this name is exactly this one, looked at without any of the code under test.
    pub(super) fn has(&self, name: &str, config: &[u8], plain: &[String]) -> bool {
        let Some(manifest) = self.images.get(name).and_then(|target| self.blobs.get(target)) else {
            return false;
        };
        let Ok(manifest) = serde_json::from_slice::<serde_json::Value>(manifest) else { return false };
        let config_is =
            manifest["config"]["digest"] == digest(config) && self.blobs.contains_key(&digest(config));
        let layers: Vec<Option<String>> = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|layer| {
                let blob = self.blobs.get(layer["digest"].as_str()?)?;
                (layer["size"] == blob.len()).then(|| State::plain(blob))
            })
            .collect();
        config_is && layers == plain.iter().cloned().map(Some).collect::<Vec<_>>()
    }
}
