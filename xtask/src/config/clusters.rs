//! ci/clusters.yaml: the clusters of others that may be used without being named each time.

use anyhow::Result;
use camino::Utf8Path;
use serde::Deserialize;

/// The file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guard {
    /// Contexts of kubeconfigs that `--cluster-provider kubeconfig` takes when one is the current one.
    #[serde(default)]
    pub contexts: Vec<String>,
}

impl Guard {
    /// Reads the file; without one, every cluster has to be named.
    ///
    /// # Errors
    /// It does not fit: file, line and column; exit 2.
    pub fn load(path: &Utf8Path) -> Result<Guard> {
        if path.exists() { super::load(path) } else { Ok(Guard::default()) }
    }
}
