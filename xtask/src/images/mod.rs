//! Images: built or obtained in the local Docker, then brought to the nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use camino::Utf8PathBuf;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use crate::config::{ImageSpec, ImagesFile, Tools};
use crate::docker::{Docker, Image};
use crate::events::{Events, Phase};
use crate::exit::{Exit, coded};
use crate::text;

use deliver::Wanted;

mod build;
pub mod deliver;
pub mod early;
pub mod endpoint;
pub mod key;
mod local;
pub mod source;

pub use local::Local;

/// The registry part of references that exist in local stores only.
///
/// It is no registry: a pod whose image was not brought fails at once instead of asking a stranger for it.
pub const LOCAL: &str = "k8s-test.local";
/// Digits of an image's id in the tag that it is deployed by.
const CONTENT_TAG: usize = 12;

/// An image in the local Docker.
#[derive(Clone, Debug, Serialize)]
pub struct Built {
    /// Its name in images.yaml.
    pub name: String,
    /// The reference to deploy; its tag is a part of the image's id, so it changes when the content does.
    pub reference: String,
    /// Its id in the local Docker.
    pub id: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What else Docker says of it.
    #[serde(skip)]
    pub image: Image,
    /// What was done to have it.
    pub how: How,
    /// How long that took.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds")]
    pub took: Duration,
    /// Of that, `docker build` itself.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "docker_build_seconds")]
    pub docker: Duration,
}

impl Built {
    /// The image as nodes are to hold it.
    ///
    /// # Errors
    /// The reference is malformed.
    pub fn wanted(&self) -> Result<Wanted> {
        Wanted::new(&self.reference, self.image.clone())
    }
}

/// What was done to have an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Nothing: its inputs are unchanged.
    Unchanged,
    /// It was pulled.
    Pulled,
    /// Its recipe made it from packages.
    FromPackages,
    /// Its Dockerfile was built.
    Built,
}

impl How {
    pub(crate) fn verb(self) -> &'static str {
        match self {
            How::Unchanged => "unchanged",
            How::Pulled => "pulled",
            How::FromPackages => "made from packages",
            How::Built => "built",
        }
    }
}

/// What making images needs to know.
#[derive(Clone)]
pub struct Maker {
    /// Where recipes keep downloads.
    pub cache: Utf8PathBuf,
    /// Where build contexts are prepared.
    pub scratch: Utf8PathBuf,
    /// The pinned tools, for the packages recipes need.
    pub tools: Arc<Tools>,
    /// The kind program, for recipes.
    pub kind: Utf8PathBuf,
    /// The engine's architecture.
    pub arch: String,
    /// The images that the local Docker had at the start.
    pub local: Local,
    /// Whether packages may be installed.
    pub setup: bool,
    /// Where to say what happens.
    pub events: Events,
}

type Making = Shared<BoxFuture<'static, Result<Arc<Built>, Arc<anyhow::Error>>>>;

/// Makes the images `names`, which [`ImagesFile::closure`] has ordered, side by side where they can be.
///
/// # Errors
/// One of them cannot be made: which, and the end of its build's output; exit 3.
pub async fn make(maker: &Maker, file: &ImagesFile, names: &[String]) -> Result<BTreeMap<String, Built>> {
    make_all(maker, file, names, &BTreeMap::new(), None).await
}

/// As [`make`], and hands each image to `made` as soon as it is there.
///
/// # Errors
/// As [`make`].
pub async fn make_each(
    maker: &Maker,
    file: &ImagesFile,
    names: &[String],
    made: UnboundedSender<Built>,
) -> Result<BTreeMap<String, Built>> {
    make_all(maker, file, names, &BTreeMap::new(), Some(made)).await
}

/// As [`make`], but takes those of `known` as they are, without asking Docker for them.
///
/// # Errors
/// As [`make`].
pub async fn remake(
    maker: &Maker,
    file: &ImagesFile,
    names: &[String],
    known: &BTreeMap<String, Built>,
) -> Result<BTreeMap<String, Built>> {
    make_all(maker, file, names, known, None).await
}

