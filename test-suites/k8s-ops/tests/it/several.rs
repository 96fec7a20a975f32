//! Several Jobs or pods: of ops in order, of attempts, of one Job.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use serde_json::json;
use suite_support::expect::only;
use suite_support::{Launch, Run, Suite};

use crate::{COMPONENT, only_job, says, shell};

/// The only Job of an op.
async fn job_of(suite: &Suite, run: &Run, op: &str) -> anyhow::Result<Job> {
    let mut jobs = suite.jobs_of(run, COMPONENT).await?;
    jobs.retain(|job| job.labels().get("dagster/op").is_some_and(|of| of == op));
    Ok(only(&jobs, op).clone())
}

#[tokio::test]
async fn an_op_that_comes_after_another_runs_its_job_later() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    let op = |text: &str| json!({"config": {"image": image, "command": ["echo", text]}});
    let config = json!({"ops": {"first": op("HI"), "second": op("GOODBYE")}});
    suite
        .succeeded(Launch::job("k8s_ops_in_order_job").config(config), async |run| {
            let (first, second) = (job_of(&suite, run, "first").await?, job_of(&suite, run, "second").await?);
            assert_eq!(says(&suite, &first, "dagster").await?, ["HI"]);
            assert_eq!(says(&suite, &second, "dagster").await?, ["GOODBYE"]);
            let ended = first.status.as_ref().and_then(|status| status.completion_time.clone());
            let made = second.creation_timestamp();
            assert!(
                ended.is_some() && ended <= made,
                "the first ended {ended:?}, the second was made {made:?}"
            );
            Ok(())
        })
        .await
}

#[tokio::test]
async fn what_one_op_returns_reaches_the_job_of_the_next() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = json!({"config": {"image": suite.contract.image("dagster-test")?}});
    let config = json!({"ops": {"greet": image, "answer": image}});
    suite
        .succeeded(Launch::job("execute_k8s_job_job").config(config), async |run| {
            assert_eq!(says(&suite, &job_of(&suite, run, "greet").await?, "dagster").await?, ["HI"]);
            assert_eq!(says(&suite, &job_of(&suite, run, "answer").await?, "dagster").await?, ["GOODBYE"]);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn a_job_has_the_name_that_the_op_gives_it() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let image = suite.contract.image("dagster-test")?;
    // A Job of an earlier run may be there still, in a namespace that was kept.
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let name = format!("named-{unique:x}");
    let config = json!({"ops": {
        "greet": {"config": {"image": image, "k8s_job_name": name}},
        "answer": {"config": {"image": image}},
    }});
    suite
        .succeeded(Launch::job("execute_k8s_job_job").config(config), async |run| {
            assert_eq!(job_of(&suite, run, "greet").await?.name_any(), name);
            assert_ne!(job_of(&suite, run, "answer").await?.name_any(), name);
            Ok(())
        })
        .await
}

#[tokio::test]
async fn each_attempt_of_an_op_has_a_job_of_its_own() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let config = json!({"ops": {"run_twice": {"config": {"image": suite.contract.image("dagster-test")?}}}});
    suite
        .succeeded(Launch::job("execute_k8s_job_again_job").config(config), async |run| {
            let mut jobs = suite.jobs_of(run, COMPONENT).await?;
            jobs.sort_by_key(ResourceExt::name_any);
            let names: Vec<_> = jobs.iter().map(ResourceExt::name_any).collect();
            assert_eq!(names.len(), 2, "{names:?}");
            assert_eq!(names[1], format!("{}-1", names[0]));
            for (attempt, job) in jobs.iter().enumerate() {
                assert_eq!(says(&suite, job, "dagster").await?, [format!("attempt {attempt}")]);
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn all_pods_of_a_job_are_waited_for() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    let own = json!({"job_spec_config": {"parallelism": 2, "completions": 2}});
    suite
        .succeeded(shell(&suite, "echo HI", own)?, async |run| {
            assert_eq!(says(&suite, &only_job(&suite, run).await?, "dagster").await?, ["HI", "HI"]);
            Ok(())
        })
        .await
}
