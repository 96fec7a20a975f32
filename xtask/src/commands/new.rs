//! `new`: writes a suite for a chart, which runs as it is and says where to go on.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_yaml::{Mapping, Value};

use crate::cli::New;
use crate::config::Workspace;
use crate::config::suite::{FILE, is_chart};
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
    if !is_chart(&chart) {
        fail!(Exit::Usage, "{} is not a chart: it has no Chart.yaml, and is no .tgz", args.chart);
    }
    let values = args.values.iter().map(|path| values_file(path)).collect::<Result<Vec<_>>>()?;
    let rendered = render(&args.name, env, &chart, &values).await?;
    let suite = Found::read(&rendered)?;
    let seen = |path: &Utf8PathBuf| relative(&folder, path);
    let given: Vec<Utf8PathBuf> = values.iter().map(seen).collect();
    write(&folder, FILE, &suite.file(&args.name, &seen(&chart), &given))?;
    write(&folder, "values.yaml", &suite.values())?;
    write(&folder, "run.sh", &suite.script())?;
    println!("wrote {}: {FILE}, values.yaml, run.sh", workspace.show(&folder));
    for service in &suite.nowhere {
        println!("no forward to the Service {service}: no pod of the chart has the labels that it selects");
    }
    println!("run it:  cargo xtask k8s-test {}", args.name);
    Ok(Exit::Passed)
}

/// A values file that can be one of a suite, where it is a template.
fn values_file(path: &Utf8Path) -> Result<Utf8PathBuf> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}")).or_exit(Exit::Usage)?;
    if let Some(bracket) = ["{{", "{%", "{#"].into_iter().find(|bracket| text.contains(bracket)) {
        fail!(
            Exit::Usage,
            "{path} contains `{bracket}`, and the values files of a suite are templates of their own; give a copy in which it is written {{{{ \"{bracket}\" }}}}"
        );
    }
    Ok(camino::absolute_utf8(path)?)
}

async fn render(name: &str, env: &Env, chart: &Utf8Path, values: &[Utf8PathBuf]) -> Result<String> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let helm = Helm { program: machine.helm, version: None, kubeconfig: "/dev/null".into() };
    helm.build_dependencies(chart).await.or_exit(Exit::Environment)?;
    let (labels, folder) = (Default::default(), Utf8Path::new("."));
    let install = Install { name, namespace: name, chart, values, args: &[], folder, labels: &labels };
    helm.template(&install)
        .await
        .with_context(|| {
            format!(
                "render {chart}; what it needs beside its own values goes into a file that --values names"
            )
        })
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
    /// Services that select none of its pods.
    nowhere: Vec<String>,
    /// Images that it names.
    images: Vec<String>,
}

impl Found {
    fn read(rendered: &str) -> Result<Found> {
        let objects = objects(rendered)?;
        let mut serves: Vec<(String, String, u64)> = Vec::new();
        let mut nowhere = Vec::new();
        for service in objects.iter().filter_map(Served::read) {
            let Some(port) = service.port(&objects) else {
                nowhere.push(service.name.to_owned());
                continue;
            };
            let selector = service.selector();
            // A headless Service beside another leads to the same pods.
            if !serves.iter().any(|known| (&known.1, known.2) == (&selector, port)) {
                serves.push((service.name.to_owned(), selector, port));
            }
        }
        let images = manifest::images(rendered)?.into_iter().map(|named| named.image).collect();
        Ok(Found { serves, nowhere, images })
    }

