//! helm, run as its users run it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use suite_support::contract;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::manifests::Manifests;

/// Until helm has rendered a chart, beside the tests of other suites.
pub(crate) const RENDER_LIMIT: Duration = Duration::from_secs(60);
/// The namespace for which charts are rendered.
pub(crate) const NAMESPACE: &str = "system";

/// How helm ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Whether with status 0.
    pub(crate) well: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A chart of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chart {
    /// Dagster, with what it deploys along.
    Dagster,
    /// The code servers alone.
    UserDeployments,
}

impl Chart {
    /// Its folder.
    pub(crate) fn folder(self) -> PathBuf {
        let dagster = suite().join("../../charts/dagster");
        match self {
            Self::Dagster => dagster,
            Self::UserDeployments => dagster.join("charts/dagster-user-deployments"),
        }
    }
}

/// This suite's folder.
pub(crate) fn suite() -> PathBuf {
    contract::folder().unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).to_owned())
}

/// Runs helm to its end.
pub(crate) async fn run(arguments: &[&str], input: &str, limit: Duration) -> anyhow::Result<Ended> {
    let told = format!("helm {}", arguments.join(" "));
    let mut child = Command::new(contract::helm()?)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("run {told}"))?;
    let mut stdin = child.stdin.take().context("helm has no standard input")?;
    let work = async {
        // One that has no use for its input may have ended before.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output =
        timeout(limit, work).await.with_context(|| format!("{told} takes longer than {limit:?}"))??;
    Ok(Ended {
        well: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs helm, which has to succeed; gives what it says.
pub(crate) async fn succeed(arguments: &[&str], input: &str, limit: Duration) -> anyhow::Result<String> {
    let ended = run(arguments, input, limit).await?;
    ensure!(ended.well, "helm {} fails: {}", arguments.join(" "), ended.stderr);
    Ok(ended.stdout)
}

/// What helm makes of a chart as a release of this name, or why it refuses.
pub(crate) async fn template(
    chart: Chart,
    release: &str,
    values: &Value,
) -> anyhow::Result<Result<Manifests, String>> {
    template_of(&chart.folder(), release, values).await
}

/// As [`template`], of the chart in a folder.
pub(crate) async fn template_of(
    folder: &Path,
    release: &str,
    values: &Value,
) -> anyhow::Result<Result<Manifests, String>> {
    let folder = folder.to_str().context("the chart's path is not UTF-8")?;
    let arguments = ["template", release, folder, "--namespace", NAMESPACE, "--values", "-"];
    let ended = run(&arguments, &values.to_string(), RENDER_LIMIT).await?;
    Ok(if ended.well { Ok(Manifests::parse(&ended.stdout)?) } else { Err(ended.stderr) })
}

/// What the whole chart renders to as the release `dagster`.
pub(crate) async fn render(values: Value) -> anyhow::Result<Manifests> {
    render_as(Chart::Dagster, "dagster", values).await
}

/// What a chart renders to as a release of this name.
pub(crate) async fn render_as(chart: Chart, release: &str, values: Value) -> anyhow::Result<Manifests> {
    let rendered = template(chart, release, &values).await?;
    rendered.map_err(|refusal| anyhow::anyhow!("{values} is refused: {refusal}"))
}

/// Why the whole chart is not rendered with these values.
pub(crate) async fn refusal(values: Value) -> anyhow::Result<String> {
    match template(Chart::Dagster, "dagster", &values).await? {
        Ok(_) => anyhow::bail!("{values} is not refused"),
        Err(refusal) => Ok(refusal),
    }
}
