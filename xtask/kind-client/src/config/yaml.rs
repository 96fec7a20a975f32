//! Reads and writes the cluster config as YAML.

use super::Cluster;
use serde::{Deserialize, Deserializer};

/// A text that is not a cluster config. The error below it says what is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[error("not a cluster config of kind (kind.x-k8s.io/v1alpha4)")]
pub struct ParseError {
    source: serde_yaml::Error,
}

impl ParseError {
    /// The line, from 1, if it is known.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.source.location().map(|location| location.line())
    }

    /// The column, from 1, if it is known.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.source.location().map(|location| location.column())
    }
}

impl Cluster {
    /// Reads a config.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not YAML, has a field or value that kind does not know, or lacks one that
    /// it needs.
    pub fn from_yaml(text: &str) -> Result<Self, ParseError> {
        serde_yaml::from_str(text).map_err(|source| ParseError { source })
    }

    /// The config as kind reads it, without what is not set.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("strings, numbers, lists and maps can always be written")
    }
}

/// Reads a value or `null`, which stands for nothing in kind: a key whose lines are all commented out.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