    fn file(&self, name: &str, chart: &Utf8Path, values: &[Utf8PathBuf]) -> String {
        let values: String = values.iter().map(|path| format!("\"{path}\", ")).collect();
        let mut file = format!(
            "{SCHEMA}# What the suite is about.\n# Names from ci/images.yaml, which the run builds and brings to the nodes; values.yaml says where they go.\nimages: []\n# Role: prefix of a namespace that is made for the run.\nnamespaces: {{main: \"{name}\"}}\nreleases:\n  - name: \"{name}\"\n    chart: \"{chart}\"\n    namespace: main\n    values: [{values}values.yaml]\n"
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
        let mut values = "# Values for the chart, as a template. In double braces, namespaces.main is the namespace, and images['NAME'].repository\n# and images['NAME'].tag are those of an image of ci/images.yaml that suite.yaml lists.\n".to_owned();
        if !self.images.is_empty() {
            values.push_str(
                "# The chart names these images, which must be in the local Docker or be pulled:\n",
            );
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

/// A Service that leads to pods by TCP.
struct Served<'a> {
    name: &'a str,
    selector: &'a Mapping,
    target: &'a Value,
}

impl<'a> Served<'a> {
    fn read(object: &'a Value) -> Option<Served<'a>> {
        let spec = &object["spec"];
        let selector =
            spec["selector"].as_mapping().filter(|_| text(object, &["kind"]) == Some("Service"))?;
        // Only TCP can be forwarded.
        let tcp = |port: &&Value| port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
        let port = spec["ports"].as_sequence()?.iter().find(tcp)?;
        let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
        Some(Served { name: text(object, &["metadata", "name"])?, selector, target })
    }

    /// The container's port, where one of the objects makes such pods.
    fn port(&self, objects: &[Value]) -> Option<u64> {
        let is_selected = |pod: &&Value| {
            let labels = &pod["metadata"]["labels"];
            self.selector.iter().all(|(key, value)| key.as_str().is_some_and(|key| labels[key] == *value))
        };
        let pods = objects.iter().filter_map(pod).filter(is_selected);
        let containers: Vec<&Value> =
            pods.filter_map(|pod| pod["spec"]["containers"].as_sequence()).flatten().collect();
        match self.target.as_str() {
            None => self.target.as_u64().filter(|_| !containers.is_empty()),
            Some(named) => {
                let mut ports =
                    containers.into_iter().filter_map(|container| container["ports"].as_sequence()).flatten();
                ports.find(|port| port["name"].as_str() == Some(named))?["containerPort"].as_u64()
            }
        }
    }

    fn selector(&self) -> String {
        let pairs = self.selector.iter();
        let labels = pairs.filter_map(|(key, value)| Some(format!("{}={}", key.as_str()?, value.as_str()?)));
        labels.collect::<Vec<_>>().join(",")
    }
}

/// The pod that an object is, or makes.
fn pod(object: &Value) -> Option<&Value> {
    let spec = &object["spec"];
    match text(object, &["kind"])? {
        "Pod" => Some(object),
        _ if spec["replicas"].as_u64() == Some(0) => None,
        _ => Some(&spec["template"]).filter(|template| template.is_mapping()),
    }
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

    const CHART: &str = "kind: Deployment\nspec: {template: {metadata: {labels: {app: other}}, spec: {containers: [{image: 'web:1', ports: [{name: http, containerPort: 9090}]}]}}}\n---\nkind: Deployment\nspec: {template: {metadata: {labels: {app: web, tier: front}}, spec: {containers: [{image: 'web:1', ports: [{name: http, containerPort: 8080}]}]}}}\n---\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web, tier: front}, ports: [{port: 80, targetPort: http}]}\n---\nkind: Service\nmetadata: {name: outside}\nspec: {externalName: example.test}\n---\nkind: Service\nmetadata: {name: names}\nspec: {selector: {app: web}, ports: [{port: 53, protocol: UDP}]}\n---\nkind: Service\nmetadata: {name: operated}\nspec: {selector: {app: operated}, ports: [{port: 80}]}\n";

    #[test]
    fn what_a_chart_serves_is_forwarded() {
        let found = Found::read(CHART).unwrap();
        assert_eq!(found.serves, [("web".to_owned(), "app=web,tier=front".to_owned(), 8080)]);
        assert_eq!(found.nowhere, ["operated"]);
        assert_eq!(found.images, ["web:1"]);
    }

    #[test]
    fn the_written_suite_can_be_read() {
        let root = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(root.path()).unwrap();
        let (chart, folder) = (root.join("charts/web"), root.join("test-suites/web"));
        write(&chart, "Chart.yaml", "").unwrap();
        let found = Found::read(CHART).unwrap();
        write(&root.join("charts"), "dev.yaml", "").unwrap();
        let text = found.file("web", &relative(&folder, &chart), &["../../charts/dev.yaml".into()]);
        write(&folder, FILE, &text).unwrap();
        write(&folder, "values.yaml", &found.values()).unwrap();
        let suite = SuiteFile::load(&folder.join(FILE)).unwrap().resolve(&folder, "default").unwrap();
        assert_eq!(suite.releases[0].chart, chart);
        assert_eq!(suite.releases[0].values, [root.join("charts/dev.yaml"), folder.join("values.yaml")]);
        assert_eq!(suite.forwards["web"].port, 8080);
        assert!(found.script().contains("K8S_TEST_URL_WEB"));
        let rendered = crate::template::render(FILE.into(), &found.values(), &facts()).unwrap();
        assert_eq!(serde_yaml::from_str::<Value>(&rendered).unwrap(), Value::Null);
    }
}
