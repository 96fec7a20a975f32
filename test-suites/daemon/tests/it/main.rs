//! Dagster's daemon, from outside: what it starts by itself, what it holds back, and what it tries again.

mod backfills;
mod queue;
mod restart;
mod retries;
mod schedules;
mod sensors;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::time::Duration;

use anyhow::bail;
use futures::FutureExt;
use kube::ResourceExt;
use serde_json::json;
use suite_support::cluster::{self, Select};
use suite_support::dagster::{self, Instigator, Repository, RunId, Tick};
use suite_support::{Launch, Suite};
use tokio::time::{Instant, sleep};

/// The only repository of this suite's code location.
const REPOSITORY: Repository<'static> = Repository { location: "user-code-deployment-1", name: "automation" };

/// Until the daemon has done something by itself: it looks each 5, 30 or 60 seconds, and the run that it starts boots
/// Python.
const DAEMON_LIMIT: Duration = Duration::from_secs(180);

/// In seconds, longer than any test waits: such a run is ended by its test.
const LONG: u32 = 600;

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

/// Awaits `body` and then `stop`, however the first has ended: what was switched on would take the instance's places from other tests.
async fn afterwards<T>(
    body: impl Future<Output = anyhow::Result<T>>,
    stop: impl Future<Output = Result<(), dagster::Error>>,
) -> anyhow::Result<T> {
    let ended = AssertUnwindSafe(body).catch_unwind().await;
    let stopped = stop.await;
    let done = ended.unwrap_or_else(|panic| resume_unwind(panic))?;
    stopped?;
    Ok(done)
}

/// The ticks of a schedule or a sensor, oldest first, once they are as awaited.
async fn ticks(
    suite: &Suite,
    of: &Instigator,
    awaited: &str,
    so: impl Fn(&[Tick]) -> bool,
) -> anyhow::Result<Vec<Tick>> {
    let deadline = Instant::now() + DAEMON_LIMIT;
    loop {
        let mut ticks = suite.dagster.ticks(of).await?;
        ticks.sort_by(|one, other| one.timestamp.total_cmp(&other.timestamp));
        if so(&ticks) {
            return Ok(ticks);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {awaited}: {ticks:?}", DAEMON_LIMIT.as_secs());
        }
        // Dagster tells nobody of a tick.
        sleep(Duration::from_millis(250)).await;
    }
}

/// Waits until at least so many runs of a job have a worker in the cluster, and names those that have, oldest first.
async fn workers(suite: &Suite, job: &str, at_least: usize) -> anyhow::Result<Vec<RunId>> {
    let awaited = format!("{at_least} workers of runs");
    let enough = |jobs: &[_]| jobs.len() >= at_least;
    let select = Select::Labels(Suite::workers_of_job(job));
    let mut jobs = cluster::await_objects(suite.user_jobs(), &select, &awaited, DAEMON_LIMIT, enough).await?;
    jobs.sort_by_key(ResourceExt::creation_timestamp);
    Ok(jobs.iter().filter_map(Suite::run_of).collect())
}
