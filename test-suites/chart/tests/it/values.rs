//! The documents of `tests/values`: values with which charts are rendered, which have all of them among them.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use crate::helm::{Chart, suite};

/// Values for a chart.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The file's name.
    pub(crate) name: String,
    /// The chart.
    pub(crate) chart: Chart,
    /// The values.
    pub(crate) values: Value,
}

/// All documents, by their names.
pub(crate) fn documents() -> anyhow::Result<Vec<Document>> {
    let folder = suite().join("tests/values");
    let mut documents = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
        documents.push(read(&entry?.path())?);
    }
    documents.sort_by(|one: &Document, other| one.name.cmp(&other.name));
    Ok(documents)
}

/// The document of this name.
pub(crate) fn document(name: &str) -> anyhow::Result<Document> {
    documents()?.into_iter().find(|document| document.name == name).with_context(|| format!("no {name}.yaml"))
}

fn read(path: &Path) -> anyhow::Result<Document> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut values: Value =
        serde_yaml::from_str(&text).with_context(|| format!("understand {}", path.display()))?;
    let chart = match values["chart"].as_str() {
        None => Chart::Dagster,
        Some("dagster-user-deployments") => {
            values = values["values"].take();
            Chart::UserDeployments
        }
        Some(other) => anyhow::bail!("{}: there is no chart {other}", path.display()),
    };
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Document { name, chart, values })
}

/// The values that a chart has without any given.
pub(crate) fn defaults(chart: Chart) -> anyhow::Result<Value> {
    let path = chart.folder().join("values.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_yaml::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

/// One value at a path of keys with dots between them, and nothing else.
pub(crate) fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |inner, key| json!({key: inner}))
}

/// `values` with `over` laid over it, as helm does it: maps key by key, anything else as a whole.
pub(crate) fn merged(values: &Value, over: &Value) -> Value {
    match (values, over) {
        (Value::Object(below), Value::Object(above)) => {
            let mut all = below.clone();
            for (key, value) in above {
                let value = below.get(key).map_or_else(|| value.clone(), |below| merged(below, value));
                all.insert(key.clone(), value);
            }
            Value::Object(all)
        }
        _ => over.clone(),
    }
}
