//! The files that a deployment is made from, and what a change to one of them asks for: a pure function of its path.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use ignore::WalkBuilder;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::todo::{Stage, Todo};
use crate::config::suite::FILE;
use crate::config::{ImagesFile, Suite, Workspace};
use crate::helm::dependencies::{self, Packed};
use crate::images::key;

/// The files.
#[derive(Debug)]
pub struct Sources {
    definitions: Vec<Utf8PathBuf>,
    images: Vec<Image>,
    charts: Vec<Utf8PathBuf>,
    /// Charts that are packed into those.
    packed: Vec<Packed>,
    values: Vec<Utf8PathBuf>,
    fixtures: Vec<Utf8PathBuf>,
    tests: Vec<Utf8PathBuf>,
    /// The deepest first, because it has the last word.
    git: Vec<Gitignore>,
}

/// An image's folder.
#[derive(Debug)]
struct Image {
    folder: Utf8PathBuf,
    /// Nothing for a recipe, all of which counts.
    inputs: Option<Inputs>,
    /// The image, and those that are made from it.
    makes: BTreeSet<String>,
}

/// What Docker reads of a folder.
#[derive(Debug)]
struct Inputs {
    ignored: Gitignore,
    /// Files that Docker reads whatever is ignored.
    always: Vec<Utf8PathBuf>,
}

/// A folder to watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Folder {
    /// Its path.
    pub path: Utf8PathBuf,
    /// With all that is below.
    pub whole: bool,
}

impl Sources {
    /// The files of `suite`, whose tests are in the folders `tests` and which needs the images `names`.
    ///
    /// # Errors
    /// A list of what to ignore cannot be read or understood.
    pub fn gather(
        workspace: &Workspace,
        images: &ImagesFile,
        names: &[String],
        suite: &Suite,
        tests: Vec<Utf8PathBuf>,
    ) -> Result<Sources> {
        // A packaged chart is a file, as values are.
        let charts = suite.releases.iter().map(|release| release.chart.clone());
        let (packages, mut charts): (Vec<_>, Vec<_>) = charts.partition(|chart| chart.is_file());
        let mut packed: Vec<Packed> = charts.iter().flat_map(|chart| dependencies::packed(chart)).collect();
        packed.retain(|one| one.folder.is_dir());
        charts.extend(packed.iter().map(|one| one.folder.clone()));
        let values = suite.releases.iter().flat_map(|release| release.values.clone());
        let mut sources = Sources {
            definitions: [suite.folder.join(FILE), workspace.ci().join("images.yaml")]
                .into_iter()
                .chain(suite.base.clone())
                .collect(),
            images: Vec::new(),
            charts,
            packed,
            values: values.chain(packages).collect(),
            fixtures: suite.fixtures.clone(),
            tests,
            git: Vec::new(),
        };
        for name in names {
            let spec = &images.images[name];
            let mut makes = BTreeSet::new();
            for other in names {
                if images.closure([other])?.contains(name) {
                    makes.insert(other.clone());
                }
            }
            if let Some(folder) = &spec.build {
                let dockerfile = spec.dockerfile.as_deref().unwrap_or(Utf8Path::new("Dockerfile"));
                let always = vec![folder.join(dockerfile), folder.join(".dockerignore")];
                let inputs = Some(Inputs { ignored: key::docker_ignore(folder)?, always });
                sources.images.push(Image { folder: folder.clone(), inputs, makes });
            } else if let Some(folder) = &spec.recipe {
                sources.images.push(Image { folder: folder.clone(), inputs: None, makes });
            }
        }
        sources.git = git_ignores(&workspace.root, &sources.folders())?;
        Ok(sources)
    }

