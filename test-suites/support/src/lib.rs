//! What the Rust suites share: the environment contract, a Dagster client, waits, and what a failed test tells.

pub mod ask;
pub mod calm;
pub mod cluster;
pub mod contract;
pub mod dagster;
mod diagnosis;
pub mod expect;
mod frame;
pub mod jobs;
pub mod monitoring;
mod suite;

pub use contract::Contract;
pub use dagster::{Dagster, Launch, Run, RunId, RunStatus};
pub use suite::Suite;
