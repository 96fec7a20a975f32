//! What this run has made, written down before it is made, so that an end at any point knows what to remove.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::api::ApiResource;
use serde::{Deserialize, Serialize};

use crate::journal::{Entry, Journal};

/// The run's list; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    made: Made,
    journal: Option<Journal>,
}

/// What was made, in the order of making.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// The run whose deployment `up` or `dev` uses again: what carries its id is renewed as the run's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_of: Option<String>,
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its namespace, unless it is the cluster's.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A Helm release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseName {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
}

impl Ledger {
    /// From now on all of it stands in `journal` too.
    pub fn keep_in(&self, journal: Journal) {
        let mut inner = self.lock();
        inner.journal = Some(journal);
        inner.write(|_| ());
    }

    /// Writes something down; when this returns, it stands in the journal.
    pub fn record(&self, write: impl FnOnce(&mut Made)) {
        let mut inner = self.lock();
        write(&mut inner.made);
        inner.write(|_| ());
    }

    /// Writes into the journal what the run has found or decided.
    pub fn note(&self, write: impl FnOnce(&mut Entry)) {
        self.lock().write(write);
    }

    /// What has been written down.
    #[must_use]
    pub fn made(&self) -> Made {
        self.lock().made.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, write: impl FnOnce(&mut Entry)) {
        if let Some(journal) = &mut self.journal {
            journal.entry.made = self.made.clone();
            write(&mut journal.entry);
            journal.append();
        }
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

    /// What there is, thing by thing: `namespace a`, `ClusterRole b`. Releases go with a namespace that is named.
    pub fn describe(&self) -> impl Iterator<Item = String> {
        let outside = |release: &&ReleaseName| !self.namespaces.contains(&release.namespace);
        let cluster = self.cluster.iter().map(|name| format!("cluster {name}"));
        let namespaces = self.namespaces.iter().map(|name| format!("namespace {name}"));
        let releases = self.releases.iter().filter(outside);
        let releases = releases.map(|release| format!("release {} in {}", release.name, release.namespace));
        cluster.chain(namespaces).chain(releases).chain(self.objects.iter().map(Object::describe))
    }
}

impl Object {
    /// Its kind and name, and where it is.
    #[must_use]
    pub fn describe(&self) -> String {
        let place = self.namespace.as_ref().map_or_else(String::new, |name| format!(" in {name}"));
        format!("{} {}{place}", self.resource.kind, self.name)
    }
}
