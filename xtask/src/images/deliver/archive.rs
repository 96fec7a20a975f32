//! Reads what `docker save` and `podman save` write, and passes on the layers that nodes lack.
//!
//! Three layouts are in use: Docker up to 24 (`<id>/layer.tar` and manifest.json), podman's (`<digest>.tar` and manifest.json)
//! and OCI (`blobs/sha256/<digest>` and index.json; Docker since 25, and Docker's containerd store with compressed layers).
//! What an image consists of stands at the archive's end, so layers pass before it is known which image they belong to:
//! their names tell whether a node has them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_tar::{Archive, Entry, EntryType};

use super::held::{Blob, Held};
use super::layout::{self, Document};
use super::outlets::{Outlets, PIECE};
use crate::images::key::hex;

/// A document of an archive is smaller; a bigger file is a layer.
const DOCUMENT: u64 = 4 << 20;
/// What to do about a blob that is not what it should be.
const DAMAGED: &str = "the image is damaged in the local store; remove it and build or pull it again";
/// What documents may take in memory together.
const DOCUMENTS: u64 = 24 << 20;

/// An image in an archive.
#[derive(Clone, Debug)]
pub(super) struct Archived {
    /// The digest under which the archive's index names it.
    pub(super) root: Option<String>,
    /// Its configuration.
    pub(super) config: Bytes,
    /// Its layers: uncompressed digest and blob.
    pub(super) layers: Vec<(String, Blob)>,
}

impl Archived {
    /// Whether this is what Docker calls `id`: a configuration's digest, or in the containerd store a manifest's or an index's.
    pub(super) fn is(&self, id: &str) -> bool {
        self.root.as_deref() == Some(id) || layout::digest(&self.config) == id
    }
}

/// What is known before the archive comes.
pub(super) struct Relay<'a> {
    /// By folder of an older archive the layer in it.
    pub(super) folders: &'a BTreeMap<String, String>,
    /// The last layer of each image, of which older archives do not tell which folder it is in.
    pub(super) last: &'a [&'a str],
    /// What the nodes hold.
    pub(super) held: &'a [&'a Held],
    /// The architecture of the nodes, as images name it.
    pub(super) arch: &'a str,
    /// What makes this delivery's names unique: containerd joins what comes under one name
    /// (github.com/containerd/containerd, core/content/helpers.go, `OpenWriter`).
    pub(super) tag: &'a str,
}

#[derive(Default)]
struct Contents {
    documents: BTreeMap<String, Bytes>,
    kept: u64,
    layers: BTreeMap<String, Layer>,
    links: BTreeMap<String, String>,
    files: usize,
}

/// A layer that was passed on or passed over.
#[derive(Clone)]
struct Layer {
    blob: Blob,
    /// Whether the blob's digest is that of the layer as well.
    is_plain: bool,
}

/// Whether these first bytes are gzip's or zstd's.
fn is_compressed(first: &[u8]) -> bool {
    first.starts_with(&[0x1f, 0x8b]) || first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
}

