//! One group: what its suites share is deployed, the tests of all of them run.

use std::num::NonZero;
use std::sync::Arc;

use anyhow::Result;
use futures::future::join_all;
use futures::stream::{self, StreamExt};

use super::{Ground, Session, first_of};
use crate::cleanup::{Decision, Policy};
use crate::cli::Keep;
use crate::deploy::{Rendered, Site};
use crate::events::{Phase, TestResult};
use crate::exit::Exit;
use crate::groups::{self, Group, Places, Row, Turns};
use crate::images::deliver::Inventory;
use crate::namespaces::Namespaces;
use crate::plan::Plan;
use crate::text::count;

/// What all groups run with.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) plan: &'a Plan,
    pub(super) ground: &'a Ground,
    pub(super) held: &'a Inventory,
    pub(super) turns: &'a Turns,
    /// Places for tests.
    pub(super) tests: &'a Arc<Places>,
}

/// Renders what all groups deploy, before any of it is installed, and tells which cannot be deployed at once.
///
/// # Errors
/// Charts or fixtures do not render, exit 2; the first of them, the others are warnings.
pub(super) async fn render<'a>(
    session: &'a Session,
    plan: &'a Plan,
    ground: &'a Ground,
    groups: &'a [Group<'a>],
    namespaces: &'a [Namespaces],
) -> Result<Vec<Rendered<'a>>> {
    let step = session.events.step(Phase::Release, format!("render {}", count(groups.len(), "deployment")));
    // helm works all the time.
    let at_once = std::thread::available_parallelism().map_or(1, NonZero::get);
    let read = groups.iter().zip(namespaces).map(async |(group, namespaces)| {
        let suite = group.first();
        let site = Site { session, plan, suite, ground, namespaces };
        site.read().await.map_err(|error| error.context(format!("suite {}", group.id())))
    });
    let read: Vec<_> = stream::iter(read).buffered(at_once).collect().await;
    let (mut rendered, mut failures) = (Vec::new(), Vec::new());
    for one in read {
        match one {
            Ok(one) => rendered.push(one),
            Err(error) => failures.push(error),
        }
    }
    first_of(failures, &session.events)?;
    let claims: Vec<_> =
        groups.iter().map(Group::id).zip(rendered.iter().map(|rendered| &rendered.claims)).collect();
    step.done("");
    for why in groups::in_turn(&claims) {
        session.events.note(why);
    }
    Ok(rendered)
}

/// Deploys what the suites of a group share, runs the tests of all, and makes room for the next where all passed. It waits for its
/// turn with what was `rendered`, where that was needed.
pub(super) async fn run_group(
    session: &Session,
    scene: Scene<'_>,
    group: &Group<'_>,
    namespaces: &Namespaces,
    rendered: Option<&Rendered<'_>>,
) -> Result<Vec<TestResult>> {
    let Scene { plan, ground, held, turns, tests: places } = scene;
    let suite = group.first();
    let turn = turns.take(&group.id(), group.waits()).await;
    let others = group.0.iter().skip(1).map(|(suite, _)| suite.id()).collect::<Vec<_>>().join(", ");
    if !others.is_empty() {
        session.events.note(format!("{} deploys what {others} deploys too: once for all", suite.id()));
    }
    let site = Site { session, plan, suite, ground, namespaces };
    let run = async {
        let forwards = site.deploy(held, rendered.map(|rendered| (turns, &turn, rendered))).await?;
        let row = Row::new(places);
        let tests = group.0.iter().map(async |(suite, tests)| {
            let site = Site { suite, ..site };
            // Who asks for one test at a time gets that.
            let own =
                suite.jobs.filter(|_| plan.jobs > 1).map(|jobs| Row::new(&Places::new(jobs.get().into())));
            site.test(&forwards, tests, own.as_ref().unwrap_or(&row)).await
        });
        Ok(join_all(tests).await.into_iter().collect::<Result<Vec<_>>>()?.concat())
    };
    let results: Result<Vec<TestResult>> = run.await;
    let exit = match &results {
        Err(error) => Exit::of(error),
        Ok(all) if all.iter().any(|test| test.outcome.is_failure()) => Exit::TestsFailed,
        Ok(_) => Exit::Passed,
    };
    // What nobody waits for goes with the rest at the end: that of the last one, or the only one, which was not rendered ahead.
    if exit != Exit::Passed && plan.evidence {
        turn.leave_in_place(exit, "which failed and stays until the end for the bundle");
    } else if plan.keep == Keep::Always || plan.bundle {
        turn.leave_in_place(
            Exit::NotReady,
            "which stays until the end because of --keep or --bundle; leave that out",
        );
    } else if rendered.is_some()
        && turns.is_awaited()
        && namespaces.ours
        && let Err(left) = remove_group(session, plan, namespaces).await
    {
        session.events.warn(crate::exit::message(&left));
        turn.leave_in_place(Exit::Leftovers, "which could not be removed");
    }
    results
}

/// Removes the namespaces of a group and the releases in them.
async fn remove_group(session: &Session, plan: &Plan, namespaces: &Namespaces) -> Result<()> {
    let is_of_group = |name: &String| namespaces.by_role.values().any(|of_group| of_group == name);
    let mut made = session.ledger.made();
    made.namespaces.retain(is_of_group);
    made.releases.retain(|release| is_of_group(&release.namespace));
    made.objects.clear();
    session.clean_up(&Policy::of(plan), &made, &Decision::RemoveObjects).await?;
    session.ledger.record(|all| {
        all.namespaces.retain(|name| !is_of_group(name));
        all.releases.retain(|release| !is_of_group(&release.namespace));
    });
    Ok(())
}
