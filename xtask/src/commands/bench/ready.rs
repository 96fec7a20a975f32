//! `bench wait` and `bench fail`: how long until a release is known to be ready, or known to have failed, and whether
//! the cause is named; ours beside helm and kubectl, in turns, each in a namespace of its own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use tokio::time::Instant;
use xshell::{Shell, cmd};

use super::report::median;
use crate::cli::BenchReady;
use crate::cmd::{Output, Run};
use crate::commands::clean::Reached;
use crate::commands::corpus::stage;
use crate::env::Env;
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith};
use crate::helm::Install;
use crate::plan::DEFAULT_CLUSTER;
use crate::ready::asked::{Asked, Kind};
use crate::ready::corpus;
use crate::ready::tape::{self, Tape};
use crate::release::{Installed, Texts};
use crate::setup::Mend;
use crate::{names, ready, setup};

/// Cases of the corpus, and a word of the cause that a message should have.
const WAIT: [(&str, &str); 2] = [("heals-plain", ""), ("heals-slow-start", "")];
const FAIL: [(&str, &str); 4] = [
    ("image-never-pulled", "nowhere"),
    ("secret-missing-env", "db-password"),
    ("program-not-in-image", "dagster-webserver"),
    ("crash-at-once", "status 1"),
];

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Peer {
    Ours,
    Helm4,
    Helm3,
    KubectlWait,
    RolloutStatus,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Ours => "ours",
            Peer::Helm4 => "helm 4 --wait",
            Peer::Helm3 => "helm 3 --wait",
            Peer::KubectlWait => "kubectl wait",
            Peer::RolloutStatus => "kubectl rollout status",
        }
    }
}

#[derive(Debug, Serialize)]
struct Value {
    case: &'static str,
    peer: Peer,
    seconds: f64,
    /// Whether it ended with what was to be expected: success, or a failure.
    right: bool,
    /// Whether its message named the cause.
    named: bool,
}

struct Bench<'a> {
    reached: &'a Reached,
    /// The helms to compare with.
    helms: BTreeMap<Peer, Utf8PathBuf>,
    image: &'a str,
    cases: Utf8PathBuf,
    folder: &'a Utf8Path,
    timeout: Duration,
}

pub(super) async fn run(args: &BenchReady, failing: bool, env: &Env) -> Result<Exit> {
    let session = crate::commands::session(env, None)?;
    let machine = session.machine(true).await?;
    let cluster = args.kind_cluster.as_deref().unwrap_or(DEFAULT_CLUSTER);
    let (reached, image) = stage(&session, &machine, cluster).await?;
    let mut helms = BTreeMap::from([(Peer::Helm3, setup::helm_3(session.setup(Mend::Yes)).await?)]);
    if machine.helm_version.0 >= 4 {
        helms.insert(Peer::Helm4, machine.helm.clone());
    }
    let peers: Vec<Peer> = [Peer::Ours]
        .into_iter()
        .chain(helms.keys().copied())
        .chain([Peer::KubectlWait, Peer::RolloutStatus])
        .collect();
    let scratch = tempfile::tempdir()?;
    let bench = Bench {
        reached: &reached,
        helms,
        image: &image,
        cases: session.workspace.root.join("xtask/corpus"),
        folder: Utf8Path::from_path(scratch.path()).context("a folder with a name in UTF-8")?,
        timeout: Duration::from_secs(args.timeout.into()),
    };
    let mut values = Vec::new();
    let cases: &[(&str, &str)] = if failing { &FAIL } else { &WAIT };
    for run in 0..args.runs {
        for &(case, word) in cases {
            // Each is first in turn: what the one before it leaves to the cluster is not always the same one's.
            for at in 0..peers.len() {
                let peer = peers[(at + usize::from(run)) % peers.len()];
                let step = session.events.step(Phase::Ready, format!("{case}: {}", peer.name()));
                let value = bench.measure(case, word, peer, failing).await?;
                let shown = if value.right { "" } else { ", NOT as it should" };
                step.done(format!("{:.1} s{shown}", value.seconds));
                values.push(value);
            }
        }
    }
    let name = if failing { "fail" } else { "wait" };
    let table = table(&values, &peers, cases, failing);
    let folder = session.workspace.root.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(&values)?)?;
    std::fs::write(folder.join(format!("{name}.md")), &table)?;
    print!("{table}");
    Ok(Exit::Passed)
}

