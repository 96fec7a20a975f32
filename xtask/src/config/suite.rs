//! suite.yaml: what a suite deploys, with which variants, and how its tests run.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::exit::Exit;
use crate::ready::patience::Patience;
use crate::{fail, text};

/// The file's name in a suite's folder.
pub const FILE: &str = "suite.yaml";
/// The variant of a suite that lists none, and the one that runs when none is named, if it is listed.
pub const DEFAULT_VARIANT: &str = "default";

/// The file, or one variant in it, or the file that it is based on. A key given replaces the one of what it is laid over.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteFile {
    /// A file of the same keys, for those that this one leaves out; its paths are relative to itself.
    #[schemars(with = "Option<String>")]
    base: Option<Utf8PathBuf>,
    /// Names from ci/images.yaml, built and brought to the nodes.
    images: Option<Vec<String>>,
    /// Role to the prefix of its namespace's name; equal prefixes share a namespace.
    namespaces: Option<IndexMap<String, String>>,
    /// Manifests, applied before the releases.
    #[schemars(with = "Option<Vec<String>>")]
    fixtures: Option<Vec<Utf8PathBuf>>,
    /// Helm releases, installed in this order; all are awaited together, but for one that says `wait`.
    releases: Option<Vec<Release>>,
    /// Ports of pods, brought to this machine, by name.
    forwards: Option<BTreeMap<String, Forward>>,
    /// What the suite is run as; a key given in one replaces the suite's.
    variants: Option<IndexMap<String, Option<SuiteFile>>>,
    /// The tests.
    run: Option<Run>,
    /// For tests that wait more than they work: so many at the same time, in places of their own beside those of `--jobs`.
    jobs: Option<NonZeroU16>,
    /// Left out of `--variant daily`, which `cargo xtask ci` runs: for variants that differ little from one that is run, or take long.
    nightly: Option<bool>,
    /// How long all tests together may take, such as 20m.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<String>")]
    timeout: Option<Duration>,
    /// How long one test may take, such as 5m.
    #[serde(default, deserialize_with = "duration")]
    #[schemars(with = "Option<String>")]
    test_timeout: Option<Duration>,
}

/// One variant of a suite, resolved; paths are absolute.
#[derive(Clone, Debug, Serialize)]
pub struct Suite {
    /// The folder's name.
    pub name: String,
    /// The variant's name.
    pub variant: String,
    /// The folder.
    pub folder: Utf8PathBuf,
    /// The file that its suite.yaml is based on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Utf8PathBuf>,
    /// Names from ci/images.yaml.
    pub images: Vec<String>,
    /// Role to the prefix of its namespace's name; equal prefixes share a namespace.
    pub namespaces: IndexMap<String, String>,
    /// Manifests applied before the releases.
    pub fixtures: Vec<Utf8PathBuf>,
    /// Helm releases, installed in this order.
    pub releases: Vec<Release>,
    /// Name to forward.
    pub forwards: BTreeMap<String, Forward>,
    /// The tests.
    pub run: Run,
    /// Places of their own for its tests, instead of those of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<NonZeroU16>,
    /// Whether `--variant daily` leaves it out.
    pub nightly: bool,
    /// How long all tests together may take.
    pub timeout: Duration,
    /// How long one test may take.
    pub test_timeout: Duration,
    /// The tests to run; none means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// A Helm release.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its name.
    pub name: String,
    /// The chart's folder, or its package, a .tgz.
    #[schemars(with = "String")]
    pub chart: Utf8PathBuf,
    /// The role whose namespace it goes into.
    pub namespace: String,
    /// Values files, templates of the run; later ones win.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub values: Vec<Utf8PathBuf>,
    /// More arguments, which both `helm template` and `helm upgrade` take; helm runs in the suite's folder.
    #[serde(default)]
    pub helm_args: Vec<String>,
    /// Whether the releases after it are installed only when all of it is ready: for operators, webhooks and the like.
    #[serde(default)]
    pub wait: bool,
    /// How long it may take until everything is ready.
    #[serde(default = "release_timeout", deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>")]
    pub timeout: Duration,
    /// How long a cause that keeps it from being ready may take to heal.
    #[serde(default)]
    pub patience: Patience,
}

/// A port of a pod, brought to this machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The role whose namespace the pod is in.
    pub namespace: String,
    /// The pod's label selector.
    pub selector: String,
    /// The container's port.
    pub port: u16,
    /// What must hold before tests start.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// How long that may take.
    #[serde(default = "probe_timeout", deserialize_with = "some_duration")]
    #[schemars(with = "Option<String>")]
    pub timeout: Duration,
}

