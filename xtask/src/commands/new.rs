//! `new`: writes a suite for a chart, which runs as it is and says where to go on.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_yaml::Value;

use crate::cli::{New, NewSuite};
use crate::config::Workspace;
use crate::config::suite::FILE;
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::helm::{Helm, Install};
use crate::release::manifest::{self, objects, text};
use crate::{fail, names};

/// Where editors find what may stand in a suite.yaml, from a suite's folder.
const SCHEMA: &str = "# yaml-language-server: $schema=../../ci/schema/suite.json\n";

pub(super) async fn run(args: &New, env: &Env) -> Result<Exit> {
    let New::Suite(args) = args;
    let workspace = Workspace::here();
    let folder = workspace.suites().join(&args.name);
    names::check_label("the suite's name", &args.name, names::SUFFIX_LEN)?;
    if folder.exists() {
        fail!(Exit::Usage, "{} exists; choose another name", workspace.show(&folder));
    }
    let chart = camino::absolute_utf8(&args.chart)?;
    if !chart.join("Chart.yaml").exists() {
        fail!(Exit::Usage, "{} is not a chart: it has no Chart.yaml", args.chart);
    }
    let rendered = render(args, env, &chart).await?;
    let suite = Found::read(&rendered)?;
    let from_folder = relative(&folder, &chart);
    write(&folder, FILE, &suite.file(&args.name, &from_folder))?;
    write(&folder, "values.yaml", &suite.values())?;
    write(&folder, "run.sh", &suite.script())?;
    let shown = workspace.show(&folder);
    println!("wrote {shown}: {FILE}, values.yaml, run.sh\nrun it:  cargo xtask k8s-test {}", args.name);
    Ok(Exit::Passed)
}

async fn render(args: &NewSuite, env: &Env, chart: &Utf8Path) -> Result<String> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let helm = Helm { program: machine.helm, version: None, kubeconfig: "/dev/null".into() };
    helm.build_dependencies(chart).await.or_exit(Exit::Environment)?;
    let (name, labels) = (&*args.name, Default::default());
    let install = Install { name, namespace: name, chart, values: &[], args: &[], labels: &labels };
    helm.template(&install)
        .await
        .with_context(|| format!("render {chart} with its own values"))
        .or_exit(Exit::Usage)
}

fn write(folder: &Utf8Path, name: &str, text: &str) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {folder}"))?;
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {path}"))
}

/// `to` as seen from `from`; both are absolute.
fn relative(from: &Utf8Path, to: &Utf8Path) -> Utf8PathBuf {
    let (from, to): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
    let up = std::iter::repeat_n("..", from.len() - common);
    up.chain(to[common..].iter().map(|part| part.as_str())).collect()
}

/// What a chart shows of itself.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Name, selector and the container's port of what it serves.
    serves: Vec<(String, String, u64)>,
    /// Images that it names.
    images: Vec<String>,
}

impl Found {
    fn read(rendered: &str) -> Result<Found> {
        let objects = objects(rendered)?;
        let mut serves: Vec<(String, String, u64)> = Vec::new();
        for (name, selector, port) in objects.iter().filter_map(|object| served(object, &objects)) {
            // A headless Service beside another leads to the same pods.
            if !serves.iter().any(|known| (&known.1, known.2) == (&selector, port)) {
                serves.push((name, selector, port));
            }
        }
        let images = manifest::images(rendered)?.into_iter().map(|named| named.image).collect();
        Ok(Found { serves, images })
    }

    fn file(&self, name: &str, chart: &Utf8Path) -> String {
        let mut file = format!(
            "{SCHEMA}# What the suite is about.\n# Names from ci/images.yaml, which the run builds and brings to the nodes; values.yaml says where they go.\nimages: []\n# Role: prefix of a namespace that is made for the run.\nnamespaces: {{main: \"{name}\"}}\nreleases:\n  - name: \"{name}\"\n    chart: \"{chart}\"\n    namespace: main\n    values: [values.yaml]\n"
        );
        if !self.serves.is_empty() {
            file.push_str("# Brought to this machine, each to a port of its own; `probes` would prove that it answers.\nforwards:\n");
        }
        for (name, selector, port) in &self.serves {
            let _ =
                writeln!(file, "  \"{name}\": {{namespace: main, selector: \"{selector}\", port: {port}}}");
        }
        file.push_str("# Any command, whose status 0 means passed, or `tests: PACKAGE` for a cargo package of this workspace.\nrun: {command: [sh, run.sh]}\n");
        file
    }

