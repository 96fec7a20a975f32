//! What this run has made, written down before it is made, so that an end at any point knows what to remove.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::ApiResource;

/// The run's list; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Made>>);

/// What was made, in the order of making.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// The Kind cluster that this run creates.
    pub cluster: Option<String>,
    /// Whether that cluster is complete; one that is not is of use to nobody.
    pub cluster_complete: bool,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// Objects that do not go with one of our namespaces.
    pub objects: Vec<Object>,
    /// Releases that were not there before.
    pub releases: Vec<ReleaseName>,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its namespace, unless it is the cluster's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A Helm release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseName {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl Ledger {
    /// Writes something down.
    pub fn record(&self, write: impl FnOnce(&mut Made)) {
        write(&mut self.lock());
    }

    /// What has been written down.
    #[must_use]
    pub fn made(&self) -> Made {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Made {
    /// Whether the run made anything that a person may look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cluster.is_none()
            && self.namespaces.is_empty()
            && self.objects.is_empty()
            && self.releases.is_empty()
    }
}
