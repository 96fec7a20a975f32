//! A local store that gives archives of every layout, whole or not.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncWriteExt, DuplexStream};

use super::super::engine::{Engine, Save};
use super::super::held::Blob;
use super::super::layout::{self, digest};
use super::super::legacy;
use super::Rng;
use crate::docker::Image;

/// The layout of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) enum Layout {
    /// Docker up to 24.
    Folders,
    /// podman.
    Tars,
    /// Docker since 25.
    Oci,
    /// Docker's containerd store: compressed layers, several platforms.
    Containerd,
}

/// What goes wrong at the local store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// The stream ends at this part of it, in thousandths, and the program fails or claims success.
    Cut {
        at: usize,
        honest: bool,
    },
    /// A byte of a layer is another one.
    Flipped,
    /// The image is gone.
    Deleted,
    /// Nothing comes any more.
    Silent,
}

/// What goes wrong when an image is pushed for the second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushFault {
    None,
    /// Its second layer is a longer one, another of the same length, or a shorter one.
    Longer,
    Another,
    Shorter,
    /// It fails.
    Fails,
    /// It looks well, and nothing was sent.
    Nothing,
}

/// An image as it was built.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) config: Bytes,
    /// Plain layers.
    pub(super) layers: Vec<Bytes>,
}

impl Truth {
    pub(super) fn new(layers: Vec<Bytes>, mark: u64) -> Truth {
        let plain: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "created_by": mark.to_string(), "rootfs": {"type": "layers", "diff_ids": plain}});
        Truth { config: config.to_string().into(), layers }
    }

    pub(super) fn plain(&self) -> Vec<String> {
        self.layers.iter().map(|layer| digest(layer)).collect()
    }
}

/// A layer as Docker's containerd store has it: with something around it.
pub(super) fn compressed(layer: &Bytes) -> Bytes {
    [b"\x1f\x8b", layer.as_ref()].concat().into()
}

fn blob_of(bytes: &Bytes) -> Blob {
    Blob { digest: digest(bytes), bytes: bytes.len() as u64 }
}

pub(super) struct FakeDocker {
    pub(super) layout: Layout,
    pub(super) images: Vec<Truth>,
    /// For the first archive and for later ones.
    pub(super) faults: [Fault; 2],
    pub(super) saves: std::cell::Cell<usize>,
    pub(super) pushes: std::cell::Cell<usize>,
    pub(super) push_fault: PushFault,
    pub(super) seed: u64,
}

impl FakeDocker {
    /// What `docker image inspect` says of an image.
    pub(super) fn inspect(&self, at: usize) -> Image {
        let truth = &self.images[at];
        let id = self.id_of(truth);
        let size = truth.layers.iter().map(|layer| layer.len() as u64).sum();
        Image { id, size, architecture: "amd64".to_owned(), layers: truth.plain(), ..Image::default() }
    }

    fn id_of(&self, truth: &Truth) -> String {
        match self.layout {
            Layout::Containerd => digest(&self.index_of(truth)),
            _ => digest(&truth.config),
        }
    }

    fn manifest_of(&self, truth: &Truth) -> Vec<u8> {
        let layer = |layer: &Bytes| {
            let bytes =
                if matches!(self.layout, Layout::Containerd) { compressed(layer) } else { layer.clone() };
            json!({"mediaType": "layer", "digest": digest(&bytes), "size": bytes.len()})
        };
        let layers: Vec<_> = truth.layers.iter().map(layer).collect();
        let config =
            json!({"mediaType": "config", "digest": digest(&truth.config), "size": truth.config.len()});
        json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string().into_bytes()
    }

    /// The index of an image that is there for two platforms, the other one without its content.
    fn index_of(&self, truth: &Truth) -> Vec<u8> {
        let manifest = self.manifest_of(truth);
        let child = |arch: &str, digest: String| json!({"mediaType": "manifest", "digest": digest, "size": 1, "platform": {"architecture": arch, "os": "linux"}});
        let children = [child("arm64", digest(b"elsewhere")), child("amd64", digest(&manifest))];
        json!({"schemaVersion": 2, "manifests": children}).to_string().into_bytes()
    }

