//! What Dagster's client of the cluster finds out about pods and Jobs that are not its own.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use suite_support::cluster::{self, Select};
use suite_support::dagster;
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT};
use suite_support::{Launch, RunStatus, Suite};

/// Until the client has seen what it waits for: the node may have much to do.
const SECONDS: f64 = 240.0;

/// A Job of this test, with its containers' scripts by their names.
fn job(suite: &Suite, containers: &[(&str, &str)], more: &Value) -> anyhow::Result<Value> {
    let image = suite.contract.image("dagster-test")?;
    let containers: Vec<_> = containers
        .iter()
        .map(|(name, script)| {
            let mut container = json!({"name": name, "image": image, "imagePullPolicy": "Never",
                                       "command": ["/bin/sh", "-c", script]});
            for (key, value) in more.as_object().into_iter().flatten() {
                container[key] = value.clone();
            }
            container
        })
        .collect();
    Ok(json!({
        "metadata": {"generateName": "looked-at-"},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers,
        }}},
    }))
}

async fn create(suite: &Suite, job: Value) -> anyhow::Result<Job> {
    Ok(suite.user_jobs().create(&PostParams::default(), &serde_json::from_value(job)?).await?)
}

async fn make(suite: &Suite, containers: &[(&str, &str)], more: Value) -> anyhow::Result<Job> {
    create(suite, job(suite, containers, &more)?).await
}

/// The name of a Job's pod that no node takes until it has no gates any more.
async fn gated(suite: &Suite, name: &str, script: &str) -> anyhow::Result<String> {
    let mut job = job(suite, &[(name, script)], &json!({}))?;
    job["spec"]["template"]["spec"]["schedulingGates"] = json!([{"name": "dagster.io/not-yet"}]);
    let job = create(suite, job).await?;
    pod(suite, &job, "its pod", |_| true).await
}

/// A Job that has no pod until it is [resumed](resume).
async fn suspended(suite: &Suite, name: &str, script: &str) -> anyhow::Result<Job> {
    let mut job = job(suite, &[(name, script)], &json!({}))?;
    job["spec"]["suspend"] = json!(true);
    create(suite, job).await
}

async fn resume(suite: &Suite, job: &Job) -> anyhow::Result<()> {
    let resumed = Patch::Merge(json!({"spec": {"suspend": false}}));
    suite.user_jobs().patch(&job.name_any(), &PatchParams::default(), &resumed).await?;
    Ok(())
}

/// The pod of a Job, once it is so.
async fn pod(suite: &Suite, job: &Job, awaited: &str, is: impl Fn(&Pod) -> bool) -> anyhow::Result<String> {
    let select = Select::Labels(format!("job-name={}", job.name_any()));
    let so = |pods: &[Pod]| pods.iter().any(&is);
    let pods = cluster::await_objects(suite.user_pods(), &select, awaited, CLUSTER_LIMIT, so).await?;
    Ok(only(&pods, "pod of the Job").name_any())
}

fn phase(pod: &Pod, wanted: &str) -> bool {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some(wanted)
}

/// Whether a container of the pod waits for this reason.
fn waits(pod: &Pod, reason: &str) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let waiting = containers.filter_map(|container| container.state.as_ref()?.waiting.as_ref());
    waiting.filter_map(|waiting| waiting.reason.as_deref()).any(|of| of == reason)
}

/// What the containers print of which it is told.
const PRINTED: [&str; 4] = ["time for sleep", "whoops", "first words", "second words"];

/// Whether this is told only where the containers' logs are.
fn is_of_logs(words: &str) -> bool {
    PRINTED.contains(&words)
        || ["log lines", "No logs", "exec format error"].iter().any(|of| words.contains(of))
}

/// What is told of a pod that the cluster has not warned of.
const NO_WARNINGS: &str = "No warning events for pod.";

/// Whether the cluster has warned of a pod.
async fn is_warned_of(suite: &Suite, pod: &str) -> anyhow::Result<bool> {
    let events: Api<Event> = Api::namespaced(suite.client().clone(), suite.user_namespace());
    let warnings = ListParams::default().fields(&format!("involvedObject.name={pod},type=Warning"));
    Ok(!events.list(&warnings).await?.items.is_empty())
}

