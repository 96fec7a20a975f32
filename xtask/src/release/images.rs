//! Images that a chart names but the suite does not: found before anything is installed, and brought or named.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};

use super::manifest::{self, Named};
use super::{Installer, Prepared};
use crate::docker::{Docker, Image, normalized};
use crate::exit::{Exit, ExitWith};
use crate::images::LOCAL;
use crate::images::deliver::{self, Inventory, Wanted};
use crate::{fail, text};

/// Makes sure that the nodes, which hold `held`, get every image that the rendered manifests name.
///
/// # Errors
/// An image is neither on the nodes nor in the local Docker and cannot be pulled, or a pod would ask a registry
/// for one of ours; exit 3 and 2.
pub async fn ensure(installer: Installer<'_>, prepared: &[Prepared<'_>], held: &Inventory) -> Result<()> {
    let mut named = Vec::new();
    for Prepared { release, manifest, .. } in prepared {
        for image in manifest::images(manifest)? {
            refuse_pulling_ours(&release.name, &image)?;
            named.push((&release.name, image));
        }
    }
    let nodes = &installer.cluster.nodes;
    if nodes.is_empty() {
        let local: BTreeSet<&str> = named
            .iter()
            .filter(|(_, image)| image.image.starts_with(LOCAL))
            .map(|(_, image)| image.image.as_str())
            .collect();
        if !local.is_empty() {
            installer.events.warn(format!(
                "the cluster is not one of kind's on this machine, so images cannot be brought to it; its nodes must hold {}",
                Vec::from_iter(local).join(", ")
            ));
        }
        return Ok(());
    }
    let mut bring = BTreeMap::new();
    let mut nowhere = Vec::new();
    for (release, image) in &named {
        let full = normalized(&image.image).or_exit(Exit::Usage)?;
        if bring.contains_key(&image.image) {
            continue;
        }
        if held.values().all(|holds| holds.names(&full)) {
            // Ours are named by their content. Of others the name says nothing: what Docker has may be newer.
            if !full.starts_with(LOCAL)
                && let Some(local) = Docker.image(&image.image).await.or_exit(Exit::Environment)?
            {
                bring.insert(image.image.clone(), Wanted::new(&image.image, local)?);
            }
            continue;
        }
        match obtain(installer, &image.image).await {
            Ok(local) => {
                bring.insert(image.image.clone(), Wanted::new(&image.image, local)?);
            }
            Err(reason) => {
                nowhere.push(format!("{} (release {release}, {}): {reason}", image.image, image.by));
            }
        }
    }
    if !nowhere.is_empty() {
        let err = anyhow!(
            "{} named by the charts cannot be brought to the nodes:\n{}\n  build or pull it into the local Docker, list it in the suite's images, or change the chart's value",
            text::count(nowhere.len(), "image"),
            text::indent(&nowhere.join("\n"), "    ")
        );
        return Err(err).or_exit(Exit::Environment);
    }
    if !bring.is_empty() {
        let wanted: Vec<Wanted> = bring.into_values().collect();
        deliver::deliver(nodes, None, &wanted, installer.push, installer.events).await?;
    }
    Ok(())
}

/// Has the image in the local Docker, by a pull where that is allowed; else says why not.
async fn obtain(installer: Installer<'_>, image: &str) -> Result<Image, String> {
    let unasked = |error: anyhow::Error| format!("docker does not answer: {error:#}");
    match Docker.image(image).await {
        Ok(Some(found)) => return Ok(found),
        Ok(None) => {}
        Err(error) => return Err(unasked(error)),
    }
    if !installer.setup {
        return Err("neither the nodes nor the local Docker have it".to_owned());
    }
    installer.events.note(format!("pull {image}, which a chart names"));
    Docker.pull(image, |_| {}).await.map_err(|error| {
        let text = error.to_string();
        let last =
            text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
        format!("neither the nodes nor the local Docker have it, and it cannot be pulled ({last})")
    })?;
    let pulled = Docker.image(image).await.map_err(unasked)?;
    pulled.ok_or_else(|| "it was pulled, and is not in the local Docker".to_owned())
}

fn refuse_pulling_ours(release: &str, named: &Named) -> Result<()> {
    if named.image.starts_with(LOCAL) && named.always_pulls() {
        fail!(
            Exit::Usage,
            "release {release}: {} would pull {} from a registry, where it is not; set its imagePullPolicy to IfNotPresent or Never in the values",
            named.by,
            named.image
        );
    }
    Ok(())
}
