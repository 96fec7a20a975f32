//! Dagster's `k8s_job_op` and `execute_k8s_job`, from outside: the Jobs that they run, what these say, and what of them is left.

mod client;
mod configured;
mod ends;
mod several;

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::{Value, json};
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::{Launch, Run, Suite};

/// Which Jobs are those that ops run.
const COMPONENT: &str = "k8s_job_op";

/// A run of one op that runs a shell with this script, and is configured so besides.
fn shell(suite: &Suite, script: &str, more: Value) -> anyhow::Result<Launch> {
    let mut config = json!({
        "image": suite.contract.image("dagster-test")?,
        "command": ["/bin/sh", "-c"],
        "args": [script],
    });
    merge(&mut config, more);
    Ok(Launch::job("k8s_op_job").config(json!({"ops": {"run_job": {"config": config}}})))
}

/// Adds the keys of one object to another; one without a value is taken away.
fn merge(config: &mut Value, more: Value) {
    let (Value::Object(config), Value::Object(more)) = (config, more) else {
        panic!("configurations are objects");
    };
    for (key, value) in more {
        if value.is_null() {
            config.remove(&key);
        } else {
            config.insert(key, value);
        }
    }
}

/// The only Job that the run's op has run.
async fn only_job(suite: &Suite, run: &Run) -> anyhow::Result<Job> {
    Ok(only(&suite.jobs_of(run, COMPONENT).await?, "Job of an op").clone())
}

/// What the pods of a Job say, each in one of its containers.
async fn says(suite: &Suite, job: &Job, container: &str) -> anyhow::Result<Vec<String>> {
    let of_job = ListParams::default().labels(&format!("job-name={}", job.name_any()));
    let mut said = Vec::new();
    for pod in suite.user_pods().list(&of_job).await?.items {
        let log = cluster::logs(&suite.user_pods(), &pod.name_any(), container, None).await?;
        said.push(log.trim().to_owned());
    }
    Ok(said)
}
