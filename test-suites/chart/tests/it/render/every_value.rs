//! Every value that the charts know has an effect on what is rendered.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::helm::{self, Chart};
use crate::manifests::Manifests;
use crate::schema::{Place, Schemas};
use crate::values::{Document, defaults, document, documents, merged};

/// Values without an effect, and why they are there.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("dagit", "the webserver's former name, see below"),
    ("busybox", "Dagster's own chart waits with it, this one need not"),
    ("ingress.apiVersion", "Dagster's own chart knows older clusters"),
    ("postgresql.global", "see global"),
    ("rabbitmq.global", "see global"),
    ("redis.global", "see global"),
    ("redis.cluster", "refused but when off; Dagster's own chart wants it to be said"),
    (
        "runLauncher.config.k8sRunLauncher.image.pullPolicy",
        "imagePullPolicy counts, with and without an image",
    ),
    ("runLauncher.config.k8sRunLauncher.envConfigMaps[].optional", "the launcher is told the names alone"),
    ("runLauncher.config.k8sRunLauncher.envSecrets[].optional", "the launcher is told the names alone"),
];

/// How many charts are rendered at a time.
const AT_ONCE: usize = 2;

fn is_without_effect(path: &str) -> bool {
    WITHOUT_EFFECT.iter().any(|(known, _)| covers(known, path))
}

/// Whether a path is this one or lies below it.
fn covers(above: &str, path: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A text or a number that occurs nowhere else, of the type that stands there.
fn mark(place: &Place, values: &Value, number: usize) -> Option<Value> {
    match values.pointer(&place.pointer)? {
        Value::String(_) if place.members.is_empty() => Some(json!(format!("q{number}q"))),
        // Numbers in the range of ports.
        Value::Number(_) => Some(json!(20_000 + number)),
        _ => None,
    }
}

fn occurs(mark: &Value, told: &str) -> bool {
    let mark = mark.as_str().map_or_else(|| mark.to_string(), str::to_owned);
    told.match_indices(&mark).any(|(at, _)| {
        let before = told[..at].chars().next_back();
        let after = told[at + mark.len()..].chars().next();
        !before.into_iter().chain(after).any(|c| c.is_ascii_digit())
    })
}

/// Other values that could stand in a place.
fn others(place: &Place, value: &Value, number: usize) -> Vec<Value> {
    match value {
        Value::Bool(on) => vec![json!(!on)],
        _ if !place.members.is_empty() => {
            place.members.iter().filter(|member| *member != value && !member.is_null()).cloned().collect()
        }
        Value::String(_) => vec![json!(format!("q{number}q"))],
        Value::Number(_) => vec![json!(20_000 + number)],
        _ => Vec::new(),
    }
}

async fn rendered(document: &Document, values: &Value) -> anyhow::Result<Result<Manifests, String>> {
    let rendered = helm::template(document.chart, "dagster", values).await?;
    Ok(rendered.map(Manifests::without_checksums))
}

/// The paths of a document's values that have an effect.
async fn alive(document: &Document) -> anyhow::Result<BTreeSet<String>> {
    let mut leaves = Schemas::of(document.chart)?.places(&document.values);
    leaves.retain(|place| place.leaf);
    // All at once: what can be found again in the manifests needs no rendering of its own.
    let mut marked = document.values.clone();
    let mut marks = Vec::new();
    for (number, place) in leaves.iter().enumerate() {
        if let Some(mark) = mark(place, &document.values, number) {
            *marked.pointer_mut(&place.pointer).expect("a place of this document") = mark.clone();
            marks.push((place.path.clone(), mark));
        }
    }
    let all = rendered(document, &marked).await?;
    let told = all.map_err(|refusal| anyhow::anyhow!("{}: {refusal}", document.name))?.told();
    let mut alive: BTreeSet<String> =
        marks.into_iter().filter(|(_, mark)| occurs(mark, &told)).map(|(path, _)| path).collect();
    // The rest one by one.
    let before = rendered(document, &document.values).await?.map_err(anyhow::Error::msg)?;
    let rest = leaves.iter().enumerate().filter(|(_, place)| !alive.contains(&place.path));
    let found: Vec<Option<String>> = stream::iter(rest)
        .map(|(number, place)| {
            let before = &before;
            async move {
                let value = document.values.pointer(&place.pointer).expect("a place of this document");
                for other in others(place, value, number) {
                    let mut values = document.values.clone();
                    *values.pointer_mut(&place.pointer).expect("the same place") = other;
                    let seen = match rendered(document, &values).await? {
                        Ok(after) => after != *before,
                        // Refused by a template, which has read it then.
                        Err(refusal) => refusal.contains("execution error at"),
                    };
                    if seen {
                        return anyhow::Ok(Some(place.path.clone()));
                    }
                }
                Ok(None)
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    alive.extend(found.into_iter().flatten());
    Ok(alive)
}

#[tokio::test]
async fn every_value_has_an_effect() -> anyhow::Result<()> {
    // What there is: in the schemas, and in values.yaml below what the schemas leave open.
    let schemas = Schemas::of(Chart::Dagster)?;
    let mut known = schemas.paths();
    known.extend(schemas.places(&defaults(Chart::Dagster)?).into_iter().map(|place| place.path));
    let mut alive_ones = BTreeSet::new();
    for document in documents()? {
        alive_ones.extend(alive(&document).await?);
    }
    let has_effect = |path: &str| path.is_empty() || alive_ones.iter().any(|alive| covers(path, alive));
    let dead: Vec<&String> =
        known.iter().filter(|path| !has_effect(path) && !is_without_effect(path)).collect();
    assert!(dead.is_empty(), "values without an effect in any document of tests/values: {dead:#?}");
    let needless: Vec<&str> = WITHOUT_EFFECT
        .iter()
        .map(|(path, _)| *path)
        .filter(|path| has_effect(path) || !known.iter().any(|known| covers(path, known)))
        .collect();
    assert!(needless.is_empty(), "these have an effect, or do not exist: {needless:?}");
    Ok(())
}

#[tokio::test]
async fn what_is_said_of_the_webserver_by_its_former_name_counts_the_same() -> anyhow::Result<()> {
    let mut values = document("full")?.values;
    let now = helm::render(values.clone()).await?;
    let webserver = values.as_object_mut().and_then(|values| values.remove("dagsterWebserver"));
    let former = helm::render(merged(&values, &json!({"dagit": webserver}))).await?;
    assert!(now == former, "the two render to different manifests");
    Ok(())
}
