//! Flags and commands of clusters.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};

/// The flags that name a cluster.
#[derive(Args, Clone, Debug, Default)]
pub struct ClusterArgs {
    /// Where the cluster comes from: `kind` makes or reuses one, `kubeconfig` takes an existing one
    #[arg(long, value_enum, default_value_t)]
    pub cluster_provider: Provider,
    /// The Kind cluster's name; it is made if missing
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
    /// The kubeconfig to read, with --cluster-provider kubeconfig; default: $KUBECONFIG, ~/.kube/config
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<Utf8PathBuf>,
    /// The kubeconfig's context to use, with --cluster-provider kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Where the cluster comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Created or reused by us with kind.
    #[default]
    Kind,
    /// The user's own.
    Kubeconfig,
}

/// `cluster`.
#[derive(Clone, Debug, Subcommand)]
pub enum Cluster {
    /// Creates the cluster, or starts and checks the one that exists
    Up(ClusterName),
    /// Deletes a cluster that we made
    Down(ClusterName),
    /// Lists the Kind clusters and says which are ours
    List,
}

/// A cluster's name.
#[derive(Args, Clone, Debug, Default)]
pub struct ClusterName {
    /// The Kind cluster's name; default: k8s-test
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
}
