//! The client against programs that play kind and the container engine.

mod fake;

mod cluster;
mod config;
mod create;
mod ending;
mod failures;
mod node;
mod version;
