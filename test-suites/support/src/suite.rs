//! The deployment under test, and the frame in which a test launches a run and looks at it.

use std::pin::Pin;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cluster::{self, Select, State};
use crate::contract::Contract;
use crate::dagster::{self, Dagster, Event, Launch, Run, RunId, RunStatus};
use crate::diagnosis::Diagnosis;
use crate::expect;
use crate::frame::{self, framed};
use crate::jobs::{CLUSTER_LIMIT, RUN_LIMIT};

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The deployment that the environment describes.
#[derive(Clone)]
pub struct Suite {
    /// What the environment says.
    pub contract: Contract,
    /// Dagster's webserver.
    pub dagster: Dagster,
    client: kube::Client,
    user: String,
    system: String,
    /// When the test has to tell why it is not done.
    end: Option<Instant>,
}

impl Suite {
    /// Reads the environment and makes the clients.
    ///
    /// # Errors
    /// A variable of the contract is missing, or the kubeconfig is of no use.
    pub async fn connect() -> anyhow::Result<Self> {
        let contract = Contract::from_env()?;
        let config = cluster::config(contract.kubeconfig()).await?;
        Ok(Self {
            client: kube::Client::try_from(config)?,
            dagster: Dagster::new(contract.url("webserver")?),
            user: contract.namespace("user")?.to_owned(),
            system: contract.namespace("system")?.to_owned(),
            end: frame::end(contract.timeout()),
            contract,
        })
    }

    /// The namespace of the user code, in which the runs are.
    pub fn user_namespace(&self) -> &str {
        &self.user
    }

