//! Layers by `docker push`: Docker itself leaves out what the nodes hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use camino::Utf8PathBuf;
use futures::future::try_join_all;

use super::Wanted;
use super::archive::Archived;
use super::counted::expected;
use super::engine::Engine;
use super::held::{Blob, Held};
use super::layout::{self, Document};
use super::pushed::Pushed;
use crate::docker::Image;
use crate::images::endpoint::{Endpoint, Has, Limits, Manifest, Received, Take};
use crate::names;

/// The tag of every push; the repository alone says what it is.
pub(super) const TAG: &str = "pushed";

/// When layers come by `docker push`.
#[derive(Clone, Debug, Default)]
pub struct Push {
    /// The file that remembers which compressed layers Docker pushes; without it nothing is pushed.
    pub memory: Option<Utf8PathBuf>,
    /// Whether Docker may compress layers that the nodes hold, once, so that later changes need nothing but themselves.
    pub invest: bool,
    /// Whether Docker keeps layers as they are pushed, as its containerd store does.
    pub compressed: bool,
    /// What is kept of a push in memory.
    pub limits: Limits,
}

/// What a push may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// Layers that the nodes hold are compressed this once.
    pub(super) once: bool,
    /// So many bytes of what is too big for memory may be pushed twice: first to know how long it is.
    pub(super) twice: u64,
}

/// How many times as much as is lacking `docker save` may write before pushing that twice is the quicker way. The classic
/// store compresses what it pushes, at about a quarter of the speed at which it writes an archive.
const TWICE_PAYS: u64 = 8;
/// The same for the containerd store, which pushes layers as it has them.
const TWICE_PAYS_COMPRESSED: u64 = 2;
/// About how many times as big a layer is as when it is compressed. The containerd store counts its images as they are.
const COMPRESSION: u64 = 2;

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
        let (mut once, mut lacking) = (false, 0);
        let mut seen = BTreeSet::new();
        // An image may have two names.
        for Wanted { image, .. } in wanted.iter().filter(|wanted| seen.insert(&wanted.image.layers)) {
            let mut most = 0;
            for held in held {
                let there: Vec<(&String, Blob)> =
                    image.layers.iter().filter_map(|layer| Some((layer, held.layer(layer)?))).collect();
                let plain = |(layer, blob): &(&String, Blob)| {
                    let as_it_is = self.compressed || blob.digest == **layer;
                    if as_it_is { blob.bytes } else { blob.bytes * COMPRESSION }
                };
                let bytes = there.iter().map(plain).sum::<u64>();
                // Much of it would be pushed: an archive comes quicker.
                if bytes < image.size / 2 {
                    return None;
                }
                most = most.max(image.size.saturating_sub(bytes));
                once |= !self.compressed && !there.iter().all(|(layer, _)| pushed.knows(layer));
            }
            lacking += most;
        }
        let images: Vec<&Image> = wanted.iter().map(|wanted| &wanted.image).collect();
        let pays = if self.compressed { TWICE_PAYS_COMPRESSED } else { TWICE_PAYS };
        let most = expected(&images) / pays;
        let twice = if lacking <= most { most } else { 0 };
        (!once || self.invest).then_some(Cost { once, twice })
    }
}

/// What a push brought.
pub(super) struct Brought<'a, E: Engine> {
    /// The images.
    pub(super) images: Vec<Archived>,
    /// The blobs that came with them and were kept, by digest.
    pub(super) blobs: BTreeMap<String, Bytes>,
    /// The lengths of all blobs that Docker asked for or sent.
    pub(super) exists: Arc<Has>,
    /// Without a name an image whose tag has moved on would be removed.
    _names: Names<'a, E>,
}

/// The names under which images are pushed: they go with this, however a push ends.
pub(super) struct Names<'a, E: Engine> {
    pub(super) engine: &'a E,
    pub(super) names: Vec<String>,
}

impl<E: Engine> Drop for Names<'_, E> {
    fn drop(&mut self) {
        self.engine.forget(&self.names);
    }
}