/// An HTTP request whose answer proves that a forward works.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// The path, with its slash.
    pub path: String,
    /// A body to POST as JSON; without it the request is a GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<serde_json::Value>,
    /// Text that the answer contains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// JSON pointers into the answer and the values they must show.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, serde_json::Value>,
    /// A body to POST to the same path after a failed attempt and after a rollout, for servers that must be told to
    /// look again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<serde_json::Value>,
}

/// How a suite's tests run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, untagged)]
pub enum Run {
    /// The test binaries of a cargo package of this workspace.
    Tests {
        /// The package.
        tests: String,
    },
    /// Any command, run in the suite's folder; status 0 means passed.
    Command {
        /// Program and arguments.
        command: Vec<String>,
    },
}

fn release_timeout() -> Duration {
    Duration::from_secs(5 * 60)
}

fn probe_timeout() -> Duration {
    Duration::from_secs(90)
}

/// Reads a duration of more than nothing, such as `90s`.
pub(crate) fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong =
        || serde::de::Error::custom(format!("`{text}` is no duration; write it like 90s, 5m or 1h30m"));
    let duration: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).ok().filter(|duration| !duration.is_zero()).ok_or_else(wrong)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    some_duration(deserializer).map(Some)
}

impl SuiteFile {
    /// Reads a suite.yaml and what it is based on.
    ///
    /// # Errors
    /// As [`super::load`], for either file.
    pub fn load(path: &Utf8Path) -> Result<SuiteFile> {
        let file: SuiteFile = super::load(path)?;
        let Some(base) = &file.base else { return Ok(file) };
        let folder = path.parent().unwrap_or(path);
        let of_base = super::existing(folder, base, "base", path)?;
        let mut below: SuiteFile = super::load(&of_base)?;
        if let Some(further) = below.base {
            fail!(Exit::Usage, "{of_base}: a base has no `base` of its own, and this one names {further}");
        }
        below.root_at(of_base.parent().unwrap_or(folder));
        below.base = Some(of_base);
        Ok(SuiteFile { base: None, ..file }.over(below))
    }

    /// Makes its paths relative to nothing.
    fn root_at(&mut self, folder: &Utf8Path) {
        let root = |path: &mut Utf8PathBuf| *path = super::clean(&folder.join(&path));
        self.fixtures.iter_mut().flatten().for_each(root);
        for release in self.releases.iter_mut().flatten() {
            root(&mut release.chart);
            release.values.iter_mut().for_each(root);
        }
        let variants = self.variants.iter_mut().flat_map(IndexMap::values_mut).flatten();
        variants.for_each(|variant| variant.root_at(folder));
    }

    /// What it says, and for the rest what `below` says.
    fn over(self, below: SuiteFile) -> SuiteFile {
        SuiteFile {
            base: self.base.or(below.base),
            images: self.images.or(below.images),
            namespaces: self.namespaces.or(below.namespaces),
            fixtures: self.fixtures.or(below.fixtures),
            releases: self.releases.or(below.releases),
            forwards: self.forwards.or(below.forwards),
            variants: self.variants.or(below.variants),
            run: self.run.or(below.run),
            jobs: self.jobs.or(below.jobs),
            nightly: self.nightly.or(below.nightly),
            timeout: self.timeout.or(below.timeout),
            test_timeout: self.test_timeout.or(below.test_timeout),
        }
    }

    /// The variants as they are listed; `default` alone, if none is.
    #[must_use]
    pub fn variants(&self) -> Vec<&str> {
        let listed = self.variants.iter().flat_map(IndexMap::keys);
        let names: Vec<&str> = listed.map(String::as_str).collect();
        if names.is_empty() { vec![DEFAULT_VARIANT] } else { names }
    }

    /// The variant that runs when none is named: `default`, or the first where it is not listed.
    #[must_use]
    pub fn first_variant(&self) -> &str {
        let names = self.variants();
        if names.contains(&DEFAULT_VARIANT) { DEFAULT_VARIANT } else { names[0] }
    }

