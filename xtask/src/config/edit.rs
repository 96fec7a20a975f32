//! Changes of files in a copy of the workspace, as a suite's sabotage.yaml and cuts.yaml tell them.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::exit::Exit;
use crate::fail;

/// A text of a file that is another one.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The file, relative to the suite's folder; one of the workspace.
    #[schemars(with = "String")]
    pub file: Utf8PathBuf,
    /// What stands there once.
    pub from: String,
    /// What shall stand there.
    pub to: String,
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
                "the text to replace stands {found} times in {path} instead of once; adapt the edit:\n{}",
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
