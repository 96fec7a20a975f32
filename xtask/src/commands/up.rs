//! `up`: deploys a suite, forwards to it and holds the forward; and what `dev` shares with that.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use super::Signals;
use crate::cleanup::Policy;
use crate::cli::{K8sTest, Local};
use crate::config::Workspace;
use crate::env::Env;
use crate::exit::{Exit, Signal, message};
use crate::local;
use crate::local::keys::{Key, Keys};
use crate::local::standing::{Failures, Standing};
use crate::pipeline::{self, Ground, Session};
use crate::plan::Plan;
use crate::reaper::Reaper;
use crate::{fail, names};

/// How long giving a deployment its whole time again may take at the end.
const LEAVE: Duration = Duration::from_secs(10);

pub(super) async fn run(args: &Local, env: &Env) -> Result<Exit> {
    let request = Request::new(args, &[], None, env)?;
    let failures = Failures::default();
    let session = super::session(env, Some(Box::new(failures.clone())))?;
    let mut signals = Signals::listen()?;
    let _reaper = Reaper::start(Policy::of(&request.plan), &session.ledger)?;
    let mut keys = Keys::listen();
    let end = tokio::select! {
        end = hold(&session, request.plan.clone(), failures, &mut keys) => end,
        signal = signals.next() => Ok(Exit::Interrupted(signal)),
    };
    let left = match end_of(&session, &request.plan, &mut signals).await {
        Left::Tidy(left) => left,
        Left::AtOnce(signal) => return Ok(Exit::Interrupted(signal)),
    };
    super::after_tidying(&session, end, left)
}

/// What was asked for, to be resolved again when the files change.
pub(super) struct Request {
    /// The flags, as those of `k8s-test`.
    pub(super) args: K8sTest,
    /// What they mean.
    pub(super) plan: Plan,
    env: Env,
    workspace: Workspace,
}

impl Request {
    /// Resolves flags.
    pub(super) fn new(args: &Local, filters: &[String], jobs: Option<u16>, env: &Env) -> Result<Request> {
        let workspace = Workspace::here();
        let run = names::run_id(Timestamp::now());
        let args = K8sTest {
            suites: args.suite.iter().cloned().collect(),
            variant: args.variant.iter().cloned().collect(),
            cluster: args.cluster.clone(),
            forward: args.forward,
            no_setup: args.no_setup,
            filters: filters.to_vec(),
            jobs,
            output: Some(workspace.runs().join(&run)),
            ..K8sTest::default()
        };
        let (_, plan) = local::resolve(&args, env, &workspace, &run)?;
        Ok(Request { args, plan, env: env.clone(), workspace })
    }

    /// Reads the files again.
    pub(super) fn again(&self) -> Result<(crate::config::ImagesFile, Plan)> {
        local::resolve(&self.args, &self.env, &self.workspace, &self.plan.run)
    }
}

/// Deploys and holds the forwards until a key ends it.
async fn hold(session: &Session, plan: Plan, failures: Failures, keys: &mut Keys) -> Result<Exit> {
    let work = async {
        let mut standing = start(session, plan, failures, std::future::ready(Ok(()))).await?.0;
        standing.catch_up().await?;
        for forward in &standing.forwards {
            println!("{}: {}", forward.name, forward.url);
        }
        session.events.note("`q` or Ctrl-C ends the forward; the deployment stays");
        anyhow::Ok(standing)
    };
    let standing = tokio::select! {
        standing = work => standing?,
        () = quit(keys) => return Ok(Exit::Passed),
    };
    tokio::select! {
        () = quit(keys) => Ok(Exit::Passed),
        lost = standing.lost() => fail!(Exit::Environment, "{lost}"),
    }
}

/// Waits for the key that quits.
pub(super) async fn quit(keys: &mut Keys) {
    while keys.next().await != Key::Quit {}
}

/// The deployment on its cluster with its images made, side by side with `beside`.
pub(super) async fn start<T>(
    session: &Session,
    plan: Plan,
    failures: Failures,
    beside: impl Future<Output = Result<T>>,
) -> Result<(Standing, T)> {
    let (ground, beside): (Ground, T) = pipeline::ground(session, &plan, beside).await?;
    Ok((Standing::settle(session, plan, ground, failures).await?, beside))
}

/// How a deployment was left.
pub(super) enum Left {
    /// With all that there is to do about it.
    Tidy(Result<()>),
    /// By one more signal; the rest is the reaper's.
    AtOnce(Signal),
}

/// Leaves the deployment in place, unless a signal comes meanwhile.
pub(super) async fn end_of(session: &Session, plan: &Plan, signals: &mut Signals) -> Left {
    tokio::select! {
        left = leave(session, plan) => Left::Tidy(left),
        signal = signals.next() => {
            session.events.warn(super::left_at_once(session, &Policy::of(plan)));
            Left::AtOnce(signal)
        }
    }
}

/// Leaves the deployment in place and says how to remove it; a cluster that is only half made goes.
async fn leave(session: &Session, plan: &Plan) -> Result<()> {
    super::end_programs(session, &plan.run).await?;
    let made = session.ledger.made();
    if made.cluster.is_some() && !made.cluster_complete {
        return super::clean_up(session, &Policy::of(plan), true).await;
    }
    if let Some(cluster) = session.found().cluster.filter(|_| !made.namespaces.is_empty()) {
        let lines = local::leave(&cluster, plan, &made);
        match tokio::time::timeout(LEAVE, lines).await {
            Ok(Ok(lines)) => lines.into_iter().for_each(|line| session.events.note(line)),
            Ok(Err(error)) => {
                session.events.warn(format!("the expiry could not be set: {}", message(&error)));
            }
            Err(_) => session.events.warn("the expiry could not be set: the API server does not answer"),
        }
    }
    session.ledger.note(|entry| entry.done = true);
    Ok(())
}
