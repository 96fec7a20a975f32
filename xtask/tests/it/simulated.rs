//! A whole run without a cluster: a [`World`] with an API server and tools that keep nodes and releases as files, and that
//! tell of each step which the run takes.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;

use crate::api::{Api, OnStep};
use crate::world::{DOCKER, World, docker};

/// How long the longest of the waits here may take: what is left behind has to be gone by then.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Tells the test that a step is taken.
const STEP: &str = "step() { echo step > $HOME/steps; }; step\n";

const KIND: &str = r#"
case "$1 $2" in
  "version "*) echo "kind v0.33.0 go1.26.8 linux/amd64" ;;
  "get clusters") for node in $HOME/nodes/*.node; do [ -e $node ] && node=${node##*/} && echo ${node%-control-plane.node}; done; true ;;
  "get nodes") [ -e $HOME/nodes/$4-control-plane.node ] && echo $4-control-plane; true ;;
  "get kubeconfig") echo "$(while read -r line; do echo "$line"; done < $HOME/kubeconfig)" ;;
  "create cluster")
    /bin/sleep 0.05; step; echo > $HOME/nodes/$4-control-plane.node; step; /bin/sleep 0.1; step ;;
  "delete cluster") /bin/rm -f $HOME/nodes/$4-control-plane.* ;;
  *) echo "fake kind: $*" >&2; exit 1 ;;
esac"#;

/// What a docker does for nodes.
const NODES: &str = r#"  "container inspect") [ -e $HOME/nodes/$5.node ] && echo true ;;
  "exec --privileged")
    [ "$3" = -i ] && shift
    at=$HOME/nodes/$3
    [ -e $at.node ] || exit 1
    case "$6" in
      "cat > "*) /bin/cat > $at.new && step && /bin/mv $at.new $at.origin ;;
      *half-made*) [ -e $at.origin ] && /bin/cat $at.origin || echo half-made ;;
    esac ;;
  *)"#;

pub(crate) const HELM: &str = r#"
case "$1" in
  version) echo v4.3.0+g0000000 ;;
  template) ;;
  upgrade) /bin/sleep 0.05; echo > $HOME/releases/$6_$3; step; /bin/sleep 0.05; echo '{"manifest": ""}' ;;
  list) for release in $HOME/releases/$4_*; do [ -e $release ] && echo ${release##*_}; done; true ;;
  uninstall) /bin/rm -f $HOME/releases/$4_$2 ;;
  *) echo "fake helm: $*" >&2; exit 1 ;;
esac"#;

/// A machine with a cluster in memory.
pub(crate) struct Simulated {
    pub(crate) world: World,
    pub(crate) api: Api,
    suite: String,
}

/// Which cluster a run uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    /// Made for the run.
    Ephemeral,
    /// Made and kept for the next run.
    Kept,
    /// Somebody else's.
    Theirs,
}

impl Simulated {
    /// `test` is the shell script that is the suite's one test; `on_step` is called at each step.
    pub(crate) fn new(test: &str, on_step: OnStep) -> Simulated {
        let world = World::new();
        for folder in ["nodes", "releases", "example", "chart"] {
            std::fs::create_dir_all(world.path().join(folder)).unwrap();
        }
        let steps = world.path().join("steps");
        nix::unistd::mkfifo(&steps, Mode::S_IRWXU).unwrap();
        // Also for writing, so that it has no end while nobody else writes.
        let steps = OpenOptions::new().read(true).write(true).open(steps).unwrap();
        let told = on_step.clone();
        std::thread::spawn(move || tell(steps, &told));
        let api = Api::start(on_step);
        world.file("kubeconfig", &api.kubeconfig());
        world.file("chart/Chart.yaml", "apiVersion: v2\nname: chart\nversion: 1.0.0\n");
        world.file("example/fixtures.yaml", FIXTURES);
        world.tool("kind", &format!("{STEP}{KIND}"));
        world.tool("helm", &format!("{STEP}{HELM}"));
        world.tool("docker", &format!("{STEP}{}", docker(&DOCKER.replacen("  *)", NODES, 1))));
        let suite = world.suite(&format!(
            "namespaces: {{user: user, system: system}}\nfixtures: [fixtures.yaml]\nreleases: [{{name: app, chart: ../chart, namespace: system}}]\nrun: {{command: [/bin/sh, -c, '{test}']}}\n"
        ));
        Simulated { world, api, suite }
    }

