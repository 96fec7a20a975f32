//! What becomes of a step's Job when the pod that made it is gone: it goes too, where that pod owns it, and else stays.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use suite_support::cluster::{self, Select};
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, executor};
use suite_support::{Launch, Run, Suite};

use crate::resume::worker;

/// A run with a step that goes on for ever.
fn endless(owned: bool) -> Launch {
    let config = executor(json!({}), &json!({"enable_owner_references": owned}));
    Launch::job("spin_forever_job_k8s").config(config)
}

/// The Job of the run's step with its pod, and the pod of the run.
async fn step_and_run(suite: &Suite, run: &Run) -> anyhow::Result<(Job, Pod, Pod)> {
    let step = suite.running_step(run).await?;
    let job = only(&suite.jobs_of(run, "step_worker").await?, "Job of a step").clone();
    Ok((job, step, only(&suite.pods_of(run, "run_worker").await?, "pod of the run").clone()))
}

/// Ends what a test leaves: the run, which the daemon resumes, and its step.
async fn end(suite: &Suite, run: &Run) -> anyhow::Result<()> {
    // While it is being resumed there is nothing that could be told to end.
    worker(suite, run, 1).await?;
    suite.stop(&run.run_id).await?;
    suite.delete_steps(run).await
}

#[tokio::test]
async fn a_step_that_the_run_s_pod_owns_goes_with_it() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(endless(true), async |run| {
            let (job, step, pod) = step_and_run(&suite, run).await?;
            let owner = only_owner(&job);
            assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Pod", pod.name_any().as_str()));
            assert_eq!(Some(&owner.uid), pod.uid().as_ref());

            suite.user_pods().delete(&pod.name_any(), &DeleteParams::default()).await?;
            // The resumed run may make another of the name.
            let name = Select::Name(job.name_any());
            let gone = |jobs: &[Job]| jobs.iter().all(|other| other.uid() != job.uid());
            let what = "the step's Job to go";
            cluster::await_objects(suite.user_jobs(), &name, what, CLUSTER_LIMIT, gone).await?;
            let name = Select::Name(step.name_any());
            let what = "the step's pod to go";
            cluster::await_objects(suite.user_pods(), &name, what, CLUSTER_LIMIT, <[_]>::is_empty).await?;
            end(&suite, run).await
        })
        .await
}

#[tokio::test]
async fn a_step_that_nobody_owns_outlives_the_run_s_pod() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    suite
        .with_run(endless(false), async |run| {
            let (job, _, pod) = step_and_run(&suite, run).await?;
            assert_eq!(job.owner_references(), []);
            // The garbage collector takes the mark when it deals with the pod's end, and would take the Job then.
            let mark = mark(&suite, &pod).await?;
            suite.user_pods().delete(&pod.name_any(), &DeleteParams::default()).await?;
            let marks: Api<ConfigMap> = Api::namespaced(suite.client().clone(), suite.user_namespace());
            let gone = Select::Name(mark);
            cluster::await_objects(marks, &gone, "the mark to go", CLUSTER_LIMIT, <[_]>::is_empty).await?;

            stands(&suite, run, &job).await?;
            // It deals with several objects at a time, and the mark may have been quicker.
            worker(&suite, run, 1).await?;
            stands(&suite, run, &job).await?;
            end(&suite, run).await
        })
        .await
}

/// The Job of a run's step is the same and its pod works.
async fn stands(suite: &Suite, run: &Run, job: &Job) -> anyhow::Result<()> {
    let after = suite.jobs_of(run, "step_worker").await?;
    let after = only(&after, "Job of a step");
    assert_eq!((after.uid(), &after.metadata.deletion_timestamp), (job.uid(), &None));
    let pods = suite.pods_of(run, "step_worker").await?;
    assert!(cluster::is_running(only(&pods, "pod of a step")), "the step's pod has ended");
    Ok(())
}

#[track_caller]
fn only_owner(job: &Job) -> &OwnerReference {
    let [owner] = job.owner_references() else {
        panic!("not one owner of {}: {:?}", job.name_any(), job.owner_references());
    };
    owner
}

/// Makes an object that the pod owns; gives its name.
async fn mark(suite: &Suite, pod: &Pod) -> anyhow::Result<String> {
    let name = format!("mark-{}", pod.name_any());
    let owner = pod.owner_ref(&());
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        owner_references: owner.map(|owner| vec![OwnerReference { controller: None, ..owner }]),
        ..ObjectMeta::default()
    };
    let mark = ConfigMap { metadata, ..ConfigMap::default() };
    let marks: Api<ConfigMap> = Api::namespaced(suite.client().clone(), suite.user_namespace());
    marks.create(&PostParams::default(), &mark).await?;
    Ok(name)
}
