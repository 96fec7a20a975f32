//! What is kept of a run that failed: logs, objects, events and releases of its namespaces, without their secrets.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::{join_all, try_join_all};
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout_at};

use crate::helm::Helm;
use crate::ledger::ReleaseName;
use crate::text;

mod collect;
mod redact;

pub(crate) use redact::Redactor;

/// How long asking the cluster may take, all in all.
const LIMIT: Duration = Duration::from_secs(5);
/// How much a bundle may hold, and how much the nodes' logs beside it, in bytes, before logs lose their beginnings.
pub const SIZE: usize = 32 << 20;
/// Why there are no logs.
const UNREDACTED: &str =
    "the logs: what the namespaces' Secrets hold is not known, so it could not be taken out";
/// What stays of a log in any case, in bytes.
const LEAST: usize = 64 << 10;

/// What a bundle is made from.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The cluster.
    pub client: &'a Client,
    /// helm, for this cluster.
    pub helm: &'a Helm,
    /// The run's namespaces.
    pub namespaces: &'a [String],
    /// The run's releases.
    pub releases: &'a [ReleaseName],
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    redactor: Redactor,
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: usize,
    /// What could not be had in time or at all.
    pub missing: Vec<String>,
}

impl Written {
    /// Takes the same secrets out of the files that kind has exported, below `folder`; the pods' own logs, which are in the
    /// bundle already, go, and of the others no more than [`SIZE`] stays.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn redact(&self, folder: &Utf8Path) -> Result<()> {
        let mut files = Files::new();
        self.read(folder, &mut files)?;
        shorten(&mut files, SIZE);
        for (path, text) in files {
            std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
        }
        Ok(())
    }

    fn read(&self, folder: &Utf8Path, files: &mut Files) -> Result<()> {
        for entry in folder.read_dir_utf8().with_context(|| format!("read the folder {folder}"))? {
            let path = entry?.into_path();
            if path.is_symlink() {
                std::fs::remove_file(&path)?;
            } else if path.is_dir() {
                if matches!(path.file_name(), Some("pods" | "containers")) {
                    std::fs::remove_dir_all(&path)?;
                } else {
                    self.read(&path, files)?;
                }
            } else {
                let text = std::fs::read(&path).with_context(|| format!("read {path}"))?;
                files.insert(path, self.redactor.text(&String::from_utf8_lossy(&text)));
            }
        }
        Ok(())
    }
}

/// Files to write: path to text.
type Files = BTreeMap<Utf8PathBuf, String>;

