//! The files a plan is made from: found by name or path, and read.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use crate::config::suite::FILE;
use crate::config::{ImagesFile, SuiteFile, Workspace};
use crate::exit::Exit;
use crate::{fail, text};

/// The files a plan is made from.
#[derive(Clone, Debug)]
pub struct Files {
    /// The workspace.
    pub workspace: Workspace,
    /// ci/images.yaml.
    pub images: ImagesFile,
    /// Folder and file of each suite of test-suites/, by folder name.
    pub suites: Vec<(Utf8PathBuf, SuiteFile)>,
}

impl Files {
    /// Reads images.yaml and the suites that `wanted` names; all of them when it names none.
    ///
    /// # Errors
    /// A suite does not exist or a file does not load; exit 2.
    pub fn load(workspace: &Workspace, wanted: &[String]) -> Result<Files> {
        let images = ImagesFile::load(&workspace.ci().join("images.yaml"))?;
        let folders = if wanted.is_empty() {
            suite_folders(&workspace.suites())?
        } else {
            wanted.iter().map(|name| find_suite(workspace, name)).collect::<Result<_>>()?
        };
        let mut suites: Vec<(Utf8PathBuf, SuiteFile)> = Vec::new();
        for folder in folders {
            if suites.iter().any(|(known, _)| *known == folder) {
                continue;
            }
            if let Some((other, _)) = suites.iter().find(|(known, _)| known.file_name() == folder.file_name())
            {
                fail!(
                    Exit::Usage,
                    "two suites have one name: {other} and {folder}; reports and labels go by the name, so rename one folder"
                );
            }
            let file = SuiteFile::load(&folder.join(FILE))?;
            suites.push((folder, file));
        }
        Ok(Files { workspace: workspace.clone(), images, suites })
    }
}

fn suite_folders(root: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let mut folders = Vec::new();
    for entry in root.read_dir_utf8().map_err(|error| {
        crate::exit::coded(
            Exit::Usage,
            anyhow::Error::new(error).context(format!("read the suites' folder {root}")),
        )
    })? {
        let path = entry?.into_path();
        if path.join(FILE).is_file() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn find_suite(workspace: &Workspace, name: &str) -> Result<Utf8PathBuf> {
    let named = workspace.suites().join(name);
    if !name.contains('/') && named.join(FILE).is_file() {
        return Ok(named);
    }
    let path = Utf8Path::new(name);
    if path.join(FILE).is_file() {
        let full = path.canonicalize_utf8().map_err(anyhow::Error::new)?;
        return Ok(full);
    }
    if path.is_dir() {
        fail!(Exit::Usage, "{path} is a folder without a {FILE}, so it is no suite");
    }
    let known = suite_folders(&workspace.suites())?;
    let known: Vec<&str> = known.iter().filter_map(|folder| folder.file_name()).collect();
    fail!(
        Exit::Usage,
        "there is no suite `{name}`: neither test-suites/{name}/{FILE} nor the folder {name} exists{}",
        text::suggestion(name, known)
    )
}