    /// The files of an archive, sorted by name as Docker does.
    fn files(&self, ids: &[String]) -> Vec<(String, Bytes)> {
        let mut files: Vec<(String, Bytes)> = Vec::new();
        let mut saved = Vec::new();
        let mut index = Vec::new();
        let chosen = self.images.iter().filter(|truth| ids.contains(&self.id_of(truth)));
        for truth in chosen {
            let hex = |digest: String| digest.trim_start_matches("sha256:").to_owned();
            let config = hex(digest(&truth.config));
            match self.layout {
                Layout::Folders => {
                    let known = legacy::folders(&truth.plain());
                    let folder = |plain: &String| {
                        known.iter().find(|(_, layer)| *layer == plain).map(|(folder, _)| folder.clone())
                    };
                    let plain = truth.plain();
                    let mut paths = Vec::new();
                    for (at, layer) in truth.layers.iter().enumerate() {
                        let top = at + 1 == truth.layers.len();
                        let folder =
                            folder(&plain[at]).filter(|_| !top).unwrap_or_else(|| format!("{config}top"));
                        paths.push(format!("{folder}/layer.tar"));
                        files.push((format!("{folder}/VERSION"), Bytes::from_static(b"1.0")));
                        files.push((format!("{folder}/layer.tar"), layer.clone()));
                    }
                    files.push((format!("{config}.json"), truth.config.clone()));
                    saved
                        .push(json!({"Config": format!("{config}.json"), "RepoTags": null, "Layers": paths}));
                }
                Layout::Tars => {
                    let path = |layer: &Bytes| format!("{}.tar", hex(digest(layer)));
                    files.extend(truth.layers.iter().map(|layer| (path(layer), layer.clone())));
                    files.push((format!("{config}.json"), truth.config.clone()));
                    let paths: Vec<String> = truth.layers.iter().map(path).collect();
                    saved.push(json!({"Config": format!("{config}.json"), "Layers": paths}));
                }
                Layout::Oci | Layout::Containerd => {
                    let (manifest, roots) = (self.manifest_of(truth), self.index_of(truth));
                    let is_index = matches!(self.layout, Layout::Containerd);
                    let root = if is_index { &roots } else { &manifest };
                    index.push(json!({"mediaType": "any", "digest": digest(root), "size": root.len()}));
                    let layers = truth
                        .layers
                        .iter()
                        .map(|layer| if is_index { compressed(layer) } else { layer.clone() });
                    let blobs =
                        layers.chain([truth.config.clone(), manifest.clone().into(), root.clone().into()]);
                    files.extend(blobs.map(|blob| (format!("blobs/sha256/{}", hex(digest(&blob))), blob)));
                }
            }
        }
        if index.is_empty() {
            files.push(("manifest.json".to_owned(), json!(saved).to_string().into()));
        } else {
            files.push((
                "index.json".to_owned(),
                json!({"schemaVersion": 2, "manifests": index}).to_string().into(),
            ));
            files.push((layout::LAYOUT.0.to_owned(), Bytes::from_static(layout::LAYOUT.1)));
        }
        files.sort();
        files.dedup();
        files
    }

    fn archive(&self, ids: &[String], flipped: bool) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut files = self.files(ids);
        if flipped {
            let mut rng = Rng(self.seed);
            let layers: Vec<usize> = (0..files.len())
                .filter(|at| {
                    !files[*at].1.is_empty() && !files[*at].1.starts_with(b"{") && files[*at].1.len() > 8
                })
                .collect();
            if !layers.is_empty() {
                let at = layers[rng.below(layers.len())];
                let mut bytes = files[at].1.to_vec();
                let place = rng.below(bytes.len());
                bytes[place] ^= 1;
                files[at].1 = bytes.into();
            }
        }
        for (name, content) in &files {
            archive.extend_from_slice(&layout::header(name, content.len() as u64).unwrap());
            archive.extend_from_slice(content);
            archive.extend_from_slice(&layout::padding(content.len() as u64));
        }
        archive.extend_from_slice(&layout::end());
        archive
    }
}

pub(super) struct FakeSave {
    stream: Option<DuplexStream>,
    status: Result<(), &'static str>,
    feed: tokio::task::JoinHandle<()>,
}

impl Drop for FakeSave {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

impl Engine for FakeDocker {
    type Save = FakeSave;

