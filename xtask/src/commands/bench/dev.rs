//! `bench dev`: from saving a file of an image to the new pods' containers, by what `dev` does, in a copy of the files.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use kind_client::Node;
use kube::Client;
use serde::Serialize;

use super::super::copied::{copy, copy_workspace, own};
use super::report::range;
use super::starts::{NewPods, Start};
use super::{load_of_machine, processors};
use crate::cleanup::Policy;
use crate::cli::{BenchDev, K8sTest, Keep};
use crate::config::{ImagesFile, Suite, Workspace};
use crate::docker::Docker;
use crate::env::Env;
use crate::exit::Exit;
use crate::images::{Built, How};
use crate::local::saves::Saves;
use crate::local::sources::Sources;
use crate::local::standing::{Failures, Standing};
use crate::local::todo::Stage;
use crate::pipeline::{self, Session};
use crate::plan::{Files, Plan};
use crate::reaper::Reaper;
use crate::{fail, local, names, text};

/// One save.
#[derive(Clone, Copy, Debug, Serialize)]
struct Value {
    /// Until the first new pod's container had started.
    started: f64,
    /// Until the API server showed one that had.
    shown: f64,
    /// Until those of all new pods had.
    all_started: f64,
    /// Until all was ready and the forwards were proven.
    proven: f64,
    /// Of that what `docker build` took.
    build: f64,
}

impl Value {
    /// What came on top of the build until the first container.
    fn ours(self) -> f64 {
        self.started - self.build
    }
}