/// Has the engine push the images of these ids; what all of `held` have stays where it is.
///
/// # Errors
/// The engine does not push, or what nodes lack is too big for memory and may not be pushed twice: `docker save` can do it
/// then.
pub(super) async fn push<'a, E: Engine>(
    engine: &'a E,
    ids: &[String],
    held: &[&Held],
    arch: &str,
    push: &Push,
    cost: Cost,
) -> Result<Brought<'a, E>> {
    let file = push.memory.as_ref().context("there is no memory of pushed layers")?;
    let mut pushed = Pushed::load(file);
    let secret = secret();
    let repositories: BTreeMap<String, &String> =
        ids.iter().enumerate().map(|(at, id)| (format!("{secret}/{at}"), id)).collect();
    let served = repositories.keys().cloned().collect();
    let has = has(held, &pushed);
    let endpoint = Endpoint::listen(None, served, Take::Keep(push.limits), has.clone()).await?;
    let at = |repository: &String| endpoint.reference(repository, TAG);
    let names = Names { engine, names: repositories.keys().map(at).collect() };
    let mut dropped = endpoint.dropped();
    let pushes = repositories.iter().map(|(repository, id)| {
        let name = at(repository);
        async move { engine.push(id, &name).await }
    });
    let ended = tokio::select! {
        ended = try_join_all(pushes) => ended.map(drop),
        _ = dropped.wait_for(|bytes| *bytes > cost.twice), if !cost.once => {
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
    let mut lengths = received.dropped;
    lengths.extend(received.blobs.iter().map(|(digest, blob)| (digest.clone(), blob.len() as u64)));
    let exists: Arc<Has> = Arc::new(move |digest: &str| lengths.get(digest).copied().or_else(|| has(digest)));
    Ok(Brought { images, blobs: received.blobs, exists, _names: names })
}

/// Has the engine compress and remember the layers of these ids, so that a later change needs nothing but itself.
///
/// # Errors
/// The engine does not push.
pub(super) async fn prepare<E: Engine>(engine: &E, ids: &[String], arch: &str, memory: &Push) -> Result<()> {
    // One after the other, so that each is remembered though the next one may be given up.
    for id in ids {
        push(engine, std::slice::from_ref(id), &[], arch, memory, Cost { once: true, twice: 0 }).await?;
    }
    Ok(())
}

/// A name that is hard to guess, so that nobody else on this machine sends anything.
pub(super) fn secret() -> String {
    (0..4).map(|_| names::suffix()).collect()
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

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use camino::Utf8Path;

    use super::*;

    /// A node that has layers of so many bytes, each as it is or compressed.
    fn node(layers: &[(&str, u64, bool)]) -> Held {
        let (mut sizes, mut content) = (String::new(), "DIGEST\tSIZE\tAGE\tLABELS\n".to_owned());
        for (plain, bytes, compressed) in layers {
            let blob = if *compressed { format!("{plain}-gz") } else { (*plain).to_owned() };
            let _ = writeln!(sizes, "SIZE {blob} {bytes}");
            let label = format!("containerd.io/uncompressed=sha256:{plain}");
            let _ = writeln!(content, "sha256:{blob}\t1kB\t2 minutes\t{label}");
        }
        Held::parse(&(sizes + &content))
    }

    fn image(size: u64, layers: &[&str]) -> Wanted {
        let layers = layers.iter().map(|layer| format!("sha256:{layer}")).collect();
        Wanted { name: "app".to_owned(), image: Image { size, layers, ..Image::default() } }
    }

    fn cost(wanted: &Wanted, held: &Held, compressed: bool, invest: bool) -> Option<Cost> {
        let folder = tempfile::tempdir().unwrap();
        let memory = Some(Utf8Path::from_path(folder.path()).unwrap().join("pushed.json"));
        Push { memory, invest, compressed, ..Push::default() }.pays(&[wanted], &[held])
    }

    #[test]
    fn pushing_pays_where_most_is_there_and_pushing_twice_where_nearly_all_is() {
        let held = node(&[("base", 900, false)]);
        let cost = |size, compressed| cost(&image(size, &["base", "app"]), &held, compressed, true);
        let may = |once, twice| Some(Cost { once, twice });
        assert_eq!(cost(2000, true), None);
        assert_eq!(cost(1700, true), may(false, 850));
        assert_eq!(cost(1700, false), may(true, 0));
        assert_eq!(cost(1000, false), may(true, 125));
    }

    #[test]
    fn layers_that_were_never_pushed_are_compressed_only_where_that_is_allowed() {
        let held = node(&[("base", 900, false)]);
        assert_eq!(cost(&image(1000, &["base", "app"]), &held, false, false), None);
    }

    #[test]
    fn what_a_node_has_compressed_counts_as_more() {
        let held = node(&[("base", 400, true)]);
        let app = image(1000, &["base", "app"]);
        assert!(cost(&app, &held, false, true).is_some());
        // There an image's size is what it takes compressed.
        assert_eq!(cost(&app, &held, true, true), None);
    }
}
