//! The environment that a suite's tests are given.

use std::collections::BTreeMap;

use camino::Utf8Path;

use crate::config::Suite;
use crate::env::{Env, NO_PROXY, suite as name};
use crate::forward::Forward;
use crate::images::Built;
use crate::namespaces::Namespaces;

/// What the environment tells of.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The run's id.
    pub run: &'a str,
    /// The cluster's kubeconfig.
    pub kubeconfig: &'a Utf8Path,
    /// The helm program.
    pub helm: &'a Utf8Path,
    /// The suite's namespaces.
    pub namespaces: &'a Namespaces,
    /// The images of the run, by name.
    pub images: &'a BTreeMap<String, Built>,
    /// The open forwards.
    pub forwards: &'a [Forward],
    /// A folder for what tests want kept.
    pub artifacts: &'a Utf8Path,
}

/// The variables for the tests of `suite`.
#[must_use]
pub fn environment(suite: &Suite, given: Given<'_>) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [
        (name::KUBECONFIG, given.kubeconfig.as_str()),
        (name::RUN_ID, given.run),
        (name::SUITE, &suite.name),
        (name::VARIANT, &suite.variant),
        (name::FOLDER, suite.folder.as_str()),
        (name::HELM, given.helm.as_str()),
        (name::ARTIFACTS, given.artifacts.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let prefixed = |prefix: &str, key: &str| format!("{prefix}{}", name::key(key));
    all.extend(
        given.namespaces.by_role.iter().map(|(role, ns)| (prefixed(name::NAMESPACE, role), ns.clone())),
    );
    all.extend(
        given.forwards.iter().map(|forward| (prefixed(name::URL, &forward.name), forward.url.clone())),
    );
    // Not every program knows by itself that a forward is on this machine.
    let direct = Env::proxies().except_here();
    all.extend(NO_PROXY.map(|name| (name.to_owned(), direct.clone())));
    let images = suite.images.iter().filter_map(|image| given.images.get(image));
    all.extend(images.map(|image| (prefixed(name::IMAGE, &image.name), image.reference.clone())));
    all
}