    fn save(&self, ids: &[String]) -> Result<FakeSave> {
        let fault = self.faults[self.saves.get().min(1)];
        self.saves.set(self.saves.get() + 1);
        let mut archive = self.archive(ids, fault == Fault::Flipped);
        let mut status = Ok(());
        match fault {
            Fault::Cut { at, honest } => {
                archive.truncate(archive.len() * at / 1000);
                if honest {
                    status = Err("unexpected EOF");
                }
            }
            Fault::Deleted => {
                archive.clear();
                status = Err("No such image");
            }
            _ => {}
        }
        let (mut input, output) = tokio::io::duplex(8 << 10);
        let silent = (fault == Fault::Silent).then_some(archive.len() / 2);
        let feed = tokio::spawn(async move {
            let _ = input.write_all(&archive[..silent.unwrap_or(archive.len())]).await;
            if silent.is_some() {
                std::future::pending::<()>().await;
            }
        });
        Ok(FakeSave { stream: Some(output), status, feed })
    }

    async fn push(&self, id: &str, to: &str) -> Result<()> {
        let mut truth = self.images.iter().find(|truth| self.id_of(truth) == id).context("no image")?.clone();
        self.pushes.set(self.pushes.get() + 1);
        let fault = if self.pushes.get() > 1 { self.push_fault } else { PushFault::None };
        match fault {
            PushFault::None => {}
            PushFault::Fails => bail!("connection refused"),
            PushFault::Nothing => return Ok(()),
            PushFault::Longer => truth.layers[1] = [&truth.layers[1][..], b"more"].concat().into(),
            PushFault::Another => truth.layers[1] = [&truth.layers[1][1..], b"\xff"].concat().into(),
            PushFault::Shorter => truth.layers[1] = truth.layers[1].slice(1..),
        }
        let (host, name) = to.split_once('/').context("no host")?;
        let (repository, tag) = name.rsplit_once(':').context("no tag")?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        let at = |path: &str| format!("http://{host}/v2/{repository}/{path}");
        let layers: Vec<Bytes> = truth.layers.iter().map(compressed).collect();
        // What BuildKit says of a build goes with the image, as one more platform of it.
        let (said, of_said) = (Bytes::from_static(b"[]"), Bytes::from_static(b"{\"of\": \"what is said\"}"));
        let blobs = [truth.config.clone(), said.clone(), of_said.clone()];
        for blob in layers.iter().cloned().chain(blobs) {
            let digest = digest(&blob);
            if http.head(at(&format!("blobs/{digest}"))).send().await?.status().is_success() {
                continue;
            }
            let begun = http.post(at("blobs/uploads/")).send().await?.error_for_status()?;
            let location = begun.headers()["location"].to_str()?.to_owned();
            let upload = format!("http://{host}{location}");
            http.patch(&upload).body(blob).send().await?.error_for_status()?;
            http.put(format!("{upload}?digest={digest}")).send().await?.error_for_status()?;
        }
        let manifest = layout::manifest(&truth.config, &layers.iter().map(blob_of).collect::<Vec<_>>());
        let attestation = layout::manifest(&of_said, &[blob_of(&said)]);
        let child = |manifest: &Bytes, arch: &str, os: &str| json!({"mediaType": "m", "digest": digest(manifest), "size": manifest.len(), "platform": {"architecture": arch, "os": os}});
        let children = [child(&manifest, "amd64", "linux"), child(&attestation, "unknown", "unknown")];
        let index = Bytes::from(json!({"schemaVersion": 2, "manifests": children}).to_string());
        let documents =
            [(digest(&manifest), manifest), (digest(&attestation), attestation), (tag.to_owned(), index)];
        for (reference, document) in documents {
            let put = http.put(at(&format!("manifests/{reference}"))).header("content-type", "m");
            let answer = put.body(document).send().await?;
            ensure!(answer.status().is_success(), "the manifest: {}", answer.text().await?);
        }
        Ok(())
    }

    fn forget(&self, _: &[String]) {}
}

impl Save for FakeSave {
    type Stream = DuplexStream;

    fn stream(&mut self) -> Result<DuplexStream> {
        Ok(self.stream.take().unwrap())
    }

    async fn end(self) -> Result<()> {
        self.status.map_err(|error| anyhow::anyhow!(error))
    }
}
