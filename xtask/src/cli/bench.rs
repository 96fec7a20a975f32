//! The command line of the benchmarks.

use camino::Utf8PathBuf;
use clap::{Args, Subcommand, ValueEnum};

use super::ClusterArgs;

/// `bench`.
#[derive(Clone, Debug, Subcommand)]
pub enum Bench {
    /// Brings images to nodes: with `images load`, with `kind load`, and by a registry on this machine
    Images(BenchImages),
    /// How long until a release is known to be ready, beside helm and kubectl; written to target/bench/wait.md
    Wait(BenchReady),
    /// How long until a release is known to have failed, and whether the cause is named, beside helm and kubectl;
    /// written to target/bench/fail.md
    Fail(BenchReady),
    /// Forwards a pod's port: directly, through the API server, and with `kubectl port-forward`
    Forward(BenchForward),
    /// From saving a file of an image to the new pods, as `dev` does it; written to target/bench/dev.md
    Dev(BenchDev),
    /// Runs all suites and variants at once, then each alone, then more and more variants; written to target/bench/suites
    Suites(BenchSuites),
    /// Runs all suites and variants again and again, each time in another order; written to target/bench/steady
    Steady(BenchSteady),
    /// What the cuts of a suite's cuts.yaml give: with all of them, then without one after the other; written to target/bench/cuts.md
    Cuts(BenchCuts),
}

/// `bench suites`.
#[derive(Args, Clone, Debug)]
pub struct BenchSuites {
    /// Suites to run; none means all
    #[arg(value_name = "SUITE")]
    pub suites: Vec<String>,
    /// Go on where an earlier one was interrupted: what it measured counts
    #[arg(long)]
    pub resume: bool,
    /// The Kind cluster, made where it is missing; default: k8s-test
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
}

/// `bench steady`.
#[derive(Args, Clone, Debug)]
pub struct BenchSteady {
    /// Suites to run; none means all
    #[arg(value_name = "SUITE")]
    pub suites: Vec<String>,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// What the orders are drawn from; each run adds one to it
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Go on where an earlier one was interrupted: what it measured counts
    #[arg(long)]
    pub resume: bool,
    /// The Kind cluster, made where it is missing; default: k8s-test
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
}

/// `bench cuts`.
#[derive(Args, Clone, Debug)]
pub struct BenchCuts {
    /// The suite, by its name or its folder
    pub suite: String,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub runs: u16,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `bench forward`.
#[derive(Args, Clone, Debug)]
pub struct BenchForward {
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub runs: u16,
    /// Requests of each run, with a connection each
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests: u32,
    /// The size of the large body
    #[arg(long, value_name = "MIB", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub body: u32,
    /// Then roll out so often under requests, kill a pod and restart the API server; 0 leaves that out
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rollouts: u16,
    /// Requests to make meanwhile, at least
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub rollout_requests: u64,
    /// The Kind cluster to use, made where it is missing; default: one of its own, deleted at the end
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
}

/// `bench dev`.
#[derive(Args, Clone, Debug)]
pub struct BenchDev {
    /// The suite to deploy, by its name or its folder
    pub suite: String,
    /// The file of an image's build context to save, from the workspace's folder; a copy of it is changed
    #[arg(long, value_name = "FILE")]
    pub file: Utf8PathBuf,
    /// How often
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `bench images`.
#[derive(Args, Clone, Debug)]
pub struct BenchImages {
    /// How often each case is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub runs: u16,
    /// The images' sizes in MB; `unchanged` is measured with the first one
    #[arg(
        long,
        value_name = "MB",
        value_delimiter = ',',
        default_value = "60,600,2000",
        value_parser = clap::value_parser!(u32).range(10..=20_000)
    )]
    pub sizes: Vec<u32>,
    /// The cases to measure; none means all
    #[arg(long, value_enum, value_name = "CASE", value_delimiter = ',')]
    pub cases: Vec<BenchCase>,
    /// The Kind cluster to use; default: one of its own, deleted at the end. `three-nodes` always has its own
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
}

/// What a benchmark of images measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BenchCase {
    /// The node has nothing of the image.
    Empty,
    /// The node has the image; Docker is prepared to push changes of it.
    Prepare,
    /// The node has the image but for one line in its last layer.
    LastLine,
    /// The node has the image but for a layer in the middle.
    Middle,
    /// The node has all of five images.
    Unchanged,
    /// Three nodes have nothing of the image.
    ThreeNodes,
}

/// `bench wait` and `bench fail`.
#[derive(Args, Clone, Debug)]
pub struct BenchReady {
    /// The Kind cluster, which exists; default: k8s-test
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub runs: u16,
    /// How long each may wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(10..=600))]
    pub timeout: u16,
}