/// Writes a bundle into `folder`.
///
/// # Errors
/// A file cannot be written; what the cluster does not give is named in [`Written::missing`].
pub async fn write(source: Source<'_>, folder: &Utf8Path) -> Result<Written> {
    let mut redactor = Redactor::default();
    let mut files = Files::new();
    let mut missing = Vec::new();
    let end = Instant::now() + LIMIT;
    let secrets = source.namespaces.iter().map(|namespace| collect::secrets(source.client, namespace));
    let discovery = OnceCell::new();
    let namespaces = source.namespaces.iter().map(async |namespace| {
        let objects = async {
            match discovery.get_or_init(|| crate::cluster::discover(source.client)).await {
                Ok(discovery) => Ok(collect::objects(source.client, discovery, namespace).await),
                Err(error) => Err(error.to_string()),
            }
        };
        let (objects, events, logs) = tokio::join!(
            timeout_at(end, objects),
            timeout_at(end, collect::events(source.client, namespace)),
            timeout_at(end, collect::logs(source.client, namespace)),
        );
        (namespace, objects, events, logs)
    });
    let releases = source.releases.iter().map(|release| async move {
        let get = |what| timeout_at(end, source.helm.get(what, &release.name, &release.namespace));
        let (manifest, values) = tokio::join!(get("manifest"), get("values"));
        (release, manifest, values)
    });
    let (secrets, namespaces, releases) =
        tokio::join!(timeout_at(end, try_join_all(secrets)), join_all(namespaces), join_all(releases));
    // Without them what was written cannot be cleaned.
    match secrets {
        Ok(Ok(secrets)) => secrets.iter().flatten().for_each(|secret| redactor.learn_object(secret)),
        Ok(Err(error)) => missing.push(format!("{UNREDACTED} ({error})")),
        Err(_) => missing.push(format!("{UNREDACTED} (no answer within {})", text::seconds(LIMIT))),
    }
    let logs_wanted = missing.is_empty();

    for (namespace, objects, events, logs) in namespaces {
        let at = Utf8PathBuf::from("namespaces").join(namespace);
        match objects {
            Ok(Ok(objects)) => {
                for object in &objects {
                    redactor.learn_object(object);
                }
                for object in objects {
                    put_object(&mut files, &at, redactor.object(object))?;
                }
            }
            Ok(Err(error)) => missing.push(format!("the objects of {namespace}: {error}")),
            Err(_) => missing.push(format!("the objects of {namespace}: no answer in time")),
        }
        match events {
            Ok(Ok(text)) => drop(files.insert(at.join("events.txt"), text)),
            Ok(Err(error)) => missing.push(format!("the events of {namespace}: {error}")),
            Err(_) => missing.push(format!("the events of {namespace}: no answer in time")),
        }
        match logs {
            Ok((logs, silent)) => {
                missing.extend(silent.into_iter().map(|log| format!("the log of {log}: no answer in time")));
                for log in logs.into_iter().filter(|_| logs_wanted) {
                    let end = if log.previous { "previous.log" } else { "log" };
                    let path = at.join("logs").join(&log.pod).join(format!("{}.{end}", log.container));
                    files.insert(path, log.text);
                }
            }
            Err(_) => missing.push(format!("the logs of {namespace}: no answer in time")),
        }
    }
    for (release, manifest, values) in releases {
        let at = Utf8PathBuf::from("releases").join(&release.name);
        for (what, got) in [("manifest", manifest), ("values", values)] {
            match got {
                Ok(Ok(text)) => {
                    let objects = documents(&text);
                    objects.iter().for_each(|object| redactor.learn_object(object));
                    let texts =
                        objects.into_iter().map(|object| serde_yaml::to_string(&redactor.object(object)));
                    let text = texts.collect::<Result<Vec<_>, _>>()?.join("---\n");
                    files.insert(at.join(format!("{what}.yaml")), text);
                }
                _ => missing.push(format!("the {what} of the release {}", release.name)),
            }
        }
    }
    for text in files.values_mut() {
        *text = redactor.text(text);
    }
    shorten(&mut files, SIZE);
    if !missing.is_empty() {
        files.insert("missing.txt".into(), missing.join("\n") + "\n");
    }
    let bytes = files.values().map(String::len).sum();
    for (path, text) in &files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("make the folder {parent}"))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
    }
    Ok(Written { redactor, files: files.len(), bytes, missing })
}

/// The YAML documents of a text that are more than nothing; helm's own first line of `get values` is none.
fn documents(text: &str) -> Vec<Value> {
    let text = text.strip_prefix("USER-SUPPLIED VALUES:\n").unwrap_or(text);
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    documents.filter_map(Result::ok).filter(|value| !value.is_null()).collect()
}

fn put_object(files: &mut Files, at: &Utf8Path, object: Value) -> Result<()> {
    let text =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or("unnamed").to_owned();
    // Names of RBAC objects may hold a colon, which some archives and file systems do not take.
    let name = text("/metadata/name").replace([':', '/'], "-");
    let path = at.join("objects").join(text("/kind").to_lowercase()).join(format!("{name}.yaml"));
    files.insert(path, serde_yaml::to_string(&object)?);
    Ok(())
}

/// Takes the beginnings of the longest texts away until all together have at most `size` bytes.
fn shorten(files: &mut Files, size: usize) {
    let mut most = files.values().map(String::len).max().unwrap_or(0);
    let with = |most: usize| files.values().map(|text| text.len().min(most)).sum::<usize>();
    while with(most) > size && most > LEAST {
        most = (most / 2).max(LEAST);
    }
    for text in files.values_mut().filter(|text| text.len() > most) {
        let mut start = text.len() - most;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        // A line that begins in its middle would be read as a whole one.
        start += text[start..].find('\n').map_or(0, |end| end + 1);
        *text = format!("[the beginning is left out: {}]\n{}", text::bytes(start as u64), &text[start..]);
    }
}

#[cfg(test)]
mod tests;
