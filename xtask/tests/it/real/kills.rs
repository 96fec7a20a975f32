//! Runs that are killed leave nothing on real clusters.

use std::process::Child;
use std::time::{Duration, Instant};

use super::{Folder, delete, get, processes, said, xtask};

/// By when everything has to be gone.
const SOON: Duration = Duration::from_secs(30);
/// The cluster that stays from one run to the next.
const KEPT: &str = "k8s-test-killed";
/// Kills of runs on the cluster that stays, and of runs that make their own; with `K8S_TEST_FEW_KILLS` half of them.
const KILLS: [(Option<&str>, u32); 2] = [(Some(KEPT), 8), (None, 4)];

const FIXTURES: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: 'killed-{{ run.id }}'}
";
const CHART: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: '{{ .Release.Name }}-settings'}
";

struct Real {
    folder: Folder,
    /// In the environment of all that is started here.
    mark: String,
}

impl Real {
    fn new() -> Real {
        let folder = Folder::new();
        folder.chart(CHART);
        folder.write("suite/fixtures.yaml", FIXTURES);
        folder.write(
            "suite/suite.yaml",
            "namespaces: {user: killed}\nfixtures: [fixtures.yaml]\nreleases: [{name: app, chart: ../chart, namespace: user}]\nrun: {command: [sh, -c, 'sleep 600 & sleep 1; kill $!']}\n",
        );
        let mark = format!("K8S_TEST_REAL_KILLS={}", folder.path().display());
        Real { folder, mark }
    }

    fn start(&self, cluster: Option<&str>, output: &str) -> Child {
        let (name, value) = self.mark.split_once('=').unwrap();
        let mut command = xtask(&self.folder, &["k8s-test", &self.folder.suite(), "--output", output]);
        match cluster {
            Some(name) => command.args(["--kind-cluster", name]),
            None => command.env("CI", "true"),
        };
        let log = std::fs::File::create(self.folder.path().join(format!("{output}.log"))).unwrap();
        command.env(name, value).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn text(&self, path: &str) -> String {
        self.folder.text(path)
    }

    /// How far a run has come: the lines that it has printed and those of its journal.
    fn lines(&self, output: &str) -> usize {
        let files = [format!("{output}.log"), format!("{output}/journal.jsonl")];
        files.iter().map(|path| self.text(path).lines().count()).sum()
    }

    /// What is left of a run when its time is over.
    fn left(&self, output: &str, killed: Instant) -> Vec<String> {
        loop {
            let left = self.left_now(output);
            if left.is_empty() || killed.elapsed() > SOON {
                return left;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn left_now(&self, output: &str) -> Vec<String> {
        let mut left: Vec<String> =
            processes(&self.mark).into_iter().map(|id| format!("process {id}")).collect();
        let journal = self.text(&format!("{output}/journal.jsonl"));
        // Before there is a line nothing was made.
        let Some(entry) = journal.lines().last() else { return left };
        let entry: serde_json::Value = serde_json::from_str(entry).unwrap();
        let run = entry["policy"]["run"].as_str().unwrap();
        let cluster = entry["policy"]["cluster"]["name"].as_str().unwrap();
        let label = format!("label=io.x-k8s.kind.cluster={cluster}");
        let nodes = said("docker", &["ps", "--all", "--quiet", "--filter", &label]);
        if cluster != KEPT {
            left.extend(nodes.lines().map(|id| format!("container {id}")));
            return left;
        }
        let selector = format!("k8s-test.local/run={run}");
        let list = get(KEPT, &["namespaces,clusterroles", "--selector", &selector]);
        // A namespace that is going takes its time, and nobody has to wait for it.
        let stays = |object: &&serde_json::Value| object["metadata"]["deletionTimestamp"].is_null();
        let objects = list["items"].as_array().unwrap().iter().filter(stays);
        left.extend(objects.map(|object| format!("{} {}", object["kind"], object["metadata"]["name"])));
        left
    }
}

/// Between 0 and 1, spread evenly.
fn spread(n: u32) -> f64 {
    (f64::from(n) * 0.618_033_988_75).fract()
}

#[test]
#[ignore = "makes clusters: three minutes"]
fn real_runs_that_are_killed_leave_nothing() {
    let real = Real::new();
    let whole = |output: &str| {
        let start = Instant::now();
        let status = real.start(Some(KEPT), output).wait().unwrap();
        assert!(status.success(), "{}", real.text(&format!("{output}.log")));
        (start.elapsed(), real.lines(output))
    };
    // The first one makes the cluster.
    let ((made, _), (_, all)) = (whole("first"), whole("second"));
    let mut slowest = Duration::ZERO;
    let mut tried = 0;
    let mut lines = Vec::new();
    let few = std::env::var_os("K8S_TEST_FEW_KILLS").is_some();
    for (cluster, count) in KILLS {
        let count = if few { count / 2 } else { count };
        for n in 0..count {
            let output = format!("{}-{n}", cluster.unwrap_or("own"));
            let mut run = real.start(cluster, &output);
            let point = if cluster.is_some() {
                let line = (all as f64 * spread(n + 1)) as usize;
                while real.lines(&output) < line && run.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                format!("at line {line} of {all}")
            } else {
                // kind says little while it works.
                let time = made.mul_f64(spread(n + 1));
                std::thread::sleep(time);
                format!("after {time:.1?}")
            };
            run.kill().unwrap();
            let killed = Instant::now();
            let early = run.wait().unwrap().code().is_none();
            let left = real.left(&output, killed);
            let log = [format!("{output}.log"), format!("{output}/reaper.log")].map(|path| real.text(&path));
            assert!(left.is_empty(), "{output}, killed {point}, leaves {left:?}:\n{}", log.join("\n"));
            tried += 1;
            if !early {
                // The last lines come all at once; such a run was not killed, and does not count.
                continue;
            }
            slowest = slowest.max(killed.elapsed());
            let step = log[0].lines().last().unwrap_or_default().trim().to_owned();
            lines.push(format!("{output}: killed {point} ({step}), gone after {:.1?}", killed.elapsed()));
        }
    }
    delete(KEPT);
    assert!(
        lines.len() * 4 >= tried * 3,
        "only {} of {tried} runs were killed before their end",
        lines.len()
    );
    println!(
        "{}\n{} runs killed, nothing left; the slowest was gone after {slowest:.1?}",
        lines.join("\n"),
        lines.len()
    );
}
