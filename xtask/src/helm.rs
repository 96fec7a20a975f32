//! The only module that runs `helm`; versions 3 and 4.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use xshell::{Shell, cmd};

use crate::cmd::Run;
use crate::config::tools::Version;

pub mod dependencies;

const QUICK: Duration = Duration::from_secs(60);

/// A helm program and the cluster it works on.
#[derive(Clone, Debug)]
pub struct Helm {
    /// The program.
    pub program: Utf8PathBuf,
    /// Its version, where it was asked.
    pub version: Option<Version>,
    /// The kubeconfig of the cluster.
    pub kubeconfig: Utf8PathBuf,
}

/// What is installed, and where.
#[derive(Clone, Debug)]
pub struct Install<'a> {
    /// The release's name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The chart's folder or package.
    pub chart: &'a Utf8Path,
    /// Values files; later ones win.
    pub values: &'a [Utf8PathBuf],
    /// More arguments.
    pub args: &'a [String],
    /// The folder that helm runs in, by which paths in `args` go; all other paths are absolute.
    pub folder: &'a Utf8Path,
    /// Labels of the release itself.
    pub labels: &'a BTreeMap<String, String>,
}

/// What is read of helm's answer.
#[derive(Deserialize)]
struct Release {
    #[serde(default)]
    manifest: String,
}

/// The version of a helm program.
///
/// # Errors
/// It cannot be run, or its answer is no version.
pub async fn version(program: &Utf8Path) -> Result<Version> {
    let sh = Shell::new()?;
    let output = Run::new(cmd!(sh, "{program} version --short"), QUICK).success().await?;
    output.stdout.trim().parse()
}

impl Helm {
    /// The manifests that an installation would apply.
    ///
    /// # Errors
    /// The chart does not render; helm's message.
    pub async fn template(&self, install: &Install<'_>) -> Result<String> {
        let Install { name, namespace, chart, args, .. } = *install;
        let values = value_flags(install.values);
        let sh = Shell::new()?;
        sh.change_dir(install.folder);
        let program = &self.program;
        let command =
            cmd!(sh, "{program} template {name} {chart} --namespace {namespace} {values...} {args...}");
        Ok(self.run(command, QUICK).success().await?.stdout)
    }

    /// Installs a release or upgrades it, and gives the manifests that it applied, without its hooks; does not
    /// wait for its workloads.
    ///
    /// # Errors
    /// helm fails; its message.
    pub async fn upgrade_install(&self, install: &Install<'_>, deadline: Duration) -> Result<String> {
        let Install { name, namespace, chart, args, .. } = *install;
        let values = value_flags(install.values);
        let sh = Shell::new()?;
        sh.change_dir(install.folder);
        let program = &self.program;
        let labels = install.labels.iter().map(|(key, value)| format!("--labels={key}={value}"));
        let seconds = deadline.as_secs().max(1).to_string();
        // Helm 4 applies on the server, which refuses what its schema has not; reading the schema too takes helm as long as
        // the rest of its work.
        let checks: &[&str] = if self.version.is_some_and(|version| version.0 >= 4) {
            &["--disable-openapi-validation"]
        } else {
            &[]
        };
        let command = cmd!(
            sh,
            "{program} upgrade --install {name} {chart} --namespace {namespace} --timeout {seconds}s --output json {values...} {args...} {checks...} {labels...}"
        );
        // Killed half-way it would leave the release locked; ended in peace it notes that the release has failed.
        const TIDY: Duration = Duration::from_secs(10);
        // Helm counts its hooks' time itself and says which one hangs; the rest is for its end.
        let output = self.run(command, deadline + Duration::from_secs(30)).grace(TIDY).success().await?;
        let release: Release = serde_json::from_str(&output.stdout)
            .with_context(|| format!("understand helm's answer on the release {name}"))?;
        Ok(release.manifest)
    }

    /// Looks a chart over.
    ///
    /// # Errors
    /// helm finds fault with it; its message.
    pub async fn lint(&self, chart: &Utf8Path) -> Result<()> {
        let sh = Shell::new()?;
        let program = &self.program;
        self.run(cmd!(sh, "{program} lint --quiet {chart}"), QUICK).success().await?;
        Ok(())
    }

    /// The releases of a namespace, in whatever state.
    ///
    /// # Errors
    /// The cluster cannot be asked.
    pub async fn releases(&self, namespace: &str) -> Result<Vec<String>> {
        let sh = Shell::new()?;
        let program = &self.program;
        // Helm 3 shows only deployed and failed ones without --all; Helm 4 shows all and has no such flag.
        let states = match version(program).await? {
            Version(3, ..) => vec!["--all"],
            _ => vec![],
        };
        let command = cmd!(sh, "{program} list --short --namespace {namespace} {states...}");
        let output = self.run(command, QUICK).success().await?;
        Ok(output.stdout.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// What helm remembers of a release: `manifest`, `values` or `notes`.
    ///
    /// # Errors
    /// There is no such release, or the cluster cannot be asked.
    pub async fn get(&self, what: &str, name: &str, namespace: &str) -> Result<String> {
        let sh = Shell::new()?;
        let program = &self.program;
        let output = self.run(cmd!(sh, "{program} get {what} {name} --namespace {namespace}"), QUICK);
        Ok(output.success().await?.stdout)
    }

    /// Removes a release; one that does not exist is removed already.
    ///
    /// # Errors
    /// helm fails; its message.
    pub async fn uninstall(&self, name: &str, namespace: &str) -> Result<()> {
        let sh = Shell::new()?;
        let program = &self.program;
        let command = cmd!(sh, "{program} uninstall {name} --namespace {namespace} --ignore-not-found");
        // Hooks may hang; what else is to be removed must have its turn.
        self.run(command, Duration::from_secs(45)).success().await?;
        Ok(())
    }

    fn run<'a>(&self, command: xshell::Cmd<'_>, deadline: Duration) -> Run<'a> {
        Run::new(command, deadline).env("KUBECONFIG", self.kubeconfig.as_str())
    }
}

fn value_flags(values: &[Utf8PathBuf]) -> Vec<String> {
    values.iter().flat_map(|path| ["--values".to_owned(), path.to_string()]).collect()
}
