//! The charts that a chart depends on, fetched where its charts/ folder lacks them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use serde_yaml::Value;
use xshell::{Shell, cmd};

use super::{Helm, QUICK};

/// For all of them, by a slow line.
const FETCH: Duration = Duration::from_secs(300);

/// What is read of a Chart.yaml, and of the Chart.lock beside it.
#[derive(Default, Deserialize)]
struct Chart {
    #[serde(default)]
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// In a Chart.yaml it may be a range.
    #[serde(default)]
    version: String,
    #[serde(default)]
    repository: String,
}

/// A file in which helm keeps the repositories that it knows.
#[derive(Default, Deserialize, Serialize)]
struct Repositories {
    #[serde(default)]
    repositories: Vec<Value>,
    #[serde(flatten)]
    rest: serde_yaml::Mapping,
}

impl Helm {
    /// Fetches the charts that `chart` depends on, where its charts/ folder lacks one; whether it did.
    ///
    /// # Errors
    /// Chart.yaml or Chart.lock cannot be read, or helm fails; its message.
    pub async fn build_dependencies(&self, chart: &Utf8Path) -> Result<bool> {
        // A package has them in it.
        if chart.is_file() {
            return Ok(false);
        }
        // Deployments of one chart begin at once, and helm puts the archives together in the chart's folder.
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        let named: Chart = crate::config::load(&chart.join("Chart.yaml"))?;
        let path = chart.join("Chart.lock");
        let locked: Option<Chart> = path.exists().then(|| crate::config::load(&path)).transpose()?;
        let present: Vec<String> = match chart.join("charts").read_dir_utf8() {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_owned()).collect(),
            Err(_) => Vec::new(),
        };
        let missing = named.dependencies.iter().any(|wanted| {
            let locked = locked.iter().flat_map(|locked| &locked.dependencies);
            let exact = locked.into_iter().find(|locked| locked.name == wanted.name);
            // Of a lock that does not go with Chart.yaml helm will say so.
            !is_present(wanted, &present) || exact.is_some_and(|exact| !is_present(exact, &present))
        });
        if missing {
            self.fetch_dependencies(chart, &named.dependencies)
                .await
                .with_context(|| format!("fetch the charts that {chart} depends on"))?;
        }
        Ok(missing)
    }

    async fn fetch_dependencies(&self, chart: &Utf8Path, wanted: &[Dependency]) -> Result<()> {
        let sh = Shell::new()?;
        let program = &self.program;
        let own = self.run(cmd!(sh, "{program} env HELM_REPOSITORY_CONFIG"), QUICK).success().await?;
        let own = Utf8PathBuf::from(own.stdout.trim());
        let known: Repositories =
            if own.exists() { crate::config::load(&own)? } else { Repositories::default() };
        // With a Chart.lock helm asks only repositories that it knows, and the user's own file is not ours to write.
        let folder = tempfile::tempdir().context("make a folder for the names of chart repositories")?;
        let file = Utf8Path::from_path(folder.path())
            .context("a folder's name is not UTF-8")?
            .join("repositories.yaml");
        std::fs::write(&file, serde_yaml::to_string(&known.with(wanted))?)
            .with_context(|| format!("write {file}"))?;
        self.run(cmd!(sh, "{program} dependency build {chart}"), FETCH)
            .env("HELM_REPOSITORY_CONFIG", file.as_str())
            .success()
            .await?;
        Ok(())
    }
}

/// Whether a charts/ folder holds it: unpacked, or as an archive, which is of its version where that is no range.
fn is_present(wanted: &Dependency, present: &[String]) -> bool {
    present.iter().any(|file| {
        // What was unpacked there is somebody's own.
        if *file == wanted.name {
            return true;
        }
        let archive = file.strip_prefix(&wanted.name).and_then(|rest| rest.strip_prefix('-'));
        let Some(version) = archive.and_then(|rest| rest.strip_suffix(".tgz")) else { return false };
        let (version, wanted) = (version.trim_start_matches('v'), wanted.version.trim_start_matches('v'));
        if is_exact(wanted) {
            return version == wanted;
        }
        // `redis-cluster-1.0.0` is no version of `redis`.
        version.starts_with(|first: char| first.is_ascii_digit())
    })
}

/// Whether this is a version, such as `1.2.3-rc.1`, and no range of them, such as `1.x` or `>=1.2.3`.
fn is_exact(version: &str) -> bool {
    let numbers: Vec<&str> = version.split(['-', '+']).next().unwrap_or_default().split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u64>().is_ok())
}

impl Repositories {
    /// These, and those of the dependencies that are not among them.
    fn with(mut self, wanted: &[Dependency]) -> Repositories {
        let url =
            |repository: &Value| repository["url"].as_str().map(|url| url.trim_end_matches('/').to_owned());
        let mut known: BTreeSet<String> = self.repositories.iter().filter_map(url).collect();
        for Dependency { name, repository, .. } in wanted {
            let is_http = repository.starts_with("https://") || repository.starts_with("http://");
            if is_http && known.insert(repository.trim_end_matches('/').to_owned()) {
                let entry = [("name", &format!("k8s-test-{name}")), ("url", repository)];
                let entry =
                    entry.into_iter().map(|(key, value)| (key.into(), value.as_str().into())).collect();
                self.repositories.push(Value::Mapping(entry));
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str, repository: &str) -> Dependency {
        Dependency { name: name.to_owned(), version: String::new(), repository: repository.to_owned() }
    }

    #[track_caller]
    fn check(version: &str, file: &str, expected: bool) {
        let wanted = Dependency { version: version.to_owned(), ..dependency("redis", "") };
        assert_eq!(is_present(&wanted, &[file.to_owned()]), expected, "{file} for {version}");
    }

    #[test]
    fn an_archive_of_another_version_or_chart_is_not_the_one() {
        check("1.2.3", "redis-1.2.3.tgz", true);
        check("1.2.3", "redis-1.2.2.tgz", false);
        check("1.2.3-rc.1", "redis-v1.2.3-rc.1.tgz", true);
        check("1.2.x", "redis-1.2.2.tgz", true);
        check(">=1.2.3", "redis-1.2.2.tgz", true);
        check("", "redis-cluster-1.0.0.tgz", false);
        check("1.2.3", "redis", true);
    }

    #[test]
    fn repositories_that_helm_does_not_know_are_added() {
        let known = "apiVersion: v1\nrepositories: [{name: mine, url: https://charts.test/, username: me}]\n";
        let known: Repositories = serde_yaml::from_str(known).unwrap();
        let wanted = [
            dependency("a", "https://charts.test"),
            dependency("b", "http://127.0.0.1:1/b"),
            dependency("c", "http://127.0.0.1:1/b/"),
            dependency("d", "oci://charts.test/d"),
            dependency("e", "file://../e"),
            dependency("f", "@mine"),
        ];
        let all = known.with(&wanted);
        let names: Vec<&str> = all.repositories.iter().filter_map(|one| one["name"].as_str()).collect();
        assert_eq!(names, ["mine", "k8s-test-b"]);
        let written = serde_yaml::to_string(&all).unwrap();
        assert!(written.contains("username: me") && written.contains("apiVersion: v1"), "{written}");
    }
}