pub(super) async fn run(args: &BenchDev, env: &Env) -> Result<Exit> {
    let load = load_of_machine();
    let here = Workspace::here();
    let copied = copy_of(&here, args)?;
    let run = names::run_id(Timestamp::now());
    let flags = K8sTest {
        suites: vec![copied.suite.to_string()],
        cluster: args.cluster.clone(),
        output: Some(here.runs().join(&run)),
        ..K8sTest::default()
    };
    let (images, plan) = local::resolve(&flags, env, &copied.workspace, &run)?;
    // Unlike what `dev` leaves, it is of no use afterwards.
    let plan = Plan { keep: Keep::Never, ..plan };
    let session = Session { images, ..super::super::session(env, None)? };
    let policy = Policy::of(&plan);
    let _reaper = Reaper::start(policy.clone(), &session.ledger)?;
    let mut signals = super::super::Signals::listen()?;
    let built = Mutex::new(Vec::new());
    let measured = tokio::select! {
        measured = measure(&session, &plan, &copied, args.runs, &built) => measured.map(Ok),
        signal = signals.next() => Ok(Err(signal)),
    };
    tokio::task::spawn_blocking(crate::cmd::reap).await?;
    let cleaned = super::super::clean_up(&session, &policy, false).await;
    // Nobody needs the images of the saves again; a name more that stays does no harm.
    let names = built.into_inner().unwrap_or_else(PoisonError::into_inner);
    for name in names {
        if let Err(error) = Docker.remove(&name).await {
            session.events.warn(format!("the image {name} stays in the local Docker: {error:#}"));
        }
    }
    let values = match measured? {
        Ok(values) => values,
        Err(signal) => return Ok(Exit::Interrupted(signal)),
    };
    let report = report(&args.file, &plan.suites[0].id(), &values, load);
    let folder = here.root.join("target/bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("make the folder {folder}"))?;
    std::fs::write(folder.join("dev.md"), &report).with_context(|| format!("write {folder}/dev.md"))?;
    std::fs::write(folder.join("dev.json"), serde_json::to_string_pretty(&values)?)?;
    print!("{report}");
    cleaned?;
    Ok(Exit::Passed)
}

/// A copy of what is deployed.
struct Copy {
    workspace: Workspace,
    /// The suite's folder, named apart, so that nobody's deployment of that suite is taken for this one.
    suite: Utf8PathBuf,
    /// The file to change.
    file: Utf8PathBuf,
}

fn copy_of(here: &Workspace, args: &BenchDev) -> Result<Copy> {
    let files = Files::load(here, std::slice::from_ref(&args.suite))?;
    let (folder, _) = files.suites.first().context("there is no such suite")?;
    let (Ok(inside), Some(name)) = (folder.strip_prefix(&here.root), folder.file_name()) else {
        fail!(Exit::Usage, "{folder} is not in {}", here.root);
    };
    let root = here.root.join("target/bench/dev");
    let _ = std::fs::remove_dir_all(&root);
    copy_workspace(&here.root, &root)?;
    own(&here.root, &root, inside)?;
    own(&here.root, &root, &args.file)?;
    let suite = root.join(inside).with_file_name(format!("bench-{name}"));
    copy(folder, &suite)?;
    let file = root.join(&args.file);
    if !file.is_file() {
        fail!(Exit::Usage, "there is no file {} in {}", args.file, here.root);
    }
    Ok(Copy { workspace: Workspace { root }, suite, file })
}

/// The values of all saves; the names of the images that they make go to `names`.
async fn measure(
    session: &Session,
    plan: &Plan,
    copied: &Copy,
    runs: u16,
    names: &Mutex<Vec<String>>,
) -> Result<Vec<Value>> {
    let suite = &plan.suites[0];
    let sources = sources(copied, &session.images, plan, suite)?;
    let mut saves = Saves::watch(sources)?;
    let (ground, ()) = pipeline::ground(session, plan, std::future::ready(Ok(()))).await?;
    let (client, nodes) = (ground.cluster.client.clone(), ground.cluster.nodes.clone());
    let mut standing = Standing::settle(session, plan.clone(), ground, Failures::default()).await?;
    standing.catch_up().await?;
    let mut values = Vec::new();
    for run in 1..=runs {
        // As `dev` does while it waits.
        standing.prepare().await;
        let (value, built) = one(&mut standing, &mut saves, &client, &nodes, copied).await?;
        names.lock().unwrap_or_else(PoisonError::into_inner).extend(built);
        session.events.note(format!(
            "save {run}: the first container after {:.2} s, of which docker build {:.2} s",
            value.started, value.build
        ));
        values.push(value);
    }
    Ok(values)
}

fn sources(copied: &Copy, images: &ImagesFile, plan: &Plan, suite: &Suite) -> Result<Sources> {
    // No test is run, so none is watched.
    let sources = Sources::gather(&copied.workspace, images, &plan.images, suite, Vec::new())?;
    if !sources.todo([&copied.file]).has(Stage::Images) {
        fail!(Exit::Usage, "{} is in the build context of no image that {} needs", copied.file, suite.id());
    }
    Ok(sources)
}

/// Saves the file and does what that asks for; with the names of the images that were built.
async fn one(
    standing: &mut Standing,
    saves: &mut Saves,
    client: &Client,
    nodes: &[Node],
    copied: &Copy,
) -> Result<(Value, Vec<String>)> {
    let namespaces = standing.namespaces().by_role.values().cloned();
    let pods = NewPods::of(client, namespaces).await?;
    let text = std::fs::read_to_string(&copied.file)?;
    // A blank line more is another content in any language; one that no earlier benchmark has built.
    let secret = (0..8).flat_map(|_| names::suffix().into_bytes());
    let line: String = secret.map(|byte| if byte % 2 == 0 { ' ' } else { '\t' }).collect();
    let save = async {
        let start = Timestamp::now();
        std::fs::write(&copied.file, format!("{text}{line}\n"))
            .with_context(|| format!("write {}", copied.file))?;
        let mut change = saves.next().await;
        change.todo.stages.remove(&Stage::Tests);
        let images = change.todo.images.clone();
        standing.todo.join(change.todo);
        standing.catch_up().await?;
        anyhow::Ok((start, Timestamp::now(), images))
    };
    // A rollout has ended when all is ready, so by then all that start have started.
    let (start, proven, images) = tokio::select! {
        saved = save => saved?,
        failed = pods.watch() => return Err(failed),
    };
    let built = standing.built().values();
    let built: Vec<&Built> =
        built.filter(|built| images.contains(&built.name) && built.how == How::Built).collect();
    let build = built.iter().map(|built| built.docker).sum::<Duration>();
    let names = built.iter().flat_map(|built| built.image.repo_tags.iter().chain([&built.reference]));
    let names = names.cloned().collect();
    let starts = pods.starts(nodes, start).await?;
    let since = |time: Timestamp| time.duration_since(start).as_secs_f64();
    let all = |of: fn(&Start) -> Timestamp| starts.iter().map(of);
    let none = "no container of a new pod was seen to start";
    let value = Value {
        started: since(all(|start| start.logged).min().context(none)?),
        shown: since(all(|start| start.shown).min().context(none)?),
        all_started: since(all(|start| start.logged).max().context(none)?),
        proven: since(proven),
        build: build.as_secs_f64(),
    };
    Ok((value, names))
}

fn report(file: &Utf8Path, suite: &str, values: &[Value], load: f64) -> String {
    let column = |of: fn(&Value) -> f64| {
        let mut seconds: Vec<f64> = values.iter().map(of).collect();
        seconds.sort_by(f64::total_cmp);
        range(&seconds, "s")
    };
    let mut out = "# From saving a file to the new pods\n\n".to_owned();
    _ = writeln!(
        out,
        "`{file}`, deployed by {}; {} with the median (least to greatest), {} processors with a load of {load:.1} before.\n",
        suite,
        text::count(values.len(), "save"),
        processors()
    );
    out.push_str("| from the save until | |\n|---|---|\n");
    type Column = fn(&Value) -> f64;
    let rows: [(&str, Column); 6] = [
        ("the first new container has started, by containerd's log", |value| value.started),
        ("of that `docker build`", |value| value.build),
        ("of that ours", |value| value.ours()),
        ("the API server shows it", |value| value.shown),
        ("all new containers have started", |value| value.all_started),
        ("all is ready and the forwards are proven", |value| value.proven),
    ];
    for (what, of) in rows {
        _ = writeln!(out, "| {what} | {} |", column(of));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_what_the_build_did_not_take() {
        let value = |started| Value { started, shown: 5.0, all_started: 9.0, proven: 20.0, build: 1.5 };
        let report = report("a.py".into(), "s/default", &[value(4.0), value(3.5), value(9.0)], 0.1);
        assert!(report.contains("| of that ours | 2.50 s (2.00 to 7.50) |"), "{report}");
        assert!(report.contains("3 saves"), "{report}");
    }
}