    /// What changes to the files at `paths` ask for.
    #[must_use]
    pub fn todo<'a>(&self, paths: impl IntoIterator<Item = &'a Utf8PathBuf>) -> Todo {
        let mut todo = Todo::default();
        for path in paths.into_iter().filter(|path| !self.is_ignored(path)) {
            todo.join(self.todo_of(path));
        }
        if !todo.is_empty() {
            todo.stages.insert(Stage::Tests);
        }
        todo
    }

    fn todo_of(&self, path: &Utf8Path) -> Todo {
        let below = |folders: &[Utf8PathBuf]| folders.iter().any(|folder| path.starts_with(folder));
        let mut todo = Todo::default();
        if below(&self.definitions) {
            todo.stages.insert(Stage::Definitions);
        }
        for image in self.images.iter().filter(|image| image.reads(path)) {
            todo.stages.insert(Stage::Images);
            // Fixtures may name images too.
            todo.stages.extend(Stage::DEPLOY);
            todo.images.extend(image.makes.iter().cloned());
        }
        if below(&self.charts) || below(&self.values) {
            todo.stages.extend([Stage::Releases, Stage::Ready, Stage::Forwards]);
        }
        if below(&self.fixtures) {
            todo.stages.insert(Stage::Fixtures);
        }
        // A suite's folder holds all kinds of files; what nothing else reads may be a source.
        if todo.is_empty() && below(&self.tests) {
            todo.stages.insert(Stage::Compile);
        }
        todo
    }

    /// Whether git or everybody ignores the file at `path`, or it is made by what a change leads to.
    #[must_use]
    pub fn is_ignored(&self, path: &Utf8Path) -> bool {
        if path.components().any(|part| part.as_str() == ".git") || is_of_an_editor(path) {
            return true;
        }
        if self.packed.iter().any(|one| one.writes(path)) {
            return true;
        }
        for ignores in self.git.iter().filter(|ignores| path.as_std_path().starts_with(ignores.path())) {
            let file = ignores.matched_path_or_any_parents(path, false);
            // Of what is gone nobody can say whether it was a folder.
            if file.is_ignore() || ignores.matched_path_or_any_parents(path, true).is_ignore() {
                return true;
            }
            if file.is_whitelist() {
                return false;
            }
        }
        false
    }

    /// The folders to watch, none inside another that is watched whole.
    ///
    /// A file's folder is watched in its place, because editors put a new file where the old one was.
    #[must_use]
    pub fn folders(&self) -> BTreeSet<Folder> {
        let whole = self.images.iter().map(|image| &image.folder).chain(&self.charts).chain(&self.tests);
        let whole = whole.map(|path| Folder { path: path.clone(), whole: true });
        let files = self.definitions.iter().chain(&self.values).chain(&self.fixtures);
        let parents = files.filter_map(|file| file.parent());
        let parents = parents.map(|path| Folder { path: path.to_owned(), whole: false });
        let all: BTreeSet<Folder> = whole.chain(parents).collect();
        let covers =
            |by: &Folder, folder: &Folder| by != folder && by.whole && folder.path.starts_with(&by.path);
        all.iter().filter(|folder| !all.iter().any(|by| covers(by, folder))).cloned().collect()
    }

    /// Every place that is watched for; a change to all of them is what is assumed when changes were missed.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Utf8PathBuf> {
        let images = self.images.iter().map(|image| match &image.inputs {
            Some(inputs) => inputs.always[0].clone(),
            None => image.folder.clone(),
        });
        let files = [&self.definitions, &self.charts, &self.values, &self.fixtures, &self.tests];
        images.chain(files.into_iter().flatten().cloned()).collect()
    }
}

impl Image {
    fn reads(&self, path: &Utf8Path) -> bool {
        path.starts_with(&self.folder)
            && self.inputs.as_ref().is_none_or(|inputs| {
                inputs.always.iter().any(|file| file == path)
                    || !inputs.ignored.matched_path_or_any_parents(path, false).is_ignore()
            })
    }
}

/// Files that editors put beside the one that is edited, which is in nobody's list of what to ignore.
fn is_of_an_editor(path: &Utf8Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    // Vim's first asks whether files can be made in the folder.
    name == "4913"
        || name.ends_with('~')
        || name.starts_with(".#")
        || (name.starts_with('.') && matches!(path.extension(), Some("swp" | "swo" | "swx")))
}

/// The .gitignore files that have a say in `folders`, the deepest first.
fn git_ignores(root: &Utf8Path, folders: &BTreeSet<Folder>) -> Result<Vec<Gitignore>> {
    const NAME: &str = ".gitignore";
    let mut files = BTreeSet::new();
    for Folder { path, whole } in folders {
        let above = path.ancestors().take_while(|above| above.starts_with(root));
        files.extend(above.map(|above| above.join(NAME)));
        files.insert(path.join(NAME));
        let depth = if *whole { None } else { Some(1) };
        let walk = WalkBuilder::new(path).hidden(false).require_git(false).max_depth(depth).build();
        let below = walk.flatten().filter(|entry| entry.file_name() == NAME);
        files.extend(below.filter_map(|entry| Utf8PathBuf::from_path_buf(entry.into_path()).ok()));
    }
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let mut builder = GitignoreBuilder::new(file.parent().unwrap_or(root));
        if let Some(error) = builder.add(file) {
            return Err(error).with_context(|| format!("understand {file}"));
        }
        found.push(builder.build().with_context(|| format!("understand {file}"))?);
    }
    found.sort_by_key(|ignores| std::cmp::Reverse(ignores.path().components().count()));
    Ok(found)
}

#[cfg(test)]
mod tests;
