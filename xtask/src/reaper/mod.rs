//! The reaper: a process of its own that outlives the run, and cleans up for one that was killed.
//!
//! It holds the reading end of a pipe whose other end only the run has, so that the kernel tells it of the run's end however
//! that came. A lock that the run holds would do as well, but nobody can wait for a lock with nothing to give it up.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use kind_client::Kind;
use kube::Client;
use kube::config::Kubeconfig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::getpgrp;

use crate::cleanup::{self, Policy, Remover, Whose};
use crate::cli::Reap;
use crate::cluster::clock::Clock;
use crate::env::Env;
use crate::events::Events;
use crate::exit::{Exit, message};
use crate::helm::Helm;
use crate::journal::{self, Entry, Journal};
use crate::ledger::Ledger;
use crate::report::console::Console;
use crate::text;

pub mod processes;

/// The name of its log in a run's folder.
pub const LOG: &str = "reaper.log";
/// How often it tries to clean up, and how long it waits between.
const ATTEMPTS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(5);

/// A reaper that watches this process until this is dropped or the process ends.
#[derive(Debug)]
pub struct Reaper {
    _alive: ChildStdin,
}

impl Reaper {
    /// Begins the journal of a run, and starts the reaper that reads it when we end; nothing may be made before.
    ///
    /// # Errors
    /// The journal cannot be written, or the reaper does not start.
    pub fn start(policy: Policy, ledger: &Ledger) -> Result<Reaper> {
        let folder = policy.output.clone();
        crate::cmd::mark(&policy.run);
        ledger.keep_in(Journal::begin(policy)?);
        let log = folder.join(LOG);
        let file = File::create(&log).with_context(|| format!("write {log}"))?;
        let mut command = this_program()?;
        command.args(["reap", "--detach", folder.as_str()]);
        // Nothing of ours stays open in it: a CI system waits until the outputs that it has given a step are closed. In
        // a group of its own, because a terminal's Ctrl-C is for us.
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file).process_group(0);
        for name in crate::env::NOT_FOR_THE_REAPER {
            command.env_remove(name);
        }
        let mut child = command.spawn().context("start the reaper")?;
        let alive = child.stdin.take().context("start the reaper: it has no standard input")?;
        detached(child.wait().context("start the reaper")?, &log)?;
        Ok(Reaper { _alive: alive })
    }
}

/// Judges the process that starts the reaper and ends, so that the reaper is nobody's child.
fn detached(status: ExitStatus, log: &Utf8Path) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    bail!("the reaper did not start: {}:\n{}", text::status(status), text::indent(said.trim(), "    "))
}

/// This program as it runs, whatever cargo has put in its place since.
fn this_program() -> Result<Command> {
    if cfg!(target_os = "linux") {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("xtask");
        return Ok(command);
    }
    Ok(Command::new(std::env::current_exe().context("find this program's own file")?))
}

/// The reaper's own command.
///
/// # Errors
/// Something is left; exit 5.
pub async fn run(args: &Reap, env: &Env) -> Result<Exit> {
    if args.detach {
        // As the child of a group's leader it can have a session of its own, which no terminal's end reaches.
        this_program()?.args(["reap", args.folder.as_str()]).spawn().context("start the reaper")?;
        return Ok(Exit::Passed);
    }
    nix::unistd::setsid().context("begin a session")?;
    let Some(mut journal) = journal::Reader::open(&args.folder)? else { return Ok(Exit::Passed) };
    // It ends with the run; what comes before is nothing to us.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let reaped = match journal.last()? {
        Some(entry) if !entry.done => {
            give_up_after(Duration::from_secs(args.limit), &entry)?;
            reap(&mut journal, entry, env).await
        }
        _ => Ok(()),
    };
    if reaped.is_ok() {
        remove_empty_log(&args.folder);
    }
    reaped.map(|()| Exit::Passed)
}

/// Ends this process and those that it has started when `limit` is over; what it has not removed has expired by then, and the
/// next start sweeps it.
///
/// By a thread, because whoever waits for an API may do that in a call of the system: the program that a kubeconfig names for its
/// credentials is waited for in one.
fn give_up_after(limit: Duration, entry: &Entry) -> Result<()> {
    let Entry { policy, made, .. } = entry;
    let left = Vec::from_iter(made.describe()).join(", ");
    let by_hand = cleanup::by_hand(policy, made).unwrap_or_else(|| "cargo xtask clean".to_owned());
    let text = format!(
        "run {}: not cleaned up within {}, which is given up; still there may be {left}; it goes at a next start, or by hand: `{by_hand}`",
        policy.run,
        text::seconds(limit)
    );
    let give_up = move || {
        std::thread::sleep(limit);
        eprintln!("error: {text}");
        // It is the leader of its group.
        let _ = killpg(getpgrp(), Signal::SIGKILL);
    };
    std::thread::Builder::new().spawn(give_up).context("start the thread that watches the time")?;
    Ok(())
}

/// Ends what a dead run has left running, and does what the run would have done at its end.
async fn reap(journal: &mut journal::Reader, entry: Entry, env: &Env) -> Result<()> {
    let Entry { policy, made, tools, .. } = entry.clone();
    let events = Events::new(vec![Box::new(Console::new(true, false))]);
    let ended = processes::end(&policy.run).await;
    if ended > 0 {
        events.note(format!("run {}: ended {}", policy.run, text::count(ended, "program")));
    }
    // It was killed, so it has failed.
    let decision = cleanup::decide(&policy, &made, true);
    let kind = tools.as_ref().map(|tools| Kind::builder().program(&tools.kind).build());
    let kubeconfig = policy.kubeconfig();
    let helm = tools.map(|tools| Helm { program: tools.helm, version: None, kubeconfig: kubeconfig.clone() });
    let mut attempt = 1;
    loop {
        let client = client(&kubeconfig).await;
        let clock = match &client {
            Some(client) => Clock::of(client).await,
            None => Clock::default(),
        };
        let remover = Remover {
            whose: Whose::Runs(std::slice::from_ref(&policy.run)),
            kind: kind.as_ref(),
            helm: helm.as_ref(),
            client: client.as_ref(),
            clock,
            cache: &env.cache,
            events: &events,
        };
        match cleanup::clean_up(&remover, &policy, &made, &decision).await {
            Ok(()) => break,
            Err(error) if attempt == ATTEMPTS => return Err(error),
            Err(error) => events.warn(message(&error)),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
    }
    events.note(format!("run {}: cleaned up after it was killed", policy.run));
    journal.done(entry);
    Ok(())
}

/// The cluster's API, where the run had got so far.
async fn client(kubeconfig: &Utf8PathBuf) -> Option<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).ok()?;
    crate::cluster::client(kubeconfig).await.ok()
}

/// Most reapers have nothing to say.
fn remove_empty_log(folder: &Utf8Path) {
    let log = folder.join(LOG);
    if std::fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
        let _ = std::fs::remove_file(log);
    }
}
