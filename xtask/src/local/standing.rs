//! A deployment that stays, brought up to date stage by stage.
//!
//! Its future may be dropped at any point: what was finished has been noted by then, the rest is still to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use jiff::Timestamp;

use super::todo::{Stage, Todo};
use super::{Up, find};
use crate::config::ImagesFile;
use crate::deploy::Site;
use crate::events::{Consumer, Event, Phase, TestResult};
use crate::forward::Forward;
use crate::groups::{Places, Row};
use crate::images::deliver::Inventory;
use crate::images::early::Early;
use crate::images::{self, Built};
use crate::namespaces::{self, Marks, Namespaces};
use crate::pipeline::{self, Ground, Session};
use crate::plan::Plan;
use crate::release::Installed;
use crate::suites::Test;
use crate::{ready, text};

/// The deployment.
pub struct Standing {
    /// What is still to be done.
    pub todo: Todo,
    /// The open forwards.
    pub forwards: Vec<Forward>,
    /// The tests to run.
    pub tests: Vec<Test>,
    session: Session,
    plan: Plan,
    ground: Ground,
    held: Inventory,
    namespaces: Namespaces,
    installed: Vec<Installed>,
    failures: Failures,
    cannot_push: std::sync::OnceLock<()>,
}

/// Finds the deployment of the plan's suite, or makes its namespaces; the plan's run is that deployment's from now on.
async fn settle(session: &Session, plan: &mut Plan, ground: &Ground) -> Result<Namespaces> {
    let suite = &plan.suites[0];
    let client = &ground.cluster.client;
    let step = session.events.step(Phase::Namespaces, suite.id());
    let found = find(client).await?;
    let known = found.into_iter().find(|up| up.suite == suite.name && up.variant == suite.variant);
    let again = known.is_some();
    let known = match known {
        Some(Up { run, namespaces, .. }) => {
            session.ledger.record(|made| made.deployment_of = Some(run.clone()));
            plan.run = run;
            namespaces
        }
        None => Vec::new(),
    };
    let marks = Marks { up: true, ..Marks::of(plan, ground.cluster.clock.now()) };
    let namespaces = namespaces::make(client, suite, marks, &known, &session.ledger).await?;
    step.done(format!("{}{}", if again { "again " } else { "" }, namespaces.list()));
    Ok(namespaces)
}

impl Standing {
    /// The deployment of the plan's one suite on `ground`, as it was left, or nothing but namespaces yet.
    ///
    /// # Errors
    /// The API refuses; exit 3.
    pub async fn settle(
        session: &Session,
        mut plan: Plan,
        ground: Ground,
        failures: Failures,
    ) -> Result<Standing> {
        let namespaces = settle(session, &mut plan, &ground).await?;
        Ok(Standing {
            todo: Todo::of(Stage::DEPLOY),
            forwards: Vec::new(),
            tests: Vec::new(),
            session: session.clone(),
            plan,
            ground,
            held: Inventory::new(),
            namespaces,
            installed: Vec::new(),
            failures,
            cannot_push: std::sync::OnceLock::new(),
        })
    }

    /// The plan, with the deployment's run.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// images.yaml, as it was last read.
    #[must_use]
    pub fn images(&self) -> &ImagesFile {
        &self.session.images
    }

    /// The images, as they were last made.
    #[must_use]
    pub fn built(&self) -> &BTreeMap<String, Built> {
        &self.ground.built
    }

    /// Waits until something of it is gone because its lease was over; what to say of it.
    pub fn lost(&self) -> impl Future<Output = String> + use<> {
        self.ground.lease.lost()
    }

