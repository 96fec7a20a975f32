//! Images that somebody else defines: pulled, or made from packages by a recipe where they cannot be.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use camino::Utf8Path;
use xshell::{Shell, cmd};

use super::{How, LOCAL, Local, Maker, key};
use crate::cmd::Run;
use crate::config::ImageSpec;
use crate::docker::Docker;
use crate::events::Step;
use crate::setup::packages;

/// A recipe may compile a Kubernetes.
const RECIPE: Duration = Duration::from_secs(45 * 60);

/// What a recipe's image is called.
fn recipe_reference(name: &str, recipe: &Utf8Path) -> Result<String> {
    Ok(format!("{LOCAL}/{name}:recipe-{}", key::of_folder(recipe, [])?))
}

/// The reference under which the local Docker has the image already.
///
/// # Errors
/// Docker cannot be asked or the recipe cannot be read.
pub async fn present(name: &str, spec: &ImageSpec, local: &Local) -> Result<Option<String>> {
    if let Some(reference) = &spec.pull
        && local.image(reference).await?.is_some()
    {
        return Ok(Some(reference.clone()));
    }
    if let Some(recipe) = &spec.recipe {
        let reference = recipe_reference(name, recipe)?;
        if local.image(&reference).await?.is_some() {
            return Ok(Some(reference));
        }
    }
    Ok(None)
}

/// The image in the local Docker: its reference there, and what was done.
///
/// # Errors
/// It can neither be pulled nor made.
pub async fn ensure(maker: &Maker, name: &str, spec: &ImageSpec, step: &Step) -> Result<(String, How)> {
    if let Some(reference) = present(name, spec, &maker.local).await? {
        return Ok((reference, How::Unchanged));
    }
    if !maker.setup {
        bail!("it is not in the local Docker, and --no-setup forbids to pull or make it");
    }
    let mut refusal = None;
    if let Some(reference) = &spec.pull {
        step.progress(format!("pull {reference}"));
        match Docker.pull(reference, |_| {}).await {
            Ok(()) => return Ok((reference.clone(), How::Pulled)),
            Err(error) => refusal = Some(error),
        }
    }
    match (&spec.recipe, refusal) {
        (Some(recipe), _) => {
            let reference = recipe_reference(name, recipe)?;
            run_recipe(maker, recipe, &reference, step).await?;
            Ok((reference, How::FromPackages))
        }
        (None, Some(error)) => Err(error.context("it cannot be pulled and has no recipe")),
        (None, None) => Err(anyhow!("it has neither `pull` nor `recipe`")),
    }
}

async fn run_recipe(maker: &Maker, recipe: &Utf8Path, reference: &str, step: &Step) -> Result<()> {
    step.progress("look for what the recipe needs");
    packages::ensure_programs(&maker.tools.debian.recipes, |text| step.progress(text)).await?;
    let name = recipe.file_name().unwrap_or("recipe");
    let cache = maker.cache.join("recipes").join(name);
    std::fs::create_dir_all(&cache).with_context(|| format!("make the folder {cache}"))?;
    let program = recipe.join("build.sh");
    let sh = Shell::new()?;
    let mut log = String::new();
    let output = Run::new(cmd!(sh, "{program}"), RECIPE)
        .env("RECIPE_IMAGE", reference)
        .env("RECIPE_CACHE", cache.as_str())
        .env("RECIPE_ARCH", &maker.arch)
        .env("KIND", maker.kind.as_str())
        .on_line(|line| {
            log.push_str(line);
            log.push('\n');
            if let Some(title) = line.strip_prefix("==> ") {
                step.progress(title);
            }
        })
        .success()
        .await;
    let path = cache.join("build.log");
    // The log serves the reader of a failure; without it there is still the tail.
    let _ = std::fs::write(&path, log);
    output.with_context(|| format!("the recipe's whole output is in {path}"))?;
    if Docker.image(reference).await?.is_none() {
        bail!("{program} ended well but did not make the image {reference}; see {path}");
    }
    Ok(())
}