async fn make_all(
    maker: &Maker,
    file: &ImagesFile,
    names: &[String],
    known: &BTreeMap<String, Built>,
    made: Option<UnboundedSender<Built>>,
) -> Result<BTreeMap<String, Built>> {
    let mut making: BTreeMap<String, Making> = BTreeMap::new();
    for name in names {
        if let Some(built) = known.get(name) {
            let built = Arc::new(built.clone());
            making.insert(name.clone(), std::future::ready(Ok(built)).boxed().shared());
            continue;
        }
        let spec = file.images[name].clone();
        let needs: Vec<(String, Making)> =
            spec.needs.iter().map(|(argument, needed)| (argument.clone(), making[needed].clone())).collect();
        let (maker, name_of, made) = (maker.clone(), name.clone(), made.clone());
        let future = async move {
            let mut bases = Vec::new();
            for (argument, needed) in needs {
                bases.push((argument, needed.await?));
            }
            let built = make_one(&maker, &name_of, &spec, &bases).await.map_err(Arc::new)?;
            if let Some(made) = made {
                // Whoever does not listen any more has failed, and says so.
                let _ = made.send(built.clone());
            }
            Ok(Arc::new(built))
        };
        // Spawned, so that each gets on while another one is awaited; dropping the handle ends it.
        let task = AbortOnDrop(tokio::spawn(future));
        making.insert(name.clone(), task.wait().boxed().shared());
    }
    let all = try_join_all(making.values().cloned()).await;
    match all {
        Ok(built) => Ok(built.into_iter().map(|built| (built.name.clone(), (*built).clone())).collect()),
        // Shared by all that needed the image, so it cannot be moved out.
        Err(error) => Err(coded(Exit::of(&error), anyhow!("{}", crate::exit::message(&error)))),
    }
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl AbortOnDrop<Result<Arc<Built>, Arc<anyhow::Error>>> {
    async fn wait(mut self) -> Result<Arc<Built>, Arc<anyhow::Error>> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => Err(Arc::new(anyhow!("a build ended by itself: {error}"))),
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn make_one(
    maker: &Maker,
    name: &str,
    spec: &ImageSpec,
    bases: &[(String, Arc<Built>)],
) -> Result<Built> {
    let step = maker.events.step(Phase::Images, name.to_owned());
    let start = Instant::now();
    let made = match &spec.build {
        Some(context) => build::ensure(maker, name, spec, context, bases, &step).await,
        None => {
            source::ensure(maker, name, spec, &step).await.map(|(local, how)| (local, how, Duration::ZERO))
        }
    };
    let (local, how, docker) =
        made.map_err(|error| coded(Exit::of(&error), error.context(format!("make the image {name}"))))?;
    let found = match how {
        How::Unchanged => maker.local.image(&local).await?,
        _ => Docker.image(&local).await?,
    };
    let Some(image) = found else {
        crate::fail!(
            Exit::Environment,
            "the image {local} is gone from the local Docker right after it was made"
        );
    };
    let reference = content_reference(name, &image.id);
    if maker.local.image(&reference).await?.is_none() {
        Docker.tag(&local, &reference).await?;
    }
    let took = start.elapsed();
    step.done(format!("{}, {}", how.verb(), text::bytes(image.size)));
    let (name, id, bytes) = (name.to_owned(), image.id.clone(), image.size);
    Ok(Built { name, reference, id, bytes, image, how, took, docker })
}

/// The reference to deploy an image of this id by.
#[must_use]
pub fn content_reference(name: &str, id: &str) -> String {
    let digest = id.rsplit(':').next().unwrap_or(id);
    format!("{LOCAL}/{name}:{}", &digest[..digest.len().min(CONTENT_TAG)])
}

/// Whether a full name is one that [`content_reference`] gives.
fn is_content_reference(name: &str) -> bool {
    let tag = name.strip_prefix(LOCAL).and_then(|name| name.rsplit_once(':')).map_or("", |(_, tag)| tag);
    tag.len() == CONTENT_TAG && tag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_follows_the_content() {
        let id = "sha256:0123456789abcdef0123";
        assert_eq!(content_reference("postgres", id), "k8s-test.local/postgres:0123456789ab");
    }
}
