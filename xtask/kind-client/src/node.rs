//! A node of a cluster: a container that can be looked into, started, copied from, and run commands in.

use crate::{Error, Exec, Kind};
use std::ffi::OsString;
use std::path::Path;

/// A node: a container of the engine below kind.
#[derive(Clone, Debug)]
pub struct Node {
    kind: Kind,
    name: String,
}

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Runs a Kubernetes control plane.
    ControlPlane,
    /// Runs Pods only.
    Worker,
    /// Stands before several control planes; no node to Kubernetes.
    ExternalLoadBalancer,
}

impl Kind {
    /// The node of this name, as [`Kind::nodes`] lists it. Whether there is one shows when it is used.
    #[must_use]
    pub fn node(&self, name: impl Into<String>) -> Node {
        Node { kind: self.clone(), name: name.into() }
    }
}

impl Node {
    /// The node's name, in Kubernetes as in the container engine.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command to run on the node as root: a program and its arguments, without a shell in between.
    ///
    /// Nothing happens before one of the methods of [`Exec`] that run it.
    pub fn exec<A: Into<OsString>>(&self, argv: impl IntoIterator<Item = A>) -> Exec {
        Exec::new(self.kind.clone(), self.name.clone(), argv.into_iter().map(Into::into).collect())
    }

    /// Whether the node runs. The nodes of a cluster stop with the container engine, for example, and
    /// [`Node::start`] starts them again.
    ///
    /// # Errors
    /// [`Error::Inspect`] if the engine fails: also if there is no such node.
    pub async fn is_running(&self) -> Result<bool, Error> {
        self.inspect("{{.State.Running}}", |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
        .await
    }

    /// What the node is for.
    ///
    /// # Errors
    /// [`Error::Inspect`] if the engine fails: also if there is no such node.
    pub async fn role(&self) -> Result<Role, Error> {
        self.inspect(r#"{{index .Config.Labels "io.x-k8s.kind.role"}}"#, |text| match text {
            "control-plane" => Some(Role::ControlPlane),
            "worker" => Some(Role::Worker),
            "external-load-balancer" => Some(Role::ExternalLoadBalancer),
            _ => None,
        })
        .await
    }

    /// Starts the stopped node, and returns when its container runs: Kubernetes on it needs longer. That it
    /// runs already is not an error.
    ///
    /// # Errors
    /// [`Error::Start`] if the engine fails: also if there is no such node, or its port on the host is taken.
    pub async fn start(&self) -> Result<(), Error> {
        let start = self.kind.container(["start", &self.name]);
        start.ensure_success().await.map_err(|source| Error::Start { node: self.name.clone(), source })
    }

    /// Copies the file or the folder at `path` of the node, which need not run, to `to` on this machine: into `to`
    /// where that is a folder.
    ///
    /// # Errors
    /// [`Error::CopyFrom`] if the engine fails: also if there is no such node, or nothing at `path`.
    pub async fn copy_from(&self, path: &str, to: impl AsRef<Path>) -> Result<(), Error> {
        let from = format!("{}:{path}", self.name);
        let copy = self.kind.container([OsString::from("cp"), from.into(), to.as_ref().into()]);
        copy.ensure_success().await.map_err(|source| Error::CopyFrom {
            node: self.name.clone(),
            path: path.to_owned(),
            source,
        })
    }

    async fn inspect<T>(&self, format: &str, read: impl Fn(&str) -> Option<T> + Send) -> Result<T, Error> {
        let inspect = async {
            let command = self.kind.container(["container", "inspect", "--format", format, &self.name]);
            let text = command.ensure_stdout().await?;
            let text = text.trim();
            read(text).ok_or_else(|| command.not_understood(format!("{text:?}")))
        };
        inspect.await.map_err(|source| Error::Inspect { node: self.name.clone(), source })
    }
}
