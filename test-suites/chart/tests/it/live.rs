//! Releases of the charts in the cluster.

mod accepted;
mod connection;
mod instance;
mod rights;
mod upgrade;
