//! `k8s-test`: plan, run, clean up, report; cleaning up happens on every path.

use std::io::Write;
use std::pin::pin;

use anyhow::Result;
use futures::FutureExt;
use jiff::Timestamp;

use super::{Signals, evidence};
use crate::cleanup::Policy;
use crate::cli::K8sTest;
use crate::config::Workspace;
use crate::env::Env;
use crate::events::TestResult;
use crate::exit::{Exit, Signal, message};
use crate::groups::History;
use crate::pipeline::{self, Session};
use crate::plan::{Files, Plan};
use crate::reaper::Reaper;
use crate::report::{self, Recorder, Report, Verdict, console};
use crate::{names, text};

/// What is said at the first signal.
const CLEANING: &str = "interrupted: cleaning up; once more leaves at once";

/// How the run itself ended, before anything was cleaned up.
enum End {
    Tested,
    Failed(anyhow::Error),
    /// By a signal; a run that had failed before goes on to say why.
    Interrupted(Signal, Option<anyhow::Error>),
}

impl End {
    /// The end when a signal comes now.
    fn interrupted(self, signal: Signal) -> End {
        let failed = match self {
            End::Failed(error) => Some(error),
            End::Tested | End::Interrupted(..) => None,
        };
        End::Interrupted(signal, failed)
    }

    /// The exit code, and why the run ended before its tests could.
    fn told(&self, tests_failed: bool) -> (Exit, Option<String>) {
        match self {
            End::Tested if tests_failed => (Exit::TestsFailed, None),
            End::Tested => (Exit::Passed, None),
            End::Failed(error) => (Exit::of(error), Some(message(error))),
            End::Interrupted(signal, None) => (Exit::Interrupted(*signal), Some("interrupted".to_owned())),
            End::Interrupted(signal, Some(error)) => {
                (Exit::Interrupted(*signal), Some(format!("{}\n  then interrupted", message(error))))
            }
        }
    }
}

pub(super) async fn run(args: &K8sTest, env: &Env) -> Result<Exit> {
    Ok(run_counted(args, env).await?.0)
}

/// As [`run`], with the counts of tests.
pub(super) async fn run_counted(args: &K8sTest, env: &Env) -> Result<(Exit, Verdict)> {
    let start = Timestamp::now();
    let workspace = Workspace::here();
    let files = Files::load(&workspace, &args.suites)?;
    if args.list {
        list(&files);
        return Ok((Exit::Passed, Verdict::of(&[], 0, None)));
    }
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let mut args = args.clone();
    if let Some(output) = &mut args.output {
        // Tests run in folders of their own.
        *output = camino::absolute_utf8(&*output)?;
    }
    let plan = Plan::resolve(&args, env, &files, &names::run_id(start), cpus)?;
    if args.dry_run {
        print(&plan.describe(&workspace));
        return Ok((Exit::Passed, Verdict::of(&[], 0, None)));
    }
    let recorder = Recorder::default();
    let session = super::session(env, Some(Box::new(recorder.clone())))?;
    let Ended { exit, error } = carry_out(&session, &plan, &recorder).await?;
    finish(&session, &plan, &recorder, start, exit, error)
}

/// How a run ended, with what was made cleaned up.
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// What ended it before its tests could, or was left behind.
    pub(super) error: Option<String>,
}

/// Runs a plan and cleans up.
pub(super) async fn carry_out(session: &Session, plan: &Plan, recorder: &Recorder) -> Result<Ended> {
    let mut signals = Signals::listen()?;
    let policy = Policy::of(plan);
    evidence::forget_earlier(&plan.output)?;
    let _reaper = Reaper::start(policy.clone(), &session.ledger)?;
    let mut end = tokio::select! {
        end = pipeline::run(session, plan) => match end {
            Ok(_) => End::Tested,
            Err(error) => End::Failed(error),
        },
        signal = signals.next() => End::Interrupted(signal, None),
    };
    if let End::Interrupted(..) = end {
        session.events.note(CLEANING);
    }
    // The run's future is gone; the programs it had started are ending, and must not work beside the cleanup.
    super::end_programs(session, &plan.run).await?;
    let tests = recorder.record().tests;
    let tests_failed = tests.iter().any(|test| test.outcome.is_failure());
    let failed = tests_failed || !matches!(end, End::Tested);
    let mut leaves = false;
    if plan.bundle || (failed && plan.evidence && !matches!(end, End::Interrupted(..))) {
        // A signal ends this too; the cleanup comes all the same.
        tokio::select! {
            () = evidence::keep(session, plan) => {}
            signal = signals.next() => leaves = interrupt(session, &mut end, signal),
        }
    }
    let mut cleaning = pin!(super::clean_up(session, &policy, failed));
    let cleaned = loop {
        if leaves {
            break None;
        }
        tokio::select! {
            cleaned = &mut cleaning => break Some(cleaned),
            signal = signals.next() => leaves = interrupt(session, &mut end, signal),
        }
    };
    if cleaned.is_none() {
        session.events.warn(super::left_at_once(session, &policy));
    }
    let (mut exit, mut error) = end.told(tests_failed);
    if let Some(Err(left)) = cleaned {
        let text = message(&left);
        session.events.warn(text.clone());
        if exit == Exit::Passed {
            (exit, error) = (Exit::Leftovers, Some(text));
        }
    }
    // One that came in the last moment was read by nobody.
    if let Some(signal) = signals.next().now_or_never() {
        (exit, error) = (Exit::Interrupted(signal), error.or(Some("interrupted".to_owned())));
    }
    Ok(Ended { exit, error })
}