    /// Starts a run whose output goes to `<output>.log`.
    pub(crate) fn start(&self, cluster: Cluster, output: &str) -> Child {
        self.start_with(cluster, output, &[])
    }

    /// The same with more arguments.
    pub(crate) fn start_with(&self, cluster: Cluster, output: &str, more: &[&str]) -> Child {
        let log = File::create(self.world.path().join(format!("{output}.log"))).unwrap();
        let kubeconfig = self.world.path().join("kubeconfig");
        let mut arguments = vec!["k8s-test", &self.suite, "--no-setup", "--output", output];
        if cluster == Cluster::Theirs {
            arguments.extend(["--cluster-provider", "kubeconfig", "--context", "fake"]);
            arguments.extend(["--kubeconfig", kubeconfig.to_str().unwrap()]);
        }
        arguments.extend(more);
        let mut command = self.world.command(&arguments);
        if cluster == Cluster::Ephemeral {
            command.env("CI", "true");
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// What a run has printed.
    pub(crate) fn said(&self, output: &str) -> String {
        std::fs::read_to_string(self.world.path().join(format!("{output}.log"))).unwrap_or_default()
    }

    /// What runs have left, once all of their processes are gone; what is on a cluster is gone with that.
    pub(crate) fn left(&self, cluster: Cluster) -> Vec<String> {
        let home = self.world.path();
        let mut left: Vec<String> = Vec::new();
        let deadline = Instant::now() + SOON;
        loop {
            let processes = processes(home);
            if processes.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                left.extend(processes.iter().map(|id| format!("process {id}")));
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if cluster != Cluster::Ephemeral || !files(&home.join("nodes")).is_empty() {
            left.extend(self.api.ours().into_iter().map(|(path, _)| path));
            left.extend(
                files(&home.join("releases")).iter().map(|path| format!("release {}", path.display())),
            );
        }
        if self.api.get(crate::api::NODE).is_none() {
            left.push("a cluster without its node".to_owned());
        }
        for node in files(&home.join("nodes")).iter().filter(|path| path.extension().unwrap() == "node") {
            // One that is complete is kept for reuse.
            let kept = node.file_name().unwrap() == "k8s-test-control-plane.node";
            if !kept || !node.with_extension("origin").exists() {
                left.push(format!("node {}", node.display()));
            }
        }
        left
    }

    /// What the reaper has said of a run.
    pub(crate) fn reaped(&self, output: &str) -> String {
        std::fs::read_to_string(self.world.path().join(output).join("reaper.log")).unwrap_or_default()
    }
}

/// Waits until `condition` holds, which nobody tells of.
#[track_caller]
pub(crate) fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn tell(steps: File, on_step: &OnStep) {
    for line in BufReader::new(steps).lines() {
        match line {
            Ok(line) if line == "end" => return,
            Ok(_) => on_step(),
            Err(_) => return,
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = std::fs::write(self.world.path().join("steps"), "end\n");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// All processes that were started on this machine: they know it as their home.
fn processes(home: &Path) -> Vec<String> {
    let home = format!("HOME={}", home.display());
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().into_string().ok());
    ids.filter(|id| id.bytes().all(|digit| digit.is_ascii_digit()))
        .filter(|id| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
        })
        .collect()
}

const FIXTURES: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "reader-{{ run.id }}"}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: "outside-{{ run.id }}", namespace: default}
"#;
