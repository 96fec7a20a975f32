//! Copies of the workspace's files, to be changed where nobody's own may be.

use anyhow::{Context, Result};
use camino::Utf8Path;
use ignore::WalkBuilder;

/// The folders that a suite is made from: what is changed is in one of them.
pub(super) const FOLDERS: [&str; 3] = ["ci", "charts", "test-suites"];

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