/// What an op logs, or what it fails with, as one text; `begin` is done when the op is about to look.
async fn told(
    suite: &Suite,
    launch: Launch,
    status: RunStatus,
    begin: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut told = String::new();
    suite
        .with_run(launch, async |run| {
            let looks = |event: &dagster::Event| event.message == "it looks";
            suite.dagster.await_event(&run.run_id, "its op to look", RUN_LIMIT, looks).await?;
            begin().await?;
            let ended = suite.dagster.await_end(&run.run_id, RUN_LIMIT).await?;
            assert_eq!(ended.status, status);
            for event in suite.dagster.events(&run.run_id).await? {
                if event.is("LogMessageEvent") {
                    told.push_str(&event.message);
                }
                told.extend(event.error_messages());
            }
            Ok(())
        })
        .await?;
    Ok(told)
}

#[tokio::test]
async fn a_pod_is_waited_for_until_it_is_ready_or_has_ended() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let pods = suite.user_pods();
    let wait = |pod: &str, state: &str, seconds: f64| {
        let config = json!({"pod": pod, "state": state, "seconds": seconds});
        Launch::job("await_pod_job").config(json!({"ops": {"await_pod": {"config": config}}}))
    };
    let lasting = gated(&suite, "lasting", "echo it works; sleep 3600").await?;
    let failing = gated(&suite, "failing", "echo whoops; exit 3").await?;
    let ending = gated(&suite, "ending", "echo well done").await?;
    // None of them has begun when the client first looks.
    let begin = async |pod: &str| Ok(cluster::ungate(&pods, pod).await?);
    let (ready, ended, failed) = tokio::try_join!(
        told(&suite, wait(&lasting, "READY", SECONDS), RunStatus::Success, async || begin(&lasting).await),
        told(&suite, wait(&ending, "TERMINATED", SECONDS), RunStatus::Success, async || begin(&ending).await),
        told(&suite, wait(&failing, "TERMINATED", SECONDS), RunStatus::Failure, async || {
            begin(&failing).await
        }),
    )?;
    let late = told(&suite, wait(&lasting, "TERMINATED", 1.0), RunStatus::Failure, async || Ok(())).await?;
    assert!(ready.contains("it works"), "told of a pod that is ready: {ready:?}");
    assert!(ended.contains("well done"), "told of a pod that has ended: {ended:?}");
    assert!(
        late.contains("Timed out while waiting for pod to get to status TERMINATED"),
        "told of a pod that does not end: {late:?}"
    );
    assert!(
        failed.contains("Container \"failing\" failed") && failed.contains("whoops"),
        "told of what failed: {failed:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_job_is_waited_for_until_it_has_succeeded() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let wait = |job: &Job, seconds: f64| {
        let config = json!({"job": job.name_any(), "seconds": seconds});
        Launch::job("await_k8s_job_job").config(json!({"ops": {"await_k8s_job": {"config": config}}}))
    };
    let good = suspended(&suite, "good", "sleep 2").await?;
    let bad = suspended(&suite, "bad", "sleep 2; exit 1").await?;
    let lasting = make(&suite, &[("lasting", "sleep 3600")], json!({})).await?;
    // The first two have no pods when the client first looks.
    let (succeeded, failed, late) = tokio::try_join!(
        told(&suite, wait(&good, SECONDS), RunStatus::Success, async || resume(&suite, &good).await),
        told(&suite, wait(&bad, SECONDS), RunStatus::Failure, async || resume(&suite, &bad).await),
        told(&suite, wait(&lasting, 3.0), RunStatus::Failure, async || Ok(())),
    )?;
    let pod = pod(&suite, &good, "its pod", |_| true).await?;
    assert!(
        succeeded.contains(&format!("{} had {pod}", good.name_any())),
        "told of a Job that succeeded: {succeeded:?}"
    );
    assert!(failed.contains("Encountered failed job pods for job"), "told of what failed: {failed:?}");
    let in_vain = format!("Timed out while waiting for job {} to complete", lasting.name_any());
    assert!(late.contains(&in_vain), "told of a Job that does not end: {late:?}");
    Ok(())
}

