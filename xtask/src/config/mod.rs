//! The files that describe the work: suites, images, tools.

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use serde::de::DeserializeOwned;

use crate::exit::{Exit, ExitWith, coded};
use crate::{fail, text};

pub mod clusters;
pub mod cuts;
pub mod edit;
pub mod images;
pub mod sabotage;
pub mod suite;
pub mod tools;

pub use clusters::Guard;
pub use images::{ImageSpec, ImagesFile};
pub(crate) use suite::some_duration;
pub use suite::{Forward, Probe, Release, Run, Suite, SuiteFile};
pub use tools::{Tool, Tools};

/// Where the files of a workspace are.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder of the workspace's Cargo.toml.
    pub root: Utf8PathBuf,
}

impl Workspace {
    /// The workspace that this program was built from.
    #[must_use]
    pub fn here() -> Workspace {
        let manifest = Utf8Path::new(env!("CARGO_MANIFEST_DIR"));
        Workspace { root: manifest.parent().unwrap_or(manifest).to_owned() }
    }

    /// The folder of cluster, tool and image definitions.
    #[must_use]
    pub fn ci(&self) -> Utf8PathBuf {
        self.root.join("ci")
    }

    /// The folder of suites.
    #[must_use]
    pub fn suites(&self) -> Utf8PathBuf {
        self.root.join("test-suites")
    }

    /// The folder of run reports.
    #[must_use]
    pub fn runs(&self) -> Utf8PathBuf {
        self.root.join("target/k8s-test")
    }

    /// `path` as the user would type it from the workspace's root.
    #[must_use]
    pub fn show<'a>(&self, path: &'a Utf8Path) -> &'a Utf8Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

/// Reads a YAML file into its type.
///
/// # Errors
/// It cannot be read, is no YAML or does not fit: file, line, column and, for an unknown key, the nearest.
pub fn load<T: DeserializeOwned>(path: &Utf8Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}")).or_exit(Exit::Usage)?;
    parse(path, &text)
}

/// As [`load`], with the file's text.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(path: &Utf8Path, text: &str) -> Result<T> {
    serde_yaml::from_str(text).map_err(|error| {
        let place = error
            .location()
            .map_or_else(|| path.to_string(), |at| format!("{path}:{}:{}", at.line(), at.column()));
        let message = error.to_string();
        // The position is in front already.
        let message = message.split(" at line ").next().unwrap_or(&message);
        coded(Exit::Usage, anyhow!("{place}: {}", with_suggestion(message)))
    })
}

/// Turns serde's list of expected names into the one that was probably meant.
fn with_suggestion(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    for (found, what) in [("unknown field", "unknown key"), ("unknown variant", "unknown value")] {
        if message.contains(found)
            && let Some(given) = quoted.next()
        {
            let before = message.split(found).next().unwrap_or_default();
            return format!("{before}{what} `{given}`{}", text::suggestion(given, quoted));
        }
    }
    message.to_owned()
}

/// A path that a file names, relative to that file's folder.
///
/// # Errors
/// It does not exist; `what` says what the path should be.
pub fn existing(folder: &Utf8Path, path: &Utf8Path, what: &str, named_in: &Utf8Path) -> Result<Utf8PathBuf> {
    let full = clean(&folder.join(path));
    if !full.exists() {
        fail!(Exit::Usage, "{named_in}: {what} `{path}` does not exist (looked for {full})");
    }
    Ok(full)
}

/// `path` without `.` and `..`, by its text alone.
#[must_use]
pub fn clean(path: &Utf8Path) -> Utf8PathBuf {
    use camino::Utf8Component;
    let mut out = Utf8PathBuf::new();
    for component in path.components() {
        match component {
            Utf8Component::CurDir => {}
            Utf8Component::ParentDir
                if matches!(out.components().next_back(), Some(Utf8Component::Normal(_))) =>
            {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[allow(dead_code)]
        images: Vec<String>,
        #[serde(default)]
        #[allow(dead_code)]
        timeout: Option<String>,
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let error = parse::<Example>("suite.yaml".into(), text).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn an_unknown_key_is_placed_and_the_nearest_named() {
        refused("images: []\ntimeuot: 5\n", "suite.yaml:2:1: unknown key `timeuot`; did you mean `timeout`?");
    }

    #[test]
    fn a_wrong_type_is_placed() {
        refused(
            "images: yes please\n",
            "suite.yaml:1:9: images: invalid type: string \"yes please\", expected a sequence",
        );
    }

    #[test]
    fn broken_yaml_is_placed() {
        let error =
            parse::<Example>("suite.yaml".into(), "images: [a\ntimeout: x\n").unwrap_err().to_string();
        assert!(error.starts_with("suite.yaml:2:"), "{error}");
    }

    #[test]
    fn cleaning_keeps_leading_parents() {
        assert_eq!(clean("/a/b/../c/./d".into()), "/a/c/d");
        assert_eq!(clean("../a".into()), "../a");
    }
}
