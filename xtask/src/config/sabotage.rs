//! sabotage.yaml: changes to what a suite deploys, each of which must make tests of it fail.

use anyhow::Result;
use camino::Utf8Path;
use schemars::JsonSchema;
use serde::Deserialize;

use super::edit::Edit;
use crate::exit::Exit;
use crate::fail;

/// The file's name in a suite's folder.
pub const FILE: &str = "sabotage.yaml";

/// The file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SabotageFile {
    /// The changes; each is deployed by itself, in the variant that runs when none is named.
    pub sabotage: Vec<Sabotage>,
}

/// A change, and the tests that must notice it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sabotage {
    /// In words, what is wrong then.
    pub what: String,
    /// What is changed.
    pub edits: Vec<Edit>,
    /// The names of the tests that must fail.
    pub fails: Vec<String>,
}

impl SabotageFile {
    /// Reads the sabotage.yaml of a suite; nothing where there is none.
    ///
    /// # Errors
    /// As [`super::load`], or a change that changes nothing or that no test must notice; exit 2.
    pub fn load(suite: &Utf8Path) -> Result<Option<SabotageFile>> {
        let path = suite.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let file: SabotageFile = super::load(&path)?;
        for Sabotage { what, edits, fails } in &file.sabotage {
            if edits.is_empty() || fails.is_empty() {
                fail!(Exit::Usage, "{path}: `{what}` needs at least one entry in `edits` and in `fails`");
            }
        }
        Ok(Some(file))
    }
}
