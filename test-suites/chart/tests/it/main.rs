//! Dagster's charts: what they render for every value, and what becomes of a release that is upgraded and rolled back.
//!
//! What only renders needs no cluster: `K8S_TEST_HELM=helm cargo test -p chart render::`.

mod helm;
mod live;
mod manifests;
mod render;
mod schema;
mod values;
