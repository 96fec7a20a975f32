//! The schemas of a chart and of those below it, as far as they say which values there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::helm::Chart;

/// What one schema says of a value; others may say more.
#[derive(Clone, Copy)]
struct Node<'a> {
    says: &'a Value,
    /// Where its references lead.
    root: &'a Value,
}

/// A value in a document, or a folder of values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Place {
    /// Where it is, as a JSON pointer.
    pub(crate) pointer: String,
    /// The same for any entry of a list, and for any key of a map that does for one.
    pub(crate) path: String,
    /// What it may be, where that is listed.
    pub(crate) members: Vec<Value>,
    /// Of which types it may be; none where no schema says so.
    pub(crate) types: BTreeSet<String>,
    /// Whether a schema says which keys it has.
    pub(crate) described: bool,
    /// Whether it is no folder.
    pub(crate) leaf: bool,
}

/// The schemas of a chart.
pub(crate) struct Schemas {
    own: Value,
    below: Vec<(String, Value)>,
    prefix: &'static str,
}

impl Schemas {
    pub(crate) fn of(chart: Chart) -> anyhow::Result<Self> {
        let folder = chart.folder();
        let mut below = Vec::new();
        if folder.join("charts").exists() {
            for entry in fs::read_dir(folder.join("charts"))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                below.push((name, read(&entry.path())?));
            }
        }
        let prefix = match chart {
            Chart::Dagster => "",
            // Its values are counted as those that the whole chart has for it.
            Chart::UserDeployments => "dagster-user-deployments",
        };
        Ok(Self { own: read(&folder)?, below, prefix })
    }

    /// The paths of all values that the schemas name.
    pub(crate) fn paths(&self) -> BTreeSet<String> {
        let mut paths = BTreeSet::new();
        name_all(&self.root(), self.prefix, &mut paths);
        for (name, schema) in &self.below {
            name_all(&alternatives(Node { says: schema, root: schema }), name, &mut paths);
        }
        paths
    }

    /// The values of a document and their folders.
    pub(crate) fn places(&self, document: &Value) -> Vec<Place> {
        let mut places = Vec::new();
        self.walk(&self.root(), document, "", self.prefix, &mut places);
        places
    }

    fn root(&self) -> Vec<Node<'_>> {
        alternatives(Node { says: &self.own, root: &self.own })
    }

    fn walk<'a>(
        &'a self,
        nodes: &[Node<'a>],
        value: &Value,
        pointer: &str,
        path: &str,
        places: &mut Vec<Place>,
    ) {
        let place = Place {
            pointer: pointer.to_owned(),
            path: path.to_owned(),
            members: nodes
                .iter()
                .filter_map(|node| node.says["enum"].as_array())
                .flatten()
                .cloned()
                .collect(),
            types: nodes.iter().flat_map(|node| types(node.says)).collect(),
            described: nodes.iter().any(|node| node.says["properties"].is_object()),
            leaf: !(value.is_object() || value.is_array()),
        };
        places.push(place);
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    let (mut nodes, name) = key_of(nodes, key);
                    if let Some((_, schema)) =
                        self.below.iter().find(|(below, _)| pointer.is_empty() && below == key)
                    {
                        nodes.extend(alternatives(Node { says: schema, root: schema }));
                    }
                    let key = key.replace('~', "~0").replace('/', "~1");
                    self.walk(&nodes, inner, &format!("{pointer}/{key}"), &join(path, &name), places);
                }
            }
            Value::Array(items) => {
                let nodes: Vec<Node<'a>> = nodes.iter().flat_map(|node| inner(*node, "items")).collect();
                for (at, item) in items.iter().enumerate() {
                    self.walk(&nodes, item, &format!("{pointer}/{at}"), &format!("{path}[]"), places);
                }
            }
            _ => {}
        }
    }
}

fn read(chart: &Path) -> anyhow::Result<Value> {
    let path = chart.join("values.schema.json");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understand {}", path.display()))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() || key == "[]" { format!("{path}{key}") } else { format!("{path}.{key}") }
}

/// A schema, and those of which it is put together.
fn alternatives(node: Node<'_>) -> Vec<Node<'_>> {
    let mut all = vec![node];
    if let Some(reference) = node.says["$ref"].as_str() {
        let pointer = reference.strip_prefix('#').expect("a schema refers to nothing outside");
        let says = node.root.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"));
        all.extend(alternatives(Node { says, root: node.root }));
    }
    for several in ["allOf", "oneOf", "anyOf"] {
        for says in node.says[several].as_array().into_iter().flatten() {
            all.extend(alternatives(Node { says, root: node.root }));
        }
    }
    all
}

/// What a schema says of what is inside.
fn inner<'a>(node: Node<'a>, key: &str) -> Vec<Node<'a>> {
    match &node.says[key] {
        says @ Value::Object(_) => alternatives(Node { says, root: node.root }),
        _ => Vec::new(),
    }
}

/// What schemas say of a key, and how it is called in paths.
fn key_of<'a>(nodes: &[Node<'a>], key: &str) -> (Vec<Node<'a>>, String) {
    let named: Vec<Node<'a>> = nodes
        .iter()
        .filter_map(|node| Some(Node { says: node.says["properties"].get(key)?, root: node.root }))
        .flat_map(alternatives)
        .collect();
    if !named.is_empty() {
        return (named, key.to_owned());
    }
    let any: Vec<Node<'a>> = nodes.iter().flat_map(|node| inner(*node, "additionalProperties")).collect();
    let entries = any.iter().any(|node| node.says["properties"].is_object());
    (any, if entries { "[]".to_owned() } else { key.to_owned() })
}

fn name_all(nodes: &[Node<'_>], path: &str, paths: &mut BTreeSet<String>) {
    for node in nodes {
        for (key, says) in node.says["properties"].as_object().into_iter().flatten() {
            let path = join(path, key);
            name_all(&alternatives(Node { says, root: node.root }), &path, paths);
            paths.insert(path);
        }
        name_all(&inner(*node, "items"), &format!("{path}[]"), paths);
        name_all(&inner(*node, "additionalProperties"), &format!("{path}[]"), paths);
    }
}

fn types(schema: &Value) -> Vec<String> {
    match &schema["type"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
