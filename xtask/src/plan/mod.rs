//! What a run will do: resolved once from flags, environment and files; pure, serialisable. To print it reads the suites' files once more.

use std::fmt::Write as _;

use anyhow::Result;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::cli::{ClusterArgs, ForwardWay, K8sTest, Keep, Provider};
use crate::config::suite::FILE;
use crate::config::{self, Suite, Workspace};
use crate::env::Env;
use crate::exit::Exit;
use crate::{fail, groups, names, text};

mod files;

pub use files::Files;

/// What `--variant` takes for every variant of a suite.
pub const ALL_VARIANTS: &str = "all";
/// What `--variant` takes for every variant that is not marked `nightly`.
pub const DAILY_VARIANTS: &str = "daily";
/// The Kind cluster that is kept between local runs.
pub const DEFAULT_CLUSTER: &str = "k8s-test";

/// Everything a run will do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The run's id.
    pub run: String,
    /// Whether a CI system runs us.
    pub ci: bool,
    /// Folder for the report and the logs.
    pub output: Utf8PathBuf,
    /// The cluster.
    pub cluster: ClusterPlan,
    /// Images to build, what is needed before what needs it.
    pub images: Vec<String>,
    /// Suites as variants, in the order they run.
    pub suites: Vec<Suite>,
    /// Parts of names of the tests to run; empty means all.
    pub filters: Vec<String>,
    /// Tests that run at the same time.
    pub jobs: usize,
    /// Whether more of them do while the nodes' processors are idle.
    pub jobs_grow: bool,
    /// How often a test that failed is tried again.
    pub retries: u16,
    /// What the order of the tests is drawn from; absent means the suites' own order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shuffle: Option<u64>,
    /// A namespace to deploy into instead of new ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub existing_namespace: Option<String>,
    /// How the tests reach the deployment.
    pub forward: ForwardWay,
    /// When the deployment stays at the end.
    pub keep: Keep,
    /// Whether a bundle is written also when all tests pass.
    pub bundle: bool,
    /// Whether what has failed stays until a bundle is written of it.
    #[serde(skip)]
    pub evidence: bool,
    /// Whether to install, start and download what is missing.
    pub setup: bool,
}

/// Which cluster a run uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "provider")]
pub enum ClusterPlan {
    /// One of kind's.
    Kind {
        /// Its name.
        name: String,
        /// Deleted whole at the end, unless it was there before.
        ephemeral: bool,
        /// Named by the user, so that one that is not ours is used too.
        named: bool,
    },
    /// The user's own.
    Kubeconfig {
        /// The file to read.
        file: Utf8PathBuf,
        /// The context; absent means the file's current one.
        context: Option<String>,
    },
}

impl Plan {
    /// Resolves what was typed; `run` is the run's id and `cpus` the number of processors.
    ///
    /// # Errors
    /// Flags contradict each other, or name what does not exist; exit 2.
    pub fn resolve(args: &K8sTest, env: &Env, files: &Files, run: &str, cpus: usize) -> Result<Plan> {
        let suffix = run.rsplit('-').next().unwrap_or(run);
        let cluster = ClusterPlan::resolve(&args.cluster, env, suffix)?;
        if let Some(namespace) = &args.existing_helm_namespace {
            names::check_label("--existing-helm-namespace", namespace, 0)?;
            if matches!(cluster, ClusterPlan::Kind { ephemeral: true, .. })
                && args.cluster.kind_cluster.is_none()
            {
                fail!(
                    Exit::Usage,
                    "--existing-helm-namespace {namespace} needs a cluster that exists, but with CI set a fresh one is made; name one by --kind-cluster or --cluster-provider kubeconfig"
                );
            }
        }
        let suites = variants(args, files)?;
        if suites.is_empty() {
            fail!(Exit::Usage, "there is no suite to run: test-suites/ has no folder with a {FILE}");
        }
        let images = files.images.closure(suites.iter().flat_map(|suite| &suite.images))?;
        let keep = match (args.no_cleanup, args.keep) {
            (true, _) => Keep::Always,
            (false, Some(keep)) => keep,
            (false, None) => Keep::Never,
        };
        Ok(Plan {
            run: run.to_owned(),
            ci: env.ci,
            output: args.output.clone().unwrap_or_else(|| files.workspace.runs().join(run)),
            cluster,
            images,
            suites,
            filters: args.filters.clone(),
            jobs: args.jobs.map_or(cpus, usize::from),
            jobs_grow: args.jobs.is_none(),
            retries: args.retries,
            shuffle: args.shuffle.map(|seed| seed.unwrap_or_else(|| fastrand::u64(..=u64::from(u32::MAX)))),
            existing_namespace: args.existing_helm_namespace.clone(),
            forward: args.forward,
            keep,
            bundle: args.bundle,
            evidence: true,
            setup: !args.no_setup,
        })
    }

