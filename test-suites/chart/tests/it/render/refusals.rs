//! Values that the charts do not know, or that make no sense, are refused by a message that names them.

use serde_json::{Value, json};

use crate::helm::{self, Chart, RENDER_LIMIT, refusal};
use crate::schema::{Place, Schemas};
use crate::values::{Document, defaults, document, documents, merged};

/// What helm says of the values of one chart, each of which it tells below the chart's name.
fn about<'a>(chart: &str, refusal: &'a str) -> impl Iterator<Item = &'a str> {
    let title = format!("{chart}:");
    let after = refusal.lines().skip_while(move |line| *line != title).skip(1);
    after.take_while(|line| line.trim_start().starts_with("- "))
}

/// Whether helm has complained of a place. What the schema of a chart below refuses is told by its own path.
fn is_told(place: &Place, chart: Chart, complaint: &str, refusal: &str) -> bool {
    let (own, below) = match chart {
        Chart::Dagster => {
            ("dagster", ["dagster-user-deployments", "postgresql", "rabbitmq", "redis"].as_slice())
        }
        Chart::UserDeployments => ("dagster-user-deployments", [].as_slice()),
    };
    let says = |chart: &str, pointer: &str| {
        let told = format!("at '{pointer}': {complaint}");
        about(chart, refusal).any(|line| line.contains(&told))
    };
    let of_below = |name: &str| place.pointer.strip_prefix(&format!("/{name}")).map(str::to_owned);
    says(own, &place.pointer) || below.iter().any(|name| of_below(name).is_some_and(|rest| says(name, &rest)))
}

async fn refused(document: &Document, values: &Value) -> anyhow::Result<String> {
    let rendered = helm::template(document.chart, "dagster", values).await?;
    rendered.err().ok_or_else(|| anyhow::anyhow!("{}: nothing is refused", document.name))
}

/// Where other charts may have keys as well, and what only the schema of a chart judges that is not deployed.
fn open(document: &Document) -> anyhow::Result<Vec<&'static str>> {
    let values = merged(&defaults(document.chart)?, &document.values);
    let conditions = [
        ("/dagster-user-deployments", "enableSubchart"),
        ("/postgresql", "enabled"),
        ("/rabbitmq", "enabled"),
        ("/redis", "internal"),
    ];
    let off = conditions.into_iter().filter(|(chart, condition)| {
        values.pointer(&format!("{chart}/{condition}")) == Some(&Value::Bool(false))
    });
    Ok(off.map(|(chart, _)| chart).chain(["/global"]).collect())
}

fn is_below(place: &Place, folders: &[&str]) -> bool {
    let below = |rest: &str| rest.is_empty() || rest.starts_with('/');
    folders.iter().any(|folder| place.pointer.strip_prefix(folder).is_some_and(below))
}

#[tokio::test]
async fn unknown_keys_are_refused_wherever_they_stand() -> anyhow::Result<()> {
    for document in documents()? {
        let mut values = document.values.clone();
        let mut closed = Schemas::of(document.chart)?.places(&document.values);
        let open = open(&document)?;
        closed.retain(|place| place.described && !place.leaf && !is_below(place, &open));
        assert!(!closed.is_empty(), "{}: no folder of known keys", document.name);
        for place in &closed {
            values.pointer_mut(&place.pointer).expect("a place of this document")["unheardOf"] = json!(1);
        }
        let refusal = refused(&document, &values).await?;
        let complaint = "additional properties 'unheardOf' not allowed";
        let missing: Vec<&str> = closed
            .iter()
            .filter(|place| !is_told(place, document.chart, complaint, &refusal))
            .map(|place| place.pointer.as_str())
            .collect();
        assert!(missing.is_empty(), "{}: not refused in {missing:?} but in {refusal}", document.name);
    }
    Ok(())
}

/// A value of a type that does not belong there.
fn wrong(place: &Place, value: &Value) -> Option<Value> {
    if !place.members.is_empty() {
        return Some(json!("none of these"));
    }
    // What is switched on and off has no other type besides.
    if value.is_boolean() && !place.types.is_empty() {
        return Some(json!("a text"));
    }
    let may_be = |kind: &str| place.types.contains(kind);
    let all = [
        ("string", json!("a text")),
        ("boolean", json!(true)),
        ("number", json!(1.5)),
        ("object", json!({"a": "map"})),
    ];
    let numbers = may_be("integer") || may_be("number");
    let fits = |kind: &str| may_be(kind) || (kind == "number" && numbers);
    all.into_iter().find(|(kind, _)| !place.types.is_empty() && !fits(kind)).map(|(_, value)| value)
}

/// Whether helm reads a value itself, to decide if it looks at a subchart at all.
fn is_condition(place: &Place) -> bool {
    let conditions = [
        "/dagster-user-deployments/enableSubchart",
        "/postgresql/enabled",
        "/rabbitmq/enabled",
        "/redis/internal",
    ];
    conditions.contains(&place.pointer.as_str())
}

