//! One suite's deployment, part by part, and the tests against it; `k8s-test`, `up` and `dev` put the parts together.

use anyhow::Result;
use camino::Utf8PathBuf;

use crate::cluster::Cluster;
use crate::config::Suite;
use crate::events::{Phase, TestResult};
use crate::forward::{self, Forward};
use crate::groups::{Claims, Row, Turn, Turns};
use crate::helm::Helm;
use crate::images::deliver::Inventory;
use crate::namespaces::{self, Marks, Namespaces};
use crate::pipeline::{Ground, Session};
use crate::plan::Plan;
use crate::ready::asked::Asked;
use crate::release::{Installed, Installer, Prepared};
use crate::suites::{Given, Runner, Test};
use crate::template::{Facts, ImageFacts, RunFacts};
use crate::{fixtures, ready, release, suites, text};

/// Where a suite is deployed, and from what.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// The session.
    pub session: &'a Session,
    /// The plan.
    pub plan: &'a Plan,
    /// The suite.
    pub suite: &'a Suite,
    /// The cluster and the images.
    pub ground: &'a Ground,
    /// The suite's namespaces.
    pub namespaces: &'a Namespaces,
}

/// What a suite deploys, before any of it is installed.
pub struct Rendered<'a> {
    /// Its releases.
    releases: Vec<Prepared<'a>>,
    /// What it needs for itself.
    pub claims: Claims,
}

/// Makes new namespaces for `suite`, or takes the one that the plan names.
///
/// # Errors
/// As [`namespaces::make`] and [`namespaces::existing`].
pub async fn namespaces(
    session: &Session,
    plan: &Plan,
    cluster: &Cluster,
    suite: &Suite,
) -> Result<Namespaces> {
    let step = session.events.step(Phase::Namespaces, suite.id());
    let namespaces = match &plan.existing_namespace {
        Some(name) => namespaces::existing(&cluster.client, suite, name).await?,
        None => {
            let marks = Marks::of(plan, cluster.clock.now());
            namespaces::make(&cluster.client, suite, marks, &[], &session.ledger).await?
        }
    };
    step.done(namespaces.list());
    Ok(namespaces)
}