    /// Its namespaces.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Takes over what was read anew: all of it is looked at again.
    ///
    /// # Errors
    /// As [`Standing::settle`].
    pub async fn redefine(&mut self, images: ImagesFile, mut plan: Plan) -> Result<()> {
        self.session.images = images;
        self.namespaces = settle(&self.session, &mut plan, &self.ground).await?;
        self.plan = plan;
        self.todo.join(Todo::of([Stage::Images, Stage::Compile]));
        self.todo.join(Todo::of(Stage::DEPLOY));
        self.todo.images.extend(self.plan.images.iter().cloned());
        self.todo.done(Stage::Definitions);
        Ok(())
    }

    /// Does what is to be done.
    ///
    /// # Errors
    /// Of the stage that failed, with its exit code; that stage and those behind it are still to be done.
    pub async fn catch_up(&mut self) -> Result<()> {
        if self.todo.has(Stage::Images) {
            self.make_images().await?;
            self.todo.done(Stage::Images);
        }
        self.deploy().await?;
        if self.todo.has(Stage::Compile) {
            let stage = self.session.events.stage(Phase::Suites, "build the tests");
            let selected = pipeline::select(&self.session, &self.plan).await?;
            self.tests = selected.into_iter().flatten().collect();
            self.todo.done(Stage::Compile);
            stage.done(text::count(self.tests.len(), "test"));
        }
        if self.todo.has(Stage::Tests) {
            self.run_tests().await?;
            self.todo.done(Stage::Tests);
        }
        Ok(())
    }

    /// Spends idle time on changes to come: Docker compresses the images' layers, once, so that it can push a change alone.
    pub async fn prepare(&self) {
        let Standing { session, ground, cannot_push, .. } = self;
        let images: Vec<_> = ground.built.values().map(|built| &built.image).collect();
        if cannot_push.get().is_some() || images.iter().all(|image| !ground.push.lacks(image)) {
            return;
        }
        let stage = session.events.stage(Phase::Images, "prepare docker to push changes alone");
        match images::deliver::prepare(&images, &ground.push).await {
            Ok(()) => stage.done(""),
            Err(error) => {
                let why = crate::exit::message(&error);
                session
                    .events
                    .note(format!("docker cannot push here, so changes come by docker save: {why}"));
                // Not tried again and again.
                let _ = cannot_push.set(());
            }
        }
    }

    async fn make_images(&mut self) -> Result<()> {
        let Standing { session, plan, ground, todo, .. } = self;
        let names: Vec<&str> = todo.images.iter().map(String::as_str).collect();
        let stage = session.events.stage(Phase::Images, format!("make {}", names.join(", ")));
        // The others are as they were.
        let known: BTreeMap<String, Built> = ground
            .built
            .iter()
            .filter(|(name, _)| !todo.images.contains(*name))
            .map(|(name, built)| (name.clone(), built.clone()))
            .collect();
        // A maker of its own, because the last one remembers what Docker had then.
        let maker = session.maker(&ground.machine, plan.setup);
        // What the nodes hold does not depend on it.
        let look = images::deliver::look(&ground.cluster.nodes, &[]);
        let make = images::remake(&maker, &session.images, &plan.images, &known);
        let (built, looked) = tokio::join!(make, look);
        ground.built = built?;
        ground.early = Mutex::new(Early { looked: Some(looked), ..Early::default() });
        let made = ground.built.values().filter(|built| names.contains(&built.name.as_str()));
        stage.done(made.map(|built| built.how.verb()).collect::<Vec<_>>().join(", "));
        Ok(())
    }

