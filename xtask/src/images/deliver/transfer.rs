//! One transfer: from the local store to the nodes that lack something.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use super::archive::{Archived, Relay};
use super::engine::{Engine, IMPORT, Import, Save, Store};
use super::held::{Blob, Held};
use super::layout;
use super::legacy;
use super::outlets::{Inlet, Outlets, STALL};
use super::{Method, Wanted};
use crate::docker::{Image, architecture};
use crate::events::{Events, Step};
use crate::exit::message;
use crate::text;

/// How long a program whose pipe has broken may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

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
        self.by_save(takers).await
    }

    async fn by_save<S: Store>(&self, takers: &[Taker<'_, S>]) -> Result<Transferred> {
        let (outlets, inlets) = Outlets::new(takers.len());
        let imports = takers.iter().zip(inlets).map(|(taker, inlet)| async {
            match import(taker.node, inlet).await {
                Ok(true) => None,
                Ok(false) => Some("it was not sent the whole".to_owned()),
                Err(error) => {
                    let reason = message(&error);
                    // At once: the others may take minutes more.
                    self.events.warn(format!("{}: {reason}", taker.node.name()));
                    Some(reason)
                }
            }
        });
        let send = async {
            match timeout(IMPORT, self.save(takers, outlets)).await {
                Ok(sent) => sent,
                Err(_) => Err(anyhow!("the images were not sent within {}", text::seconds(IMPORT))),
            }
        };
        let (sent, ends) = tokio::join!(send, join_all(imports));
        let mut sent = sent?;
        for (outcome, end) in sent.nodes.iter_mut().zip(ends) {
            // A node that took nothing knows less than we do.
            outcome.failure = outcome.failure.take().or(end);
        }
        Ok(Transferred { method: Method::Save, configs: sent.configs, nodes: sent.nodes })
    }

    /// Streams the archive of all that any taker lacks; the outlets end with it.
    async fn save<S: Store>(&self, takers: &[Taker<'_, S>], mut outlets: Outlets) -> Result<Sent> {
        let mut places: Vec<usize> = takers.iter().flat_map(|taker| taker.lacks.iter().copied()).collect();
        places.sort_unstable();
        places.dedup();
        // By id, so that a tag which moves meanwhile changes nothing.
        let mut ids: Vec<String> = places.iter().map(|at| self.wanted[*at].image.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        let images: Vec<&Image> = places.iter().map(|at| &self.wanted[*at].image).collect();
        let folders = images.iter().flat_map(|image| legacy::folders(&image.layers)).collect();
        let last: Vec<&str> = images.iter().filter_map(|image| Some(image.layers.last()?.as_str())).collect();
        let held: Vec<&Held> = takers.iter().map(|taker| taker.held).collect();
        let tag = unique();
        let arch = held.first().map_or("", |held| architecture(&held.machine));
        let relay = Relay { folders: &folders, last: &last, held: &held, arch, tag: &tag };

        let mut save = self.engine.save(&ids)?;
        let stream = save.stream()?;
        let images = relay.run(stream, &mut outlets, |bytes| self.step.progress(text::bytes(bytes))).await;
        let images = match (save.end().await, images) {
            (Ok(()), images) => images?,
            // Where nobody took its output, that it broke off says nothing.
            (Err(_), Ok(images)) if outlets.all_closed() => images,
            // Of a cut archive docker knows the reason.
            (Err(end), _) => return Err(end),
        };
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
                let (layers, existed, lacked) = layers_for(taker.held, image, &mut counted);
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
fn layers_for(held: &Held, image: &Archived, counted: &mut Vec<String>) -> (Vec<Blob>, u64, u64) {
    let (mut existed, mut sent) = (0, 0);
    let mut layers = Vec::new();
    for (plain, blob) in &image.layers {
        match held.layer(plain).or_else(|| held.blob(&blob.digest)) {
            Some(held) => {
                existed += held.bytes;
                layers.push(held);
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
    (layers, existed, sent)
}

/// Copies what comes to a node's import and waits for its end; false where what came was cut.
async fn import<S: Store>(node: &S, inlet: Inlet) -> Result<bool> {
    let mut import = node.import().await?;
    let mut writer = import.writer()?;
    let copied = inlet.copy_to(&mut writer).await;
    match copied {
        Ok(true) => {
            drop(writer);
            import.end().await?;
            Ok(true)
        }
        Ok(false) => {
            // With its input open: what was cut must not look like an end.
            drop(import);
            Ok(false)
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