impl<'a> Site<'a> {
    /// Renders the releases, and reads what they and the fixtures claim.
    ///
    /// # Errors
    /// As [`release::prepare`]; fixtures cannot be rendered or read, exit 2.
    pub async fn read(self) -> Result<Rendered<'a>> {
        let releases = self.render().await?;
        let fixtures = fixtures::render(self.suite, &self.facts())?;
        let manifests: Vec<&str> =
            releases.iter().map(Prepared::manifest).chain(fixtures.iter().map(String::as_str)).collect();
        let own: Vec<&str> = self.namespaces.by_role.values().map(String::as_str).collect();
        let claims = Claims::of(&manifests, &own)?;
        Ok(Rendered { releases, claims })
    }

    /// Deploys all of the suite; beside others when it is the turn of what was rendered of it. `held` is what the nodes hold.
    ///
    /// # Errors
    /// Of the part that failed, with its exit code.
    pub async fn deploy(
        self,
        held: &Inventory,
        turn: Option<(&Turns, &Turn, &Rendered<'_>)>,
    ) -> Result<Vec<Forward>> {
        let fresh;
        let prepared = match turn {
            // Rendering touches nothing that fixtures make.
            None => {
                fresh = tokio::try_join!(self.fixtures(), self.render())?.1;
                &fresh
            }
            Some((turns, turn, rendered)) => {
                turns.admit(turn, &rendered.claims, &self.session.events).await?;
                self.fixtures().await?;
                &rendered.releases
            }
        };
        let beside = self.beside()?;
        let onlooker = self.onlooker(&beside);
        let releases = self.install(onlooker, prepared, held, &[]).await?;
        let mut opening = Vec::new();
        for (name, spec) in &self.suite.forwards {
            opening.push(forward::begin(self.place(), name, spec).await?);
        }
        ready::wait(onlooker, &releases).await?;
        let mut forwards = Vec::new();
        for opening in opening {
            forwards.push(opening.finish(self.place()).await?);
        }
        self.forward(&mut forwards, self.plan.existing_namespace.is_some()).await?;
        Ok(forwards)
    }

    fn place(self) -> forward::Place<'a> {
        let Site { session, plan, suite, ground, namespaces } = self;
        forward::Place {
            cluster: &ground.cluster,
            suite,
            run: &plan.run,
            namespaces,
            way: plan.forward,
            ledger: &session.ledger,
            events: &session.events,
        }
    }

    /// Applies the fixtures; gives how many objects they hold.
    ///
    /// # Errors
    /// As [`fixtures::apply`].
    pub async fn fixtures(self) -> Result<usize> {
        let Site { session, plan, suite, ground, namespaces } = self;
        let step = session.events.step(Phase::Fixtures, suite.id());
        let facts = self.facts();
        let marks = Marks::of(plan, ground.cluster.clock.now());
        let count =
            fixtures::apply(&ground.cluster.client, suite, marks, namespaces, &facts, &session.ledger)
                .await?;
        step.done(text::count(count, "object"));
        Ok(count)
    }

    /// Renders the releases.
    ///
    /// # Errors
    /// As [`release::prepare`].
    pub async fn render(self) -> Result<Vec<Prepared<'a>>> {
        let (helm, folder) = (self.helm(), self.folder());
        release::prepare(self.installer(&helm, &folder), self.suite, self.namespaces, &self.facts()).await
    }

    /// Brings the images that the charts name on their own, then installs the releases; does not wait for them. `before` is what
    /// was installed of them in this process.
    ///
    /// # Errors
    /// As [`release::images::ensure`] and [`release::install`].
    pub async fn install(
        self,
        onlooker: ready::Place<'_>,
        prepared: &[Prepared<'_>],
        held: &Inventory,
        before: &[Installed],
    ) -> Result<Vec<Installed>> {
        let (helm, folder) = (self.helm(), self.folder());
        let installer = self.installer(&helm, &folder);
        release::images::ensure(installer, prepared, held).await?;
        release::install(installer, onlooker, prepared, before).await
    }

    /// What the fixtures ask for.
    ///
    /// # Errors
    /// They cannot be rendered or read; exit 2.
    pub fn beside(self) -> Result<Asked> {
        let fixtures = fixtures::render(self.suite, &self.facts())?;
        Asked::read(&fixtures.join("\n---\n"), &self.namespaces.first)
    }

    /// Where the releases are awaited, beside that.
    #[must_use]
    pub fn onlooker<'b>(self, beside: &'b Asked) -> ready::Place<'b>
    where
        'a: 'b,
    {
        let Cluster { client, clock, .. } = &self.ground.cluster;
        ready::Place { client, clock, beside, events: &self.session.events }
    }

    /// Opens the forwards that `open` lacks, closes those that the suite has no more, and proves all of them.
    ///
    /// # Errors
    /// As [`forward::open`] and [`Forward::prove`].
    pub async fn forward(self, open: &mut Vec<Forward>, after_rollout: bool) -> Result<()> {
        open.retain(|forward| self.suite.forwards.get(&forward.name) == Some(&forward.spec));
        for (name, spec) in &self.suite.forwards {
            if !open.iter().any(|forward| forward.name == *name) {
                open.push(forward::open(self.place(), name, spec).await?);
            }
        }
        for forward in open {
            forward.prove(after_rollout, &self.session.events).await?;
        }
        Ok(())
    }

    /// Runs `tests` against what was deployed, as places come to their `row`.
    ///
    /// # Errors
    /// As [`suites::run`]; tests that fail are in the results.
    pub async fn test(self, forwards: &[Forward], tests: &[&Test], row: &Row) -> Result<Vec<TestResult>> {
        let artifacts = self.folder().join("artifacts");
        std::fs::create_dir_all(&artifacts)?;
        let given = Given {
            run: &self.plan.run,
            kubeconfig: &self.ground.cluster.kubeconfig,
            helm: &self.helm().program,
            namespaces: self.namespaces,
            images: &self.ground.built,
            forwards,
            artifacts: &artifacts,
        };
        let environment = suites::environment(self.suite, given);
        let logs = self.folder().join("logs");
        let runner = Runner { row, retries: self.plan.retries, logs: &logs, events: &self.session.events };
        suites::run(runner, self.suite, tests, &environment).await
    }

    /// Where the suite's logs, artifacts and rendered values go.
    fn folder(self) -> Utf8PathBuf {
        self.plan.output.join(&self.suite.name).join(&self.suite.variant)
    }

    fn helm(self) -> Helm {
        self.session.helm(&self.ground.cluster)
    }

    fn installer<'b>(self, helm: &'b Helm, folder: &'b Utf8PathBuf) -> Installer<'b>
    where
        'a: 'b,
    {
        Installer {
            run: &self.plan.run,
            helm,
            cluster: &self.ground.cluster,
            push: &self.ground.push,
            folder,
            setup: self.plan.setup,
            events: &self.session.events,
            ledger: &self.session.ledger,
        }
    }

    fn facts(self) -> Facts {
        let Site { plan, suite, namespaces, ground, .. } = self;
        let images = suite.images.iter().filter_map(|name| ground.built.get(name));
        Facts {
            namespaces: namespaces.by_role.clone(),
            images: images.map(|image| (image.name.clone(), ImageFacts::new(&image.reference))).collect(),
            run: RunFacts { id: plan.run.clone() },
            suite: suite.name.clone(),
            variant: suite.variant.clone(),
        }
    }
}
