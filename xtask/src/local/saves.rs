//! Watches the files of a deployment; saves that follow each other at once are one change.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Instant;

use super::sources::Sources;
use super::todo::Todo;
use crate::exit::{Exit, ExitWith};

/// Saves that are no further apart are one change.
const APART: Duration = Duration::from_millis(100);
/// A change is taken as it is then, even if files are still being written: a checkout of another branch may last.
const LONGEST: Duration = Duration::from_secs(1);

/// What was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The files.
    pub paths: BTreeSet<Utf8PathBuf>,
    /// What they ask for.
    pub todo: Todo,
}

/// A watch on the files of a deployment.
pub struct Saves {
    sources: Sources,
    seen: UnboundedReceiver<notify::Result<notify::Event>>,
    collected: BTreeSet<Utf8PathBuf>,
    since: Instant,
    /// Watches until it is dropped.
    _watcher: RecommendedWatcher,
}

impl Saves {
    /// Watches `sources`.
    ///
    /// # Errors
    /// The operating system cannot watch one of their folders; exit 3.
    pub fn watch(sources: Sources) -> Result<Saves> {
        let (send, seen) = unbounded_channel();
        let watch = || {
            let mut watcher = notify::recommended_watcher(move |event| {
                // Nobody listens any more when the program ends.
                let _ = send.send(event);
            })?;
            for folder in sources.folders() {
                let mode = if folder.whole { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
                watcher.watch(folder.path.as_std_path(), mode).with_context(|| {
                    format!("watch the folder {} (see fs.inotify.max_user_watches on Linux)", folder.path)
                })?;
            }
            anyhow::Ok(watcher)
        };
        let watcher = watch().or_exit(Exit::Environment)?;
        Ok(Saves { sources, seen, collected: BTreeSet::new(), since: Instant::now(), _watcher: watcher })
    }

    /// The next change that asks for something. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Change {
        loop {
            let event = if self.collected.is_empty() {
                self.seen.recv().await
            } else {
                let end = (Instant::now() + APART).min(self.since + LONGEST);
                match tokio::time::timeout_at(end, self.seen.recv()).await {
                    Ok(event) => event,
                    Err(_) => {
                        let paths = std::mem::take(&mut self.collected);
                        let todo = self.sources.todo(&paths);
                        if todo.is_empty() {
                            continue;
                        }
                        return Change { paths, todo };
                    }
                }
            };
            match event {
                Some(event) => self.collect(event),
                // The watcher lives as long as we do, so it cannot have hung up.
                None => std::future::pending().await,
            }
        }
    }

    fn collect(&mut self, event: notify::Result<notify::Event>) {
        let paths: BTreeSet<Utf8PathBuf> = match event {
            // Reading changes nothing.
            Ok(event) if matches!(event.kind, EventKind::Access(_)) => return,
            Ok(event) if !event.need_rescan() => event
                .paths
                .into_iter()
                .filter_map(|path| Utf8PathBuf::from_path_buf(path).ok())
                .filter(|path| !self.sources.is_ignored(path))
                .collect(),
            // Too many at once, so nobody knows which.
            Ok(_) => self.sources.all(),
            Err(error) => {
                tracing::warn!("watch: {error}");
                self.sources.all()
            }
        };
        if self.collected.is_empty() {
            self.since = Instant::now();
        }
        self.collected.extend(paths);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use camino::Utf8Path;

    use super::*;
    use crate::config::{self, ImagesFile, SuiteFile, Workspace};
    use crate::local::todo::Stage;

    const SOON: Duration = Duration::from_secs(20);

    /// A watch on the values and the sources of a suite.
    fn watch(root: &Utf8Path) -> Saves {
        let suite = "namespaces: {user: example}\nfixtures: [fixtures.yaml]\nrun: {tests: example}\n";
        for (name, text) in [("suite.yaml", suite), ("fixtures.yaml", ""), (".gitignore", "*.log\n")] {
            std::fs::write(root.join(name), text).unwrap();
        }
        let suite: SuiteFile = config::load(&root.join("suite.yaml")).unwrap();
        let suite = suite.resolve(root, "default").unwrap();
        let workspace = Workspace { root: root.to_owned() };
        let tests = vec![root.to_owned()];
        let sources = Sources::gather(&workspace, &ImagesFile::default(), &[], &suite, tests).unwrap();
        Saves::watch(sources).unwrap()
    }

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().canonicalize_utf8().unwrap().join("example");
        std::fs::create_dir(&root).unwrap();
        (folder, root)
    }

    #[tokio::test]
    async fn saves_at_once_are_one_change_and_later_ones_another() {
        let (_folder, root) = folder();
        let mut saves = watch(&root);
        std::fs::write(root.join("fixtures.yaml"), "a: 1").unwrap();
        std::fs::write(root.join("test.log"), "noise").unwrap();
        std::fs::write(root.join("main.rs"), "fn main() {}").unwrap();
        let change = tokio::time::timeout(SOON, saves.next()).await.unwrap();
        assert_eq!(change.paths, [root.join("fixtures.yaml"), root.join("main.rs")].into());
        assert_eq!(change.todo, Todo::of([Stage::Fixtures, Stage::Compile, Stage::Tests]));
        // A new file in the place of the old one, as editors save.
        std::fs::write(root.join("main.rs.new"), "fn main() { }").unwrap();
        std::fs::rename(root.join("main.rs.new"), root.join("main.rs")).unwrap();
        let change = tokio::time::timeout(SOON, saves.next()).await.unwrap();
        assert!(change.paths.contains(&root.join("main.rs")), "{change:?}");
    }

    #[tokio::test]
    async fn a_save_is_not_lost_when_waiting_is_given_up() {
        let (_folder, root) = folder();
        let mut saves = watch(&root);
        std::fs::write(root.join("fixtures.yaml"), "a: 1").unwrap();
        // It is seen, and taken for the beginning of a change.
        let seen = async {
            while saves.collected.is_empty() {
                assert!(futures::poll!(pin!(saves.next())).is_pending());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, seen).await.unwrap();
        let change = tokio::time::timeout(SOON, saves.next()).await.unwrap();
        assert_eq!(change.paths, [root.join("fixtures.yaml")].into());
    }

    #[tokio::test]
    async fn reading_is_no_change() {
        let (_folder, root) = folder();
        let mut saves = watch(&root);
        std::fs::read(root.join("fixtures.yaml")).unwrap();
        assert!(tokio::time::timeout(APART * 4, saves.next()).await.is_err());
    }
}
