//! The command line.

use camino::Utf8PathBuf;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod bench;
mod cluster;

pub use bench::*;
pub use cluster::*;

/// Tests Helm releases on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploys the suites' releases on a cluster and runs their tests
    K8sTest(K8sTest),
    /// Deploys a suite and forwards to it, without its tests, until Ctrl-C or `q`; the deployment stays
    Up(Local),
    /// Deploys a suite, then at each save makes, brings and rolls out what it touches and runs the tests;
    /// `r` runs them again, `q` quits, the deployment stays
    Dev(Dev),
    /// Removes what `up` and `dev` have deployed; the cluster stays
    Down(Down),
    /// Builds images and brings them to the nodes
    #[command(subcommand)]
    Images(Images),
    /// Creates, deletes or lists clusters
    #[command(subcommand)]
    Cluster(Cluster),
    /// Removes what interrupted runs left behind, after it has said what that is
    Clean(Clean),
    /// Says what this machine lacks to run the suites, and how to mend it
    Doctor(Doctor),
    /// Prints the stages' times of past runs as a table
    Times(Times),
    /// Measures the verdict on recorded failures, and records more of them
    #[command(subcommand)]
    Corpus(Corpus),
    /// Measures what we do beside what peers do
    #[command(subcommand)]
    Bench(Bench),
    /// Breaks on purpose what suites deploy, as their sabotage.yaml says, and demands that their tests fail
    Sabotage(Sabotage),
    /// Writes what one would begin with
    #[command(subcommand)]
    New(New),
    /// Prints what may stand in a file, as a JSON Schema for editors
    Schema(Schema),
    /// What CI runs: format, lints, unit tests, all suites, the tests with real tools, the corpus, and a sample of the sabotage
    Ci(Ci),
    /// Waits for the end of the run that started it, and cleans up if that was killed
    #[command(hide = true)]
    Reap(Reap),
}

/// `k8s-test`.
#[derive(Args, Clone, Debug, Default)]
pub struct K8sTest {
    /// Suites to run: names under test-suites/ or paths of folders with a suite.yaml; none means all
    #[arg(value_name = "SUITE")]
    pub suites: Vec<String>,
    /// Run only the tests whose names contain one of these
    #[arg(last = true, value_name = "TEST-FILTER")]
    pub filters: Vec<String>,
    /// Which cluster to use
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Deploy into this namespace, which exists, instead of new ones
    #[arg(long, value_name = "NS")]
    pub existing_helm_namespace: Option<String>,
    /// Leave everything in place at the end, as --keep always
    #[arg(long, conflicts_with = "keep")]
    pub no_cleanup: bool,
    /// Variants to run: names from suite.yaml, `all`, or `daily` for those not marked nightly; none means `default`, or a suite's first
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub variant: Vec<String>,
    /// Tests that run at the same time; default: the number of processors, and more while the nodes' processors are idle
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Try a test that fails again, so often; one that passes late is reported as flaky
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=10))]
    pub retries: u16,
    /// Run the tests in an order drawn from SEED, or from one that is drawn and printed
    #[arg(long, value_name = "SEED")]
    pub shuffle: Option<Option<u64>>,
    /// When to leave the deployment in place at the end
    #[arg(long, value_enum)]
    pub keep: Option<Keep>,
    /// Keep logs, objects and events of the deployment in a bundle also when all tests pass
    #[arg(long)]
    pub bundle: bool,
    /// How the tests reach the deployment
    #[arg(long, value_enum, default_value_t)]
    pub forward: ForwardWay,
    /// Folder for the report and the logs; default: target/k8s-test/<run id>
    #[arg(long, value_name = "DIR")]
    pub output: Option<Utf8PathBuf>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// List the suites with their variants and do nothing
    #[arg(long, conflicts_with = "dry_run")]
    pub list: bool,
    /// Use the machine as it is: install, start and download nothing
    #[arg(long)]
    pub no_setup: bool,
}

/// `sabotage`.
#[derive(Args, Clone, Debug, Default)]
pub struct Sabotage {
    /// Suites to break; none means all that have a sabotage.yaml
    #[arg(value_name = "SUITE")]
    pub suites: Vec<String>,
    /// Try only each Nth change
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub every: Option<u16>,
    /// With --every, the first to try; default: N
    #[arg(long, value_name = "M", requires = "every", value_parser = clap::value_parser!(u16).range(1..))]
    pub first: Option<u16>,
    /// Which cluster to use
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Tests that run at the same time; default: the number of processors, and more while the nodes' processors are idle
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
    /// Use the machine as it is: install, start and download nothing
    #[arg(long)]
    pub no_setup: bool,
}

/// `new`.
#[derive(Clone, Debug, Subcommand)]
pub enum New {
    /// Writes a suite under test-suites/ that deploys a chart
    Suite(NewSuite),
}

/// `new suite`.
#[derive(Args, Clone, Debug)]
pub struct NewSuite {
    /// The suite's name
    pub name: String,
    /// The chart that it deploys: its folder, or its package, a .tgz
    #[arg(long, value_name = "PATH")]
    pub chart: Utf8PathBuf,
    /// A values file that the chart needs; may be given several times, later ones win
    #[arg(long, value_name = "FILE")]
    pub values: Vec<Utf8PathBuf>,
}

/// `schema`.
#[derive(Args, Clone, Debug)]
pub struct Schema {
    /// Of which file
    #[arg(value_enum)]
    pub file: SchemaOf,
}

