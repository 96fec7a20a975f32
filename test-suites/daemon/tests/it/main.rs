//! Dagster's daemon, from outside: what it starts by itself, what it holds back, and what it tries again.

mod backfills;
mod queue;
mod restart;
mod retries;
mod schedules;
mod sensors;

use std::collections::HashSet;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;
use suite_support::ask;
use suite_support::cluster::{self, Select};
use suite_support::dagster::{self, Instigator, Repository, RunId, Tick};
use suite_support::{Launch, Suite};

/// The only repository of this suite's code location.
const REPOSITORY: Repository<'static> = Repository { location: "user-code-deployment-1", name: "automation" };

/// Until the daemon has done something by itself: it looks each 5, 30 or 60 seconds, and the run that it starts boots
/// Python; and another test may have all places for a while.
const DAEMON_LIMIT: Duration = Duration::from_secs(450);

/// In seconds, longer than any test may take: such a run is ended by its test.
const LONG: u32 = 1800;

/// How many runs the instance may have at once: `maxConcurrentRuns` of this suite's values.
const AT_ONCE: usize = 3;

/// A run of a job of this suite.
fn launch(job: &str) -> Launch {
    Launch { repository: REPOSITORY.name.to_owned(), ..Launch::job(job) }
}

/// A run that takes so long.
fn working(seconds: u32) -> Launch {
    launch("queued_job").config(json!({"ops": {"work": {"config": {"seconds": seconds}}}}))
}

/// A run that takes so long; of those with the same value, one goes at a time.
fn alone(value: &str, seconds: u32) -> Launch {
    working(seconds).tag("alone", value)
}

/// The runs of a job since a test began: it may have been run on this deployment before.
struct Since<'a> {
    suite: &'a Suite,
    job: &'static str,
    before: HashSet<RunId>,
}

impl<'a> Since<'a> {
    async fn now(suite: &'a Suite, job: &'static str) -> anyhow::Result<Self> {
        let mut since = Self { suite, job, before: HashSet::new() };
        since.before = since.launched().await?;
        Ok(since)
    }

    /// The runs that have a worker in the cluster now.
    async fn launched(&self) -> anyhow::Result<HashSet<RunId>> {
        let of_job = ListParams::default().labels(&Suite::workers_of_job(self.job));
        let jobs = self.suite.user_jobs().list(&of_job).await?.items;
        Ok(jobs.iter().filter_map(Suite::run_of).filter(|run| !self.before.contains(run)).collect())
    }

    /// The ticks of a schedule or a sensor of the job, oldest first; of those that made no run, earlier ones too.
    async fn ticks(&self, of: &Instigator) -> Result<Vec<Tick>, dagster::Error> {
        let mut ticks = self.suite.dagster.ticks(of).await?;
        ticks.retain(|tick| !tick.run_ids.iter().any(|run| self.before.contains(run)));
        ticks.sort_by(|one, other| one.timestamp.total_cmp(&other.timestamp));
        Ok(ticks)
    }

    /// Waits until there are more of these ticks than so many.
    async fn more_ticks(&self, of: &Instigator, than: usize) -> anyhow::Result<()> {
        // Dagster tells nobody of a tick.
        let ticks = async || Ok(self.ticks(of).await?);
        let awaited = format!("another tick, by which {} would be run", self.job);
        ask::until(&awaited, DAEMON_LIMIT, ticks, |ticks| ticks.len() > than).await.map(drop)
    }

    /// Waits until at least so many runs have a worker in the cluster, and names those that have, oldest first.
    async fn workers(&self, at_least: usize) -> anyhow::Result<Vec<RunId>> {
        let awaited = format!("{at_least} workers of runs of {}", self.job);
        let runs = |jobs: &[Job]| -> Vec<RunId> {
            jobs.iter().filter_map(Suite::run_of).filter(|run| !self.before.contains(run)).collect()
        };
        let enough = |jobs: &[Job]| runs(jobs).len() >= at_least;
        let (all, select) = (self.suite.user_jobs(), Select::Labels(Suite::workers_of_job(self.job)));
        let mut jobs = cluster::await_objects(all, &select, &awaited, DAEMON_LIMIT, enough).await?;
        jobs.sort_by_key(ResourceExt::creation_timestamp);
        Ok(runs(&jobs))
    }
}
