//! Releases of the charts in the cluster.

mod accepted;
mod connection;
mod rights;
mod upgrade;
