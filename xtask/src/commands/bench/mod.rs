//! `bench`: what we do beside what peers do. `bench images`, here: how long images take to the nodes, with ours, with `kind load`, and by a registry.
//!
//! Every peer is a program, timed from its start to its end on the same machine and nodes, in turns: a benchmark within
//! one process would leave out what starting costs, and one after the other what the machine does meanwhile.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use kind_client::{Kind, config};

use crate::cli::{Bench, BenchCase, BenchImages};
use crate::cluster::kind::{self as kind_cluster, Wanted};
use crate::cluster::lock;
use crate::docker::Docker;
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::lease::Lease;
use crate::pipeline::Session;
use crate::setup::Machine;
use crate::{cleanup, cmd, fail, images as stage, names, text};

mod cases;
mod content;
mod cuts;
mod dev;
mod field;
mod forward;
mod images;
mod peers;
mod ready;
mod registry;
mod report;
mod starts;
mod suites;

use field::Field;
use peers::Ways;
use registry::Registry;
use report::{Facts, Report};

/// The clusters that the benchmark makes: of one node and of three.
const ONE: &str = "k8s-test-bench";
const THREE: &str = "k8s-test-bench-3";

/// A benchmark under way.
struct Running<'a> {
    session: Session,
    machine: Machine,
    kind: Kind,
    args: &'a BenchImages,
    cases: Vec<BenchCase>,
    /// Where the results go; below it what is needed meanwhile.
    folder: Utf8PathBuf,
    /// Part of what varies, so that Docker has met no variant in an earlier benchmark.
    secret: String,
    report: Mutex<Report>,
    /// The clusters to delete at the end: ours by their marks, not by their names.
    clusters: Mutex<BTreeSet<String>>,
}

pub(super) async fn run(args: &Bench, env: &Env) -> Result<Exit> {
    match args {
        Bench::Images(args) => run_images(args, env).await,
        Bench::Forward(args) => forward::run(args, env).await,
        Bench::Dev(args) => dev::run(args, env).await,
        Bench::Wait(args) => super::interruptible(ready::run(args, false, env)).await,
        Bench::Fail(args) => super::interruptible(ready::run(args, true, env)).await,
        Bench::Suites(args) => super::interruptible(suites::run(args, env)).await,
        Bench::Steady(args) => super::interruptible(suites::run_steady(args, env)).await,
        Bench::Cuts(args) => cuts::run(args, env).await,
    }
}

async fn run_images(args: &BenchImages, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    let machine = session.machine(true).await?;
    let folder = session.workspace.root.join("target/bench");
    let mut cases = args.cases.clone();
    if cases.is_empty() {
        cases = <BenchCase as clap::ValueEnum>::value_variants().to_vec();
    }
    let kind = machine.kind_client();
    let (secret, report, clusters) = (names::suffix(), Mutex::default(), Mutex::default());
    let bench = Running { session, machine, kind, args, cases, folder, secret, report, clusters };
    bench.space()?;
    bench.look_at_load();
    let mut signals = super::Signals::listen()?;
    let measured = tokio::select! {
        measured = bench.measure() => measured.map(|()| Exit::Passed),
        signal = signals.next() => Ok(Exit::Interrupted(signal)),
    };
    // What was interrupted has to be gone before what it made is removed.
    tokio::task::spawn_blocking(cmd::reap).await?;
    let cleaned = bench.clean().await.or_exit(Exit::Leftovers);
    let mut report = bench.report().clone();
    report.complete = matches!(measured, Ok(Exit::Passed));
    if !report.values.is_empty() {
        report.write(&bench.folder)?;
        print!("{}", report.markdown());
        bench.session.events.note(format!("written to {}", bench.folder.join("images.md")));
    }
    let exit = measured?;
    cleaned?;
    Ok(exit)
}