    /// The plan for a person: what `--dry-run` prints.
    #[must_use]
    pub fn describe(&self, workspace: &Workspace) -> String {
        let mut out = format!("run {}\n", self.run);
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(out, "  {label:<11} {value}");
        };
        match &self.cluster {
            ClusterPlan::Kind { name, ephemeral: true, named: true } => {
                let end = "deleted at the end unless it was there before (CI is set)";
                line("cluster", &format!("Kind cluster {name}, made if missing, {end}"));
            }
            ClusterPlan::Kind { name, ephemeral: true, .. } => {
                line(
                    "cluster",
                    &format!("Kind cluster {name}, made fresh and deleted at the end (CI is set)"),
                );
            }
            ClusterPlan::Kind { name, .. } => {
                line("cluster", &format!("Kind cluster {name}, made if missing and kept for reuse"));
            }
            ClusterPlan::Kubeconfig { file, context } => {
                let context = context.as_deref().unwrap_or("the current context");
                line("cluster", &format!("{context} of {file}"));
            }
        }
        line("images", &self.images.join(", "));
        let mut deployments = 0;
        for (at, suite) in self.suites.iter().enumerate() {
            line("suite", &suite.id());
            if let Some(first) = self.suites[..at].iter().find(|first| groups::are_together(first, suite)) {
                line("", &format!("deployed together with {}", first.id()));
                tests(&suite.run, &mut line);
                continue;
            }
            deployments += 1;
            for (role, prefix) in &suite.namespaces {
                let name = self.existing_namespace.clone().unwrap_or_else(|| format!("{prefix}-<suffix>"));
                line("", &format!("namespace {role}: {name}"));
            }
            for fixture in &suite.fixtures {
                line("", &format!("fixture {}", workspace.show(fixture)));
            }
            for release in &suite.releases {
                let chart = workspace.show(&release.chart);
                line("", &format!("release {} from {chart} into {}", release.name, release.namespace));
            }
            for (name, forward) in &suite.forwards {
                let way = match self.forward {
                    ForwardWay::Auto => "",
                    ForwardWay::Direct => ", directly",
                    ForwardWay::Api => ", through the API server",
                };
                line("", &format!("forward {name} to port {} of {}{way}", forward.port, forward.selector));
            }
            tests(&suite.run, &mut line);
        }
        if deployments > 1 && self.jobs > 1 && self.existing_namespace.is_none() {
            let how = "side by side; where two need the same thing of the whole cluster, or the nodes lack room, in turn, and a note says why";
            line("together", &format!("{deployments} deployments {how}"));
        }
        if !self.filters.is_empty() {
            line("filter", &self.filters.join(" or "));
        }
        let more = if self.jobs_grow { ", more while the nodes' processors are idle" } else { "" };
        line("jobs", &format!("{}{more}", self.jobs));
        if self.retries > 0 {
            line("retries", &format!("{} of a test that fails", self.retries));
        }
        if let Some(seed) = self.shuffle {
            line("order", &format!("shuffled; again by --shuffle {seed}"));
        }
        let end = match (self.keep, &self.cluster) {
            (Keep::Always, _) => "everything stays in place",
            (Keep::OnFailure, _) => "what has failed stays in place",
            (Keep::Never, ClusterPlan::Kind { ephemeral: true, .. }) => "the cluster goes",
            (Keep::Never, _) => "releases and namespaces go, the cluster stays",
        };
        line("at the end", end);
        line("report", workspace.show(&self.output).as_str());
        out
    }
}

fn tests(run: &config::Run, line: &mut impl FnMut(&str, &str)) {
    match run {
        config::Run::Tests { tests } => line("", &format!("tests of the package {tests}")),
        config::Run::Command { command } => line("", &format!("command {}", command.join(" "))),
    }
}

