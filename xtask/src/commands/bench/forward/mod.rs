//! `bench forward`: connections to a pod by our forwards and by `kubectl port-forward`, on the same pod, in turns.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use xshell::{Shell, cmd};

use super::report::Facts;
use super::{load_of_machine, processors};
use crate::cleanup::Policy;
use crate::cli::{BenchForward, ForwardWay, K8sTest};
use crate::cmd::{self, Run as Program};
use crate::config::Workspace;
use crate::deploy::{self, Site};
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::forward::{self, Forward, Place};
use crate::namespaces::Namespaces;
use crate::pipeline::{self, Ground, Session};
use crate::plan::{ClusterPlan, Files, Plan};
use crate::reaper::Reaper;
use crate::{commands, names};

mod load;
mod report;
mod rollouts;

use report::{Report, Run};

/// What is deployed.
const SUITE: &str = "xtask/bench/forward";
/// The Deployment's pods, for kubectl.
const TARGET: &str = "deployment/bench-forward";
/// The server's port.
const PORT: u16 = 8080;
/// Requests that are not measured, before each run.
const WARM_UP: u32 = 20;
/// How long a run of kubectl may take.
const KUBECTL: Duration = Duration::from_secs(3600);
/// How long kubectl may take to listen.
const LISTEN: Duration = Duration::from_secs(30);

/// Who forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Peer {
    Direct,
    Api,
    Kubectl,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Direct => "directly",
            Peer::Api => "through the API server",
            Peer::Kubectl => "kubectl port-forward",
        }
    }
}

pub(super) async fn run(args: &BenchForward, env: &Env) -> Result<Exit> {
    let session = commands::session(env, None)?;
    let plan = plan(args, &session)?;
    let folder = session.workspace.root.join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("make the folder {folder}"))?;
    let facts = Facts { processors: processors(), load: load_of_machine(), ..Facts::default() };
    let (requests, mebibytes, rollouts) = (args.requests, args.body, args.rollouts);
    let report = Mutex::new(Report { facts, requests, mebibytes, rollouts, ..Report::default() });
    let _reaper = Reaper::start(Policy::of(&plan), &session.ledger)?;
    let bench = Bench { session, plan, args, report };
    let mut signals = commands::Signals::listen()?;
    let measured = tokio::select! {
        measured = bench.measure() => measured.map(|()| Exit::Passed),
        signal = signals.next() => Ok(Exit::Interrupted(signal)),
    };
    // What was interrupted has to be gone before what it made is removed.
    tokio::task::spawn_blocking(cmd::reap).await?;
    let cleaned = bench.clean().await;
    let mut report = bench.report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.complete = matches!(measured, Ok(Exit::Passed));
    let failed = report.noticed.iter().any(|(_, noticed)| noticed.failed > 0);
    let measured = measured.map(|exit| match exit {
        Exit::Passed if failed => Exit::TestsFailed,
        exit => exit,
    });
    if !report.runs.is_empty() || !report.noticed.is_empty() {
        report.write(&folder)?;
        print!("{}", report.markdown());
        bench.session.events.note(format!("written to {}", folder.join("forward.md")));
    }
    commands::after_tidying(&bench.session, measured, cleaned)
}

/// As for a run whose suite is the benchmark's server; a cluster of its own is deleted at the end.
fn plan(args: &BenchForward, session: &Session) -> Result<Plan> {
    let workspace: &Workspace = &session.workspace;
    let files = Files::load(workspace, &[workspace.root.join(SUITE).into_string()])?;
    let run = names::run_id(Timestamp::now());
    let asked = K8sTest { output: Some(workspace.root.join("target/bench/forward")), ..K8sTest::default() };
    let mut plan = Plan::resolve(&asked, &session.env, &files, &run, processors())?;
    let (name, ephemeral) = match &args.kind_cluster {
        Some(name) => (name.clone(), false),
        None => (super::ONE.to_owned(), true),
    };
    plan.cluster = ClusterPlan::Kind { name, ephemeral, named: true };
    Ok(plan)
}

struct Bench<'a> {
    session: Session,
    plan: Plan,
    args: &'a BenchForward,
    report: Mutex<Report>,
}