#[tokio::test]
async fn of_a_pod_it_is_told_how_it_is_and_why() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let one = async |script: &str, more: Value| make(&suite, &[("one", script)], more).await;
    let unschedulable = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|c| c.type_ == "PodScheduled" && c.status == "False")
    };

    let large = one("true", json!({"resources": {"requests": {"memory": "4000000M"}}})).await?;
    let running = one("echo time for sleep; sleep 3600", json!({})).await?;
    let failing = one("echo whoops; exit 1", json!({})).await?;
    let format = one("echo 'exec /usr/local/bin/dagster: exec format error'; exit 1", json!({})).await?;
    let secret = json!({"envFrom": [{"secretRef": {"name": "missing-secret"}}]});
    let secret = one("true", secret).await?;
    let image = json!({"image": "k8s-test.local/nobody-built-this:1", "imagePullPolicy": "IfNotPresent"});
    let image = one("true", image).await?;
    let good = make(&suite, &[("one", "echo first words"), ("two", "echo second words")], json!({})).await?;

    // What is told of each, in this order.
    let cases: [(String, &[&str]); 7] = [
        (
            pod(&suite, &large, "a pod without a node", unschedulable).await?,
            &[
                "Pod status: Pending",
                "No logs for container 'one'.",
                "FailedScheduling",
                "Insufficient memory",
            ],
        ),
        (
            pod(&suite, &running, "a pod that runs", cluster::is_ready).await?,
            &[
                "Pod status: Running",
                "Container 'one' status: Ready",
                "Last 25 log lines for container 'one':",
                "time for sleep",
                NO_WARNINGS,
            ],
        ),
        (
            pod(&suite, &failing, "a pod that fails", |pod| phase(pod, "Failed")).await?,
            &[
                "Pod status: Failed",
                "Container 'one' status: Terminated with exit code 1: Error",
                "Last 25 log lines for container 'one':",
                "whoops",
                NO_WARNINGS,
            ],
        ),
        (
            pod(&suite, &format, "a pod that fails", |pod| phase(pod, "Failed")).await?,
            &[
                "Pod status: Failed",
                "Container 'one' status: Terminated with exit code 1: Error",
                "contained `exec format error`, which usually means that your Docker image was built",
                NO_WARNINGS,
            ],
        ),
        (
            pod(&suite, &secret, "a pod without its secret", |pod| waits(pod, "CreateContainerConfigError"))
                .await?,
            &[
                "Pod status: Pending",
                "Container 'one' status: Waiting: CreateContainerConfigError: secret \"missing-secret\" not found",
                "No logs for container 'one'.",
                "Warning events for pod:",
            ],
        ),
        (
            pod(&suite, &image, "a pod without its image", |pod| waits(pod, "ImagePullBackOff")).await?,
            &[
                "Pod status: Pending",
                // It is tried again and again: the reason is the one or the other.
                "Container 'one' status: Waiting: ",
                "ImagePull",
                "nobody-built-this",
                "No logs for container 'one'.",
                "Warning events for pod:",
                "Failed: Error: ErrImagePull",
                "Failed: Error: ImagePullBackOff",
            ],
        ),
        (
            pod(&suite, &good, "a pod that ends", |pod| phase(pod, "Succeeded")).await?,
            &[
                "Pod status: Succeeded",
                "Container 'one' status: Terminated with exit code 0: Completed",
                "Container 'two' status: Terminated with exit code 0: Completed",
                "Last 25 log lines for container 'one':",
                "first words",
                "Last 25 log lines for container 'two':",
                "second words",
                NO_WARNINGS,
            ],
        ),
    ];
    for logs in [true, false] {
        let pods: Vec<_> = cases.iter().map(|(pod, _)| pod).collect();
        let config = json!({"ops": {"tell_of_pods": {"config": {"pods": pods, "logs": logs}}}});
        let launch = Launch::job("tell_of_pods_job").config(config);
        let told = told(&suite, launch, RunStatus::Success, async || Ok(())).await?;
        for (pod, expected) in &cases {
            let start = told.find(&format!("Debug information for pod {pod}:"));
            let start = start.ok_or_else(|| anyhow::anyhow!("nothing of pod {pod}: {told}"))?;
            let of_pod = &told[start..];
            let end = of_pod[1..].find("Debug information for pod").map_or(of_pod.len(), |end| end + 1);
            let of_pod = &of_pod[..end];
            let mut rest = of_pod;
            // A node with much to do may warn of any pod, for instance of a volume that it has got at the second attempt.
            let warned = is_warned_of(&suite, pod).await?;
            let mut expected: Vec<_> = expected.iter().filter(|words| logs || !is_of_logs(words)).collect();
            expected.retain(|words| **words != NO_WARNINGS || !warned);
            for words in expected {
                let Some((_, after)) = rest.split_once(words) else {
                    panic!("no {words:?}, or not in its place, in {of_pod}");
                };
                rest = after;
            }
        }
        let printed = PRINTED.iter().find(|words| told.contains(**words));
        assert!(logs || printed.is_none(), "logs in spite of include_container_logs, {printed:?}: {told}");
    }
    Ok(())
}
