//! One transfer: from the local store to the nodes that lack something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use super::archive::{Archived, Relay};
use super::counted::{Counted, expected};
use super::engine::{Engine, IMPORT, Import, Save, Store};
use super::held::{Blob, Held};
use super::layout;
use super::legacy;
use super::outlets::{Inlet, Outlets, STALL};
use super::passed::pass_on;
use super::push::{self, Brought, Cost, Push};
use super::{Method, Wanted, names};
use crate::docker::{Image, architecture};
use crate::events::{Events, Step};
use crate::exit::message;
use crate::text;

/// How long a program whose pipe has broken may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How long a node may take to unpack what it was sent: this, and a second for so many bytes. A node on a busy machine
/// was seen to unpack 8 MB in a second.
const UNPACK: Duration = Duration::from_secs(120);
const UNPACKED_EACH_SECOND: u64 = 1 << 20;

/// A node that lacks something.
pub(super) struct Taker<'a, S> {
    /// Its place among all nodes.
    pub(super) at: usize,
    pub(super) node: &'a S,
    pub(super) held: &'a Held,
    /// The places in `wanted` of what it lacks.
    pub(super) lacks: Vec<usize>,
}

/// What a transfer needs to know.
pub(super) struct Transfer<'a, E> {
    pub(super) engine: &'a E,
    pub(super) wanted: &'a [Wanted],
    pub(super) push: &'a Push,
    pub(super) events: &'a Events,
    pub(super) step: &'a Step,
}

/// What a transfer came to.
pub(super) struct Transferred {
    pub(super) method: Method,
    /// By place in `wanted`, the digest of the configuration that was sent.
    pub(super) configs: BTreeMap<usize, String>,
    /// By taker.
    pub(super) nodes: Vec<Outcome>,
}

/// What came of a taker.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) bytes: u64,
    /// Name, bytes that existed, bytes that were sent.
    pub(super) images: Vec<(String, u64, u64)>,
    pub(super) failure: Option<String>,
    /// What it holds now, where the import ended well.
    pub(super) held: Option<Held>,
}

/// What the sending side did.
struct Sent {
    configs: BTreeMap<usize, String>,
    nodes: Vec<Outcome>,
}

