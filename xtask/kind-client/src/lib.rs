//! A typed, asynchronous client of [kind](https://kind.sigs.k8s.io), versions 0.20 to 0.33, and of the
//! container engine below it.
//!
//! kind has no API but its command line. This crate runs it and gives what a program needs from it: typed
//! arguments and results, the cluster config as types, and errors that carry the command and the end of its
//! output.
//!
//! ```no_run
//! use kind_client::{config, Address, CreateOptions, Kind};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let kind = Kind::builder().deadline(Duration::from_secs(120)).build();
//!
//! if !kind.clusters().await?.contains(&"demo".to_owned()) {
//!     let config = config::Cluster::new(vec![config::Node::control_plane(), config::Node::worker()]);
//!     let options = CreateOptions {
//!         config: Some(config),
//!         wait: Some(Duration::from_secs(60)),
//!         ..CreateOptions::new("demo", "/run/demo/kubeconfig")
//!     };
//!     kind.create_with(options, |line| eprintln!("{line}")).await?;
//! }
//!
//! let kubeconfig = kind.kubeconfig("demo", Address::External).await?;
//! for node in kind.nodes("demo").await? {
//!     if !node.is_running().await? {
//!         node.start().await?;
//!     }
//!     let images = node.exec(["ctr", "-n", "k8s.io", "images", "list", "-q"]).ensure_stdout().await?;
//!     println!("{}: {} images", node.name(), images.lines().count());
//! }
//! # let _ = kubeconfig;
//! # Ok(())
//! # }
//! ```
//!
//! # Deadlines, cancellation and signals
//!
//! Every call has a deadline ([`Builder::deadline`], [`Kind::with_deadline`]) and can be cancelled, by a
//! [`CancellationToken`](tokio_util::sync::CancellationToken) ([`Kind::with_cancel`]) or by dropping its
//! future. Either way the program gets SIGTERM, and SIGKILL when it has not ended after a grace
//! ([`Builder::grace`]). A call that ends a program returns when it is gone.
//!
//! Programs run in process groups of their own, so a terminal's Ctrl-C does not reach them: the caller
//! decides what an interrupt means. The signals go to the whole group, because kind does not end the
//! `docker` commands it has started when it is ended itself.
//!
//! What runs *inside* a node is out of reach: `docker exec` passes no signals on. A command that reads its
//! standard input to the end ends with the input; others may go on until the node stops.
//!
//! # The user's kubeconfig
//!
//! is never read or written: [`CreateOptions`] demands a file, and [`Kind::delete`] works on an empty one
//! unless told otherwise.
//!
//! # Requirements
//!
//! A Unix (process groups), a tokio runtime with its timer and I/O drivers enabled, and the programs `kind`
//! and `docker`, `podman` or `nerdctl`.

#[cfg(not(unix))]
compile_error!("kind-client ends programs by process group, which only Unix has");

mod cluster;
pub mod config;
mod create;
mod error;
mod exec;
mod failure;
mod kind;
mod node;
mod process;
mod provider;
mod version;

pub use cluster::{Address, Targets};
pub use create::{CreateOptions, Created, Readiness, Step};
pub use error::Error;
pub use exec::{Exec, Running};
pub use failure::{Cause, Failure};
pub use kind::{Builder, Kind};
pub use node::{Node, Role};
pub use provider::Provider;
pub use version::Version;