impl Relay<'_> {
    /// Reads `archive` to its end, sends the layers that nodes lack, and gives the images.
    ///
    /// # Errors
    /// The archive is cut, or no such archive.
    pub(super) async fn run(
        &self,
        archive: impl AsyncRead + Unpin + Send,
        outlets: &mut Outlets,
    ) -> Result<Vec<Archived>> {
        let mut contents = Contents::default();
        let mut archive = Archive::new(archive);
        let mut entries = archive.entries().context("read the archive")?;
        while let Some(entry) = entries.next().await {
            let mut entry = entry.context("read the archive")?;
            let path = entry.path().context("read a name in the archive")?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./").to_owned();
            match entry.header().entry_type() {
                EntryType::Symlink => {
                    if let Some(target) = entry.link_name().context("read a link in the archive")? {
                        let target = beside(&path, &target.to_string_lossy());
                        contents.links.insert(path, target);
                    }
                }
                EntryType::Regular | EntryType::Continuous => {
                    let size = entry.effective_size();
                    self.file(&mut entry, path, size, &mut contents, outlets).await?;
                }
                _ => {}
            }
            if outlets.all_closed() {
                break;
            }
        }
        drop(entries);
        // What follows the archive's end is read too: docker must not find its pipe closed.
        if let Ok(mut rest) = archive.into_inner() {
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.context("read the archive's end")?;
        }
        if outlets.all_closed() {
            return Ok(Vec::new());
        }
        self.images(contents, outlets).await
    }

    async fn file<R: AsyncRead + Unpin>(
        &self,
        entry: &mut Entry<R>,
        path: String,
        size: u64,
        contents: &mut Contents,
        outlets: &mut Outlets,
    ) -> Result<()> {
        let mut first = Bytes::new();
        if size <= DOCUMENT {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).await.with_context(|| format!("read {path} of the archive"))?;
            if bytes.len() as u64 != size {
                bail!("the archive is cut in {path}");
            }
            if bytes.first().is_some_and(|first| b"{[".contains(first)) || !is_layer(&path) {
                contents.kept += size;
                if contents.kept > DOCUMENTS {
                    bail!("the archive has more than {} of documents", crate::text::bytes(DOCUMENTS));
                }
                contents.documents.insert(path, bytes.into());
                return Ok(());
            }
            first = bytes.into();
        }
        let known = self.known(&path);
        let who = self.who(known.as_deref());
        let (digest, is_plain) = if who.contains(&true) {
            contents.files += 1;
            let name = format!("blobs/{}-{}", self.tag, contents.files);
            outlets.begin(&who, &name, size).await?;
            let passed = pass(entry, first, size, &who, outlets)
                .await
                .with_context(|| format!("read {path} of the archive"))?;
            outlets.pad(&who, size).await;
            passed
        } else {
            // Skipped by the reader, unread: the node's own store vouches for it.
            (known.clone().unwrap_or_default(), false)
        };
        if let Some(known) = known
            && path.starts_with("blobs/")
            && known != digest
        {
            bail!(
                "the archive's {path} has the digest {digest}: the image is damaged in the local store; remove and build or pull it again"
            );
        }
        contents.layers.insert(path, Layer { blob: Blob { digest, bytes: size }, is_plain });
        Ok(())
    }

    /// The digest that a file's name tells: its own, or that of the layer in it.
    fn known(&self, path: &str) -> Option<String> {
        let digest = |name: &str| {
            (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then(|| format!("sha256:{name}"))
        };
        if let Some(name) = path.strip_prefix("blobs/sha256/") {
            return digest(name);
        }
        match path.strip_suffix("/layer.tar") {
            Some(folder) => self.folders.get(folder).cloned(),
            None => digest(path.strip_suffix(".tar")?),
        }
    }

    /// The nodes that lack a blob; one that is not known may be any image's last layer.
    fn who(&self, known: Option<&str>) -> Vec<bool> {
        let lacks = |held: &&Held| match known {
            Some(digest) => held.layer(digest).is_none(),
            None => self.last.is_empty() || self.last.iter().any(|digest| held.layer(digest).is_none()),
        };
        self.held.iter().map(lacks).collect()
    }

    async fn images(&self, mut contents: Contents, outlets: &mut Outlets) -> Result<Vec<Archived>> {
        let described = if contents.documents.contains_key("index.json") {
            self.of_index(&contents)?
        } else if contents.documents.contains_key("manifest.json") {
            of_manifest(&contents)?
        } else {
            bail!(
                "the archive ends without index.json and manifest.json: it is cut, or no archive of images"
            );
        };
        let mut images = Vec::new();
        for (root, config, paths) in described {
            let plain = layout::plain_layers(&config)?;
            if plain.len() != paths.len() {
                bail!(
                    "an image of the archive has {} layers, and its configuration {}",
                    paths.len(),
                    plain.len()
                );
            }
            let mut layers = Vec::new();
            for (plain, path) in plain.into_iter().zip(paths) {
                let Layer { blob, is_plain } = self.layer(&mut contents, &path, outlets).await?;
                if is_plain && blob.digest != plain {
                    bail!(
                        "the archive's {path} has the digest {}, and its image says {plain}: {DAMAGED}",
                        blob.digest
                    );
                }
                layers.push((plain, blob));
            }
            images.push(Archived { root, config, layers });
        }
        Ok(images)
    }

    /// The layer at `path`, sent now where it looked like a document.
    async fn layer(&self, contents: &mut Contents, path: &str, outlets: &mut Outlets) -> Result<Layer> {
        let path = contents.links.get(path).map_or(path, String::as_str).to_owned();
        if let Some(layer) = contents.layers.get(&path) {
            return Ok(layer.clone());
        }
        let Some(bytes) = contents.documents.get(&path).cloned() else {
            bail!("the archive has no {path}, which an image of it names: it is cut");
        };
        let blob = Blob { digest: layout::digest(&bytes), bytes: bytes.len() as u64 };
        contents.files += 1;
        let name = format!("blobs/{}-{}", self.tag, contents.files);
        outlets.file(&self.who(Some(&blob.digest)), &name, bytes).await?;
        let layer = Layer { blob, is_plain: true };
        contents.layers.insert(path, layer.clone());
        Ok(layer)
    }

    fn of_index(&self, contents: &Contents) -> Result<Vec<Described>> {
        let index: Document = document(contents, "index.json")?;
        let mut described = Vec::new();
        for root in &index.manifests {
            let manifest = self.manifest(contents, &root.digest)?;
            let config = manifest.config.context("a manifest of the archive has no configuration")?;
            let bytes = verified(contents, &config.digest)?;
            let paths = manifest.layers.iter().map(|layer| path_of(&layer.digest)).collect();
            described.push((Some(root.digest.clone()), bytes, paths));
        }
        Ok(described)
    }

    /// The manifest of the nodes' platform that `digest` leads to.
    fn manifest(&self, contents: &Contents, digest: &str) -> Result<Document> {
        let found = manifest_of(contents, digest)?;
        if found.manifests.is_empty() {
            return Ok(found);
        }
        let platforms: Vec<String> = found
            .manifests
            .iter()
            .filter_map(|child| child.platform.as_ref())
            .filter(|platform| platform.os == "linux")
            .map(|platform| platform.architecture.clone())
            .collect();
        for child in &found.manifests {
            if child.is_for(self.arch) && contents.documents.contains_key(&path_of(&child.digest)) {
                return manifest_of(contents, &child.digest);
            }
        }
        bail!(
            "the image is there for {}, and not for {}, which the nodes need",
            platforms.join(", "),
            self.arch
        )
    }
}

