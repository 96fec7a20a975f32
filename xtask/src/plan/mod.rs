//! What a run will do: resolved once from flags, environment and files; pure, serialisable, printable.

use std::fmt::Write as _;

use anyhow::Result;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::cli::{ClusterArgs, ForwardWay, K8sTest, Keep, Provider};
use crate::config::suite::FILE;
use crate::config::{self, Suite, Workspace};
use crate::env::Env;
use crate::exit::Exit;
use crate::{fail, names, text};

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
        for suite in &self.suites {
            line("suite", &suite.id());
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
            match &suite.run {
                config::Run::Tests { tests } => line("", &format!("tests of the package {tests}")),
                config::Run::Command { command } => line("", &format!("command {}", command.join(" "))),
            }
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
    for (folder, file) in &files.suites {
        if args.variant.is_empty() {
            suites.push(file.resolve(folder, file.first_variant())?);
        }
        if let [every] = &args.variant[..]
            && [ALL_VARIANTS, DAILY_VARIANTS].contains(&every.as_str())
        {
            for variant in file.variants() {
                let suite = file.resolve(folder, variant)?;
                if every == ALL_VARIANTS || !suite.nightly {
                    suites.push(suite);
                }
            }
            continue;
        }
        for variant in &args.variant {
            let known = file.variants().contains(&variant.as_str());
            // A variant may exist in some of the suites only, but a suite that was named must have it.
            if known || !args.suites.is_empty() {
                suites.push(file.resolve(folder, variant)?);
            }
        }
    }
    let every = [ALL_VARIANTS, DAILY_VARIANTS];
    for variant in args.variant.iter().filter(|variant| !every.contains(&variant.as_str())) {
        if !suites.iter().any(|suite| suite.variant == *variant) {
            let known: Vec<&str> = files.suites.iter().flat_map(|(_, file)| file.variants()).collect();
            fail!(Exit::Usage, "no suite has a variant `{variant}`{}", text::suggestion(variant, known));
        }
    }
    Ok(suites)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Files {
        let suite = |name: &str, more: &str| {
            let text = format!("namespaces: {{user: dagster-test}}\nrun: {{tests: {name}}}\n{more}");
            let folder = Utf8PathBuf::from(format!("/w/test-suites/{name}"));
            (folder, config::parse("suite.yaml".into(), &text).unwrap())
        };
        Files {
            workspace: Workspace { root: "/w".into() },
            images: config::parse("images.yaml".into(), "images: {a: {pull: x}, b: {pull: y}}").unwrap(),
            suites: vec![
                suite("one", "images: [a]\n"),
                suite("two", "images: [a, b]\nvariants: {default: {}, subchart: {nightly: true}}\n"),
            ],
        }
    }

    fn env(ci: bool) -> Env {
        Env { ci, kubeconfig: Some("/home/x/.kube/config".into()), ..Env::default() }
    }

    fn resolve(args: &K8sTest, ci: bool) -> Result<Plan> {
        Plan::resolve(args, &env(ci), &files(), "20261122-141530-3fcd70", 4)
    }

    #[test]
    fn locally_the_cluster_is_kept() {
        let plan = resolve(&K8sTest::default(), false).unwrap();
        assert_eq!(
            plan.cluster,
            ClusterPlan::Kind { name: "k8s-test".to_owned(), ephemeral: false, named: false }
        );
        assert_eq!((plan.keep, plan.jobs, plan.jobs_grow), (Keep::Never, 4, true));
        assert_eq!(plan.images, ["a", "b"]);
        assert_eq!(plan.output, "/w/target/k8s-test/20261122-141530-3fcd70");
    }

    #[test]
    fn ci_makes_a_fresh_cluster_of_a_unique_name() {
        let plan = resolve(&K8sTest::default(), true).unwrap();
        assert_eq!(
            plan.cluster,
            ClusterPlan::Kind { name: "k8s-test-3fcd70".to_owned(), ephemeral: true, named: false }
        );
    }

    #[test]
    fn no_cleanup_keeps_everything() {
        let plan = resolve(&K8sTest { no_cleanup: true, ..K8sTest::default() }, false).unwrap();
        assert_eq!(plan.keep, Keep::Always);
    }

    #[test]
    fn a_variant_selects_the_suites_that_have_it() {
        let args = K8sTest { variant: vec!["subchart".to_owned()], ..K8sTest::default() };
        let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
        assert_eq!(ids, ["two/subchart"]);
    }

    #[test]
    fn all_means_every_variant() {
        let args = K8sTest { variant: vec![ALL_VARIANTS.to_owned()], ..K8sTest::default() };
        let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
        assert_eq!(ids, ["one/default", "two/default", "two/subchart"]);
    }

    #[test]
    fn daily_means_every_variant_that_is_not_for_the_night() {
        let args = K8sTest { variant: vec![DAILY_VARIANTS.to_owned()], ..K8sTest::default() };
        let ids: Vec<String> = resolve(&args, false).unwrap().suites.iter().map(Suite::id).collect();
        assert_eq!(ids, ["one/default", "two/default"]);
    }

    #[test]
    fn a_named_cluster_that_was_there_is_not_said_to_go() {
        let mut args = K8sTest::default();
        args.cluster.kind_cluster = Some("mine".to_owned());
        let text = resolve(&args, true).unwrap().describe(&Workspace { root: "/w".into() });
        assert!(text.contains("unless it was there before"), "{text}");
    }

    #[track_caller]
    fn refused(args: &K8sTest, ci: bool, part: &str) {
        let error = resolve(args, ci).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn rejects_contradictions() {
        let mut args = K8sTest { variant: vec!["subchrat".to_owned()], ..K8sTest::default() };
        refused(&args, false, "did you mean `subchart`?");
        args = K8sTest::default();
        args.cluster.context = Some("x".to_owned());
        refused(&args, false, "add --cluster-provider kubeconfig");
        args.cluster.cluster_provider = Provider::Kubeconfig;
        args.cluster.kind_cluster = Some("y".to_owned());
        refused(&args, false, "contradict");
        args = K8sTest { existing_helm_namespace: Some("mine".to_owned()), ..K8sTest::default() };
        refused(&args, true, "needs a cluster that exists");
        args = K8sTest::default();
        args.cluster.kind_cluster = Some("x".repeat(55));
        refused(&args, false, "too long");
    }

    #[test]
    fn a_users_cluster_comes_from_the_environment_when_not_named() {
        let mut args = K8sTest::default();
        args.cluster.cluster_provider = Provider::Kubeconfig;
        let plan = resolve(&args, true).unwrap();
        let file = Utf8PathBuf::from("/home/x/.kube/config");
        assert_eq!(plan.cluster, ClusterPlan::Kubeconfig { file, context: None });
    }

    #[test]
    fn the_description_says_what_happens_to_the_cluster() {
        let text = resolve(&K8sTest::default(), true).unwrap().describe(&Workspace { root: "/w".into() });
        assert!(text.contains("made fresh and deleted at the end"), "{text}");
        assert!(text.contains("namespace user: dagster-test-<suffix>"), "{text}");
    }
}