/// The files with a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// A suite.yaml, or what one is based on
    Suite,
    /// ci/images.yaml
    Images,
    /// A sabotage.yaml
    Sabotage,
    /// A cuts.yaml
    Cuts,
}

/// `up`.
#[derive(Args, Clone, Debug, Default)]
pub struct Local {
    /// The suite: a name under test-suites/ or the path of a folder with a suite.yaml; none means the only one
    #[arg(value_name = "SUITE")]
    pub suite: Option<String>,
    /// The variant from suite.yaml; none means `default`, or the first
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Which cluster to use
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How the deployment is reached
    #[arg(long, value_enum, default_value_t)]
    pub forward: ForwardWay,
    /// Use the machine as it is: install, start and download nothing
    #[arg(long)]
    pub no_setup: bool,
}

/// `dev`.
#[derive(Args, Clone, Debug, Default)]
pub struct Dev {
    /// What to deploy
    #[command(flatten)]
    pub local: Local,
    /// Run only the tests whose names contain one of these
    #[arg(last = true, value_name = "TEST-FILTER")]
    pub filters: Vec<String>,
    /// Tests that run at the same time; default: the number of processors
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
}

/// `down`.
#[derive(Args, Clone, Debug, Default)]
pub struct Down {
    /// The suite whose deployments go; none means all suites
    #[arg(value_name = "SUITE")]
    pub suite: Option<String>,
    /// The variant whose deployment goes; none means all variants
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
    /// Which cluster to look into
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Use the machine as it is: install, start and download nothing
    #[arg(long)]
    pub no_setup: bool,
}

/// The way of a forward to its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardWay {
    /// Directly where that works, else through the API server.
    #[default]
    Auto,
    /// By a NodePort Service and the node's address: for Kind on Linux.
    Direct,
    /// Through the API server, as `kubectl port-forward`: for any cluster.
    Api,
}

/// When a deployment stays after its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keep {
    /// After a failure.
    OnFailure,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `images`.
#[derive(Clone, Debug, Subcommand)]
pub enum Images {
    /// Builds images into the local Docker
    Build(ImagesBuild),
    /// Builds images and brings them to the nodes of a Kind cluster
    Load(ImagesLoad),
}

/// `images build`.
#[derive(Args, Clone, Debug)]
pub struct ImagesBuild {
    /// Names from ci/images.yaml; none means all
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `images load`.
#[derive(Args, Clone, Debug)]
pub struct ImagesLoad {
    /// Names from ci/images.yaml or references in the local Docker; none means all of images.yaml
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// The Kind cluster's name
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
    /// Then have Docker compress the layers, once, so that it can push a later change alone
    #[arg(long)]
    pub prepare: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// `clean`.
#[derive(Args, Clone, Debug)]
pub struct Clean {
    /// Remove what has expired (the default)
    #[arg(long, conflicts_with = "all")]
    pub expired: bool,
    /// Remove everything of ours, the clusters too
    #[arg(long)]
    pub all: bool,
    /// Remove what this run has left
    #[arg(long, value_name = "ID", conflicts_with_all = ["all", "expired"])]
    pub run: Option<String>,
    /// The cluster to look into; default: every Kind cluster of ours
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Only say what would be removed
    #[arg(long)]
    pub dry_run: bool,
}

/// `doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Mend what can be mended: install, start, download, build
    #[arg(long)]
    pub fix: bool,
}

/// `times`.
#[derive(Args, Clone, Debug)]
pub struct Times {
    /// Runs by their ids; none means all
    #[arg(value_name = "RUN")]
    pub runs: Vec<String>,
}

/// `ci`.
#[derive(Args, Clone, Debug)]
pub struct Ci {
    /// Only format, lints and unit tests: no Docker and no cluster needed
    #[arg(long)]
    pub no_cluster: bool,
    /// Run the variants that are marked nightly too
    #[arg(long)]
    pub nightly: bool,
}

/// `corpus`.
#[derive(Debug, Subcommand)]
pub enum Corpus {
    /// Replays all recordings: how many causes are found, how many start-ups are given up though they heal
    Score,
    /// Applies cases to a Kind cluster and records what its API server tells; without names those that have no
    /// recording
    Record(CorpusCases),
    /// Applies cases to a Kind cluster and waits for them as a run does; without names those marked `live`
    Live(CorpusCases),
}

/// `corpus record` and `corpus live`.
#[derive(Args, Debug)]
pub struct CorpusCases {
    /// Names of cases in xtask/corpus
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// The Kind cluster, which exists; default: k8s-test
    #[arg(long, value_name = "NAME")]
    pub kind_cluster: Option<String>,
    /// Cases that are applied at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub jobs: u16,
}

/// `reap`.
#[derive(Args, Clone, Debug)]
pub struct Reap {
    /// The run's folder
    #[arg(value_name = "DIR")]
    pub folder: Utf8PathBuf,
    /// Start it as a process of its own and end
    #[arg(long)]
    pub detach: bool,
    /// How long removing may take in all
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub limit: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn filters_follow_two_dashes() {
        let cli = Cli::parse_from(["xtask", "k8s-test", "a", "b", "--", "terminate"]);
        let Command::K8sTest(args) = cli.command else { panic!("not k8s-test") };
        assert_eq!((args.suites.len(), args.filters), (2, vec!["terminate".to_owned()]));
    }
}
