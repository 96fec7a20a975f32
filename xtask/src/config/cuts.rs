//! cuts.yaml: what makes a suite's deployment start and its tests run sooner, each with what undoes it.

use anyhow::Result;
use camino::Utf8Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::edit::Edit;
use crate::exit::Exit;
use crate::fail;

/// The file's name in a suite's folder.
pub const FILE: &str = "cuts.yaml";

/// The file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutsFile {
    /// The cuts; each is undone by itself, in the variant that runs when none is named.
    pub cuts: Vec<Cut>,
}

/// A cut.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cut {
    /// In words, what was done.
    pub what: String,
    /// What brings back what was there before.
    pub undo: Vec<Edit>,
}

impl CutsFile {
    /// Reads the cuts.yaml of a suite.
    ///
    /// # Errors
    /// As [`super::load`], also where there is none, or a cut that is undone by nothing; exit 2.
    pub fn load(suite: &Utf8Path) -> Result<CutsFile> {
        let path = suite.join(FILE);
        if !path.exists() {
            fail!(
                Exit::Usage,
                "there is no {path}, which would list `cuts`, each with `what` it is and the edits that `undo` it; `cargo xtask schema cuts` prints all that it may say"
            );
        }
        let file: CutsFile = super::load(&path)?;
        if let Some(cut) = file.cuts.iter().find(|cut| cut.undo.is_empty()) {
            fail!(Exit::Usage, "{path}: `{}` needs at least one entry in `undo`", cut.what);
        }
        Ok(file)
    }
}
