//! `corpus`: the verdict on recorded failures, measured; and the recording of more.

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt;
use jiff::Timestamp;

use super::clean::{Reached, reach};
use crate::cleanup::Policy;
use crate::cli::{Corpus, CorpusCases, Keep};
use crate::config::Workspace;
use crate::env::Env;
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith, message};
use crate::journal::Tools;
use crate::pipeline::Session;
use crate::plan::{ClusterPlan, DEFAULT_CLUSTER};
use crate::ready::corpus::{self, Score};
use crate::ready::tape::{self, Tape};
use crate::reaper::Reaper;
use crate::setup::Machine;
use crate::{fail, fixtures, images, names, text};

/// The image that the cases' containers run.
const IMAGE: &str = "python-base";
/// What several cases need beside their own objects, such as a registry that refuses.
const SHARED: &str = "shared/registry.yaml";

pub(super) async fn run(args: &Corpus, env: &Env) -> Result<Exit> {
    let folder = folder_of_cases();
    match args {
        Corpus::Score => {
            let score = corpus::score(&folder)?;
            print(&score);
            Ok(if score.wrong.is_empty() { Exit::Passed } else { Exit::TestsFailed })
        }
        Corpus::Record(args) => on_cluster(args, env, &folder, Deed::Record).await,
        Corpus::Live(args) => on_cluster(args, env, &folder, Deed::Live).await,
    }
}

fn folder_of_cases() -> Utf8PathBuf {
    Workspace::here().root.join("xtask/corpus")
}

fn print(score: &Score) {
    let Score { failures, right, early, healing, aborted, wrong, took } = score;
    println!("{failures} failures: the cause of {right} found, {early} of them before the recording's end");
    println!("{healing} start-ups that heal: {aborted} given up");
    let p99 = score.p99().as_secs_f64() * 1e3;
    println!("{} changes, 99 of 100 judged within {p99:.1} ms of their coming", took.len());
    for line in wrong {
        println!("  {line}");
    }
}

/// What is done with a case on a cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Record,
    Live,
}

/// The cases that were named, or those that are meant where none was.
fn choose(folder: &Utf8Path, named: &[String], deed: Deed) -> Result<Vec<String>> {
    let known = corpus::names(folder)?;
    for name in named {
        if !known.contains(name) {
            let near = text::suggestion(name, known.iter().map(String::as_str));
            fail!(Exit::Usage, "there is no case `{name}` in {folder}{near}");
        }
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let mut chosen = Vec::new();
    for name in known {
        let meant = match deed {
            Deed::Record => !corpus::recording(folder, &name).exists(),
            Deed::Live => corpus::load(folder, &name).or_exit(Exit::Usage)?.live,
        };
        chosen.extend(meant.then_some(name));
    }
    Ok(chosen)
}

async fn on_cluster(args: &CorpusCases, env: &Env, folder: &Utf8Path, deed: Deed) -> Result<Exit> {
    let session = super::session(env, None)?;
    let chosen = choose(folder, &args.cases, deed)?;
    let machine = session.machine(true).await?;
    let cluster = args.kind_cluster.as_deref().unwrap_or(DEFAULT_CLUSTER);
    let site = Site { session: &session, machine: &machine, cluster, folder, jobs: usize::from(args.jobs) };
    let wrong = site.run(chosen, deed).await?;
    Ok(if wrong > 0 && deed == Deed::Live { Exit::TestsFailed } else { Exit::Passed })
}

/// The live cases on a cluster that is made for them and deleted: how many came out right, how many wrong. `then` is done
/// on it before it goes.
///
/// # Errors
/// The cluster cannot be made, or cases not applied to it.
pub(super) async fn live_afresh(
    session: &Session,
    machine: &Machine,
    then: impl AsyncFnOnce(&str) -> Result<()>,
) -> Result<(usize, usize)> {
    let name = format!("{DEFAULT_CLUSTER}-corpus-{}", names::suffix());
    let cases = folder_of_cases();
    let policy = Policy {
        run: names::run_id(Timestamp::now()),
        keep: Keep::Never,
        cluster: ClusterPlan::Kind { name: name.clone(), ephemeral: true, named: true },
        output: session.workspace.runs().join("corpus"),
    };
    let _reaper = Reaper::start(policy.clone(), &session.ledger)?;
    let tools = Tools { kind: machine.kind.clone(), helm: machine.helm.clone() };
    session.ledger.note(|entry| entry.tools = Some(tools));
    let done = async {
        let (maker, own) = (session.maker(machine, true), policy.kubeconfig());
        let (made, _) = session.cluster(&maker, machine, &policy.cluster, &policy.run, &own).await?;
        let _lease = session.hold(&policy, &made, machine.kind_client());
        let chosen = choose(&cases, &[], Deed::Live)?;
        let count = chosen.len();
        let site = Site { session, machine, cluster: &name, folder: &cases, jobs: 6 };
        let wrong = site.run(chosen, Deed::Live).await?;
        then(&name).await?;
        anyhow::Ok((count - wrong, wrong))
    };
    let done = done.await;
    machine.kind_client().delete(&name, None).await.or_exit(Exit::Leftovers)?;
    session.ledger.note(|entry| entry.done = true);
    done
}

/// A Kind cluster that exists, reached, with the image of the cases on its nodes; and that image's reference.
///
/// # Errors
/// There is no such cluster (exit 2), or the image cannot be made or brought.
pub(super) async fn stage(session: &Session, machine: &Machine, cluster: &str) -> Result<(Reached, String)> {
    let kind = machine.kind_client();
    let (nodes, looked) = images::deliver::look_at_cluster(&kind, cluster, &[]).await?;
    if nodes.is_empty() {
        fail!(Exit::Usage, "there is no Kind cluster {cluster}; `cargo xtask cluster up` makes one");
    }
    let order = session.images.closure(&[IMAGE.to_owned()])?;
    let built = images::make(&session.maker(machine, true), &session.images, &order).await?;
    let image = [built[IMAGE].wanted()?];
    let push = session.push(machine, true);
    images::deliver::deliver(&nodes, Some(looked), &image, &push, &session.events).await?;
    Ok((reach(&kind, cluster, &machine.helm).await?, built[IMAGE].reference.clone()))
}

/// Where cases are applied.
struct Site<'a> {
    session: &'a Session,
    machine: &'a Machine,
    cluster: &'a str,
    folder: &'a Utf8Path,
    jobs: usize,
}