impl Bench<'_> {
    async fn measure(&self, case: &'static str, word: &str, peer: Peer, failing: bool) -> Result<Value> {
        let namespace = format!("bench-{}", names::suffix());
        let mut value = None;
        let work = async {
            let loaded = corpus::load(&self.cases, case).or_exit(Exit::Usage)?;
            let to = self.folder.join("unused");
            let tape = Tape { name: case, case: &loaded, namespace: &namespace, image: self.image, to: &to };
            let manifest = tape.render(&loaded.manifest)?;
            let chart = self.chart(case, &manifest)?;
            let begun = Instant::now();
            let (ended_well, said) = self.wait(peer, &namespace, &chart, &manifest).await?;
            let seconds = begun.elapsed().as_secs_f64();
            let named = !word.is_empty() && said.contains(word);
            value = Some(Value { case, peer, seconds, right: ended_well != failing, named });
            Ok(())
        };
        tape::inside(&self.reached.client, &namespace, "bench", work).await.or_exit(Exit::Environment)?;
        value.context("nothing was measured")
    }

    /// A chart of one template, which is the manifest.
    fn chart(&self, name: &str, manifest: &str) -> Result<Utf8PathBuf> {
        let chart = self.folder.join(name);
        std::fs::create_dir_all(chart.join("templates"))?;
        std::fs::write(chart.join("Chart.yaml"), format!("apiVersion: v2\nname: {name}\nversion: 0.1.0\n"))?;
        std::fs::write(chart.join("templates/all.yaml"), manifest)?;
        Ok(chart)
    }

    /// Installs and waits as `peer` does; whether it says that all is ready, and what it says.
    async fn wait(
        &self,
        peer: Peer,
        namespace: &str,
        chart: &Utf8Path,
        manifest: &str,
    ) -> Result<(bool, String)> {
        let helm = &self.reached.helm;
        if let Some(program) = self.helms.get(&peer) {
            let seconds = self.timeout.as_secs().to_string();
            let sh = Shell::new()?;
            let command = cmd!(
                sh,
                "{program} upgrade --install bench {chart} --namespace {namespace} --wait --timeout {seconds}s"
            );
            let end = self.program(command).await?;
            return Ok((end.status.success(), end.tail));
        }
        let labels = &BTreeMap::new();
        let install =
            Install { name: "bench", namespace, chart, values: &[], args: &[], folder: chart, labels };
        helm.upgrade_install(&install, self.timeout).await?;
        let asked = Asked::read(manifest, namespace)?;
        if peer == Peer::Ours {
            let patience = ready::patience::Patience::default();
            let (name, timeout, texts) = ("bench".to_owned(), self.timeout, Texts::default());
            let release = Installed { name, asked, patience, timeout, texts };
            let (beside, events) = (Asked::default(), Events::new(Vec::new()));
            let place = ready::Place {
                client: &self.reached.client,
                clock: &self.reached.clock,
                beside: &beside,
                events: &events,
            };
            let end = ready::watch(place, &[release]).await;
            return Ok((end.is_ok(), end.err().map_or(String::new(), |failure| failure.text)));
        }
        let deadline = Instant::now() + self.timeout;
        let mut said = String::new();
        for item in asked.items.iter().filter(|item| item.kind.is_workload()) {
            let left = deadline.saturating_duration_since(Instant::now()).as_secs().max(1).to_string();
            let object = format!("{}/{}", item.kind.name().to_lowercase(), item.key.name);
            let sh = Shell::new()?;
            // kubectl wait knows no condition of a StatefulSet.
            let command = if peer == Peer::KubectlWait && item.kind == Kind::Deployment {
                cmd!(
                    sh,
                    "kubectl --namespace {namespace} wait --for=condition=Available {object} --timeout={left}s"
                )
            } else {
                cmd!(sh, "kubectl --namespace {namespace} rollout status {object} --timeout={left}s")
            };
            let end = self.program(command).await?;
            said.push_str(&end.tail);
            if !end.status.success() {
                return Ok((false, said));
            }
        }
        Ok((true, said))
    }

    async fn program(&self, command: xshell::Cmd<'_>) -> Result<Output> {
        Run::new(command, self.timeout + Duration::from_secs(30))
            .env("KUBECONFIG", self.reached.helm.kubeconfig.as_str())
            .output()
            .await
    }
}

/// A row for each case: the medians, and what each is of ours.
fn table(values: &[Value], peers: &[Peer], cases: &[(&'static str, &str)], failing: bool) -> String {
    let mut text = String::from("| case |");
    let _ = peers.iter().try_for_each(|peer| write!(text, " {} |", peer.name()));
    let _ = writeln!(text, "\n|---{}|", "|---".repeat(peers.len()));
    for (case, _) in cases {
        let of = |peer: Peer| values.iter().filter(move |value| value.case == *case && value.peer == peer);
        let middle = |peer| {
            let mut seconds: Vec<f64> = of(peer).map(|value| value.seconds).collect();
            seconds.sort_by(f64::total_cmp);
            median(&seconds).unwrap_or(0.0)
        };
        let ours = middle(Peer::Ours);
        let _ = write!(text, "| {case} |");
        for &peer in peers {
            let _ = write!(text, " {:.1} s", middle(peer));
            if peer != Peer::Ours && ours > 0.0 {
                let _ = write!(text, " ({:.1} x)", middle(peer) / ours);
            }
            if of(peer).any(|value| !value.right) {
                text.push_str(", wrong end");
            }
            if failing {
                text.push_str(if of(peer).all(|value| value.named) { ", cause named" } else { ", no cause" });
            }
            text.push_str(" |");
        }
        text.push('\n');
    }
    text
}