    /// The suite in `folder` as `variant`.
    ///
    /// # Errors
    /// The variant does not exist, or what the file refers to does not; exit 2.
    pub fn resolve(&self, folder: &Utf8Path, variant: &str) -> Result<Suite> {
        let path = folder.join(FILE);
        let overlay = match self.variants.as_ref().and_then(|variants| variants.get(variant)) {
            Some(overlay) => overlay.clone().unwrap_or_default(),
            None if self.variants() == [variant] => SuiteFile::default(),
            None => fail!(
                Exit::Usage,
                "{path}: there is no variant `{variant}`{}",
                text::suggestion(variant, self.variants())
            ),
        };
        for (key, given) in [("base", overlay.base.is_some()), ("variants", overlay.variants.is_some())] {
            if given {
                fail!(
                    Exit::Usage,
                    "{path}: variant `{variant}`: `{key}` is a key of the suite, not of a variant"
                );
            }
        }
        let file = overlay.over(self.clone());
        let Some(run) = file.run else {
            fail!(
                Exit::Usage,
                "{path}: `run` is missing; name a cargo package by `run: {{tests: PACKAGE}}` or a program by `run: {{command: [PROGRAM]}}`"
            );
        };
        let mut suite = Suite {
            name: folder.file_name().unwrap_or(folder.as_str()).to_owned(),
            variant: variant.to_owned(),
            folder: folder.to_owned(),
            base: file.base,
            images: file.images.unwrap_or_default(),
            namespaces: file.namespaces.unwrap_or_default(),
            fixtures: file.fixtures.unwrap_or_default(),
            releases: file.releases.unwrap_or_default(),
            forwards: file.forwards.unwrap_or_default(),
            run,
            jobs: file.jobs,
            nightly: file.nightly.unwrap_or(false),
            timeout: file.timeout.unwrap_or(Duration::from_secs(20 * 60)),
            test_timeout: file.test_timeout.unwrap_or(Duration::from_secs(5 * 60)),
            only: Vec::new(),
        };
        // What is wrong may stand in either.
        let named_in = suite
            .base
            .as_ref()
            .map_or_else(|| path.clone(), |base| format!("{path}, based on {base}").into());
        suite.check(&named_in)?;
        Ok(suite)
    }
}

impl Suite {
    /// `<suite>/<variant>`, as reports and messages name it.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}/{}", self.name, self.variant)
    }

    fn check(&mut self, path: &Utf8Path) -> Result<()> {
        crate::names::check_label(&format!("{path}: suite"), &self.name, 0)?;
        crate::names::check_label(&format!("{path}: variant"), &self.variant, 0)?;
        if self.namespaces.is_empty() {
            fail!(
                Exit::Usage,
                "{path}: `namespaces` is empty; name at least one role, such as `namespaces: {{user: {}}}`",
                self.name
            );
        }
        for (role, prefix) in &self.namespaces {
            let what = format!("{path}: namespace prefix of role `{role}`");
            crate::names::check_label(&what, prefix, crate::names::SUFFIX_LEN)?;
        }
        let folder = self.folder.clone();
        for fixture in &mut self.fixtures {
            *fixture = super::existing(&folder, fixture, "fixture", path)?;
        }
        for release in &mut self.releases {
            let what = format!("release `{}`", release.name);
            crate::names::check_label(&format!("{path}: release"), &release.name, 0)?;
            has_role(&self.namespaces, &release.namespace, &what, path)?;
            release.chart = super::existing(&folder, &release.chart, &format!("{what}: chart"), path)?;
            if !is_chart(&release.chart) {
                fail!(
                    Exit::Usage,
                    "{path}: {what}: {} is not a chart: it has no Chart.yaml, and is no .tgz",
                    release.chart
                );
            }
            for values in &mut release.values {
                *values = super::existing(&folder, values, &format!("{what}: values file"), path)?;
            }
        }
        for (name, forward) in &self.forwards {
            has_role(&self.namespaces, &forward.namespace, &format!("forward `{name}`"), path)?;
            if forward.port == 0 {
                fail!(Exit::Usage, "{path}: forward `{name}`: port 0 is none; give the container's port");
            }
            if forward.selector.split(',').any(|part| part.trim().is_empty()) {
                fail!(
                    Exit::Usage,
                    "{path}: forward `{name}`: the selector `{}` selects nothing in particular; write it like `app=web,tier=front`",
                    forward.selector
                );
            }
        }
        if matches!(&self.run, Run::Command { command } if command.is_empty()) {
            fail!(Exit::Usage, "{path}: run: the command is empty");
        }
        Ok(())
    }
}

/// Whether this is a chart's folder, or its package.
pub(crate) fn is_chart(path: &Utf8Path) -> bool {
    path.join("Chart.yaml").exists() || (path.extension() == Some("tgz") && path.is_file())
}

fn has_role(roles: &IndexMap<String, String>, role: &str, what: &str, path: &Utf8Path) -> Result<()> {
    if !roles.contains_key(role) {
        fail!(
            Exit::Usage,
            "{path}: {what}: there is no namespace role `{role}`{}",
            text::suggestion(role, roles.keys().map(String::as_str))
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
