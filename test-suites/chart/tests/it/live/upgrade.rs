//! A release of the last chart is upgraded to the present one, changed, and rolled back. One test, because each step stands on
//! the one before.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use serde_json::Value;
use suite_support::cluster::{self, Select, State};
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, in_process, words};
use suite_support::{Launch, RunId, RunStatus, Suite};

use crate::helm::{self, Chart};

const RELEASE: &str = "dagster";
const LOCATION: &str = "user-code-deployment-1";
const WEBSERVER: &str = "component=dagster-webserver";
const DAEMON: &str = "component=dagster-daemon";
const CODE: &str = "component=user-deployments";
const DATABASE: &str = "app=postgresql";

/// What helm is given for a rollout, and a little more for its own end.
const ROLLOUT: &str = "240s";
const ROLLOUT_LIMIT: Duration = Duration::from_secs(260);

/// The release under test.
struct Release<'a> {
    suite: &'a Suite,
    namespace: &'a str,
}

/// A run that has ended, as Dagster tells of it.
#[derive(Debug, PartialEq)]
struct Ended {
    run: RunId,
    status: RunStatus,
    events: Vec<(String, String)>,
}

impl Release<'_> {
    /// Runs helm on the release.
    async fn helm(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<String> {
        let mut all = arguments.to_vec();
        all.extend(["--namespace", self.namespace]);
        helm::succeed(&all, "", limit).await
    }

    /// Brings it to the present chart with one more value, and waits until all is rolled out.
    async fn upgrade(&self, set: &str) -> anyhow::Result<()> {
        let chart = Chart::Dagster.folder();
        let chart = chart.to_str().context("the chart's path is not UTF-8")?;
        // What the user has said stays, for the rest the present chart's defaults count.
        let arguments = ["upgrade", RELEASE, chart, "--reset-then-reuse-values", "--set", set];
        let wait = ["--wait", "--timeout", ROLLOUT];
        self.helm(&[&arguments[..], &wait].concat(), ROLLOUT_LIMIT).await.map(drop)
    }

    /// Brings the database to the schema of the deployed Dagster.
    async fn migrate(&self) -> anyhow::Result<()> {
        self.upgrade("migrate.enabled=true").await?;
        let select = Select::Name(format!("{RELEASE}-dagster-webserver-instance-migrate"));
        let jobs: Api<Job> = Api::namespaced(self.suite.client().clone(), self.namespace);
        let finished = |jobs: &[Job]| jobs.iter().any(cluster::is_finished);
        let what = "the migration to end";
        let jobs = cluster::await_objects(jobs, &select, what, RUN_LIMIT, finished).await?;
        let job = only(&jobs, "Job of the migration");
        assert!(cluster::is_complete(job), "the migration failed: {}", job.state());
        Ok(())
    }

    async fn roll_back(&self) -> anyhow::Result<()> {
        self.helm(&["rollback", RELEASE, "1", "--wait", "--timeout", ROLLOUT], ROLLOUT_LIMIT).await.map(drop)
    }

    /// The version of the chart that is deployed, and the number of its revision.
    async fn deployed(&self) -> anyhow::Result<(String, u64)> {
        let told = self.helm(&["get", "metadata", RELEASE, "--output", "json"], CLUSTER_LIMIT).await?;
        let told: Value = serde_json::from_str(&told)?;
        let version = told["version"].as_str().with_context(|| format!("no version in {told}"))?;
        Ok((version.to_owned(), told["revision"].as_u64().unwrap_or_default()))
    }

    /// The pods that work, by what selects them.
    async fn pods(&self) -> anyhow::Result<BTreeMap<&'static str, Pod>> {
        let mut pods = BTreeMap::new();
        let working = |pods: &[Pod]| -> Vec<Pod> {
            pods.iter().filter(|pod| cluster::is_running(pod)).cloned().collect()
        };
        // Helm does not wait for what is replaced to be told to end.
        let one = |pods: &[Pod]| working(pods).len() == 1;
        for selector in [WEBSERVER, DAEMON, CODE, DATABASE] {
            let select = Select::Labels(selector.to_owned());
            let what = format!("one pod of {selector} to be left");
            let all = self.suite.system_pods();
            let found = cluster::await_objects(all, &select, &what, CLUSTER_LIMIT, one).await?;
            pods.insert(selector, only(&working(&found), selector).clone());
        }
        Ok(pods)
    }

    /// Everything answers, and a run succeeds; gives that run.
    async fn works(&self) -> anyhow::Result<Ended> {
        let told = self.helm(&["test", RELEASE, "--timeout", "300s"], RUN_LIMIT).await?;
        assert!(told.contains("Succeeded"), "{told}");
        // The webserver may have begun before the code server.
        self.suite.dagster.await_location(LOCATION, CLUSTER_LIMIT).await?;
        let launch = Launch::job("demo_job").config(in_process(words(&serde_json::json!(2))));
        let mut launched = None;
        self.suite
            .succeeded(launch, async |run| {
                launched = Some(run.run_id.clone());
                Ok(())
            })
            .await?;
        self.ended(launched.context("no run was launched")?).await
    }

    async fn ended(&self, run: RunId) -> anyhow::Result<Ended> {
        let status = self.suite.dagster.run(&run).await?.status;
        let events = self.suite.dagster.events(&run).await?;
        let events = events.iter().map(|event| (event.kind().to_owned(), event.message.clone())).collect();
        Ok(Ended { run, status, events })
    }

    /// Earlier runs are told of as they were.
    async fn remembers(&self, earlier: &[&Ended]) -> anyhow::Result<()> {
        for ended in earlier {
            let mut now = self.ended(ended.run.clone()).await?;
            // A run's worker may have something to say after the run's end.
            now.events.truncate(ended.events.len());
            assert_eq!(&now, *ended);
        }
        Ok(())
    }

    /// A variable of the webserver's process.
    async fn variable(&self, name: &str) -> anyhow::Result<Option<String>> {
        let pods = self.pods().await?;
        let system = self.suite.system_pods();
        Ok(cluster::variable(&system, &pods[WEBSERVER], name, CLUSTER_LIMIT).await?)
    }
}

