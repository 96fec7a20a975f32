//! Dagster's Kubernetes run launcher, from outside: what a run is in the cluster, and what of it is left when it ends.

mod expect;
mod launch;
mod secret;
mod terminate;

use std::time::Duration;

use serde_json::{Value, json};

/// Until a run has ended or done a step of its way: its pod boots Python and Dagster, beside those of other tests.
const RUN_LIMIT: Duration = Duration::from_secs(180);
/// Until the cluster shows what Dagster has said already.
const CLUSTER_LIMIT: Duration = Duration::from_secs(60);

/// The run config of the jobs that multiply a word by a factor and count the letters.
fn words(factor: &Value) -> Value {
    json!({"ops": {"multiply_the_word": {"config": {"factor": factor}, "inputs": {"word": "bar"}}}})
}

/// The same run config with its steps in the run's own process. By default each step has a process of its own, which
/// boots Dagster again; where a test is not about that, it need not wait for it.
fn in_process(mut config: Value) -> Value {
    config["execution"] = json!({"config": {"in_process": {}}});
    config
}
