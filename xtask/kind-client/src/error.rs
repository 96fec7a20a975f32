//! The error of this crate: one variant for each thing it was asked to do.

use crate::Failure;
use std::path::PathBuf;

/// What could not be done. The [`Failure`] below it says why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// [`Kind::version`](crate::Kind::version)
    #[error("cannot find out the version of kind")]
    Version(#[source] Failure),
    /// [`Kind::clusters`](crate::Kind::clusters)
    #[error("cannot list the clusters")]
    Clusters(#[source] Failure),
    /// [`Kind::create`](crate::Kind::create)
    #[error("cannot create cluster `{cluster}`")]
    #[non_exhaustive]
    Create {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: Failure,
    },
    /// [`Kind::delete`](crate::Kind::delete)
    #[error("cannot delete cluster `{cluster}`")]
    #[non_exhaustive]
    Delete {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: Failure,
    },
    /// [`Kind::nodes`](crate::Kind::nodes)
    #[error("cannot list the nodes of cluster `{cluster}`")]
    #[non_exhaustive]
    Nodes {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: Failure,
    },
    /// [`Kind::kubeconfig`](crate::Kind::kubeconfig)
    #[error("cannot get the kubeconfig of cluster `{cluster}`")]
    #[non_exhaustive]
    Kubeconfig {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: Failure,
    },
    /// [`Kind::load_archive`](crate::Kind::load_archive)
    #[error("cannot load the image archive {} into cluster `{cluster}`", .archive.display())]
    #[non_exhaustive]
    LoadArchive {
        /// The cluster's name.
        cluster: String,
        /// The archive.
        archive: PathBuf,
        /// Why.
        source: Failure,
    },
    /// [`Kind::load_images`](crate::Kind::load_images)
    #[error("cannot load {images} into cluster `{cluster}`")]
    #[non_exhaustive]
    LoadImages {
        /// The cluster's name.
        cluster: String,
        /// The images.
        images: String,
        /// Why.
        source: Failure,
    },
    /// [`Kind::export_logs`](crate::Kind::export_logs)
    #[error("cannot export the logs of cluster `{cluster}` to {}", .folder.display())]
    #[non_exhaustive]
    ExportLogs {
        /// The cluster's name.
        cluster: String,
        /// Where the logs were to go.
        folder: PathBuf,
        /// Why.
        source: Failure,
    },
    /// [`Node::exec`](crate::Node::exec)
    #[error("a command failed on node `{node}`")]
    #[non_exhaustive]
    Exec {
        /// The node's name.
        node: String,
        /// Why.
        source: Failure,
    },
    /// [`Node::is_running`](crate::Node::is_running), [`Node::role`](crate::Node::role)
    #[error("cannot inspect node `{node}`")]
    #[non_exhaustive]
    Inspect {
        /// The node's name.
        node: String,
        /// Why.
        source: Failure,
    },
    /// [`Node::start`](crate::Node::start)
    #[error("cannot start node `{node}`")]
    #[non_exhaustive]
    Start {
        /// The node's name.
        node: String,
        /// Why.
        source: Failure,
    },
    /// [`Node::copy_from`](crate::Node::copy_from)
    #[error("cannot copy `{path}` from node `{node}`")]
    #[non_exhaustive]
    CopyFrom {
        /// The node's name.
        node: String,
        /// The path on the node.
        path: String,
        /// Why.
        source: Failure,
    },
}

impl Error {
    /// Why it could not be done.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        match self {
            Self::Version(failure) | Self::Clusters(failure) => failure,
            Self::Create { source, .. }
            | Self::Delete { source, .. }
            | Self::Nodes { source, .. }
            | Self::Kubeconfig { source, .. }
            | Self::LoadArchive { source, .. }
            | Self::LoadImages { source, .. }
            | Self::ExportLogs { source, .. }
            | Self::Exec { source, .. }
            | Self::Inspect { source, .. }
            | Self::Start { source, .. }
            | Self::CopyFrom { source, .. } => source,
        }
    }
}
