//! What is done with a cluster as a whole, except to create it.

use crate::process::Invocation;
use crate::{Cause, Error, Failure, Kind, Node};
use std::ffi::OsString;
use std::path::Path;

/// Which address of the API server a kubeconfig names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// The port published on the host.
    External,
    /// The node's name in the container network: for clients that run in a container there.
    Internal,
}

/// The nodes to which something is brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// All nodes of the cluster.
    All,
    /// The nodes of these names.
    Nodes(Vec<String>),
}

impl Kind {
    /// The names of all clusters, sorted; also of those whose nodes are stopped.
    ///
    /// # Errors
    /// [`Error::Clusters`] if kind or the container engine fails.
    pub async fn clusters(&self) -> Result<Vec<String>, Error> {
        // Without clusters kind says so on its standard error, and nothing on its output.
        let text = self.command(["get", "clusters"]).ensure_stdout().await.map_err(Error::Clusters)?;
        let mut clusters: Vec<String> = words(&text).collect();
        clusters.sort_unstable();
        Ok(clusters)
    }

    /// The nodes of `cluster`, sorted by name; also stopped ones. Empty if there is no such cluster.
    ///
    /// A cluster with several control planes has a load balancer in front of them, which kind counts as a
    /// node though Kubernetes does not run on it: see [`Node::role`].
    ///
    /// # Errors
    /// [`Error::Nodes`] if kind or the container engine fails.
    pub async fn nodes(&self, cluster: &str) -> Result<Vec<Node>, Error> {
        let nodes = async {
            let text = self.on(cluster, &["get", "nodes"])?.ensure_stdout().await?;
            let mut names: Vec<String> = words(&text).collect();
            names.sort_unstable();
            Ok(names.into_iter().map(|name| self.node(name)).collect())
        };
        nodes.await.map_err(|source| Error::Nodes { cluster: cluster.to_owned(), source })
    }

    /// The kubeconfig of `cluster`, as YAML: a secret, which gives full access to the cluster.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`] if kind fails: also if there is no such cluster, or its control plane is stopped.
    pub async fn kubeconfig(&self, cluster: &str, address: Address) -> Result<String, Error> {
        let kubeconfig = async {
            let mut command = self.on(cluster, &["get", "kubeconfig"])?;
            if address == Address::Internal {
                command.args.push("--internal".into());
            }
            let text = command.ensure_stdout().await?;
            match text.trim_end() {
                "" => Err(command.not_understood("the kubeconfig is empty")),
                text => Ok(format!("{text}\n")),
            }
        };
        kubeconfig.await.map_err(|source| Error::Kubeconfig { cluster: cluster.to_owned(), source })
    }

    /// Deletes `cluster` with all its nodes. That there is no such cluster is not an error.
    ///
    /// The cluster's entries are removed from the file `kubeconfig`; from none if there is none, in
    /// particular not from the user's, as kind would do by itself.
    ///
    /// # Errors
    /// [`Error::Delete`] if a node cannot be deleted, or `kubeconfig` is locked: kind leaves the lock
    /// (`FILE.lock`) behind if it is ended at the wrong moment.
    pub async fn delete(&self, cluster: &str, kubeconfig: Option<&Path>) -> Result<(), Error> {
        let delete = async {
            let mut command = self.on(cluster, &["delete", "cluster"])?;
            let mut folder = None;
            let file = match kubeconfig {
                Some(file) => file.to_owned(),
                None => {
                    let new = tempfile::tempdir().map_err(|err| command.failure(Cause::Io(err)))?;
                    folder.insert(new).path().join("kubeconfig")
                }
            };
            command.args.extend(["--kubeconfig".into(), file.into()]);
            command.ensure_success().await
        };
        delete.await.map_err(|source| Error::Delete { cluster: cluster.to_owned(), source })
    }

    /// Brings the images of `archive`, a file as `docker save` writes it, to nodes of `cluster`.
    ///
    /// # Errors
    /// [`Error::LoadArchive`] if the archive cannot be read, a node is missing, or the import on a node fails.
    pub async fn load_archive(
        &self,
        cluster: &str,
        archive: impl AsRef<Path>,
        targets: &Targets,
    ) -> Result<(), Error> {
        let archive = archive.as_ref();
        let load = async {
            let mut command = self.on(cluster, &["load", "image-archive"])?;
            command.args.extend(nodes_flag(&command, targets)?);
            command.args.extend([OsString::from("--"), archive.into()]);
            command.ensure_success().await
        };
        load.await.map_err(|source| Error::LoadArchive {
            cluster: cluster.to_owned(),
            archive: archive.to_owned(),
            source,
        })
    }

    /// Brings images from the container engine to nodes of `cluster`, each node all of them or, if it has them, none.
    ///
    /// # Errors
    /// [`Error::LoadImages`] if the engine lacks an image, a node is missing, or the import on a node fails.
    pub async fn load_images<S: AsRef<str>>(
        &self,
        cluster: &str,
        images: &[S],
        targets: &Targets,
    ) -> Result<(), Error> {
        let images: Vec<&str> = images.iter().map(AsRef::as_ref).collect();
        let load = async {
            let mut command = self.on(cluster, &["load", "docker-image"])?;
            command.args.extend(nodes_flag(&command, targets)?);
            command.args.push("--".into());
            command.args.extend(images.iter().map(OsString::from));
            command.ensure_success().await
        };
        load.await.map_err(|source| Error::LoadImages {
            cluster: cluster.to_owned(),
            images: images.join(", "),
            source,
        })
    }

    /// Writes the logs of all nodes of `cluster`, and what the container engine knows of them, into `folder`,
    /// which is made if it is missing.
    ///
    /// # Errors
    /// [`Error::ExportLogs`] if there is no such cluster, or a log cannot be got: kind then still exports the
    /// others. It needs `journalctl` and `crictl` on the nodes.
    pub async fn export_logs(&self, cluster: &str, folder: impl AsRef<Path>) -> Result<(), Error> {
        let folder = folder.as_ref();
        let export = async {
            let mut command = self.on(cluster, &["export", "logs"])?;
            command.args.extend([OsString::from("--"), folder.into()]);
            command.ensure_success().await
        };
        export.await.map_err(|source| Error::ExportLogs {
            cluster: cluster.to_owned(),
            folder: folder.to_owned(),
            source,
        })
    }

    /// A call of kind's `verb` on `cluster`.
    pub(crate) fn on(&self, cluster: &str, verb: &[&str]) -> Result<Invocation, Failure> {
        let command = self.command(verb.iter().chain(&["--name", cluster]));
        // kind takes an empty name for its default cluster: `delete` would then delete somebody's `kind`.
        let is_valid = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-');
        if cluster.is_empty() || !cluster.chars().all(is_valid) {
            let what = format!(
                "{cluster:?} cannot name a cluster; use lower-case letters, digits, full stops and hyphens"
            );
            return Err(command.failure(Cause::Argument(what)));
        }
        Ok(command)
    }
}

/// The flag that names the nodes.
fn nodes_flag(command: &Invocation, targets: &Targets) -> Result<Vec<OsString>, Failure> {
    match targets {
        Targets::All => Ok(Vec::new()),
        Targets::Nodes(nodes) if nodes.is_empty() => {
            Err(command.failure(Cause::Argument("the list of nodes is empty".into())))
        }
        Targets::Nodes(nodes) => Ok(vec!["--nodes".into(), nodes.join(",").into()]),
    }
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned)
}
