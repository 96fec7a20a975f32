//! The run itself: each stage takes what the one before it made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};
use futures::future::join_all;
use kind_client::Kind;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

use crate::cleanup::{self, Decision, Policy, Remover, Whose};
use crate::cluster::{self, Cluster};
use crate::config::tools::Version;
use crate::config::{Guard, ImagesFile, Tools, Workspace};
use crate::env::Env;
use crate::events::{Events, Phase, TestResult};
use crate::exit::Exit;
use crate::groups::{self, History, Places, Refused, Turns};
use crate::helm::Helm;
use crate::images::deliver::{Delivered, Inventory, Looked, Push};
use crate::images::early::Early;
use crate::images::{self, Built, Maker};
use crate::journal;
use crate::lease::{Held, Holder, Lease};
use crate::ledger::{Ledger, Made};
use crate::plan::{ClusterPlan, Plan};
use crate::setup::{self, Machine, Mend};
use crate::suites::{self, Test};
use crate::sweep::{self, Sweep};
use crate::{deploy, fail, text};

mod group;

use group::{Scene, run_group};

/// What a run is made from and where it says what happens.
#[derive(Clone)]
pub struct Session {
    /// The workspace.
    pub workspace: Workspace,
    /// The environment.
    pub env: Env,
    /// ci/tools.yaml.
    pub tools: Arc<Tools>,
    /// ci/images.yaml.
    pub images: ImagesFile,
    /// ci/clusters.yaml.
    pub guard: Guard,
    /// The stream of events.
    pub events: Events,
    /// What the run makes.
    pub ledger: Ledger,
    /// What the run has found, for its cleanup and report.
    pub found: Arc<Mutex<Found>>,
}

/// What a run has found so far.
#[derive(Clone, Default)]
pub struct Found {
    /// kind.
    pub kind: Option<Kind>,
    /// The helm program and its version.
    pub helm: Option<(Utf8PathBuf, Version)>,
    /// The cluster.
    pub cluster: Option<Cluster>,
    /// The images.
    pub images: BTreeMap<String, Built>,
    /// What was sent to the nodes.
    pub delivered: Vec<Delivered>,
}