    async fn deploy(&mut self) -> Result<()> {
        let Standing { session, plan, ground, namespaces, todo, held, installed, forwards, .. } = self;
        let ground = &*ground;
        let site = Site { session, plan, suite: &plan.suites[0], ground, namespaces };
        let (deliver, fixtures, releases) =
            (todo.has(Stage::Deliver), todo.has(Stage::Fixtures), todo.has(Stage::Releases));

        // Side by side, because none of them needs another.
        let stage = match (deliver, fixtures) {
            (true, _) => Some(session.events.stage(Phase::Images, "bring images to the nodes")),
            (false, true) => Some(session.events.stage(Phase::Fixtures, "apply")),
            (false, false) => None,
        };
        let (now, objects, prepared) = tokio::try_join!(
            when(deliver, pipeline::deliver(session, plan, ground)),
            when(fixtures, site.fixtures()),
            when(releases, site.render()),
        )?;
        if let Some(now) = now {
            *held = now;
        }
        todo.done(Stage::Deliver);
        todo.done(Stage::Fixtures);
        if let Some(stage) = stage {
            stage.done(objects.filter(|_| !deliver).map_or(String::new(), |n| text::count(n, "object")));
        }

        if let Some(prepared) = prepared {
            let stage = session.events.stage(Phase::Release, "install");
            *installed = site.install(site.onlooker(&site.beside()?), &prepared, held, installed).await?;
            todo.done(Stage::Releases);
            let names: Vec<&str> = installed.iter().map(|release| release.name.as_str()).collect();
            stage.done(names.join(", "));
        }
        if todo.has(Stage::Ready) {
            let count = installed
                .iter()
                .flat_map(|release| &release.asked.items)
                .filter(|item| item.kind.is_workload())
                .count();
            let stage = session.events.stage(Phase::Ready, text::count(count, "workload"));
            ready::wait(site.onlooker(&site.beside()?), installed).await?;
            todo.done(Stage::Ready);
            stage.done("");
        }
        if todo.has(Stage::Forwards) {
            let stage = session.events.stage(Phase::Forward, "prove");
            site.forward(forwards, true).await?;
            todo.done(Stage::Forwards);
            let urls: Vec<String> =
                forwards.iter().map(|forward| format!("{} {}", forward.name, forward.url)).collect();
            stage.done(urls.join(", "));
        }
        Ok(())
    }

    /// Runs the tests that failed when they last ran, then the others.
    async fn run_tests(&self) -> Result<()> {
        let Standing { session, plan, ground, namespaces, .. } = self;
        let site = Site { session, plan, suite: &plan.suites[0], ground, namespaces };
        let failed = self.failures.names();
        let (first, rest): (Vec<&Test>, Vec<&Test>) =
            self.tests.iter().partition(|test| failed.contains(test.name()));
        let what = if first.is_empty() { "run" } else { "run the others" };
        for (what, tests) in [("run what failed last", first), (what, rest)] {
            if tests.is_empty() {
                continue;
            }
            let stage = session.events.stage(Phase::Suites, what);
            let results = site.test(&self.forwards, &tests, &Row::new(&Places::new(self.plan.jobs))).await?;
            let (failed, passed): (Vec<&TestResult>, Vec<&TestResult>) =
                results.iter().partition(|result| result.outcome.is_failure());
            stage.done(format!("{} passed, {} failed", passed.len(), failed.len()));
            for result in failed {
                session.events.note(format!("the output of {}: {}", result.id.name, result.log));
            }
        }
        Ok(())
    }

    /// Whether one of its tests failed when it last ran.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        let failed = self.failures.names();
        failed.iter().any(|name| self.tests.iter().any(|test| test.is_or_has(name)))
    }
}

/// Does `work` where it is wanted.
async fn when<T>(wanted: bool, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    if wanted { work.await.map(Some) } else { Ok(None) }
}

/// The tests that failed when they last ran; clones share them. Kept from events, because a run may be ended before
/// its results are there.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<BTreeSet<String>>>);

impl Failures {
    fn names(&self) -> BTreeSet<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Consumer for Failures {
    fn consume(&mut self, _: Timestamp, event: &Event) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            // A command, which tells of its tests when it ends: by then some of them may be no more.
            Event::TestStarted(id) if id.name == id.suite => names.clear(),
            Event::TestFinished(result) if result.outcome.is_failure() => {
                names.insert(result.id.name.clone());
            }
            Event::TestFinished(result) => {
                names.remove(&result.id.name);
            }
            _ => {}
        }
    }
}
