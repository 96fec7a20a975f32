//! What a run that failed leaves for a person to look at.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::bundle::{self, Source};
use crate::events::Phase;
use crate::exit::message;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, Plan};
use crate::{journal, report, text};

/// The bundle's folder in the run's own.
const FOLDER: &str = "bundle";
/// How long kind may take to export the nodes' logs.
const NODES: Duration = Duration::from_secs(60);

/// Removes the bundle and the report that an earlier run has left in a run's folder: whatever ends this one, they are not its own.
pub(super) fn forget_earlier(output: &Utf8Path) -> Result<()> {
    // Without a run's journal beside them they may be anybody's.
    if !output.join(journal::FILE).exists() {
        return Ok(());
    }
    for name in [FOLDER].into_iter().chain(report::FILES) {
        let path = output.join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("remove {path}, which an earlier run has left"));
        }
    }
    Ok(())
}

/// Where the bundle of a run is, if one was written.
pub(super) fn folder(plan: &Plan) -> Option<Utf8PathBuf> {
    Some(plan.output.join(FOLDER)).filter(|folder| folder.exists())
}

/// Writes the bundle of a run, where it got as far as a cluster; a failure of that is only told.
pub(super) async fn keep(session: &Session, plan: &Plan) {
    let found = session.found();
    let Some(cluster) = &found.cluster else { return };
    let made = session.ledger.made();
    let mut namespaces = made.namespaces.clone();
    namespaces.extend(plan.existing_namespace.clone());
    if namespaces.is_empty() {
        return;
    }
    let helm = session.helm(cluster);
    let source =
        Source { client: &cluster.client, helm: &helm, namespaces: &namespaces, releases: &made.releases };
    let folder = plan.output.join(FOLDER);
    let step = session.events.step(Phase::Cleanup, "keep what is known in a bundle");
    let written = match bundle::write(source, &folder).await {
        Ok(written) => {
            let missing = if written.missing.is_empty() {
                String::new()
            } else {
                format!("; missing: {}", written.missing.join(", "))
            };
            let place = session.workspace.show(&folder);
            let files = text::count(written.files, "file");
            step.done(format!("{place}: {files}, {}{missing}", text::bytes(written.bytes as u64)));
            written
        }
        Err(error) => {
            session.events.warn(format!("the bundle is incomplete: {}", message(&error)));
            return;
        }
    };
    // On a developer's machine the nodes are still there to be asked.
    if plan.ci
        && let (ClusterPlan::Kind { name, .. }, Some(kind)) = (&plan.cluster, &found.kind)
    {
        let nodes = folder.join("nodes");
        let export = tokio::time::timeout(NODES, kind.export_logs(name, &nodes)).await;
        match export {
            Ok(Ok(())) => {}
            // The export goes on after a log that is missing, such as one that only crictl has.
            Ok(Err(error)) => tracing::debug!("export the nodes' logs: {error}"),
            Err(_) => session.events.warn(format!(
                "the nodes' logs are incomplete: kind was not done after {}",
                text::seconds(NODES)
            )),
        }
        if nodes.exists()
            && let Err(error) = written.redact(&nodes)
        {
            session.events.warn(format!("the nodes' logs are not kept: {}", message(&error)));
            let _ = std::fs::remove_dir_all(&nodes);
        }
    }
}

/// An error as GitHub shows it beside the run: its first line as the title.
/// See <https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions>.
pub(super) fn annotation(error: &str) -> String {
    let escape = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let mut causes = error.lines().filter_map(|line| line.trim_start().strip_prefix("caused by: "));
    let title = causes.next_back().or(error.lines().next()).unwrap_or("k8s-test failed");
    let title = escape(title).replace(':', "%3A").replace(',', "%2C");
    format!("::error title={title}::{}", escape(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_has_left_goes_and_what_is_anybodys_stays() {
        let folder = tempfile::tempdir().unwrap();
        let output = Utf8Path::from_path(folder.path()).unwrap();
        std::fs::create_dir(output.join("bundle")).unwrap();
        for file in ["bundle/events.txt", "report.json", "junit.xml", "notes.txt"] {
            std::fs::write(output.join(file), "").unwrap();
        }
        let there = || {
            let names = output.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        forget_earlier(output).unwrap();
        assert_eq!(there(), ["bundle", "junit.xml", "notes.txt", "report.json"]);
        std::fs::write(output.join(journal::FILE), "").unwrap();
        forget_earlier(output).unwrap();
        assert_eq!(there(), [journal::FILE, "notes.txt"]);
    }

    #[test]
    fn an_annotation_is_one_line() {
        assert_eq!(
            annotation("Deployment web: no image, 100 %\n  pod a"),
            "::error title=Deployment web%3A no image%2C 100 %25::Deployment web: no image, 100 %25%0A  pod a"
        );
    }
}