/// Takes note of a signal, which may come when the tests are over; whether it is the second, which leaves at once.
fn interrupt(session: &Session, end: &mut End, signal: Signal) -> bool {
    if let End::Interrupted(..) = end {
        return true;
    }
    session.events.note(CLEANING);
    *end = std::mem::replace(end, End::Tested).interrupted(signal);
    false
}

/// Writes the report and prints the end.
fn finish(
    session: &Session,
    plan: &Plan,
    recorder: &Recorder,
    start: Timestamp,
    exit: Exit,
    error: Option<String>,
) -> Result<(Exit, Verdict)> {
    let record = recorder.record();
    let found = session.found();
    let verdict = Verdict::of(&record.tests, exit.code(), error);
    let times = record.times(start);
    let path = record.critical_path();
    let report = Report {
        plan,
        start,
        took: std::time::Duration::try_from(Timestamp::now().duration_since(start)).unwrap_or_default(),
        cpu: crate::cmd::own_cpu(),
        times: times.as_ref(),
        critical_path: path.as_ref(),
        steps: &record.steps,
        images: found.images.values().collect(),
        delivered: &found.delivered,
        notes: &record.notes,
        tests: &record.tests,
        verdict: &verdict,
    };
    if let Err(unwritten) = report::write(&plan.output, &report) {
        // The verdict counts more than its file.
        session.events.warn(message(&unwritten));
    } else if plan.output.starts_with(session.workspace.runs()) {
        report::link_latest(&plan.output);
    }
    // What is named by a path elsewhere may have the name of one that is here.
    let here: Vec<_> =
        plan.suites.iter().filter(|suite| suite.folder.starts_with(&session.workspace.root)).collect();
    let of_here = |test: &&TestResult| {
        here.iter().any(|suite| (&suite.name, &suite.variant) == (&test.id.suite, &test.id.variant))
    };
    if let Err(unwritten) = History::record(&session.workspace.runs(), record.tests.iter().filter(of_here)) {
        session.events.warn(message(&unwritten));
    }
    let bundle = evidence::folder(plan).map(|folder| format!("bundle: {}", session.workspace.show(&folder)));
    if let Some(error) = &verdict.error {
        eprintln!("\nerror: {error}");
        if session.env.github {
            let place = bundle.iter().map(|bundle| format!("\n{bundle}")).collect::<String>();
            println!("{}", evidence::annotation(&format!("{error}{place}")));
        }
    }
    let mut end = String::new();
    if let Some(times) = &times {
        end = format!("\nfirst test after {times}; {} in all", text::seconds(report.took));
    }
    if let Some(path) = &path {
        end.push_str(&format!("\ncritical path: {path}"));
    }
    if let Some(bundle) = &bundle {
        end.push_str(&format!("\n{bundle}"));
    }
    let output = session.workspace.show(&plan.output);
    print(&format!("{end}{}", console::summary(&record.tests, &verdict, output.as_str())));
    Ok((exit, verdict))
}

fn list(files: &Files) {
    let mut out = String::new();
    for (folder, file) in &files.suites {
        let name = folder.file_name().unwrap_or_default();
        out.push_str(&format!("{name}: {}\n", file.variants().join(", ")));
    }
    print(&out);
}

fn print(text: &str) {
    // A reader that has gone (`| head`) is no failure of ours.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;
    use crate::exit::coded;

    #[test]
    fn a_signal_during_the_cleanup_does_not_hide_why_the_run_failed() {
        let failed = End::Failed(coded(Exit::NotReady, anyhow!("Deployment web does not become ready")));
        assert_eq!(failed.told(false).0, Exit::NotReady);
        let (exit, error) = failed.interrupted(Signal::Interrupt).told(false);
        assert_eq!(exit, Exit::Interrupted(Signal::Interrupt));
        assert_eq!(error.unwrap(), "Deployment web does not become ready\n  then interrupted");
        let (exit, error) = End::Tested.interrupted(Signal::Terminate).told(true);
        assert_eq!((exit, error.unwrap().as_str()), (Exit::Interrupted(Signal::Terminate), "interrupted"));
    }
}
