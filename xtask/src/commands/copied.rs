//! Copies of the workspace's files, to be changed where nobody's own may be.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use ignore::WalkBuilder;
use jiff::Timestamp;

use super::k8s_test::{self, Ended};
use crate::cli::K8sTest;
use crate::config::edit::Edit;
use crate::config::{ImagesFile, SuiteFile, Workspace, clean, suite};
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::plan::{Files, Plan};
use crate::report::{Record, Recorder};
use crate::{fail, names};

/// The folders that are copied at once; others are, when something in them is changed.
const FOLDERS: [&str; 3] = ["ci", "charts", "test-suites"];

/// A suite in a copy of the files, with changes in it.
pub(super) struct Changed {
    /// The suite's folder in the copy, named apart from those of other changes.
    pub(super) folder: Utf8PathBuf,
    /// The copy's images, where one of them is made of what is changed.
    pub(super) images: Option<ImagesFile>,
}

/// Makes a copy of the files below `scratch` and the suite's edits in it, which its file of that name tells; the suite is then called
/// `name`.
///
/// # Errors
/// The suite or a file to change is outside of the workspace, or an edit cannot be made; exit 2.
pub(super) fn change(
    workspace: &Workspace,
    folder: &Utf8Path,
    (file, edits): (&str, &[Edit]),
    name: &str,
    scratch: &Utf8Path,
) -> Result<Changed> {
    let Ok(inside) = folder.strip_prefix(&workspace.root) else {
        fail!(
            Exit::Usage,
            "{folder} is not in {}: only suites of this workspace can be changed",
            workspace.root
        );
    };
    let root = scratch.join(name);
    copy_workspace(&workspace.root, &root)?;
    own(&workspace.root, &root, inside)?;
    let original = root.join(inside);
    let by = folder.join(file);
    let mut changed = Vec::new();
    for edit in edits {
        let path = clean(&original.join(&edit.file));
        let Ok(place) = path.strip_prefix(&root) else {
            fail!(Exit::Usage, "{by}: {} is outside of {}", edit.file, workspace.root);
        };
        own(&workspace.root, &root, place)?;
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read {place}, which {by} wants to change"))
            .or_exit(Exit::Usage)?;
        let text = edit.apply(place, &text).with_context(|| format!("make a change of {by}"))?;
        std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
        changed.push(path);
    }
    // The original stays: an image may be made of what is in it.
    let folder = original.with_file_name(name);
    copy(&original, &folder)?;
    let images = changed_images(&ImagesFile::load(&root.join("ci/images.yaml"))?, &changed);
    Ok(Changed { folder, images })
}

/// Deploys changed suites and runs their tests, with the images of the copy where one is made of what is changed: then it is the
/// only one. `adapt` has the last word on the plan.
pub(super) async fn carry_out(
    flags: &K8sTest,
    env: &Env,
    workspace: &Workspace,
    suites: &[&Changed],
    adapt: impl FnOnce(&mut Plan),
) -> Result<(Ended, Record)> {
    let images = match suites.iter().find_map(|changed| changed.images.as_ref()) {
        Some(images) => images.clone(),
        None => ImagesFile::load(&workspace.ci().join("images.yaml"))?,
    };
    let file = |changed: &&Changed| {
        Ok((changed.folder.clone(), SuiteFile::load(&changed.folder.join(suite::FILE))?))
    };
    let suites = suites.iter().map(file).collect::<Result<Vec<_>>>()?;
    let files = Files { workspace: workspace.clone(), images: images.clone(), suites };
    let mut plan = plan(flags, env, &files)?;
    adapt(&mut plan);
    let recorder = Recorder::default();
    let mut session = super::session(env, Some(Box::new(recorder.clone())))?;
    session.images = images;
    let ended = k8s_test::carry_out(&session, &plan, &recorder).await?;
    Ok((ended, recorder.record()))
}

/// The plan of a run of these suites as the flags say.
pub(super) fn plan(flags: &K8sTest, env: &Env, files: &Files) -> Result<Plan> {
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    Plan::resolve(flags, env, files, &names::run_id(Timestamp::now()), cpus)
}

/// The images, if any is made of what was changed.
fn changed_images(images: &ImagesFile, changed: &[Utf8PathBuf]) -> Option<ImagesFile> {
    let mut sources = images.images.values().flat_map(|image| image.build.iter().chain(&image.recipe));
    sources.any(|source| changed.iter().any(|path| path.starts_with(source))).then(|| images.clone())
}

/// Makes a copy of a workspace: of what most suites are made from. For the rest of it there are links, until [`own`] is called.
pub(super) fn copy_workspace(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    for entry in from.read_dir_utf8().with_context(|| format!("read {from}"))? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path());
        // The copy itself is in target/.
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let target = to.join(name);
        if FOLDERS.contains(&name) {
            copy(path, &target)?;
        } else {
            link(path, &target)?;
        }
    }
    Ok(())
}

/// Sees to it that what is at `place` in the copy is nobody else's.
pub(super) fn own(from: &Utf8Path, to: &Utf8Path, place: &Utf8Path) -> Result<()> {
    let Some(first) = place.iter().next() else { return Ok(()) };
    let (original, copied) = (from.join(first), to.join(first));
    if copied.is_symlink() {
        std::fs::remove_file(&copied).with_context(|| format!("remove the link {copied}"))?;
        copy(&original, &copied)?;
    }
    Ok(())
}

fn link(path: &Utf8Path, at: &Utf8Path) -> Result<()> {
    if let Some(parent) = at.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("make {parent}"))?;
    }
    std::os::unix::fs::symlink(path, at).with_context(|| format!("link {path} at {at}"))
}

/// Copies a folder. What git would not commit is left out: results and caches.
pub(super) fn copy(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    for entry in WalkBuilder::new(from).hidden(false).require_git(false).build() {
        let entry = entry?;
        let path = Utf8Path::from_path(entry.path()).context("a path that is not UTF-8")?;
        let target = to.join(path.strip_prefix(from)?);
        if path.is_dir() {
            std::fs::create_dir_all(&target).with_context(|| format!("make {target}"))?;
        } else {
            std::fs::copy(path, &target).with_context(|| format!("copy {path} to {target}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_copied_and_the_rest_linked() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        let (from, to) = (root.join("w"), root.join("w/target/copy"));
        for file in ["ci/images.yaml", "services/web/chart/Chart.yaml", "target/old", ".git/HEAD"] {
            let path = from.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        copy_workspace(&from, &to).unwrap();
        assert!(!to.join("ci").is_symlink() && to.join("services").is_symlink());
        assert!(!to.join("target").exists() && !to.join(".git").exists() && !to.join("charts").exists());
        let chart = to.join("services/web/chart/Chart.yaml");
        assert_eq!(std::fs::read_to_string(&chart).unwrap(), "services/web/chart/Chart.yaml");
        own(&from, &to, "services/web/chart/Chart.yaml".into()).unwrap();
        std::fs::write(&chart, "changed").unwrap();
        let original = std::fs::read_to_string(from.join("services/web/chart/Chart.yaml")).unwrap();
        assert_eq!(original, "services/web/chart/Chart.yaml");
    }
}