impl Site<'_> {
    /// Does the cases, some at a time; how many did not come out as they say.
    async fn run(&self, chosen: Vec<String>, deed: Deed) -> Result<usize> {
        let Site { session, machine, cluster, folder, jobs } = *self;
        let (reached, image) = stage(session, machine, cluster).await?;
        let image = image.as_str();
        let client = &reached.client;
        let shared = std::fs::read_to_string(folder.join(SHARED))
            .with_context(|| format!("read {folder}/{SHARED}"))?;
        let shared =
            minijinja::Environment::new().render_str(&shared, minijinja::context! { image => image })?;
        let beside = format!("corpus-{}", names::suffix());
        let events = &session.events;
        // The waits of many cases would fill the console with their progress.
        let silent = &Events::new(Vec::new());
        let one = |name: String| async move {
            let verb = if deed == Deed::Record { "record" } else { "apply" };
            let step = events.step(Phase::Ready, format!("{verb} {name}"));
            let case = corpus::load(folder, &name).or_exit(Exit::Usage)?;
            let namespace = format!("corpus-{}", names::suffix());
            let to = corpus::recording(folder, &name);
            let tape = Tape { name: &name, case: &case, namespace: &namespace, image, to: &to };
            let outcome = match deed {
                Deed::Record => {
                    tape::record(client, tape).await?;
                    corpus::replay(&corpus::recorded(folder, &name)?)?
                }
                Deed::Live => tape::live(client, tape, silent).await?,
            };
            let right = corpus::is_right(&case, &outcome);
            let shown = if right { "as it should" } else { "NOT as it should" };
            step.done(format!("{shown}: {}", outcome.describe()));
            anyhow::Ok(right)
        };
        let mut failed = Vec::new();
        let mut wrong = 0;
        let count = chosen.len();
        let all = async {
            fixtures::apply_text(client, SHARED.into(), &shared, &beside, "k8s-test-corpus").await?;
            let mut ends = futures::stream::iter(chosen)
                .map(|name| async { (name.clone(), one(name).await) })
                .buffer_unordered(jobs);
            while let Some((name, end)) = ends.next().await {
                match end {
                    Ok(right) => wrong += usize::from(!right),
                    Err(error) => failed.push(format!("{name}: {}", message(&error))),
                }
            }
            Ok(())
        };
        tape::inside(client, &beside, "shared", all).await.or_exit(Exit::Environment)?;
        if !failed.is_empty() {
            let number = text::count(failed.len(), "case");
            fail!(
                Exit::Environment,
                "{number} could not be applied:\n{}",
                text::indent(&failed.join("\n"), "  ")
            );
        }
        println!("{}, {wrong} not as it should be", text::count(count, "case"));
        Ok(wrong)
    }
}