fn manifest_of(contents: &Contents, digest: &str) -> Result<Document> {
    serde_json::from_slice(&verified(contents, digest)?)
        .with_context(|| format!("understand the archive's manifest {digest}"))
}

/// An image: the index's digest of it, its configuration, its layers' paths.
type Described = (Option<String>, Bytes, Vec<String>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    layers: Vec<String>,
}

fn of_manifest(contents: &Contents) -> Result<Vec<Described>> {
    let saved: Vec<Saved> = document(contents, "manifest.json")?;
    let describe = |saved: Saved| {
        let config = contents.documents.get(&saved.config).cloned();
        let config = config.with_context(|| format!("the archive has no {}: it is cut", saved.config))?;
        Ok((None, config, saved.layers))
    };
    saved.into_iter().map(describe).collect()
}

fn document<T: serde::de::DeserializeOwned>(contents: &Contents, path: &str) -> Result<T> {
    serde_json::from_slice(&contents.documents[path])
        .with_context(|| format!("understand {path} of the archive"))
}

/// A document by its digest, which is checked.
fn verified(contents: &Contents, digest: &str) -> Result<Bytes> {
    let path = path_of(digest);
    let bytes =
        contents.documents.get(&path).with_context(|| format!("the archive has no {path}: it is cut"))?;
    let real = layout::digest(bytes);
    if real != digest {
        bail!(
            "the archive's {path} has the digest {real}: the image is damaged in the local store; remove and build or pull it again"
        );
    }
    Ok(bytes.clone())
}

fn path_of(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn is_layer(path: &str) -> bool {
    path.ends_with(".tar") || path.starts_with("blobs/")
}

/// Where a relative link in an archive leads.
fn beside(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Passes a file's bytes on, those that were read and then what is left of `size`; gives their digest, and whether they are as they were
/// before any compression.
async fn pass(
    entry: &mut (impl AsyncRead + Unpin),
    mut piece: Bytes,
    size: u64,
    who: &[bool],
    outlets: &mut Outlets,
) -> Result<(String, bool)> {
    let mut hash = Sha256::new();
    let mut left = size;
    let mut is_plain = true;
    loop {
        if left == size {
            is_plain = !is_compressed(&piece);
        }
        left = left.saturating_sub(piece.len() as u64);
        hash.update(&piece);
        outlets.bytes(who, piece).await;
        if left == 0 {
            return Ok((format!("sha256:{}", hex(&hash.finalize())), is_plain));
        }
        let mut next = BytesMut::with_capacity(PIECE);
        while next.len() < PIECE && entry.read_buf(&mut next).await? > 0 {}
        if next.is_empty() {
            bail!("the archive is cut: {left} bytes of {size} are missing");
        }
        piece = next.freeze();
    }
}
