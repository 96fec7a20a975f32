//! The charts that a chart depends on, fetched where its charts/ folder lacks them, and packed again where they come from
//! folders that have changed.

use std::collections::BTreeSet;
use std::fs::File;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use ignore::WalkBuilder;
use serde::{Deserialize, Serialize};
use serde_json::json;
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

/// What a chart's files say of its dependencies.
struct Named {
    wanted: Vec<Dependency>,
    locked: Vec<Dependency>,
}

/// A chart that another takes from a folder, by `file://`: helm packs it into the other's charts/ folder.
#[derive(Debug)]
pub struct Packed {
    name: String,
    version: String,
    /// Its folder.
    pub folder: Utf8PathBuf,
    /// The other's charts/ folder.
    charts: Utf8PathBuf,
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
    /// Fetches the charts that `chart` depends on, where its charts/ folder lacks one, and else packs those anew that come from
    /// folders and have changed; whether there was anything to do.
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
        let named = Named::read(chart)?;
        let present: Vec<String> = match chart.join("charts").read_dir_utf8() {
            Ok(entries) => entries.flatten().map(|entry| entry.file_name().to_owned()).collect(),
            Err(_) => Vec::new(),
        };
        let missing = named.wanted.iter().any(|wanted| {
            // Of a lock that does not go with Chart.yaml helm will say so.
            !is_present(wanted, &present)
                || named.exact(wanted).is_some_and(|exact| !is_present(exact, &present))
        });
        if missing {
            self.fetch_dependencies(chart, &named.wanted)
                .await
                .with_context(|| format!("fetch the charts that {chart} depends on"))?;
            return Ok(true);
        }
        let stale = |packed: Packed| packed.stale(&present).map(|archives| (packed, archives));
        let stale: Vec<_> = named.packed(chart).into_iter().filter_map(stale).collect();
        if !stale.is_empty() {
            self.pack(&chart.join("charts"), &stale)
                .await
                .with_context(|| format!("pack the charts that {chart} takes from folders"))?;
        }
        Ok(!stale.is_empty())
    }

    /// Packs charts of folders into `charts`, in place of the archives that it has of them.
    ///
    /// As the dependencies of a chart that has no others: those of the real one would all be fetched anew, and for that asked of
    /// their repositories.
    async fn pack(&self, charts: &Utf8Path, stale: &[(Packed, Vec<Utf8PathBuf>)]) -> Result<()> {
        let begun = SystemTime::now();
        let folder = tempfile::tempdir().context("make a folder to pack charts in")?;
        let scratch = Utf8Path::from_path(folder.path()).context("a folder's name is not UTF-8")?;
        let dependency = |(at, (one, _)): (usize, &(Packed, Vec<Utf8PathBuf>))| {
            // One chart may be wanted in two versions, which helm takes under different names only.
            json!({
                "name": one.name,
                "alias": format!("packed-{at}"),
                "version": one.version,
                "repository": format!("file://{}", one.folder),
            })
        };
        let dependencies: Vec<_> = stale.iter().enumerate().map(dependency).collect();
        let chart =
            json!({"apiVersion": "v2", "name": "packed", "version": "0.1.0", "dependencies": dependencies});
        let file = scratch.join("Chart.yaml");
        std::fs::write(&file, serde_yaml::to_string(&chart)?).with_context(|| format!("write {file}"))?;
        let sh = Shell::new()?;
        let program = &self.program;
        self.run(cmd!(sh, "{program} dependency update --skip-refresh {scratch}"), QUICK)
            // There is no such file, so no repository that helm would want to know of.
            .env("HELM_REPOSITORY_CONFIG", scratch.join("repositories.yaml").as_str())
            .success()
            .await?;
        let old: Vec<&Utf8PathBuf> = stale.iter().flat_map(|(_, archives)| archives).collect();
        replace(charts, &old, &scratch.join("charts"), begun)
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

/// The charts that `chart` takes from folders; none where its Chart.yaml cannot be read, which is said when it is installed.
#[must_use]
pub fn packed(chart: &Utf8Path) -> Vec<Packed> {
    Named::read(chart).map(|named| named.packed(chart)).unwrap_or_default()
}

impl Named {
    fn read(chart: &Utf8Path) -> Result<Named> {
        let wanted: Chart = crate::config::load(&chart.join("Chart.yaml"))?;
        let path = chart.join("Chart.lock");
        let locked: Chart = if path.exists() { crate::config::load(&path)? } else { Chart::default() };
        Ok(Named { wanted: wanted.dependencies, locked: locked.dependencies })
    }

    /// What Chart.lock says of a dependency.
    fn exact(&self, wanted: &Dependency) -> Option<&Dependency> {
        self.locked.iter().find(|locked| locked.name == wanted.name)
    }

    /// Those that come from folders.
    fn packed(&self, chart: &Utf8Path) -> Vec<Packed> {
        let packed = |wanted: &Dependency| {
            let path = wanted.repository.strip_prefix("file://")?;
            Some(Packed {
                name: wanted.name.clone(),
                version: self.exact(wanted).unwrap_or(wanted).version.clone(),
                folder: crate::config::clean(&chart.join(path)),
                charts: chart.join("charts"),
            })
        };
        self.wanted.iter().filter_map(packed).collect()
    }
}

impl Packed {
    /// Whether packing it writes the file at `path`.
    #[must_use]
    pub fn writes(&self, path: &Utf8Path) -> bool {
        // With a dot in front while it is written.
        let file = path.file_name().unwrap_or_default().trim_start_matches('.');
        path.parent() == Some(self.charts.as_path()) && is_archive(&self.name, "", file)
    }

    /// The archives of it among the files that are `present`, where something in its folder is newer than one of them.
    fn stale(&self, present: &[String]) -> Option<Vec<Utf8PathBuf>> {
        // What was unpacked there is somebody's own.
        if present.contains(&self.name) {
            return None;
        }
        let archives = present.iter().filter(|file| is_archive(&self.name, &self.version, file));
        let archives: Vec<Utf8PathBuf> = archives.map(|file| self.charts.join(file)).collect();
        let made = archives.iter().filter_map(|archive| archive.metadata().ok()?.modified().ok()).min()?;
        // A folder's own time tells of what was taken out of it. All that is there may be packed, whatever git makes of it.
        let entries = WalkBuilder::new(&self.folder).standard_filters(false).follow_links(true).build();
        let changed = entries.filter_map(|entry| entry.ok()?.metadata().ok()?.modified().ok()).max()?;
        (changed > made).then_some(archives)
    }
}

/// Puts the archives in `new` into `charts`, and takes away those of `old` in whose place they are; they count as made at `begun`.
fn replace(charts: &Utf8Path, old: &[&Utf8PathBuf], new: &Utf8Path, begun: SystemTime) -> Result<()> {
    let mut put = Vec::new();
    for entry in new.read_dir_utf8().with_context(|| format!("read {new}"))? {
        let entry = entry?;
        let to = charts.join(entry.file_name());
        // Helm passes such a name over, should it read the chart meanwhile.
        let hidden = charts.join(format!(".{}", entry.file_name()));
        std::fs::copy(entry.path(), &hidden).with_context(|| format!("write {hidden}"))?;
        // What was saved while helm read it is newer.
        let file = File::options().append(true).open(&hidden);
        file.and_then(|file| file.set_modified(begun)).with_context(|| format!("write {hidden}"))?;
        std::fs::rename(&hidden, &to).with_context(|| format!("write {to}"))?;
        put.push(to);
    }
    for archive in old.iter().filter(|archive| !put.contains(archive)) {
        std::fs::remove_file(archive).with_context(|| format!("remove {archive}"))?;
    }
    Ok(())
}

/// Whether a charts/ folder holds it: unpacked, or as an archive.
fn is_present(wanted: &Dependency, present: &[String]) -> bool {
    // What was unpacked there is somebody's own.
    present.iter().any(|file| *file == wanted.name || is_archive(&wanted.name, &wanted.version, file))
}

/// Whether a file of this name is an archive of the chart `name`, and of `wanted` where that is a version and no range.
fn is_archive(name: &str, wanted: &str, file: &str) -> bool {
    let archive = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    let Some(version) = archive.and_then(|rest| rest.strip_suffix(".tgz")) else { return false };
    let (version, wanted) = (version.trim_start_matches('v'), wanted.trim_start_matches('v'));
    if is_exact(wanted) {
        return version == wanted;
    }
    // `redis-cluster-1.0.0` is no version of `redis`.
    version.starts_with(|first: char| first.is_ascii_digit())
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

    /// A chart that takes another from `common`, and has packed it; with the files' ages in seconds.
    fn packed_after(saved: u64, made: u64) -> (tempfile::TempDir, Named, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        let chart = root.join("app");
        let dependency = "dependencies: [{name: common, version: 0.x, repository: 'file://../common'}]\n";
        for (path, text) in [
            ("app/Chart.yaml", dependency),
            ("app/charts/common-0.1.0.tgz", ""),
            ("common/templates/a.yaml", ""),
        ] {
            std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            std::fs::write(root.join(path), text).unwrap();
        }
        let age = |path: &str, seconds: u64| {
            let file = File::open(root.join(path)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        };
        for path in ["common/templates/a.yaml", "common/templates", "common"] {
            age(path, saved);
        }
        age("app/charts/common-0.1.0.tgz", made);
        let named = Named::read(&chart).unwrap();
        (folder, named, chart)
    }

    #[test]
    fn a_folder_that_is_newer_than_its_archive_is_packed_again() {
        let present = ["common-0.1.0.tgz".to_owned(), "common-cluster-0.1.0.tgz".to_owned()];
        let stale = |saved, made, present: &[String]| {
            let (_folder, named, chart) = packed_after(saved, made);
            named.packed(&chart)[0].stale(present).map(|archives| archives.len())
        };
        assert_eq!(stale(10, 20, &present), Some(1));
        assert_eq!(stale(20, 10, &present), None);
        // What is unpacked there is what helm takes.
        assert_eq!(stale(10, 20, &["common".to_owned(), present[0].clone()]), None);
        // Something was taken out of the folder.
        let (_folder, named, chart) = packed_after(20, 10);
        std::fs::remove_file(chart.with_file_name("common").join("templates/a.yaml")).unwrap();
        assert!(named.packed(&chart)[0].stale(&present).is_some());
    }

    #[test]
    fn what_was_packed_anew_takes_the_place_of_the_old() {
        let (_folder, named, chart) = packed_after(10, 20);
        let (charts, new) = (chart.join("charts"), chart.join("new"));
        std::fs::create_dir(&new).unwrap();
        std::fs::write(new.join("common-0.2.0.tgz"), "new").unwrap();
        let old = charts.join("common-0.1.0.tgz");
        replace(&charts, &[&old], &new, SystemTime::now()).unwrap();
        let files: Vec<_> = charts.read_dir_utf8().unwrap().map(|file| file.unwrap().into_path()).collect();
        assert_eq!(files, [charts.join("common-0.2.0.tgz")]);
        assert!(named.packed(&chart)[0].stale(&["common-0.2.0.tgz".to_owned()]).is_none());
        assert!(named.packed(&chart)[0].writes(&files[0]));
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
