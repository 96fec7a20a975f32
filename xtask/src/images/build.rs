//! Images of our own: a Dockerfile's build, left out while its inputs are unchanged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use camino::Utf8Path;
use xshell::{Shell, cmd};

use super::{Built, How, LOCAL, Maker, key};
use crate::cmd::Run;
use crate::config::ImageSpec;
use crate::docker::Docker;
use crate::events::Step;

/// Downloads of a few hundred MB.
const OFFLINE: Duration = Duration::from_secs(30 * 60);

/// The image in the local Docker: its reference there, what was done, and how long Docker took for it.
pub(super) async fn ensure(
    maker: &Maker,
    name: &str,
    spec: &ImageSpec,
    context: &Utf8Path,
    bases: &[(String, Arc<Built>)],
    step: &Step,
) -> Result<(String, How, Duration)> {
    let mut args: Vec<(String, String)> = spec.args.clone().into_iter().collect();
    args.extend(bases.iter().map(|(argument, base)| (argument.clone(), base.reference.clone())));
    let dockerfile = spec.dockerfile.as_deref().unwrap_or(Utf8Path::new("Dockerfile"));
    let inputs = args.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
    let recipe = read(&context.join(dockerfile))?;
    let more = inputs.iter().map(String::as_str).chain([recipe.as_str(), maker.arch.as_str()]);
    let reference = format!("{LOCAL}/{name}:in-{}", key::of_folder(context, more)?);
    if maker.local.image(&reference).await?.is_some() {
        return Ok((reference, How::Unchanged, Duration::ZERO));
    }
    let offline = match &spec.offline {
        Some(program) if !registry_answers(step).await => Some(program),
        _ => None,
    };
    if !maker.setup && offline.is_some() {
        bail!("it needs downloads, which --no-setup forbids");
    }
    let prepared = match offline {
        Some(program) => Some(prepare(maker, name, context, dockerfile, program, step).await?),
        None => None,
    };
    let context = prepared.as_ref().and_then(|folder| Utf8Path::from_path(folder.path())).unwrap_or(context);
    step.progress("docker build");
    let start = Instant::now();
    Docker
        .build(context, dockerfile, &args, &reference, |line| {
            // Both of Docker's builders: `Step 2/5 : …` and `#7 [2/5] …`.
            if line.starts_with("Step ") || (line.starts_with('#') && line.contains(" [")) {
                step.progress(line);
            }
        })
        .await?;
    Ok((reference, How::Built, start.elapsed()))
}

fn read(path: &Utf8Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// Whether images can be pulled here, and so whether a build may expect a network: asked by the smallest pull.
async fn registry_answers(step: &Step) -> bool {
    static ANSWER: tokio::sync::OnceCell<bool> = tokio::sync::OnceCell::const_new();
    *ANSWER
        .get_or_init(|| async {
            step.progress("look whether images can be pulled");
            const SMALLEST: &str = "docker.io/library/hello-world:latest";
            let pull = Docker.pull(SMALLEST, |_| {});
            matches!(tokio::time::timeout(Duration::from_secs(20), pull).await, Ok(Ok(())))
        })
        .await
}

/// A copy of the context with what its program downloads on this machine.
async fn prepare(
    maker: &Maker,
    name: &str,
    context: &Utf8Path,
    dockerfile: &Utf8Path,
    program: &Utf8Path,
    step: &Step,
) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(&maker.scratch).with_context(|| format!("make the folder {}", maker.scratch))?;
    let scratch = tempfile::tempdir_in(&maker.scratch)?;
    let copy = Utf8Path::from_path(scratch.path()).context("the workspace's path is not UTF-8")?.to_owned();
    let mut files = key::context_files(context)?;
    // Docker reads these two whatever is ignored.
    files.extend(
        [dockerfile, ".dockerignore".into()]
            .map(|name| context.join(name))
            .into_iter()
            .filter(|path| path.exists()),
    );
    for file in files {
        let to = copy.join(file.strip_prefix(context).unwrap_or(&file));
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
        }
        std::fs::copy(&file, &to).with_context(|| format!("copy {file} to {to}"))?;
    }
    let cache = maker.cache.join("recipes").join(name);
    std::fs::create_dir_all(&cache).with_context(|| format!("make the folder {cache}"))?;
    step.progress(format!("images cannot be pulled here: {program}"));
    let program = context.join(program);
    let sh = Shell::new()?;
    sh.change_dir(&copy);
    Run::new(cmd!(sh, "{program}"), OFFLINE)
        .env("RECIPE_CACHE", cache.as_str())
        .env("RECIPE_ARCH", &maker.arch)
        .on_line(|line| {
            if let Some(title) = line.strip_prefix("==> ") {
                step.progress(title);
            }
        })
        .success()
        .await?;
    Ok(scratch)
}