impl Session {
    /// Remembers something for the cleanup and the report.
    pub fn find(&self, write: impl FnOnce(&mut Found)) {
        write(&mut self.found.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What was found so far.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The machine, made ready where `setup` says so.
    ///
    /// # Errors
    /// As [`setup::ensure`].
    pub async fn machine(&self, setup: bool) -> Result<Machine> {
        let machine = setup::ensure(self.setup(if setup { Mend::Yes } else { Mend::No })).await?;
        let kind = machine.kind_client();
        self.find(|found| found.kind = Some(kind));
        let tools = journal::Tools { kind: machine.kind.clone(), helm: machine.helm.clone() };
        self.ledger.note(|entry| entry.tools = Some(tools));
        Ok(machine)
    }

    /// What set-up needs to know.
    #[must_use]
    pub fn setup(&self, mend: Mend) -> setup::Context<'_> {
        setup::Context { env: &self.env, tools: &self.tools, events: &self.events, mend }
    }

    /// What making images needs to know.
    #[must_use]
    pub fn maker(&self, machine: &Machine, setup: bool) -> Maker {
        Maker {
            cache: self.env.cache.clone(),
            scratch: self.workspace.runs().join("build"),
            tools: self.tools.clone(),
            kind: machine.kind.clone(),
            arch: machine.docker.arch().to_owned(),
            local: images::Local::default(),
            setup,
            events: self.events.clone(),
        }
    }

    /// When images come by `docker push`; `invest` is whether to spend time on changes to come.
    #[must_use]
    pub fn push(&self, machine: &Machine, invest: bool) -> Push {
        Push {
            memory: Some(self.env.cache.join("pushed-layers.json")),
            invest,
            compressed: machine.docker.containerd_store(),
            ..Push::default()
        }
    }

    /// The cluster of the plan, with its node image made where it has to be; and what its nodes hold, where they were asked
    /// meanwhile. `run` is whose it is when it has to be made.
    ///
    /// # Errors
    /// As [`cluster::kind::ensure`] and [`cluster::existing::connect`].
    pub async fn cluster(
        &self,
        maker: &Maker,
        machine: &Machine,
        plan: &ClusterPlan,
        run: &str,
        own: &Utf8Path,
    ) -> Result<(Cluster, Option<Looked>)> {
        let kind = machine.kind_client();
        let (cluster, looked) = match plan {
            ClusterPlan::Kubeconfig { file, context } => {
                let wanted =
                    cluster::existing::Wanted { file, context: context.as_deref(), guard: &self.guard };
                (cluster::existing::connect(wanted, own, &kind).await?, None)
            }
            ClusterPlan::Kind { name, named, ephemeral } => {
                let spec = self.tools.node_image.spec();
                let config = cluster::kind::read_config(&self.workspace.ci().join("kind.yaml"))?;
                let step = self.events.step(Phase::Cluster, "node image");
                let (image, how) = images::source::ensure(maker, "node", &spec, &step)
                    .await
                    .map_err(|error| error.context("make the node image"))?;
                step.done(how.verb());
                let wanted = cluster::kind::Wanted {
                    name: name.clone(),
                    named: *named,
                    config,
                    image,
                    lease: Lease::of_cluster(run, *ephemeral),
                    lock: cluster::lock::file(&self.env.cache, name),
                    kubeconfig: own.to_owned(),
                };
                let creating = || self.ledger.record(|made| made.cluster = Some(name.clone()));
                let look = async |nodes: Vec<kind_client::Node>| images::deliver::look(&nodes, &[]).await;
                let made = cluster::kind::ensure(&kind, &wanted, &self.events, creating, look).await?;
                self.ledger.record(|made| made.cluster_complete = true);
                made
            }
        };
        cluster.clock.compare(&cluster.client).await;
        let ahead = cluster.clock.ahead();
        if !ahead.is_zero() {
            let (by, side) = (ahead.unsigned_abs(), if ahead.is_negative() { "behind" } else { "ahead of" });
            self.events.note(format!(
                "the clock of {} is {} {side} this machine's; limits and leases go by the cluster's",
                cluster.name,
                text::seconds(by)
            ));
        }
        self.find(|found| {
            found.cluster = Some(cluster.clone());
            found.helm = Some((machine.helm.clone(), machine.helm_version));
        });
        Ok((cluster, looked))
    }

    /// Keeps what the run makes its own from now on.
    #[must_use]
    pub fn hold(&self, policy: &Policy, cluster: &Cluster, kind: Kind) -> Held {
        let Session { ledger, events, env, .. } = self.clone();
        let (client, clock) = (cluster.client.clone(), cluster.clock.clone());
        Holder { policy: policy.clone(), ledger, client, clock, kind, cache: env.cache, events }.hold()
    }

    /// helm, for a cluster.
    #[must_use]
    pub fn helm(&self, cluster: &Cluster) -> Helm {
        let (program, version) = self.found().helm.unzip();
        let program = program.unwrap_or_else(|| "helm".into());
        Helm { program, version, kubeconfig: cluster.kubeconfig.clone() }
    }

    /// Does what was decided with what the run has made, by what it has found.
    ///
    /// # Errors
    /// As [`cleanup::clean_up`].
    pub async fn clean_up(&self, policy: &Policy, made: &Made, decision: &Decision) -> Result<()> {
        let found = self.found();
        let helm = found.cluster.as_ref().map(|cluster| self.helm(cluster));
        let remover = Remover {
            whose: Whose::Runs(std::slice::from_ref(&policy.run)),
            kind: found.kind.as_ref(),
            helm: helm.as_ref(),
            client: found.cluster.as_ref().map(|cluster| &cluster.client),
            clock: found.cluster.as_ref().map(|cluster| cluster.clock.clone()).unwrap_or_default(),
            cache: &self.env.cache,
            events: &self.events,
        };
        cleanup::clean_up(&remover, policy, made, decision).await
    }
}

/// Runs the plan up to the last test; cleaning up is the caller's, on every path.
///
/// # Errors
/// Of the stage that failed, with its exit code. Tests that fail are in the results.
pub async fn run(session: &Session, plan: &Plan) -> Result<Vec<TestResult>> {
    let (ground, selected) = ground(session, plan, select(session, plan)).await?;
    let held = deliver(session, plan, &ground).await?;
    let mut groups = groups::form(&plan.suites, &selected)?;
    if let Some(seed) = plan.shuffle {
        session.events.note(format!("the tests are shuffled; the same order again: --shuffle {seed}"));
        groups::shuffle(&mut groups, seed);
    } else {
        History::read(&session.workspace.runs(), &session.workspace.suites()).sort(&mut groups);
    }
    // What goes into one namespace of somebody else's goes there in turn.
    let in_turn = plan.existing_namespace.is_some();
    let deployments = Places::new(if in_turn { 1 } else { plan.jobs });
    let beside = (plan.jobs_grow && !in_turn).then(|| Places::new(plan.jobs));
    let turns = Turns::new(&ground.cluster.client, groups.len(), deployments.clone(), beside).await;
    let tests = Places::new(plan.jobs);
    let scene = Scene { plan, ground: &ground, held: &held, turns: &turns, tests: &tests };
    let several = groups.len() > 1;
    let mut namespaces = Vec::new();
    for group in &groups {
        namespaces.push(deploy::namespaces(session, plan, &ground.cluster, group.first()).await?);
    }
    let rendered = match several && !in_turn {
        true => group::render(session, plan, &ground, &groups, &namespaces).await?,
        false => Vec::new(),
    };
    let running = groups.iter().zip(&namespaces).enumerate().map(async |(at, (group, namespaces))| {
        let scoped = match several {
            false => session.clone(),
            true => Session { events: session.events.scoped(&group.first().id()), ..session.clone() },
        };
        run_group(&scoped, scene, group, namespaces, rendered.get(at)).await.map_err(|error| {
            // The first line of a message is the cause; with one group nobody asks which.
            if several { error.context(format!("suite {}", group.id())) } else { error }
        })
    });
    let widen = async {
        if plan.jobs_grow && !in_turn {
            groups::widen(&ground.cluster.nodes, &tests, &deployments).await;
        }
        std::future::pending().await
    };
    let mut results = Vec::new();
    let mut failures = Vec::new();
    let ended = tokio::select! {
        ended = join_all(running) => ended,
        never = widen => never,
        // What fails from now on fails by that.
        lost = ground.lease.lost() => fail!(Exit::Environment, "{lost}"),
    };
    for (group, ended) in groups.iter().zip(ended) {
        match ended {
            Ok(tests) => results.extend(tests),
            Err(error) => {
                let place = plan.suites.iter().position(|suite| suite.id() == group.first().id());
                failures.push((error.is::<Refused>(), place, error));
            }
        }
    }
    // What kept another from being deployed comes before that; else the order is the plan's, not that of past times.
    failures.sort_by_key(|(refused, place, _)| (*refused, *place));
    first_of(failures.into_iter().map(|(.., error)| error), &session.events)?;
    Ok(results)
}

/// Fails by the first of the failures; the others are warnings.
fn first_of(failures: impl IntoIterator<Item = Error>, events: &Events) -> Result<()> {
    let mut failures = failures.into_iter();
    let Some(first) = failures.next() else { return Ok(()) };
    for other in failures {
        events.warn(crate::exit::message(&other));
    }
    Err(first)
}

/// What everything is deployed on and from.
pub struct Ground {
    /// The cluster.
    pub cluster: Cluster,
    /// The images, in the local Docker.
    pub built: BTreeMap<String, Built>,
    /// When images come by `docker push`.
    pub push: Push,
    /// What was brought already and what the nodes said that they hold, for the next delivery.
    pub early: Mutex<Early>,
    /// The machine.
    pub machine: Machine,
    /// Keeps what the run makes its own.
    pub lease: Held,
    /// Removes what others have left.
    _sweep: Sweep,
}

/// The plan's cluster and images, made side by side with `beside`.
///
/// # Errors
/// Of the first of them that fails.
pub async fn ground<T>(
    session: &Session,
    plan: &Plan,
    beside: impl Future<Output = Result<T>>,
) -> Result<(Ground, T)> {
    let (ground, beside) = tokio::try_join!(ground_alone(session, plan), beside)?;
    Ok((ground, beside))
}

async fn ground_alone(session: &Session, plan: &Plan) -> Result<Ground> {
    let machine = session.machine(plan.setup).await?;
    let kubeconfig = plan.output.join("kubeconfig");
    let maker = session.maker(&machine, plan.setup);
    let policy = Policy::of(plan);
    // A machine of a CI system is gone before there is a next change.
    let push = session.push(&machine, !plan.ci);
    let (tell, nodes) = oneshot::channel();
    let cluster = async {
        let (made, looked) = session.cluster(&maker, &machine, &plan.cluster, &plan.run, &kubeconfig).await?;
        // Who waits for them is there as long as this.
        let _ = tell.send((made.nodes.clone(), looked));
        let (cluster, kind) = (&made, machine.kind_client());
        let sweep = sweep::start(session, plan, cluster, &kind);
        let lease = session.hold(&policy, cluster, kind);
        Ok((made, lease, sweep))
    };
    let (each, made) = unbounded_channel();
    let bring = async {
        match nodes.await {
            Ok((nodes, looked)) if !nodes.is_empty() => {
                let names = deployed(plan);
                images::early::bring(&nodes, looked, made, &names, &push, &session.events).await
            }
            // There is no cluster, which is said elsewhere, or nothing is brought to it.
            _ => Ok(Early::default()),
        }
    };
    let make = images::make_each(&maker, &session.images, &plan.images, each);
    let ((cluster, lease, sweep), built, early) = tokio::try_join!(cluster, make, bring)?;
    session.find(|found| {
        found.images = built.clone();
        found.delivered.extend(early.delivered.iter().cloned());
    });
    Ok(Ground { cluster, built, push, early: Mutex::new(early), machine, lease, _sweep: sweep })
}

/// The names of the images that the plan's suites deploy.
fn deployed(plan: &Plan) -> BTreeSet<&String> {
    plan.suites.iter().flat_map(|suite| &suite.images).collect()
}

/// Brings the images that the plan's suites deploy to the nodes, where they have not come there yet; gives what these hold now.
///
/// # Errors
/// As [`images::deliver::deliver`].
pub async fn deliver(session: &Session, plan: &Plan, ground: &Ground) -> Result<Inventory> {
    let Ground { cluster, built, push, early, .. } = ground;
    if cluster.nodes.is_empty() {
        return Ok(Inventory::new());
    }
    let wanted = deployed(plan).into_iter().map(|name| built[name].wanted()).collect::<Result<Vec<_>>>()?;
    let early = std::mem::take(&mut *early.lock().unwrap_or_else(PoisonError::into_inner));
    let delivery =
        images::deliver::deliver(&cluster.nodes, early.looked, &wanted, push, &session.events).await?;
    let sent = early.delivered.iter().chain(&delivery.nodes).any(|node| node.method.is_some());
    if sent && !plan.ci {
        let keep = wanted.into_iter().map(|wanted| wanted.name).collect();
        images::deliver::prune(cluster, &plan.run, &delivery.held, &keep, &session.events).await;
    }
    session.find(|found| found.delivered.extend(delivery.nodes));
    Ok(delivery.held)
}

/// Builds the tests and selects those to run, before anything is deployed for them.
///
/// # Errors
/// As [`suites::compile::compile`] and [`suites::select`].
pub async fn select(session: &Session, plan: &Plan) -> Result<Vec<Vec<Test>>> {
    let (cargo, root) = (&session.env.cargo, &session.workspace.root);
    let compiled = suites::compile::compile(cargo, root, &plan.suites, &session.events).await?;
    suites::select(&plan.suites, &compiled, &plan.filters).await
}
