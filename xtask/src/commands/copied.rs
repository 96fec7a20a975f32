//! Copies of the workspace's files, to be changed where nobody's own may be.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use ignore::WalkBuilder;

use crate::config::edit::Edit;
use crate::config::{ImagesFile, Workspace, clean};
use crate::exit::Exit;
use crate::fail;

/// The folders that a suite is made from: what is changed is in one of them.
pub(super) const FOLDERS: [&str; 3] = ["ci", "charts", "test-suites"];

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
    copy_folders(&workspace.root, &root)?;
    let original = root.join(inside);
    let by = folder.join(file);
    let mut changed = Vec::new();
    for edit in edits {
        let path = clean(&original.join(&edit.file));
        let Ok(place) = path.strip_prefix(&root) else {
            fail!(Exit::Usage, "{by}: {} is outside of {}", edit.file, FOLDERS.join("/, "));
        };
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read {place}, which {by} wants to change"))?;
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

/// The images, if any is made of what was changed.
fn changed_images(images: &ImagesFile, changed: &[Utf8PathBuf]) -> Option<ImagesFile> {
    let mut sources = images.images.values().flat_map(|image| image.build.iter().chain(&image.recipe));
    sources.any(|source| changed.iter().any(|path| path.starts_with(source))).then(|| images.clone())
}

/// Copies what a suite is made from.
pub(super) fn copy_folders(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    FOLDERS.iter().try_for_each(|folder| copy(&from.join(folder), &to.join(folder)))
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