/// What selects those pods that are others than before.
fn replaced(before: &BTreeMap<&'static str, Pod>, after: &BTreeMap<&'static str, Pod>) -> Vec<&'static str> {
    before.keys().filter(|key| before[*key].uid() != after[*key].uid()).copied().collect()
}

/// The version of the present chart.
fn present() -> anyhow::Result<String> {
    let chart: Value =
        serde_yaml::from_str(&fs::read_to_string(Chart::Dagster.folder().join("Chart.yaml"))?)?;
    Ok(chart["version"].as_str().context("Chart.yaml has no version")?.to_owned())
}

#[tokio::test]
async fn an_upgrade_keeps_the_data_and_can_be_rolled_back() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let namespace = suite.contract.namespace("system")?;
    let release = Release { suite: &suite, namespace };
    if release.deployed().await?.1 != 1 {
        // An earlier attempt has begun.
        release.roll_back().await?;
    }
    let released = release.deployed().await?.0;
    let of_released = release.works().await?;
    let before = release.pods().await?;

    // The database's pod is replaced as well, so that its data have to be on the volume.
    release.upgrade("postgresql.podAnnotations.upgraded=once").await?;
    assert_eq!(release.deployed().await?.0, present()?);
    let upgraded = release.pods().await?;
    assert!(replaced(&before, &upgraded).contains(&DATABASE), "the database's pod is the same");
    release.remembers(&[&of_released]).await?;
    let of_present = release.works().await?;

    release.migrate().await?;
    assert_eq!(replaced(&upgraded, &release.pods().await?), [""; 0]);
    release.remembers(&[&of_released, &of_present]).await?;

    // A value of a ConfigMap reaches who reads it, and leaves the others alone.
    assert_eq!(release.variable("ADDED").await?, None);
    release.upgrade("dagsterWebserver.env.ADDED=later").await?;
    assert_eq!(release.variable("ADDED").await?.as_deref(), Some("later"));
    assert_eq!(replaced(&upgraded, &release.pods().await?), [WEBSERVER]);

    release.roll_back().await?;
    assert_eq!(release.deployed().await?.0, released);
    assert_eq!(release.variable("ADDED").await?, None);
    release.remembers(&[&of_released, &of_present]).await?;
    release.works().await.map(drop)
}