impl<E: Engine> Transfer<'_, E> {
    /// Sends each taker what it lacks.
    ///
    /// # Errors
    /// The local store does not give an image. That a node fails is in its outcome.
    pub(super) async fn run<S: Store>(&self, takers: &[Taker<'_, S>]) -> Result<Transferred> {
        let held: Vec<&Held> = takers.iter().map(|taker| taker.held).collect();
        let wanted: Vec<&Wanted> = self.places(takers).into_iter().map(|at| &self.wanted[at]).collect();
        if let Some(cost) = self.push.pays(&wanted, &held) {
            self.step.progress(if cost.once {
                "docker compresses layers that it has never pushed; this once"
            } else {
                "docker pushes what has changed"
            });
            match self.send(takers, Method::Push, |outlets| self.push(takers, outlets, cost)).await {
                Ok(transferred) => return Ok(transferred),
                // The other way needs less.
                Err(error) => tracing::debug!("docker push did not do: {error:#}"),
            }
        }
        self.send(takers, Method::Save, |outlets| self.save(takers, outlets)).await
    }

    /// Has `source` send to an import on each node.
    async fn send<S: Store>(
        &self,
        takers: &[Taker<'_, S>],
        method: Method,
        source: impl AsyncFnOnce(Outlets) -> Result<Sent>,
    ) -> Result<Transferred> {
        let (outlets, inlets) = Outlets::new(takers.len());
        let names = names(self.wanted);
        let imports = takers.iter().zip(inlets).map(|(taker, inlet)| async {
            match import(taker.node, &names, inlet).await {
                Ok(Some(held)) => Ok(held),
                Ok(None) => Err("it was not sent the whole".to_owned()),
                Err(error) => {
                    let reason = message(&error);
                    // At once: the others may take minutes more.
                    self.events.warn(format!("{}: {reason}", taker.node.name()));
                    Err(reason)
                }
            }
        });
        let send = async {
            match timeout(IMPORT, source(outlets)).await {
                Ok(sent) => sent,
                Err(_) => Err(anyhow!("the images were not sent within {}", text::seconds(IMPORT))),
            }
        };
        let (sent, ends) = tokio::join!(send, join_all(imports));
        let mut sent = sent?;
        for (outcome, end) in sent.nodes.iter_mut().zip(ends) {
            match end {
                Ok(held) => outcome.held = Some(held),
                // A node that took nothing knows less than we do.
                Err(reason) => outcome.failure = outcome.failure.take().or(Some(reason)),
            }
        }
        Ok(Transferred { method, configs: sent.configs, nodes: sent.nodes })
    }

    /// The places in `wanted` of what any taker lacks.
    fn places<S>(&self, takers: &[Taker<'_, S>]) -> Vec<usize> {
        let mut places: Vec<usize> = takers.iter().flat_map(|taker| taker.lacks.iter().copied()).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// The ids of what any taker lacks: by id, so that a tag which moves meanwhile changes nothing.
    fn ids<S>(&self, takers: &[Taker<'_, S>]) -> Vec<String> {
        let mut ids: Vec<String> =
            self.places(takers).into_iter().map(|at| self.wanted[at].image.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Sends what Docker pushes.
    async fn push<S: Store>(
        &self,
        takers: &[Taker<'_, S>],
        mut outlets: Outlets,
        cost: Cost,
    ) -> Result<Sent> {
        let held: Vec<&Held> = takers.iter().map(|taker| taker.held).collect();
        let ids = self.ids(takers);
        let brought = push::push(self.engine, &ids, &held, arch(takers), self.push, cost).await?;
        let Brought { images, blobs, exists, .. } = &brought;
        let tag = unique();
        let mut seen = BTreeSet::new();
        let layers = images.iter().flat_map(|image| image.layers.iter().map(move |layer| (image, layer)));
        for (at, (image, (plain, blob))) in layers.enumerate() {
            let lacks = |held: &&Held| held.layer(plain).or_else(|| held.blob(&blob.digest)).is_none();
            let who: Vec<bool> = held.iter().map(lacks).collect();
            // Images share layers.
            if !who.contains(&true) || !seen.insert(&blob.digest) {
                continue;
            }
            let file = format!("blobs/{tag}-{at}");
            if let Some(bytes) = blobs.get(&blob.digest).cloned() {
                outlets.file(&who, &file, bytes).await?;
                continue;
            }
            if cost.twice == 0 {
                bail!("the layer {} is too big to be kept in memory", blob.digest);
            }
            if !outlets.takes(&who) {
                continue;
            }
            let id = ids.iter().find(|id| image.is(id));
            let id =
                id.with_context(|| format!("nobody asked for the image with the layer {}", blob.digest))?;
            self.step.progress(format!("docker push sends a layer of {}", text::bytes(blob.bytes)));
            outlets.begin(&who, &file, blob.bytes).await?;
            let tell = |bytes| self.step.bytes(bytes, blob.bytes);
            pass_on(self.engine, id, blob, exists, &mut outlets, &who, tell).await?;
            outlets.pad(&who, blob.bytes).await;
        }
        self.step.progress("the nodes unpack");
        self.complete(takers, &mut outlets, images, &tag).await
    }

    /// Streams the archive of all that any taker lacks; the outlets end with it.
    async fn save<S: Store>(&self, takers: &[Taker<'_, S>], mut outlets: Outlets) -> Result<Sent> {
        let (places, ids) = (self.places(takers), self.ids(takers));
        let images: Vec<&Image> = places.iter().map(|at| &self.wanted[*at].image).collect();
        let folders = images.iter().flat_map(|image| legacy::folders(&image.layers)).collect();
        let last: Vec<&str> = images.iter().filter_map(|image| Some(image.layers.last()?.as_str())).collect();
        let held: Vec<&Held> = takers.iter().map(|taker| taker.held).collect();
        let tag = unique();
        let relay = Relay { folders: &folders, last: &last, held: &held, arch: arch(takers), tag: &tag };

        let mut save = self.engine.save(&ids)?;
        let expected = expected(&images);
        self.step.progress(format!("docker save writes {}", text::bytes(expected)));
        let stream = Counted::new(save.stream()?, |bytes| self.step.bytes(bytes, expected));
        let images = relay.run(stream, &mut outlets).await;
        let images = match (save.end().await, images) {
            (Ok(()), images) => images?,
            // Where nobody took its output, that it broke off says nothing.
            (Err(_), Ok(images)) if outlets.all_closed() => images,
            (Err(end), Ok(_)) => return Err(end),
            // Of a cut archive docker knows the reason; where we broke off, its pipe broke, and we know.
            (Err(end), Err(ours)) => bail!("{}; docker: {}", message(&ours), message(&end)),
        };
        self.step.progress("the nodes unpack");
        self.complete(takers, &mut outlets, &images, &tag).await
    }

    /// Sends each taker the documents that make images of the layers it has now.
    async fn complete<S: Store>(
        &self,
        takers: &[Taker<'_, S>],
        outlets: &mut Outlets,
        images: &[Archived],
        tag: &str,
    ) -> Result<Sent> {
        let mut sent = Sent { configs: BTreeMap::new(), nodes: Vec::new() };
        for (node, taker) in takers.iter().enumerate() {
            let mut outcome = Outcome::default();
            let mut who = vec![false; takers.len()];
            who[node] = true;
            let mut index = Vec::new();
            let mut counted: Vec<String> = Vec::new();
            // Of a node that has failed, the import's end says why.
            let lacks = if outlets.is_closed(node) { &[] } else { taker.lacks.as_slice() };
            for &at in lacks {
                let wanted = &self.wanted[at];
                let Some(image) = images.iter().find(|image| image.is(&wanted.image.id)) else {
                    bail!(
                        "docker gave no image with the id {}, which {} had: it was removed meanwhile; run this again",
                        wanted.image.id,
                        wanted.name
                    );
                };
                let (layers, existed, lacked) = layers_for(taker.held, image, &mut counted)?;
                let manifest = layout::manifest(&image.config, &layers);
                let documents = (image.config.len() + manifest.len()) as u64;
                outlets.file(&who, &format!("blobs/{tag}-{at}-config"), image.config.clone()).await?;
                outlets.file(&who, &format!("blobs/{tag}-{at}-manifest"), manifest.clone()).await?;
                sent.configs.insert(at, layout::digest(&image.config));
                outcome.images.push((wanted.name.clone(), existed, lacked + documents));
                index.push((wanted.name.clone(), manifest));
            }
            outlets.file(&who, "index.json", layout::index(&index)).await?;
            outlets.file(&who, layout::LAYOUT.0, Bytes::from_static(layout::LAYOUT.1)).await?;
            outlets.end(node).await;
            outcome.bytes = outlets.sent(node);
            if outlets.stalled(node) {
                outcome.failure =
                    Some(format!("it took no bytes for {}: is it paused?", text::seconds(STALL)));
            }
            sent.nodes.push(outcome);
        }
        Ok(sent)
    }
}

/// An image's layers as a node has them or was sent them, with the bytes of each kind; what was counted for another image
/// is not counted again.
///
/// # Errors
/// The node has not got what was passed over because it seemed to have it.
fn layers_for(held: &Held, image: &Archived, counted: &mut Vec<String>) -> Result<(Vec<Blob>, u64, u64)> {
    let (mut existed, mut sent) = (0, 0);
    let mut layers = Vec::new();
    for (plain, blob) in &image.layers {
        match held.layer(plain).or_else(|| held.blob(&blob.digest)) {
            Some(held) => {
                existed += held.bytes;
                layers.push(held);
            }
            None if blob.digest.is_empty() => {
                bail!("the layer {plain} was passed over, and the node lacks it")
            }
            None => {
                if !counted.contains(&blob.digest) {
                    counted.push(blob.digest.clone());
                    sent += blob.bytes;
                }
                layers.push(blob.clone());
            }
        }
    }
    Ok((layers, existed, sent))
}

/// The nodes' architecture, as images name it.
fn arch<'a, S>(takers: &[Taker<'a, S>]) -> &'a str {
    takers.first().map_or("", |taker| architecture(&taker.held.machine))
}

/// Copies what comes to a node's import, waits for its end, and gives what the node holds then; nothing where what came was
/// cut.
async fn import<S: Store>(node: &S, names: &[String], inlet: Inlet) -> Result<Option<Held>> {
    let mut import = node.import(names).await?;
    let mut writer = import.writer()?;
    let copied = inlet.copy_to(&mut writer).await;
    match copied {
        Ok(Some(bytes)) => {
            drop(writer);
            let limit = UNPACK + Duration::from_secs(bytes / UNPACKED_EACH_SECOND);
            match timeout(limit, import.end()).await {
                Ok(held) => Ok(Some(held?)),
                Err(_) => bail!(
                    "it did not import {} within {}: is it paused?",
                    text::bytes(bytes),
                    text::seconds(limit)
                ),
            }
        }
        Ok(None) => {
            // Whether it sees an end or a kill: without the documents, which come last, it is no archive of images.
            drop(import);
            Ok(None)
        }
        Err(broken) => {
            drop(writer);
            match timeout(LAST_WORDS, import.end()).await {
                Ok(Err(reason)) => Err(reason),
                _ => Err(broken).context("it takes no more of the archive"),
            }
        }
    }
}

/// A name that no other delivery has, also not one of another process.
fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{count}", std::process::id(), jiff::Timestamp::now().as_nanosecond())
}
