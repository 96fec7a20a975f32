//! The engine behind `cargo xtask`: from a checkout to tested Helm releases on a Kind cluster.
//!
//! Declared in the order of the work: what is asked for, the stages, and what serves them.

pub mod cli;
pub mod env;
pub mod exit;

pub mod config;
pub mod plan;

pub mod setup;

pub mod cluster;
pub mod images;

pub mod namespaces;

pub mod fixtures;

pub mod release;

pub mod ready;

pub mod forward;

pub mod suites;

pub mod report;

pub mod bundle;
pub mod cleanup;
pub mod journal;
pub mod lease;
pub mod reaper;
pub mod sweep;

pub mod deploy;
pub mod groups;

pub mod pipeline;

pub mod local;

pub mod commands;

pub mod cmd;
pub mod docker;
pub mod events;
pub mod helm;
pub mod labels;
pub mod ledger;
pub mod names;
pub mod template;
pub mod text;
pub mod watch;

#[cfg(test)]
mod fake_api;
