//! The commands, each from its flags to its exit code.

use std::sync::{Arc, Mutex};

use anyhow::Result;

use crate::cleanup::{self, Policy};
use crate::cli::Command;
use crate::config::{Guard, ImagesFile, Tools, Workspace};
use crate::env::Env;
use crate::events::{Consumer, Events};
use crate::exit::{Exit, Signal, message};
use crate::ledger::Ledger;
use crate::pipeline::{Found, Session};
use crate::reaper::processes;
use crate::report::console::Console;
use crate::text;

mod bench;
mod ci;
mod clean;
mod cluster;
mod copied;
mod corpus;
mod dev;
mod doctor;
mod down;
mod evidence;
mod images;
mod k8s_test;
mod new;
mod sabotage;
mod schema;
mod times;
mod up;

/// Runs a command.
///
/// # Errors
/// What the command could not do, with its exit code.
pub async fn run(command: Command, env: Env) -> Result<Exit> {
    match command {
        Command::K8sTest(args) => k8s_test::run(&args, &env).await,
        Command::Up(args) => up::run(&args, &env).await,
        Command::Dev(args) => dev::run(&args, &env).await,
        Command::Down(args) => interruptible(down::run(&args, &env)).await,
        Command::Images(args) => interruptible(images::run(&args, &env)).await,
        Command::Cluster(args) => cluster::run(&args, &env).await,
        Command::Clean(args) => interruptible(clean::run(&args, &env)).await,
        Command::Doctor(args) => interruptible(doctor::run(&args, &env)).await,
        Command::Times(args) => times::run(&args),
        Command::Corpus(args) => interruptible(corpus::run(&args, &env)).await,
        Command::Bench(args) => bench::run(&args, &env).await,
        Command::Sabotage(args) => sabotage::run(&args, &env).await,
        Command::New(args) => interruptible(new::run(&args, &env)).await,
        Command::Schema(args) => schema::run(args.file),
        Command::Ci(args) => ci::run(&args, &env).await,
        Command::Reap(args) => crate::reaper::run(&args, &env).await,
    }
}

/// A session whose events go to the console and to `more`.
fn session(env: &Env, more: Option<Box<dyn Consumer>>) -> Result<Session> {
    let workspace = Workspace::here();
    let mut consumers: Vec<Box<dyn Consumer>> = vec![Box::new(Console::new(env.ci, env.color))];
    consumers.extend(more);
    Ok(Session {
        tools: Arc::new(Tools::load(&workspace.ci().join("tools.yaml"))?),
        images: ImagesFile::load(&workspace.ci().join("images.yaml"))?,
        guard: Guard::load(&workspace.ci().join("clusters.yaml"))?,
        workspace,
        env: env.clone(),
        events: Events::new(consumers),
        ledger: Ledger::default(),
        found: Arc::new(Mutex::new(Found::default())),
    })
}

/// Waits until the programs of a run that is over have ended, those too that its tests have left running.
async fn end_programs(session: &Session, run: &str) -> Result<()> {
    tokio::task::spawn_blocking(crate::cmd::reap).await?;
    // A test's process group has ended with it; this is what has left that.
    let ended = processes::end_of_tests(run).await;
    if ended > 0 {
        session.events.note(format!("ended what tests had left running: {}", text::count(ended, "program")));
    }
    Ok(())
}

/// Does at a run's end what its policy says.
async fn clean_up(session: &Session, policy: &Policy, failed: bool) -> Result<()> {
    let made = session.ledger.made();
    let decision = cleanup::decide(policy, &made, failed);
    let cleaned = session.clean_up(policy, &made, &decision).await;
    // Also where something is left, because that was said, with what to do.
    session.ledger.note(|entry| entry.done = true);
    cleaned
}

/// How a command ended whose leftovers were tidied up: why it ended counts more than what could not be, which is told.
fn after_tidying(session: &Session, end: Result<Exit>, left: Result<()>) -> Result<Exit> {
    match (end, left) {
        (end, Ok(())) => end,
        (Ok(Exit::Passed), Err(left)) => Err(left),
        (end, Err(left)) => {
            session.events.warn(message(&left));
            end
        }
    }
}

/// What to say of a run that leaves at once, without cleaning up.
fn left_at_once(session: &Session, policy: &Policy) -> String {
    let made = session.ledger.made();
    if made.is_empty() {
        return "left at once; nothing had been made".to_owned();
    }
    let by_hand = cleanup::by_hand(policy, &made).unwrap_or_else(|| "cargo xtask clean".to_owned());
    let log = policy.output.join(crate::reaper::LOG);
    format!(
        "left at once; still there: {}; the reaper cleans up now and says so in {}; by hand: `{by_hand}`",
        Vec::from_iter(made.describe()).join(", "),
        session.workspace.show(&log)
    )
}

/// Runs `work` until it ends or a signal comes, which ends what it started.
async fn interruptible(work: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let mut signals = Signals::listen()?;
    tokio::select! {
        end = work => end,
        signal = signals.next() => Ok(Exit::Interrupted(signal)),
    }
}

/// The signals that end a run.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
        }
    }
}