impl Running<'_> {
    async fn measure(&self) -> Result<()> {
        std::fs::create_dir_all(&self.folder).with_context(|| format!("make the folder {}", self.folder))?;
        let on_one = |case: &BenchCase| *case != BenchCase::ThreeNodes;
        if self.cases.iter().any(on_one) {
            match &self.args.kind_cluster {
                Some(name) => self.on(&self.given(name).await?).await?,
                None => {
                    self.on(&self.make(ONE, 1).await?).await?;
                    // The next cluster is not to share the machine with this one.
                    cleanup::delete_until_gone(&self.kind, ONE).await?;
                }
            }
        }
        if !self.cases.iter().all(on_one) {
            self.on(&self.make(THREE, 3).await?).await?;
        }
        Ok(())
    }

    /// Measures on a cluster.
    async fn on(&self, field: &Field) -> Result<()> {
        let registry = match registry::program() {
            Some(program) => {
                let bridge = field.bridge().await?;
                Some(Registry::start(&program, &self.folder.join("registry"), bridge).await?)
            }
            None => {
                self.session.events.warn(
                    "no registry is measured: there is no docker-registry on PATH; `apt-get install docker-registry` brings it"
                        .to_owned(),
                );
                None
            }
        };
        let facts = self.facts(field, registry.is_some()).await?;
        self.report().facts = facts;
        let program = std::env::current_exe().context("find this program's own file")?;
        let ways = Ways { program, registry };
        let measured = cases::measure(self, field, &ways).await;
        let cleared = ways.clear(field).await;
        measured?;
        cleared
    }

    async fn facts(&self, field: &Field, registry: bool) -> Result<Facts> {
        let docker = &self.machine.docker;
        let load = self.report().facts.load;
        Ok(Facts {
            processors: processors(),
            load,
            memory: docker.mem_total,
            docker: docker.server_version.clone(),
            storage_driver: docker.driver.clone(),
            kind: self.kind.version().await?.to_string(),
            containerd: field.containerd().await?,
            crictl: field.crictl,
            registry: registry.then(|| "registry on 127.0.0.1, without TLS".to_owned()),
        })
    }

    async fn given(&self, name: &str) -> Result<Field> {
        let known = self.kind.clusters().await.or_exit(Exit::Environment)?;
        if !known.iter().any(|cluster| cluster == name) {
            let near = text::suggestion(name, known.iter().map(String::as_str));
            fail!(Exit::Usage, "there is no Kind cluster {name}{near}");
        }
        let nodes = self.kind.nodes(name).await.or_exit(Exit::Environment)?;
        Field::new(&self.kind, name, nodes).await
    }

    async fn make(&self, name: &str, nodes: usize) -> Result<Field> {
        let session = &self.session;
        let spec = session.tools.node_image.spec();
        let step = session.events.step(Phase::Cluster, "node image");
        let maker = session.maker(&self.machine, true);
        let (image, how) = stage::source::ensure(&maker, "node", &spec, &step).await?;
        step.done(how.verb());
        let mut config = kind_cluster::read_config(&session.workspace.ci().join("kind.yaml"))?;
        config.nodes = vec![config::Node::control_plane()];
        config.nodes.resize(nodes, config::Node::worker());
        let wanted = Wanted {
            name: name.to_owned(),
            named: false,
            config,
            image,
            // The next benchmark removes what this one leaves.
            lease: Lease::of_cluster("bench", false),
            lock: lock::file(&session.env.cache, name),
            kubeconfig: self.scratch().join(format!("{name}.kubeconfig")),
        };
        let delete_at_end = || _ = self.clusters().insert(name.to_owned());
        let cluster =
            kind_cluster::ensure(&self.kind, &wanted, &session.events, delete_at_end, async |_| ()).await?.0;
        // Also one that a killed benchmark has left.
        delete_at_end();
        Field::new(&self.kind, name, cluster.nodes).await
    }

    /// Images are for a moment in Docker, in an archive, in the registry and in each node, there packed and unpacked.
    fn space(&self) -> Result<()> {
        let megabytes = u64::from(self.args.sizes.iter().copied().max().unwrap_or_default());
        let nodes = if self.cases.contains(&BenchCase::ThreeNodes) { 3 } else { 1 };
        let want = megabytes * 1_000_000 * (4 + 2 * nodes) + 2_000_000_000;
        let root = Utf8Path::new(&self.machine.docker.docker_root_dir);
        // Docker may be on another machine.
        let Ok(stat) = nix::sys::statvfs::statvfs(root.as_std_path()) else { return Ok(()) };
        #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on macOS")]
        let free = u64::from(stat.blocks_available()) * stat.fragment_size();
        if free < want {
            fail!(
                Exit::Environment,
                "images of {megabytes} MB need {} at {root} for a while, and {} are free; measure smaller ones by --sizes",
                text::bytes(want),
                text::bytes(free)
            );
        }
        Ok(())
    }

    /// Notes how busy the machine is before we make it so.
    fn look_at_load(&self) {
        let load = load_of_machine();
        let facts = Facts { processors: processors(), load, ..Facts::default() };
        if facts.is_busy() {
            self.session
                .events
                .warn(format!("the machine is busy (load {load}), so what is measured now means little"));
        }
        self.report().facts = facts;
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clusters(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scratch(&self) -> Utf8PathBuf {
        self.folder.join("scratch")
    }

    /// Removes all that was made, also by a benchmark that was killed.
    async fn clean(&self) -> Result<()> {
        let step = self.session.events.step(Phase::Cleanup, "remove the benchmark's images and clusters");
        let clusters = self.clusters().clone();
        for name in &clusters {
            cleanup::delete_until_gone(&self.kind, name).await?;
        }
        let mut references = Docker.references().await?;
        references.retain(|reference| is_ours(reference));
        for reference in &references {
            Docker.remove(reference).await?;
        }
        for folder in [self.scratch(), self.folder.join("registry")].iter().filter(|folder| folder.exists()) {
            std::fs::remove_dir_all(folder).with_context(|| format!("remove {folder}"))?;
        }
        step.done("");
        Ok(())
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How many processes have wanted a processor, on an average of a minute.
fn load_of_machine() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// Whether a reference in the local Docker is the benchmark's: of its images, or of its registry.
fn is_ours(reference: &str) -> bool {
    let of_registry = reference.strip_prefix("127.0.0.1:").and_then(|rest| rest.split_once('/')).is_some_and(
        |(port, name)| port.bytes().all(|byte| byte.is_ascii_digit()) && name.starts_with("bench-"),
    );
    reference.starts_with(&images::prefix()) || of_registry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_benchmarks_own_references_are_removed() {
        for ours in ["k8s-test.local/bench-60:base", "127.0.0.1:5000/bench-60:base"] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["k8s-test.local/node:bench-1", "127.0.0.1:5000/app/bench-1:1", "docker.io/bench-1:1"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