impl ClusterPlan {
    /// The flags that name this cluster to another command.
    #[must_use]
    pub fn flags(&self) -> String {
        match self {
            ClusterPlan::Kind { name, .. } => format!(" --kind-cluster {name}"),
            ClusterPlan::Kubeconfig { file, context } => {
                let context = context.as_ref().map_or_else(String::new, |name| format!(" --context {name}"));
                format!(" --cluster-provider kubeconfig --kubeconfig {file}{context}")
            }
        }
    }

    /// Resolves the flags that name a cluster; `suffix` makes an ephemeral one's name unique.
    ///
    /// # Errors
    /// Flags contradict each other; exit 2.
    pub fn resolve(args: &ClusterArgs, env: &Env, suffix: &str) -> Result<ClusterPlan> {
        match args.cluster_provider {
            Provider::Kind => {
                for (flag, given) in
                    [("--kubeconfig", args.kubeconfig.is_some()), ("--context", args.context.is_some())]
                {
                    if given {
                        fail!(
                            Exit::Usage,
                            "{flag} names a cluster of your own; add --cluster-provider kubeconfig to use it"
                        );
                    }
                }
                let name = match &args.kind_cluster {
                    Some(name) => name.clone(),
                    None if env.ci => format!("{DEFAULT_CLUSTER}-{suffix}"),
                    None => DEFAULT_CLUSTER.to_owned(),
                };
                // kind names containers `<cluster>-control-plane`, which are host names too.
                names::check_label("--kind-cluster", &name, "-control-plane".len())?;
                Ok(ClusterPlan::Kind { name, ephemeral: env.ci, named: args.kind_cluster.is_some() })
            }
            Provider::Kubeconfig => {
                if args.kind_cluster.is_some() {
                    fail!(
                        Exit::Usage,
                        "--kind-cluster and --cluster-provider kubeconfig contradict each other; leave one out"
                    );
                }
                let Some(file) = args.kubeconfig.clone().or_else(|| env.kubeconfig.clone()) else {
                    fail!(
                        Exit::Usage,
                        "--cluster-provider kubeconfig needs a kubeconfig: give --kubeconfig FILE or set KUBECONFIG"
                    );
                };
                Ok(ClusterPlan::Kubeconfig { file, context: args.context.clone() })
            }
        }
    }
}

/// The variants to run: those named, in each suite that has them; without names `default` of each, or its first.
fn variants(args: &K8sTest, files: &Files) -> Result<Vec<Suite>> {
    let mut suites = Vec::new();
    let every =
        args.variant.iter().find(|variant| [ALL_VARIANTS, DAILY_VARIANTS].contains(&variant.as_str()));
    if let Some(every) = every {
        if args.variant.len() > 1 {
            fail!(Exit::Usage, "--variant {}: `{every}` stands alone", args.variant.join(","));
        }
        for (folder, file) in &files.suites {
            for variant in file.variants() {
                let suite = file.resolve(folder, variant)?;
                if every == ALL_VARIANTS || !suite.nightly {
                    suites.push(suite);
                }
            }
        }
        if suites.is_empty() && !files.suites.is_empty() {
            fail!(
                Exit::Usage,
                "--variant {DAILY_VARIANTS}: all variants of these suites are `nightly: true`; name one, or take `{ALL_VARIANTS}`"
            );
        }
        return Ok(suites);
    }
    for (folder, file) in &files.suites {
        if args.variant.is_empty() {
            suites.push(file.resolve(folder, file.first_variant())?);
        }
        for variant in &args.variant {
            let known = file.variants().contains(&variant.as_str());
            // A variant may exist in some of the suites only, but a suite that was named must have it.
            if known || !args.suites.is_empty() {
                suites.push(file.resolve(folder, variant)?);
            }
        }
    }
    for variant in &args.variant {
        if !suites.iter().any(|suite| suite.variant == *variant) {
            let known: Vec<&str> = files.suites.iter().flat_map(|(_, file)| file.variants()).collect();
            fail!(Exit::Usage, "no suite has a variant `{variant}`{}", text::suggestion(variant, known));
        }
    }
    Ok(suites)
}

#[cfg(test)]
mod tests;
