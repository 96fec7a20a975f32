//! Helm releases: rendered, checked for images nobody brings, installed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::config::{Release, Suite};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith, coded, message};
use crate::helm::{Helm, Install};
use crate::images::deliver::Push;
use crate::labels;
use crate::ledger::{Ledger, ReleaseName};
use crate::namespaces::Namespaces;
use crate::ready::patience::Patience;
use crate::ready::{self, asked::Asked};
use crate::template::{self, Facts};
use crate::text;

mod ahead;
pub mod images;
mod lock;
pub mod manifest;

/// A release that was installed.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// What it asks the cluster for.
    pub asked: Asked,
    /// How long its causes of failure may take to heal.
    pub patience: Patience,
    /// How long it may take until all of that is ready.
    pub timeout: Duration,
    /// What it was made of, where helm has installed it.
    pub texts: Texts,
}

/// The manifests of a release.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// What the chart rendered to before.
    pub rendered: String,
    /// What helm installed.
    pub installed: String,
}

/// A release about to be installed: its values files are rendered, and its chart with them.
pub struct Prepared<'a> {
    release: &'a Release,
    folder: &'a Utf8Path,
    namespace: &'a str,
    values: Vec<Utf8PathBuf>,
    manifest: String,
}

impl Prepared<'_> {
    /// What its chart renders to.
    #[must_use]
    pub fn manifest(&self) -> &str {
        &self.manifest
    }

    fn install<'b>(&'b self, labels: &'b BTreeMap<String, String>) -> Install<'b> {
        Install {
            name: &self.release.name,
            namespace: self.namespace,
            chart: &self.release.chart,
            values: &self.values,
            args: &self.release.helm_args,
            folder: self.folder,
            labels,
        }
    }
}

/// What installing needs to know.
#[derive(Clone, Copy)]
pub struct Installer<'a> {
    /// The run's id.
    pub run: &'a str,
    /// helm.
    pub helm: &'a Helm,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// When images come by `docker push`.
    pub push: &'a Push,
    /// Where rendered values go.
    pub folder: &'a Utf8Path,
    /// Whether missing images may be pulled.
    pub setup: bool,
    /// Where to say what happens.
    pub events: &'a Events,
    /// Where to write down what is made.
    pub ledger: &'a Ledger,
}

/// Renders the releases of `suite`; [`images::ensure`] comes next, and nothing is installed yet.
///
/// # Errors
/// Values or a chart do not render; exit 2.
pub async fn prepare<'a>(
    installer: Installer<'_>,
    suite: &'a Suite,
    namespaces: &'a Namespaces,
    facts: &Facts,
) -> Result<Vec<Prepared<'a>>> {
    let mut prepared = Vec::new();
    for release in &suite.releases {
        let namespace = &namespaces.by_role[&release.namespace];
        let values = render_values(release, facts, installer.folder)?;
        let mut one = Prepared { release, folder: &suite.folder, namespace, values, manifest: String::new() };
        installer.helm.build_dependencies(&release.chart).await.or_exit(Exit::Environment)?;
        one.manifest = installer
            .helm
            .template(&one.install(&BTreeMap::new()))
            .await
            .with_context(|| format!("render the release {} from {}", release.name, release.chart))
            .or_exit(Exit::Usage)?;
        prepared.push(one);
    }
    Ok(prepared)
}

