//! Layers by `docker push`: Docker itself leaves out what the nodes hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use camino::Utf8PathBuf;
use futures::future::try_join_all;

use super::Wanted;
use super::archive::Archived;
use super::engine::Engine;
use super::held::{Blob, Held};
use super::layout::{self, Document};
use super::pushed::Pushed;
use crate::docker::Image;
use crate::images::endpoint::{Endpoint, Has, Limits, Manifest, Received};
use crate::names;

/// What is kept of a push in memory: changes are small, and what is not comes by `docker save`.
const LIMITS: Limits = Limits { blob: 16 << 20, total: 32 << 20 };
/// The tag of every push; the repository alone says what it is.
const TAG: &str = "pushed";

/// When layers come by `docker push`.
#[derive(Clone, Debug, Default)]
pub struct Push {
    /// The file that remembers which compressed layers Docker pushes; without it nothing is pushed.
    pub memory: Option<Utf8PathBuf>,
    /// Whether Docker may compress layers that the nodes hold, once, so that later changes need nothing but themselves.
    pub invest: bool,
    /// Whether Docker keeps layers as they are pushed, as its containerd store does.
    pub compressed: bool,
}

/// How a push is going to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// What the nodes hold is not sent.
    Small,
    /// Layers that the nodes hold are compressed this once.
    Once,
}

impl Push {
    /// Whether Docker has layers of an image that it was not seen to push.
    #[must_use]
    pub fn lacks(&self, image: &Image) -> bool {
        let Some(file) = self.memory.as_ref().filter(|_| !self.compressed) else { return false };
        let pushed = Pushed::load(file);
        image.layers.iter().any(|layer| !pushed.knows(layer))
    }

    /// Whether to push `wanted` for nodes that hold this, and at what cost; nothing where `docker save` is better.
    pub(super) fn pays(&self, wanted: &[&Wanted], held: &[&Held]) -> Option<Cost> {
        let pushed = Pushed::load(self.memory.as_ref()?);
        let mut cost = Cost::Small;
        for Wanted { image, .. } in wanted {
            for held in held {
                let there: Vec<(&String, Blob)> =
                    image.layers.iter().filter_map(|layer| Some((layer, held.layer(layer)?))).collect();
                // Of a small part missing one may hope that it fits into memory.
                if there.iter().map(|(_, blob)| blob.bytes).sum::<u64>() < image.size / 2 {
                    return None;
                }
                if !self.compressed && !there.iter().all(|(layer, _)| pushed.knows(layer)) {
                    cost = Cost::Once;
                }
            }
        }
        (cost == Cost::Small || self.invest).then_some(cost)
    }
}

/// What a push brought.
pub(super) struct Brought {
    /// The images.
    pub(super) images: Vec<Archived>,
    /// The blobs that came with them, by digest.
    pub(super) blobs: BTreeMap<String, Bytes>,
}

/// The names under which images are pushed: they go with this, however a push ends.
struct Names<'a, E: Engine> {
    engine: &'a E,
    names: Vec<String>,
}

impl<E: Engine> Drop for Names<'_, E> {
    fn drop(&mut self) {
        self.engine.forget(&self.names);
    }
}