    fn values(&self) -> String {
        let mut values = "{# Values for the chart, as a template: {{ namespaces.main }} is the namespace, {{ images[\"NAME\"].repository }} and\n   {{ images[\"NAME\"].tag }} are those of an image. What stands in such brackets is left out. #}\n".to_owned();
        if !self.images.is_empty() {
            values.push_str("# With its own values the chart names these images, which must be in the local Docker or be pulled:\n");
        }
        for image in &self.images {
            let _ = writeln!(values, "#   {image}");
        }
        values
    }

    fn script(&self) -> String {
        let mut script = "# The tests. What they are given is in the environment.\nset -eu\necho \"the namespace is ${K8S_TEST_NAMESPACE_MAIN:?}\"\n".to_owned();
        for (name, ..) in &self.serves {
            let key = crate::env::suite::key(name);
            let _ = writeln!(script, "echo \"{name} is at ${{K8S_TEST_URL_{key}:?}}\"");
        }
        script
    }
}

/// What a Service leads to, where that can be told.
fn served(service: &Value, objects: &[Value]) -> Option<(String, String, u64)> {
    let spec = &service["spec"];
    let selector = spec["selector"].as_mapping().filter(|_| text(service, &["kind"]) == Some("Service"))?;
    let port = spec["ports"].as_sequence()?.first()?;
    let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
    let number = target.as_u64().or_else(|| {
        let named = target.as_str()?;
        let selected = |object: &&Value| {
            let labels = &object["spec"]["template"]["metadata"]["labels"];
            selector.iter().all(|(key, value)| key.as_str().is_some_and(|key| labels[key] == *value))
        };
        let templates = objects.iter().filter(selected);
        let containers =
            templates.filter_map(|object| object["spec"]["template"]["spec"]["containers"].as_sequence());
        let mut ports =
            containers.flatten().filter_map(|container| container["ports"].as_sequence()).flatten();
        ports.find(|port| port["name"].as_str() == Some(named))?["containerPort"].as_u64()
    })?;
    let labels =
        selector.iter().filter_map(|(key, value)| Some(format!("{}={}", key.as_str()?, value.as_str()?)));
    let name = text(service, &["metadata", "name"])?;
    Some((name.to_owned(), labels.collect::<Vec<_>>().join(","), number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SuiteFile;

    fn facts() -> crate::template::Facts {
        crate::template::Facts {
            namespaces: Default::default(),
            images: Default::default(),
            run: crate::template::RunFacts { id: String::new() },
            suite: String::new(),
            variant: String::new(),
        }
    }

    const CHART: &str = "kind: Deployment\nspec: {template: {metadata: {labels: {app: other}}, spec: {containers: [{image: 'web:1', ports: [{name: http, containerPort: 9090}]}]}}}\n---\nkind: Deployment\nspec: {template: {metadata: {labels: {app: web, tier: front}}, spec: {containers: [{image: 'web:1', ports: [{name: http, containerPort: 8080}]}]}}}\n---\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web, tier: front}, ports: [{port: 80, targetPort: http}]}\n---\nkind: Service\nmetadata: {name: outside}\nspec: {externalName: example.test}\n";

    #[test]
    fn what_a_chart_serves_is_forwarded() {
        let found = Found::read(CHART).unwrap();
        assert_eq!(found.serves, [("web".to_owned(), "app=web,tier=front".to_owned(), 8080)]);
        assert_eq!(found.images, ["web:1"]);
    }

    #[test]
    fn the_written_suite_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        let (chart, folder) = (root.join("charts/web"), root.join("test-suites/web"));
        write(&chart, "Chart.yaml", "").unwrap();
        let found = Found::read(CHART).unwrap();
        let text = found.file("web", &relative(&folder, &chart));
        write(&folder, FILE, &text).unwrap();
        write(&folder, "values.yaml", &found.values()).unwrap();
        let suite = SuiteFile::load(&folder.join(FILE)).unwrap().resolve(&folder, "default").unwrap();
        assert_eq!(suite.releases[0].chart, chart);
        assert_eq!(suite.forwards["web"].port, 8080);
        assert!(found.script().contains("K8S_TEST_URL_WEB"));
        let rendered = crate::template::render(FILE.into(), &found.values(), &facts()).unwrap();
        assert_eq!(serde_yaml::from_str::<Value>(&rendered).unwrap(), Value::Null);
    }
}
