//! sabotage.yaml: changes to what a suite deploys, each of which must make tests of it fail.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use schemars::JsonSchema;
use serde::Deserialize;

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

/// A text of a file that is another one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, relative to the suite's folder; one under ci/, charts/ or test-suites/.
    #[schemars(with = "String")]
    pub file: Utf8PathBuf,
    /// What stands there once.
    pub from: String,
    /// What shall stand there.
    pub to: String,
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

impl Edit {
    /// Does it to the text of `path`.
    ///
    /// # Errors
    /// What is to be replaced does not stand there once; exit 2.
    pub fn apply(&self, path: &Utf8Path, text: &str) -> Result<String> {
        let found = text.matches(&self.from).count();
        if found != 1 {
            fail!(
                Exit::Usage,
                "the text to replace stands {found} times in {path} instead of once; adapt the {FILE} that has it:\n{}",
                crate::text::indent(&self.from, "    ")
            );
        }
        Ok(text.replacen(&self.from, &self.to, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_there_once_is_refused() {
        let edit = Edit { file: "x".into(), from: "a".to_owned(), to: "b".to_owned() };
        assert_eq!(edit.apply("x".into(), "cat").unwrap(), "cbt");
        for text in ["dog", "banana"] {
            let error = edit.apply("values.yaml".into(), text).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            assert!(error.to_string().contains("times in values.yaml instead of once"), "{error}");
        }
    }
}