/// Installs what was prepared, in its order, and waits only for releases that others are to find ready; `before` is what was
/// installed of the same in this process.
///
/// # Errors
/// helm fails, or what is waited for does not become ready; exit 4.
pub async fn install(
    installer: Installer<'_>,
    place: ready::Place<'_>,
    prepared: &[Prepared<'_>],
    before: &[Installed],
) -> Result<Vec<Installed>> {
    let mut installed = Vec::new();
    for (at, one) in prepared.iter().enumerate() {
        let before = before.iter().find(|before| before.name == one.release.name);
        installed.push(install_one(installer, place, one, before).await?);
        // The last one's turn comes with all others.
        if one.release.wait && at + 1 < prepared.len() {
            ready::wait(place, &installed[at..]).await?;
        }
    }
    Ok(installed)
}

async fn install_one(
    installer: Installer<'_>,
    place: ready::Place<'_>,
    one: &Prepared<'_>,
    before: Option<&Installed>,
) -> Result<Installed> {
    let Prepared { release, namespace, .. } = one;
    let step = installer.events.step(Phase::Release, format!("install {}", release.name));
    let name = ReleaseName { name: release.name.clone(), namespace: (*namespace).to_owned() };
    // In a namespace of ours what there is is ours.
    let ours = installer.ledger.made().namespaces.contains(&name.namespace);
    let mut labels = BTreeMap::new();
    if ours
        || !installer.helm.releases(&name.namespace).await.or_exit(Exit::Environment)?.contains(&name.name)
    {
        installer.ledger.record(|made| {
            made.releases.retain(|noted| *noted != name);
            made.releases.push(name.clone());
        });
        // Its lease is the namespace's where that is ours; elsewhere helm's record of it has one.
        labels.insert(labels::RUN.to_owned(), installer.run.to_owned());
    }
    let install = one.install(&labels);
    let upgrade = || installer.helm.upgrade_install(&install, release.timeout);
    let hooks = Asked::hooks(&one.manifest, namespace)?;
    let ready::Place { client, clock, .. } = place;
    let begun = clock.now();
    if let Some(before) = before {
        // The name by which helm's server-side apply goes: that of its program (its pkg/kube/client.go).
        let manager = installer.helm.program.file_name().unwrap_or("helm");
        match ahead::apply(client, manager, &install, &one.manifest, &before.texts, begun).await {
            Ok(count) => tracing::debug!("{count} workloads were applied ahead of helm"),
            // Helm will find the same, and say it.
            Err(error) => tracing::debug!("{error:#}"),
        }
    }
    // The outer error is a hook's, which says all.
    let attempt = async || -> Result<Result<String>> {
        let started = Instant::now();
        let installed = tokio::select! {
            installed = upgrade() => installed,
            failure = ready::doomed(place, &hooks, &release.patience) => {
                return Err(hook_failed(&failure.text, release, None));
            }
        };
        if let Err(error) = &installed
            && started.elapsed() >= release.timeout
        {
            // Of a hook that hangs helm says no more than its name.
            let hanging = ready::unfinished(place, &hooks, &release.patience, begun, started.elapsed()).await;
            if let Some(text) = hanging {
                return Err(hook_failed(&text, release, Some(error)));
            }
        }
        Ok(installed)
    };
    let mut installed = attempt().await?;
    if installed.as_ref().is_err_and(lock::is_locked) {
        if ours || lock::is_of_a_dead_run(client, &name, clock.now()).await.or_exit(Exit::Environment)? {
            lock::unlock(client, &name).await.or_exit(Exit::Environment)?;
            installed = attempt().await?;
        } else {
            installed = installed.map_err(|error| error.context(lock::explain(&name)));
        }
    }
    let manifest = installed
        .with_context(|| format!("install the release {} into {namespace}", release.name))
        .or_exit(Exit::NotReady)?;
    let asked = Asked::read(&manifest, namespace)?.at(begun);
    step.done(format!("into {namespace}"));
    Ok(Installed {
        name: release.name.clone(),
        asked,
        patience: release.patience.clone(),
        timeout: release.timeout,
        texts: Texts { rendered: one.manifest.clone(), installed: manifest },
    })
}

/// What is told of a hook, and what helm said of it where it has ended.
fn hook_failed(text: &str, release: &Release, helm: Option<&anyhow::Error>) -> anyhow::Error {
    let mut text = format!("{text}\n    It is a hook of the release {}, for which helm waits.", release.name);
    if let Some(error) = helm {
        text.push_str(&format!("\n{}", text::indent(&message(error), "    ")));
    }
    coded(Exit::NotReady, anyhow!(text))
}

/// Fills in the values files' templates; the files helm reads stay in `folder` for whoever wants to look.
fn render_values(release: &Release, facts: &Facts, folder: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    let render = |(at, path): (usize, &Utf8PathBuf)| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {path}")).or_exit(Exit::Usage)?;
        let text = template::render(path, &text, facts)?;
        let to = folder.join(format!(
            "values-{}-{at}-{}",
            release.name,
            path.file_name().unwrap_or("values.yaml")
        ));
        std::fs::write(&to, text).with_context(|| format!("write {to}"))?;
        Ok(to)
    };
    release.values.iter().enumerate().map(render).collect()
}