    /// The pods of the user code's namespace, those of the runs among them.
    pub fn user_pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.user)
    }

    /// The Jobs of the user code's namespace, those of the runs among them.
    pub fn user_jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.user)
    }

    /// The pods of Dagster's own namespace.
    pub fn system_pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.system)
    }

    /// The Deployments of Dagster's own namespace.
    pub fn system_deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.system)
    }

    /// The client of the cluster.
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// Launches a run and looks at it. When that fails, by error or by panic, says what the run, its Jobs and its pods
    /// did, and ends the run.
    ///
    /// # Errors
    /// The run cannot be launched, or the body's own.
    pub async fn with_run(
        &self,
        launch: Launch,
        body: impl AsyncFnOnce(&Run) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.with_runs([launch], async |[run]| body(run).await).await
    }

    /// As [`Suite::with_run`], with several runs, which are launched in this order.
    ///
    /// # Errors
    /// As there.
    pub async fn with_runs<const N: usize>(
        &self,
        launches: [Launch; N],
        body: impl AsyncFnOnce(&[Run; N]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let known = Mutex::new(Vec::new());
        let all = Box::pin(async {
            let mut launched = Vec::new();
            for launch in &launches {
                let run = self.dagster.launch(launch).await?;
                known.lock().await.push(run.run_id.clone());
                launched.push(run);
            }
            let runs: &[Run; N] = launched.as_slice().try_into()?;
            body(runs).await
        });
        self.told(all, async || known.lock().await.clone()).await
    }

    /// As [`Suite::with_run`], with the runs of a job, whoever launches them.
    ///
    /// # Errors
    /// The body's own.
    pub async fn with_runs_of<T>(
        &self,
        job: &str,
        body: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let runs = async || {
            let jobs = self.user_jobs().list(&ListParams::default().labels(&Self::workers_of_job(job))).await;
            let jobs = jobs.map(|list| list.items).unwrap_or_else(|error| {
                eprintln!("the runs of {job} are not known: {error}");
                Vec::new()
            });
            jobs.iter().filter_map(Self::run_of).collect()
        };
        self.told(Box::pin(body), runs).await
    }

    /// As [`Suite::with_run`], with a run that was launched by other means.
    ///
    /// # Errors
    /// The body's own.
    pub async fn with_launched(
        &self,
        run: &RunId,
        body: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        self.told(Box::pin(body), async || vec![run.clone()]).await
    }

    /// Awaits `body`; when it fails, or is not done when the test is about to be ended, says what the runs did, and ends them.
    ///
    /// On the heap: each of several frames one within the other would else hold all of those within, several times over, and overflow
    /// the stack of the test's thread.
    async fn told<T>(
        &self,
        body: Pin<Box<impl Future<Output = anyhow::Result<T>>>>,
        runs: impl AsyncFnOnce() -> Vec<RunId>,
    ) -> anyhow::Result<T> {
        let tell = async || {
            let runs = runs().await;
            for run in &runs {
                let diagnosis = Diagnosis::of(self, run).await;
                eprintln!("{diagnosis}");
                if let Err(error) = diagnosis.keep(self.contract.artifacts()) {
                    eprintln!("could not keep what was found of run {run}: {error:#}");
                }
            }
            for run in &runs {
                if let Err(error) = self.stop(run).await {
                    eprintln!("run {run} may go on: {error}");
                }
            }
        };
        framed(self.end, body, Box::pin(tell())).await
    }

    /// Awaits `body` and then `stop`, however the first has ended, or when the test is about to be ended: what was switched on would take
    /// the machine from other tests, and what was taken away would be missed by them.
    ///
    /// # Errors
    /// The body's, or that it cannot be stopped.
    pub async fn afterwards<T, E>(
        &self,
        body: impl Future<Output = anyhow::Result<T>>,
        stop: impl AsyncFn() -> Result<(), E>,
    ) -> anyhow::Result<T>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let after_failure = async {
            if let Err(error) = stop().await {
                eprintln!("what the test changed may stay so: {error}");
            }
        };
        let done = framed(self.end, Box::pin(body), Box::pin(after_failure)).await?;
        stop().await?;
        Ok(done)
    }

    /// As [`Suite::with_run`], with a run that has ended well.
    ///
    /// # Errors
    /// As there, or it does not end.
    ///
    /// # Panics
    /// It ends otherwise.
    pub async fn succeeded(
        &self,
        launch: Launch,
        body: impl AsyncFnOnce(&Run) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.with_run(launch, async |run| body(&self.succeeds(&run.run_id).await?).await).await
    }

    /// A run that goes on, once it has ended well.
    ///
    /// # Errors
    /// It does not end.
    ///
    /// # Panics
    /// It ends otherwise.
    pub async fn succeeds(&self, run: &RunId) -> anyhow::Result<Run> {
        let ended = self.dagster.await_end(run, RUN_LIMIT).await?;
        assert_eq!(ended.status, RunStatus::Success);
        Ok(ended)
    }

    /// Ends a run that goes on; one that has ended meanwhile stays as it is. What a test leaves behind would take the machine
    /// from the tests after it.
    ///
    /// # Errors
    /// Dagster refuses, and the run goes on.
    pub async fn stop(&self, run: &RunId) -> Result<(), dagster::Error> {
        let Err(refused) = self.dagster.terminate(run).await else { return Ok(()) };
        if self.dagster.run(run).await?.status.is_end() { Ok(()) } else { Err(refused) }
    }

    /// Deletes the Jobs of a run's steps, which may outlive the run.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn delete_steps(&self, run: &Run) -> anyhow::Result<()> {
        for job in self.jobs_of(run, "step_worker").await? {
            match self.user_jobs().delete(&job.name_any(), &DeleteParams::background()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
        }
        Ok(())
    }

    /// Waits for something that only a run that goes on can bring about.
    ///
    /// # Errors
    /// The wait's own, or the run ends first; waiting on would hide why.
    pub async fn while_it_goes<T, E>(
        &self,
        run: &Run,
        wait: impl Future<Output = Result<T, E>>,
    ) -> anyhow::Result<T>
    where
        anyhow::Error: From<E>,
    {
        // The wait has a limit of its own.
        let end = self.dagster.await_event(&run.run_id, "its end", FOREVER, Event::ends_run);
        tokio::select! {
            // What was awaited counts, even when the run has ended since.
            biased;
            done = wait => Ok(done?),
            end = end => Err(anyhow::anyhow!("run {} ended before what was awaited: {}", run.run_id, end?)),
        }
    }

    /// The Job of a run's worker when it has completed, and its pod, which is the only one of the worker.
    ///
    /// # Errors
    /// The Job does not end soon.
    ///
    /// # Panics
    /// It failed, or has not one pod.
    pub async fn completed(&self, run: &Run) -> anyhow::Result<(Job, Pod)> {
        let name = Select::Name(Self::run_job_name(&run.run_id));
        let finished = |jobs: &[Job]| jobs.iter().any(cluster::is_finished);
        let jobs = self.user_jobs();
        let jobs =
            cluster::await_objects(jobs, &name, "the run's Job to end", CLUSTER_LIMIT, finished).await?;
        let job = expect::only(&jobs, "Job of the run");
        assert!(cluster::is_complete(job), "the run's Job did not end well: {}", job.state());
        let pods = self.pods_of(run, "run_worker").await?;
        Ok((job.clone(), expect::only(&pods, "pod of the run's worker").clone()))
    }

    /// The only pod of the only step of a run that works, once it runs.
    ///
    /// # Errors
    /// The run ends first, or no such pod runs in time.
    pub async fn running_step(&self, run: &Run) -> anyhow::Result<Pod> {
        let select = Self::component_of_run(&run.run_id, "step_worker");
        let running = |pods: &[Pod]| pods.len() == 1 && pods.iter().all(cluster::is_running);
        let pods = self.user_pods();
        let wait = cluster::await_objects(pods, &select, "the step's pod to run", RUN_LIMIT, running);
        Ok(expect::only(&self.while_it_goes(run, wait).await?, "pod of a step").clone())
    }

    /// The only pod of the only step of a run, as it is now.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    ///
    /// # Panics
    /// There is not one.
    pub async fn only_step(&self, run: &Run) -> Result<Pod, kube::Error> {
        Ok(expect::only(&self.pods_of(run, "step_worker").await?, "pod of a step").clone())
    }

    /// The pods of a run that are of one kind, as they are now.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn pods_of(&self, run: &Run, component: &str) -> Result<Vec<Pod>, kube::Error> {
        let list = ListParams::default().labels(&Self::labels(&run.run_id, component));
        Ok(self.user_pods().list(&list).await?.items)
    }

    /// The Jobs of a run that are of one kind, as they are now.
    ///
    /// # Errors
    /// The API server refuses or does not answer.
    pub async fn jobs_of(&self, run: &Run, component: &str) -> Result<Vec<Job>, kube::Error> {
        let list = ListParams::default().labels(&Self::labels(&run.run_id, component));
        Ok(self.user_jobs().list(&list).await?.items)
    }

    fn labels(run: &RunId, component: &str) -> String {
        format!("dagster/run-id={run},app.kubernetes.io/component={component}")
    }

    /// The Job of a run's worker.
    pub fn run_job_name(run: &RunId) -> String {
        format!("dagster-run-{run}")
    }

    /// All pods and Jobs of a run: of its worker, of its steps, and of what its ops made.
    pub fn of_run(run: &RunId) -> Select {
        Select::Labels(format!("dagster/run-id={run}"))
    }

    /// Selects the workers of all runs of a job.
    pub fn workers_of_job(job: &str) -> String {
        format!("dagster/job={job},app.kubernetes.io/component=run_worker")
    }

    /// The run that an object was made for.
    pub fn run_of(object: &impl ResourceExt) -> Option<RunId> {
        object.labels().get("dagster/run-id").map(|id| RunId::from(id.as_str()))
    }

    /// The pods and Jobs of a run that are of one kind, such as `run_worker` or `step_worker`.
    pub fn component_of_run(run: &RunId, component: &str) -> Select {
        Select::Labels(Self::labels(run, component))
    }

    /// Waits until nothing of a run is left in the cluster.
    ///
    /// # Errors
    /// Something is, after the limit.
    pub async fn await_nothing_left_of(&self, run: &RunId, limit: Duration) -> Result<(), cluster::Error> {
        let select = Self::of_run(run);
        let jobs = cluster::await_objects(
            self.user_jobs(),
            &select,
            "the run's Jobs to be deleted",
            limit,
            <[_]>::is_empty,
        );
        let pods = cluster::await_objects(
            self.user_pods(),
            &select,
            "the run's pods to be deleted",
            limit,
            <[_]>::is_empty,
        );
        futures::try_join!(jobs, pods).map(drop)
    }
}
