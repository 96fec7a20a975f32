//! Dagster's run monitoring, from outside: runs whose pods do not start or do not stay, and what of their steps stays.

mod limits;
mod owner;
mod resume;

use serde_json::{Value, json};
use suite_support::Launch;

/// A run with one step, a Job of its own, that takes so long.
fn slow(seconds: u32) -> Launch {
    Launch::job("slow_job_k8s").config(slow_config(seconds))
}

fn slow_config(seconds: u32) -> Value {
    json!({"ops": {"slow_op": {"config": {"seconds": seconds}}}})
}