impl Bench<'_> {
    async fn measure(&self) -> Result<()> {
        let Bench { session, plan, args, .. } = self;
        let suite = &plan.suites[0];
        let (ground, ()) = pipeline::ground(session, plan, std::future::ready(Ok(()))).await?;
        pipeline::deliver(session, plan, &ground).await?;
        let namespaces = deploy::namespaces(session, plan, &ground.cluster, suite).await?;
        Site { session, plan, suite, ground: &ground, namespaces: &namespaces }.fixtures().await?;
        let direct = self.open(&ground, &namespaces, ForwardWay::Direct).await?;
        let api = self.open(&ground, &namespaces, ForwardWay::Api).await?;
        let kubectl = match kubectl() {
            Some(program) => Some(Kubectl::start(&program, &ground, &namespaces.first).await?),
            None => {
                session.events.warn("there is no kubectl on PATH, so our forwards are measured alone");
                None
            }
        };
        let kind = ground.machine.kind_client().version().await?.to_string();
        self.write(|report| {
            report.facts.docker = ground.machine.docker.server_version.clone();
            report.facts.kind = kind;
            report.kubectl = kubectl.as_ref().map(|kubectl| kubectl.version.clone());
        });
        let mut peers = vec![(Peer::Direct, address(&direct)?), (Peer::Api, address(&api)?)];
        let ours = peers.clone();
        peers.extend(kubectl.as_ref().map(|kubectl| (Peer::Kubectl, kubectl.address)));
        for run in 1..=args.runs {
            for (peer, address) in &peers {
                let step = session.events.step(Phase::Forward, format!("run {run}: {}", peer.name()));
                let measured = self.one(*peer, *address).await.with_context(|| peer.name())?;
                step.done(format!("p50 {:.2} ms", measured.p50));
                self.write(|report| report.runs.push(measured));
            }
        }
        drop(kubectl);
        if args.rollouts > 0 {
            for (peer, address) in ours {
                let step = session.events.step(Phase::Forward, format!("rollouts: {}", peer.name()));
                let (cluster, namespace) = (&ground.cluster, &namespaces.first);
                let requests = args.rollout_requests;
                let noticed =
                    rollouts::measure(cluster, namespace, address, args.rollouts, requests, &step).await?;
                step.done(format!("{} of {} requests failed", noticed.failed, noticed.requests));
                self.write(|report| report.noticed.push((peer, noticed)));
            }
        }
        Ok(())
    }

    async fn one(&self, peer: Peer, address: SocketAddr) -> Result<Run> {
        for _ in 0..WARM_UP {
            load::get(address, "/").await?;
        }
        let mut times = Vec::new();
        for _ in 0..self.args.requests {
            let begun = Instant::now();
            load::get(address, "/").await?;
            times.push(begun.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let begun = Instant::now();
        let (bytes, _) = load::get(address, &format!("/large/{}", self.args.body)).await?;
        let throughput = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
        let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
        Ok(Run { peer, p50: at(0.5), p99: at(0.99), throughput })
    }

    /// Opens the suite's forward by one way and proves it.
    async fn open(&self, ground: &Ground, namespaces: &Namespaces, way: ForwardWay) -> Result<Forward> {
        let Bench { session, plan, .. } = self;
        let suite = &plan.suites[0];
        let Session { ledger, events, .. } = session;
        let place =
            Place { cluster: &ground.cluster, suite, run: &plan.run, namespaces, way, ledger, events };
        let (name, spec) = suite.forwards.first_key_value().context("the suite has no forward")?;
        let forward = forward::open(place, name, spec).await?;
        forward.prove(false, events).await?;
        Ok(forward)
    }

    fn write(&self, write: impl FnOnce(&mut Report)) {
        write(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn clean(&self) -> Result<()> {
        let Bench { session, plan, .. } = self;
        commands::clean_up(session, &Policy::of(plan), false).await
    }
}

fn address(forward: &Forward) -> Result<SocketAddr> {
    Ok(forward.url.trim_start_matches("http://").parse()?)
}

/// kubectl, where it is installed.
fn kubectl() -> Option<Utf8PathBuf> {
    let paths = Env::search_path().into_iter().map(|folder| folder.join("kubectl"));
    paths.filter(|path| path.is_file()).find_map(|path| Utf8PathBuf::from_path_buf(path).ok())
}

/// A `kubectl port-forward`, ended when dropped.
struct Kubectl {
    address: SocketAddr,
    version: String,
    _running: JoinSet<()>,
}

impl Kubectl {
    async fn start(program: &Utf8PathBuf, ground: &Ground, namespace: &str) -> Result<Kubectl> {
        let sh = Shell::new()?;
        let kubeconfig = &ground.cluster.kubeconfig;
        let version =
            Program::new(cmd!(sh, "{program} version --client --output json"), LISTEN).success().await?;
        let version: serde_json::Value = serde_json::from_str(&version.stdout)?;
        let version = version["clientVersion"]["gitVersion"].as_str().unwrap_or_default().to_owned();
        let port = format!(":{PORT}");
        let command = cmd!(
            sh,
            "{program} --kubeconfig {kubeconfig} --namespace {namespace} port-forward {TARGET} {port} --address 127.0.0.1"
        );
        let (sender, listening) = oneshot::channel();
        let mut sender = Some(sender);
        let program = Program::new(command, KUBECTL).on_line(move |line| {
            let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next());
            if let Some(address) = address.and_then(|address| address.parse().ok())
                && let Some(sender) = sender.take()
            {
                let _ = sender.send(address);
            }
        });
        let mut running = JoinSet::new();
        running.spawn(async move { drop(program.output().await) });
        let address = tokio::time::timeout(LISTEN, listening)
            .await
            .map_err(|_| anyhow!("kubectl port-forward does not listen"))
            .and_then(|address| address.context("kubectl port-forward has ended"))
            .or_exit(Exit::Environment)?;
        Ok(Kubectl { address, version, _running: running })
    }
}
