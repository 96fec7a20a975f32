//! `dev`: from a save to its tests, again and again.

use anyhow::Result;

use super::Signals;
use super::up::{self, Left, Request};
use crate::cleanup::Policy;
use crate::cli::Dev;
use crate::config::{ImagesFile, Run};
use crate::env::Env;
use crate::exit::{Exit, message};
use crate::local::keys::{Key, Keys};
use crate::local::saves::{Change, Saves};
use crate::local::sources::Sources;
use crate::local::standing::{Failures, Standing};
use crate::local::todo::{Stage, Todo};
use crate::pipeline::{self, Session};
use crate::plan::Plan;
use crate::reaper::Reaper;
use crate::suites::compile;
use crate::{fail, text};

/// Files that a line names.
const NAMED: usize = 3;

pub(super) async fn run(args: &Dev, env: &Env) -> Result<Exit> {
    let request = Request::new(&args.local, &args.filters, args.jobs, env)?;
    let failures = Failures::default();
    let session = super::session(env, Some(Box::new(failures.clone())))?;
    let mut signals = Signals::listen()?;
    let _reaper = Reaper::start(Policy::of(&request.plan), &session.ledger)?;
    let mut keys = Keys::listen();
    let end = tokio::select! {
        end = iterate(&session, &request, failures, &mut keys) => end,
        signal = signals.next() => Ok(Exit::Interrupted(signal)),
    };
    let left = match up::end_of(&session, &request.plan, &mut signals).await {
        Left::Tidy(left) => left,
        Left::AtOnce(signal) => return Ok(Exit::Interrupted(signal)),
    };
    super::after_tidying(&session, end, left)
}

/// What ends a wait.
enum Happened {
    CaughtUp(Result<()>),
    Saved(Change),
    Typed(Key),
    Lost(String),
}

/// Deploys, then answers saves and keys; gives how the last pass ended.
async fn iterate(session: &Session, request: &Request, failures: Failures, keys: &mut Keys) -> Result<Exit> {
    // From here on no change is missed.
    let mut saves = watch(session, &session.images, &request.plan).await?;
    let mut standing = tokio::select! {
        standing = start(session, request, failures) => standing?,
        () = up::quit(keys) => return Ok(Exit::Passed),
    };
    let mut last = Exit::Passed;
    let mut idle = false;
    loop {
        let lost = standing.lost();
        let work = async {
            if idle {
                standing.prepare().await;
                std::future::pending().await
            } else {
                standing.catch_up().await
            }
        };
        let happened = tokio::select! {
            end = work => Happened::CaughtUp(end),
            change = saves.next() => Happened::Saved(change),
            key = keys.next() => Happened::Typed(key),
            // Whatever was under way fails by that.
            lost = lost => Happened::Lost(lost),
        };
        // What was under way is gone; the programs that it had started must not work beside the next ones.
        tokio::task::spawn_blocking(crate::cmd::reap).await?;
        match happened {
            Happened::CaughtUp(end) => {
                last = verdict(session, &standing, end);
                idle = true;
                session.events.note("waiting for a change; `r` runs the tests again, `q` quits");
            }
            Happened::Lost(lost) => fail!(Exit::Environment, "{lost}"),
            Happened::Typed(Key::Quit) => return Ok(last),
            Happened::Typed(Key::Rerun) => {
                standing.todo.join(Todo::of([Stage::Tests]));
                idle = false;
            }
            Happened::Saved(Change { paths, todo }) => {
                let shown = paths.iter().take(NAMED).map(|path| session.workspace.show(path).as_str());
                let shown = shown.collect::<Vec<_>>().join(", ");
                let more = match paths.len().saturating_sub(NAMED) {
                    0 => String::new(),
                    more => format!(" and {}", text::count(more, "other")),
                };
                session.events.note(format!("changed: {shown}{more}"));
                standing.todo.join(todo);
                let lists = [".dockerignore", ".gitignore", "Chart.yaml"];
                let anew =
                    paths.iter().any(|path| path.file_name().is_some_and(|name| lists.contains(&name)));
                let redefined = redefine(session, request, &mut standing, &mut saves, anew).await;
                idle = redefined.is_err();
                if redefined.is_err() {
                    last = verdict(session, &standing, redefined);
                }
            }
        }
    }
}

/// The deployment, with the tests built while its cluster and images are made.
async fn start(session: &Session, request: &Request, failures: Failures) -> Result<Standing> {
    // Tests that do not build are to be mended while we watch.
    let tests = async { Ok(pipeline::select(session, &request.plan).await) };
    let (mut standing, tests) = up::start(session, request.plan.clone(), failures, tests).await?;
    standing.todo.join(Todo::of([Stage::Tests]));
    match tests {
        Ok(tests) => standing.tests = tests.into_iter().flatten().collect(),
        Err(error) => {
            session.events.warn(message(&error));
            standing.todo.join(Todo::of([Stage::Compile]));
        }
    }
    Ok(standing)
}

/// Reads suite.yaml and images.yaml again where they have changed, and watches what they name then; with `anew` only
/// the lists of what to ignore, or of the charts that others need, have changed.
async fn redefine(
    session: &Session,
    request: &Request,
    standing: &mut Standing,
    saves: &mut Saves,
    anew: bool,
) -> Result<()> {
    if standing.todo.has(Stage::Definitions) {
        let (images, plan) = request.again()?;
        standing.redefine(images, plan).await?;
    } else if !anew {
        return Ok(());
    }
    *saves = watch(session, standing.images(), standing.plan()).await?;
    Ok(())
}

/// Watches what the plan's suite is made from.
async fn watch(session: &Session, images: &ImagesFile, plan: &Plan) -> Result<Saves> {
    let suite = &plan.suites[0];
    let tests = match &suite.run {
        Run::Tests { tests } => compile::sources(&session.env.cargo, &session.workspace.root, tests).await?,
        Run::Command { .. } => vec![suite.folder.clone()],
    };
    Saves::watch(Sources::gather(&session.workspace, images, &plan.images, suite, tests)?)
}

/// Says why a pass did not get through; its exit code.
fn verdict(session: &Session, standing: &Standing, end: Result<()>) -> Exit {
    match end {
        Ok(()) if standing.has_failures() => Exit::TestsFailed,
        Ok(()) => Exit::Passed,
        Err(error) => {
            session.events.warn(message(&error));
            Exit::of(&error)
        }
    }
}
