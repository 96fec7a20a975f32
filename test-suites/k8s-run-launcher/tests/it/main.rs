//! Dagster's Kubernetes run launcher, from outside: what a run is in the cluster, and what of it is left when it ends.

mod deployment;
mod launch;
mod secret;
mod terminate;
