//! The images that are brought: five layers, of which any can be another one.

use std::cell::Cell;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::content::{Layer, Pool};
use crate::docker::Docker;
use crate::events::Events;
use crate::images::LOCAL;

const MB: u64 = 1_000_000;
/// A module of Python and a program's file, on average.
const SMALL_FILE: u64 = 12_000;
const BIG_FILE: u64 = 2 * MB;
/// More small files than a site-packages has would be another kind of image.
const SMALL_FILES_MAX: u64 = 200 * MB;

/// Makes images of one size. What lies below is built once, what varies on top of it.
pub(super) struct Images<'a> {
    /// `k8s-test.local/bench-<MB>`.
    repository: String,
    size: u64,
    folder: Utf8PathBuf,
    /// Of this program's run, so that Docker has seen no variant before.
    secret: &'a str,
    pool: &'a Pool,
    events: &'a Events,
    base: Vec<String>,
    warned: Cell<bool>,
}

/// The prefix of every reference that the benchmark makes.
pub(super) fn prefix() -> String {
    format!("{LOCAL}/bench-")
}

impl<'a> Images<'a> {
    /// Builds the image `base`.
    pub(super) async fn new(
        megabytes: u32,
        folder: &Utf8Path,
        secret: &'a str,
        pool: &'a Pool,
        events: &'a Events,
    ) -> Result<Images<'a>> {
        let mut images = Images {
            repository: format!("{}{megabytes}", prefix()),
            size: u64::from(megabytes) * MB,
            folder: folder.to_owned(),
            secret,
            pool,
            events,
            base: Vec::new(),
            warned: Cell::new(false),
        };
        let small = (images.size * 3 / 10).min(SMALL_FILES_MAX);
        let tenth = images.size / 10;
        // At the bottom a system, then what a package manager brings; an application and one line go on top.
        let lower = images.size - small - tenth;
        images.layer("system", lower, BIG_FILE, "system")?;
        images.layer("packages", small, SMALL_FILE, "packages")?;
        images.docker_build("lower", "scratch", &["system", "packages"]).await?;
        images.remove_layers(&["system", "packages"]);
        images.layer("app", tenth / 2, SMALL_FILE, "app")?;
        let base = images.base();
        images.variant("base", "base", "base").await?;
        images.base = layers(&base).await?;
        Ok(images)
    }

    /// The image that nodes have before something changes.
    pub(super) fn base(&self) -> String {
        format!("{}:base", self.repository)
    }

    /// Builds the image with one other line in its last layer.
    pub(super) async fn other_line(&self, tag: &str) -> Result<String> {
        let reference = self.variant(tag, "base", &format!("{tag} {}", self.secret)).await?;
        self.check(&reference, 4).await
    }

    /// Builds the image with another layer in the middle.
    pub(super) async fn other_middle(&self, tag: &str) -> Result<String> {
        let reference = self.variant(tag, &format!("{tag} {}", self.secret), "base").await?;
        self.check(&reference, 2).await
    }

    /// Removes one of them.
    pub(super) async fn remove(&self, reference: &str) -> Result<()> {
        Docker.remove(reference).await
    }

    /// Removes all that is left.
    pub(super) async fn remove_all(self) -> Result<()> {
        for reference in [self.base(), format!("{}:lower", self.repository)] {
            self.remove(&reference).await?;
        }
        std::fs::remove_dir_all(&self.folder).with_context(|| format!("remove {}", self.folder))
    }

    async fn variant(&self, tag: &str, middle: &str, line: &str) -> Result<String> {
        self.layer("middle", self.size / 20, BIG_FILE.min(self.size / 20), middle)?;
        self.layer("line", 64, 64, line)?;
        self.docker_build(tag, &format!("{}:lower", self.repository), &["middle", "app", "line"]).await
    }

    /// Docker makes layers of equal files equal only where it keeps all their times; say so where it did not.
    async fn check(&self, reference: &str, expected: usize) -> Result<String> {
        let now = layers(reference).await?;
        let differ: Vec<usize> = (0..now.len().max(self.base.len()))
            .filter(|index| now.get(*index) != self.base.get(*index))
            .collect();
        if differ != [expected] && !self.warned.replace(true) {
            self.events.warn(format!(
                "{reference} was to differ from its base in layer {expected}, and this Docker made it differ in {differ:?}"
            ));
        }
        Ok(reference.to_owned())
    }

    fn layer(&self, name: &str, bytes: u64, file: u64, seed: &str) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make the folder {}", self.folder))?;
        let seed = format!("{} {name} {seed}", self.repository);
        self.pool.write(&Layer { folder: name, bytes, file, seed: &seed }, &self.path(name))
    }

    fn remove_layers(&self, names: &[&str]) {
        for name in names {
            // Only to save room; the folder goes at the end.
            let _ = std::fs::remove_file(self.path(name));
        }
    }

    fn path(&self, layer: &str) -> Utf8PathBuf {
        self.folder.join(format!("{layer}.tar"))
    }

    async fn docker_build(&self, tag: &str, from: &str, layers: &[&str]) -> Result<String> {
        let reference = format!("{}:{tag}", self.repository);
        let mut dockerfile = format!("FROM {from}\n");
        for layer in layers {
            dockerfile.push_str(&format!("ADD {layer}.tar /\n"));
        }
        let path = self.folder.join("Dockerfile");
        std::fs::write(&path, dockerfile).with_context(|| format!("write {path}"))?;
        Docker.build(&self.folder, "Dockerfile".into(), &[], &reference, |_| ()).await?;
        Ok(reference)
    }
}

async fn layers(reference: &str) -> Result<Vec<String>> {
    let image = Docker.image(reference).await?;
    Ok(image.with_context(|| format!("{reference} is gone right after it was built"))?.layers)
}