#[tokio::test]
async fn values_of_another_type_are_refused_by_their_path() -> anyhow::Result<()> {
    for document in documents()? {
        let mut leaves = Schemas::of(document.chart)?.places(&document.values);
        leaves.retain(|place| place.leaf);
        let (conditions, others): (Vec<Place>, Vec<Place>) = leaves.into_iter().partition(is_condition);
        for places in [others, conditions] {
            let mut values = document.values.clone();
            let mut typed = Vec::new();
            for place in places {
                let value = values.pointer_mut(&place.pointer).expect("a place of this document");
                if let Some(wrong) = wrong(&place, value) {
                    *value = wrong;
                    typed.push(place);
                }
            }
            if typed.is_empty() {
                continue;
            }
            let refusal = refused(&document, &values).await?;
            let missing: Vec<&str> = typed
                .iter()
                .filter(|place| !is_told(place, document.chart, "", &refusal))
                .map(|place| place.pointer.as_str())
                .collect();
            assert!(missing.is_empty(), "{}: not refused in {missing:?} but in {refusal}", document.name);
        }
    }
    Ok(())
}

#[tokio::test]
async fn contradictions_are_refused_with_what_to_do() -> anyhow::Result<()> {
    let workspace = |workspace: Value| json!({"dagsterWebserver": {"workspace": workspace}});
    let celery = |more: Value| merged(&json!({"runLauncher": {"type": "CeleryK8sRunLauncher"}}), &more);
    let launcher = |config: Value| json!({"runLauncher": {"config": {"k8sRunLauncher": config}}});
    for (values, told) in [
        (workspace(json!({"enabled": true})), "is enabled but empty: give servers or externalConfigmap"),
        (
            workspace(
                json!({"enabled": true, "servers": [{"host": "a", "port": 1}], "externalConfigmap": "b"}),
            ),
            "names both servers and externalConfigmap",
        ),
        (json!({"postgresql": {"enabled": false}}), "name your own server in postgresql.postgresqlHost"),
        (
            json!({"fullnameOverride": "a", "dagster-user-deployments": {"includeInstance": true}}),
            "set them under global",
        ),
        (celery(json!({})), "Celery has no broker: enable rabbitmq or redis"),
        (
            celery(json!({"rabbitmq": {"enabled": true}, "redis": {"enabled": true, "internal": true}})),
            "Celery has one broker: enable one of them",
        ),
        (celery(json!({"redis": {"enabled": true}})), "name your own server in redis.host"),
        (json!({"flower": {"enabled": true}}), "switch it off, or use CeleryK8sRunLauncher"),
        (
            json!({
                "concurrency": {"enabled": true, "runs": {"maxConcurrentRuns": 1}},
                "dagsterDaemon": {"runCoordinator": {"config": {"queuedRunCoordinator": {"maxConcurrentRuns": 1}}}},
            }),
            "give them in one of the two",
        ),
        (launcher(json!({"kubeconfigFile": "/a"})), "set loadInclusterConfig to false"),
        (json!({"runLauncher": {"type": "CustomRunLauncher"}}), "missing property 'customRunLauncher'"),
        (json!({"scheduler": {"type": "CustomScheduler"}}), "missing property 'customScheduler'"),
        (
            json!({"computeLogManager": {"type": "S3ComputeLogManager"}}),
            "missing property 's3ComputeLogManager'",
        ),
        (
            json!({"dagsterDaemon": {"runCoordinator": {"type": "CustomRunCoordinator"}}}),
            "missing property 'customRunCoordinator'",
        ),
        (
            json!({"dagster-user-deployments": {"deployments": [{"name": "a", "port": 1}]}}),
            "missing property 'image'",
        ),
        (
            json!({"dagster-user-deployments": {"deployments": [{"name": "No Name", "port": 1, "image": {"repository": "a", "pullPolicy": "Never"}}]}}),
            "'No Name' does not match pattern",
        ),
    ] {
        let refusal = refusal(values.clone()).await?;
        assert!(refusal.contains(told), "{values}: {refusal}");
    }
    Ok(())
}

#[tokio::test]
async fn helm_finds_no_fault_with_the_charts() -> anyhow::Result<()> {
    for name in ["full", "code"] {
        let document = document(name)?;
        let folder = document.chart.folder();
        let folder = folder.to_string_lossy();
        let lint = ["lint", "--strict", "--quiet", &folder, "--values", "-"];
        helm::succeed(&lint, &document.values.to_string(), RENDER_LIMIT).await?;
        let faulty = helm::run(&lint, "{\"imagePullSecrets\": 1}", RENDER_LIMIT).await?;
        assert!(!faulty.well, "{name}: a value of a wrong type is no fault");
    }
    Ok(())
}
