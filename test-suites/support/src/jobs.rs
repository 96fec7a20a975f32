//! The test project's jobs: their run configs, and how long what they do may take.

use std::time::Duration;

use serde_json::{Value, json};

/// Until a run has ended or done a step of its way: its pods boot Python and Dagster, beside those of other tests.
pub const RUN_LIMIT: Duration = Duration::from_secs(360);
/// Until the cluster shows what Dagster has said already: a pod that is to end may take its whole grace period of 30 s for it, and on a
/// machine with much to do more.
pub const CLUSTER_LIMIT: Duration = Duration::from_secs(120);

/// The run config of the jobs that multiply a word by a factor and count the letters.
pub fn words(factor: &Value) -> Value {
    json!({"ops": {"multiply_the_word": {"config": {"factor": factor}, "inputs": {"word": "bar"}}}})
}

/// The same run config with its steps in the run's own process. By default each step has a process of its own, which
/// boots Dagster again; where a test is not about that, it need not wait for it.
#[must_use]
pub fn in_process(mut config: Value) -> Value {
    config["execution"] = json!({"config": {"in_process": {}}});
    config
}

/// The same run config with this configuration of its executor.
#[must_use]
pub fn executor(mut run: Value, config: &Value) -> Value {
    run["execution"] = json!({"config": config});
    run
}
