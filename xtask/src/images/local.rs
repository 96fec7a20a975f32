//! What the local Docker has, asked once for a whole set of images.

use std::sync::Arc;

use anyhow::Result;
use std::collections::BTreeMap;
use tokio::sync::OnceCell;

use crate::docker::{Docker, Image, normalized};

/// The images of the local Docker as they were when first asked; clones share the answer.
///
/// What is made afterwards has to be asked of [`Docker`] itself.
#[derive(Clone, Default)]
pub struct Local(Arc<OnceCell<BTreeMap<String, Image>>>);

impl Local {
    /// Asks now, so that nobody has to wait for it later.
    pub async fn ask(&self) {
        // Who needs the answer asks again.
        let _ = self.0.get_or_try_init(load).await;
    }

    /// The image that `reference` named, if Docker had it.
    ///
    /// # Errors
    /// Docker cannot be asked, or the reference is malformed.
    pub async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let known = self.0.get_or_try_init(load).await?;
        Ok(known.get(&normalized(reference)?).cloned())
    }
}

async fn load() -> Result<BTreeMap<String, Image>> {
    let mut known = BTreeMap::new();
    for image in Docker.all_images().await? {
        for name in image.repo_tags.iter().chain(&image.repo_digests).filter(|name| !name.contains("<none>"))
        {
            known.insert(normalized(name)?, image.clone());
        }
    }
    Ok(known)
}
