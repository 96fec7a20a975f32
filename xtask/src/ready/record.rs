//! Recordings of what the API server told: a line of JSON each, objects in full once and as patches from then on.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow};
use jiff::{SignedDuration, Timestamp};
use json_patch::Patch;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::object::{Key, Object};
use super::world::{Change, LogOf};

/// One change of a recording.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line {
    /// When, in milliseconds since the recording began.
    at: u64,
    /// What.
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// An object is there.
    Put(Value),
    /// An object has changed.
    Patch { kind: String, key: Key, patch: Patch },
    /// An object is gone.
    Gone { kind: String, key: Key },
    /// Objects of a kind cannot be looked at.
    Blind { kind: String },
    /// A container's last lines.
    Log { of: LogOf, text: String },
}

/// What the objects were at the last line.
type Objects = BTreeMap<(String, Key), Value>;

/// Writes changes down.
#[derive(Debug)]
pub(super) struct Recorder {
    start: Timestamp,
    objects: Objects,
}

impl Recorder {
    /// A recording that begins at `start`.
    pub(super) fn new(start: Timestamp) -> Recorder {
        Recorder { start, objects: Objects::new() }
    }

    /// The line for a change; `None` where nothing that matters has changed.
    ///
    /// # Errors
    /// The object cannot be written as JSON.
    pub(super) fn line(&mut self, at: Timestamp, change: &Change) -> Result<Option<Line>> {
        let what = match change {
            Change::Applied(object) => {
                let name = (object.kind(), object.key());
                let now = trimmed(object.json()?);
                match self.objects.insert(name.clone(), now.clone()) {
                    None => What::Put(now),
                    Some(before) if before == now => return Ok(None),
                    Some(before) => {
                        What::Patch { kind: name.0, key: name.1, patch: json_patch::diff(&before, &now) }
                    }
                }
            }
            Change::Gone(kind, key) => {
                self.objects.remove(&(kind.clone(), key.clone()));
                What::Gone { kind: kind.clone(), key: key.clone() }
            }
            Change::Blind(kind) => What::Blind { kind: kind.clone() },
            Change::Log(of, text) => What::Log { of: of.clone(), text: text.clone() },
        };
        let since = at.duration_since(self.start).as_millis();
        Ok(Some(Line { at: u64::try_from(since).unwrap_or(0), what }))
    }
}

/// Without what only fills the file: who manages which field, what the node has stored.
fn trimmed(mut object: Value) -> Value {
    let remove = |object: &mut Value, path: &str, key: &str| {
        if let Some(map) = object.pointer_mut(path).and_then(Value::as_object_mut) {
            map.remove(key);
        }
    };
    remove(&mut object, "/metadata", "managedFields");
    remove(&mut object, "/metadata", "resourceVersion");
    remove(&mut object, "/status", "images");
    remove(&mut object, "/status", "nodeInfo");
    object
}

/// Reads a recording's lines back into changes, each with its time after `start`.
///
/// # Errors
/// A line is none of [`Line`]: its number.
pub(super) fn read(text: &str, start: Timestamp) -> Result<Vec<(Timestamp, Change)>> {
    let mut objects = Objects::new();
    let mut changes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let change = read_line(line, &mut objects).with_context(|| format!("line {}", number + 1))?;
        let at = start.checked_add(SignedDuration::from_millis(i64::try_from(change.0)?))?;
        changes.push((at, change.1));
    }
    Ok(changes)
}

fn read_line(line: &str, objects: &mut Objects) -> Result<(u64, Change)> {
    let Line { at, what } = serde_json::from_str(line)?;
    let change = match what {
        What::Put(value) => {
            let object = Object::parse(value.clone())?;
            objects.insert((object.kind(), object.key()), value);
            Change::Applied(object)
        }
        What::Patch { kind, key, patch } => {
            let value = objects
                .get_mut(&(kind.clone(), key.clone()))
                .ok_or_else(|| anyhow!("{kind} {} changes before it is there", key.name))?;
            json_patch::patch(value, &patch)?;
            Change::Applied(Object::parse(value.clone())?)
        }
        What::Gone { kind, key } => {
            objects.remove(&(kind.clone(), key.clone()));
            Change::Gone(kind, key)
        }
        What::Blind { kind } => Change::Blind(kind),
        What::Log { of, text } => Change::Log(of, text),
    };
    Ok((at, change))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_recorded_is_read_back() {
        let start = Timestamp::UNIX_EPOCH;
        let pod = |phase: &str| {
            let value = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "a", "namespace": "ns", "managedFields": [{"manager": "m"}]},
                "status": {"phase": phase},
            });
            Change::Applied(Object::parse(value).unwrap())
        };
        let gone = Change::Gone("Pod".to_owned(), Key::new("ns", "a"));
        let mut recorder = Recorder::new(start);
        let mut lines = Vec::new();
        for (at, change) in [pod("Pending"), pod("Pending"), pod("Running"), gone].into_iter().enumerate() {
            let at = start + SignedDuration::from_secs(i64::try_from(at).unwrap());
            if let Some(line) = recorder.line(at, &change).unwrap() {
                lines.push(serde_json::to_string(&line).unwrap());
            }
        }
        let shown: Vec<String> = read(&lines.join("\n"), start)
            .unwrap()
            .into_iter()
            .map(|(at, change)| match change {
                Change::Applied(Object::Pod(pod)) => {
                    assert!(pod.metadata.managed_fields.is_none());
                    format!("{} {}", at.as_second(), pod.status.unwrap().phase.unwrap())
                }
                other => format!("{} {other:?}", at.as_second()),
            })
            .collect();
        // The second told nothing new.
        let gone = "3 Gone(\"Pod\", Key { namespace: \"ns\", name: \"a\" })";
        assert_eq!(shown, ["0 Pending", "2 Running", gone]);
        assert!(!lines[1].contains("Pending"), "a patch and not the whole: {}", lines[1]);
    }
}