/// Has the engine push the images of these ids; what all of `held` have stays where it is.
///
/// # Errors
/// The engine does not push, or what nodes lack is too big for memory: `docker save` can do it then.
pub(super) async fn push<E: Engine>(
    engine: &E,
    ids: &[String],
    held: &[&Held],
    arch: &str,
    push: &Push,
    cost: Cost,
) -> Result<Brought> {
    let file = push.memory.as_ref().context("there is no memory of pushed layers")?;
    let mut pushed = Pushed::load(file);
    // Hard to guess, so that nobody else on this machine sends anything.
    let secret: String = (0..4).map(|_| names::suffix()).collect();
    let repositories: BTreeMap<String, &String> =
        ids.iter().enumerate().map(|(at, id)| (format!("{secret}/{at}"), id)).collect();
    let endpoint =
        Endpoint::listen(None, repositories.keys().cloned().collect(), LIMITS, has(held, &pushed)).await?;
    let at = |repository: &String| format!("127.0.0.1:{}/{repository}:{TAG}", endpoint.port());
    let _names = Names { engine, names: repositories.keys().map(at).collect() };
    let mut dropped = endpoint.dropped();
    let pushes = repositories.iter().map(|(repository, id)| {
        let name = at(repository);
        async move { engine.push(id, &name).await }
    });
    let ended = tokio::select! {
        ended = try_join_all(pushes) => ended.map(drop),
        _ = dropped.wait_for(|bytes| *bytes > 0), if cost == Cost::Small => {
            Err(anyhow::anyhow!("the changed layers are too big to be kept in memory"))
        }
    };
    let received = endpoint.finish().await;
    ended?;
    let mut images = Vec::new();
    for repository in repositories.keys() {
        let manifest = received.manifests.get(&format!("{repository}:{TAG}"));
        let manifest = manifest.context("docker pushed no manifest")?;
        images.push(image(&received, repository, manifest, arch)?);
    }
    for (plain, blob) in images.iter().flat_map(|image| &image.layers) {
        pushed.learn(plain, blob);
    }
    pushed.save()?;
    Ok(Brought { images, blobs: received.blobs })
}

/// Has the engine compress and remember the layers of these ids, so that a later change needs nothing but itself.
///
/// # Errors
/// The engine does not push.
pub(super) async fn prepare<E: Engine>(engine: &E, ids: &[String], arch: &str, memory: &Push) -> Result<()> {
    // One after the other, so that each is remembered though the next one may be given up.
    for id in ids {
        push(engine, std::slice::from_ref(id), &[], arch, memory, Cost::Once).await?;
    }
    Ok(())
}

/// Answers for layers that every node holds, whatever their compression there.
fn has(held: &[&Held], pushed: &Pushed) -> Arc<Has> {
    let held: Vec<Held> = held.iter().map(|held| (*held).clone()).collect();
    let plain = pushed.by_compressed();
    Arc::new(move |digest: &str| {
        let first = held.first()?;
        if held.iter().all(|held| held.is_layer(digest)) {
            return first.blob(digest).map(|blob| blob.bytes);
        }
        let (plain, bytes) = plain.get(digest)?;
        held.iter().all(|held| held.layer(plain).is_some()).then_some(*bytes)
    })
}

/// The image that a pushed manifest describes; of an index the one for `arch`.
fn image(received: &Received, repository: &str, manifest: &Manifest, arch: &str) -> Result<Archived> {
    let mut document: Document =
        serde_json::from_slice(&manifest.bytes).context("understand a pushed manifest")?;
    if !document.manifests.is_empty() {
        let child = document.manifests.iter().find(|child| child.is_for(arch));
        let child = child.with_context(|| format!("docker pushed no manifest for linux/{arch}"))?;
        let found = received.manifests.get(&format!("{repository}@{}", child.digest));
        let found = found.context("docker pushed an index without its manifest")?;
        document = serde_json::from_slice(&found.bytes).context("understand a pushed manifest")?;
    }
    let config = document.config.context("a pushed manifest has no configuration")?;
    let Some(config) = received.blobs.get(&config.digest).cloned() else {
        bail!("docker did not push the configuration {}", config.digest);
    };
    let plain = layout::plain_layers(&config)?;
    if plain.len() != document.layers.len() {
        bail!(
            "a pushed manifest has {} layers, and its configuration {}",
            document.layers.len(),
            plain.len()
        );
    }
    let layers = plain.into_iter().zip(document.layers);
    let layers = layers.map(|(plain, layer)| (plain, Blob { digest: layer.digest, bytes: layer.size }));
    Ok(Archived { root: Some(manifest.digest.clone()), config, layers: layers.collect() })
}
