//! The environment that a suite's tests are given; the one module that reads it.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// File with the credentials of the cluster, for these tests alone.
pub const KUBECONFIG: &str = "KUBECONFIG";
/// Identifies the run of the suite; part of what the tests name.
pub const RUN_ID: &str = "K8S_TEST_RUN_ID";
/// Name of the suite.
pub const SUITE: &str = "K8S_TEST_SUITE";
/// Name of the suite's variant that is deployed.
pub const VARIANT: &str = "K8S_TEST_VARIANT";
/// The folder of the suite.yaml that was deployed.
pub const FOLDER: &str = "K8S_TEST_FOLDER";
/// The helm program that the suite was deployed with.
pub const HELM: &str = "K8S_TEST_HELM";
/// Folder for what a test wants to keep.
pub const ARTIFACTS: &str = "K8S_TEST_ARTIFACTS";
/// In seconds, how long the test may take before it is ended.
pub const TIMEOUT: &str = "K8S_TEST_TIMEOUT";
/// Followed by a namespace role: the name of its namespace.
pub const NAMESPACE: &str = "K8S_TEST_NAMESPACE_";
/// Followed by the name of a forward: its base URL.
pub const URL: &str = "K8S_TEST_URL_";
/// Followed by the name of an image: its full reference.
pub const IMAGE: &str = "K8S_TEST_IMAGE_";

/// A variable of the contract that is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing deployed the suite before its tests were started.
    #[error("{variable} is not set: run the suite with `cargo xtask k8s-test`, which deploys it and sets it")]
    Missing {
        /// The variable's full name.
        variable: String,
    },
    /// The suite is deployed, but its `suite.yaml` declares no such thing.
    #[error("{variable} is not set: add {name:?} below `{section}` in suite.yaml, which has {}", listed(.known))]
    Undeclared {
        /// The variable's full name.
        variable: String,
        /// What was asked for.
        name: String,
        /// The part of `suite.yaml` that declares such names.
        section: &'static str,
        /// The names that are there, as the environment spells them.
        known: Vec<String>,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What the environment says about the deployment that is to be tested.
#[derive(Debug, Clone)]
pub struct Contract {
    kubeconfig: PathBuf,
    run_id: String,
    suite: String,
    variant: String,
    artifacts: PathBuf,
    timeout: Option<Duration>,
    namespaces: BTreeMap<String, String>,
    urls: BTreeMap<String, String>,
    images: BTreeMap<String, String>,
}

impl Contract {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// Names the first variable that is missing.
    pub fn from_env() -> Result<Self, Error> {
        // Other programs' variables need not be UTF-8; ours are.
        Self::read(env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
    }

    fn read(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let all: BTreeMap<String, String> = variables.into_iter().filter(|(_, v)| !v.is_empty()).collect();
        let single =
            |name: &str| all.get(name).cloned().ok_or_else(|| Error::Missing { variable: name.to_owned() });
        let family = |prefix: &str| {
            all.iter()
                .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.clone())))
                .collect()
        };
        Ok(Self {
            kubeconfig: single(KUBECONFIG)?.into(),
            run_id: single(RUN_ID)?,
            suite: single(SUITE)?,
            variant: single(VARIANT)?,
            artifacts: single(ARTIFACTS)?.into(),
            timeout: all.get(TIMEOUT).and_then(|text| text.parse().ok()).map(Duration::from_secs),
            namespaces: family(NAMESPACE),
            urls: family(URL),
            images: family(IMAGE),
        })
    }

    /// The kubeconfig file of the cluster.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The run of the suite.
    pub fn run_id(&self) -> &str {
        &self.run_id
    }

    /// The suite's name.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// The variant that is deployed.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// The folder for what a test wants to keep.
    pub fn artifacts(&self) -> &Path {
        &self.artifacts
    }

    /// How long the test may take before it is ended; none where nobody ends it.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The namespace of a role.
    ///
    /// # Errors
    /// The suite declares no such role.
    pub fn namespace(&self, role: &str) -> Result<&str, Error> {
        find(&self.namespaces, NAMESPACE, "namespaces", role)
    }

    /// The base URL of a forward, without a slash at its end.
    ///
    /// # Errors
    /// The suite declares no such forward.
    pub fn url(&self, forward: &str) -> Result<&str, Error> {
        find(&self.urls, URL, "forwards", forward).map(|url| url.trim_end_matches('/'))
    }

    /// The full reference of an image.
    ///
    /// # Errors
    /// The suite declares no such image.
    pub fn image(&self, name: &str) -> Result<&str, Error> {
        find(&self.images, IMAGE, "images", name)
    }
}

/// The folder of the suite.yaml that was deployed: a copy of the suite's own where that is broken on purpose. Nothing
/// where tests that need no deployment are run by hand.
pub fn folder() -> Option<PathBuf> {
    env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from)
}

/// The helm program that the suite was deployed with. Tests that only render charts need nothing else of the contract.
///
/// # Errors
/// The variable is not set.
pub fn helm() -> Result<PathBuf, Error> {
    let program = env::var_os(HELM).filter(|program| !program.is_empty());
    program.map(PathBuf::from).ok_or_else(|| Error::Missing { variable: HELM.to_owned() })
}

fn find<'a>(
    family: &'a BTreeMap<String, String>,
    prefix: &str,
    section: &'static str,
    name: &str,
) -> Result<&'a str, Error> {
    let key = name.to_uppercase().replace('-', "_");
    family.get(&key).map(String::as_str).ok_or_else(|| Error::Undeclared {
        variable: format!("{prefix}{key}"),
        name: name.to_owned(),
        section,
        known: family.keys().cloned().collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> Vec<(String, String)> {
        [
            ("PATH", "/usr/bin"),
            ("KUBECONFIG", "/tmp/kubeconfig"),
            ("K8S_TEST_RUN_ID", "k3x9"),
            ("K8S_TEST_SUITE", "k8s-run-launcher"),
            ("K8S_TEST_VARIANT", "default"),
            ("K8S_TEST_ARTIFACTS", "/tmp/artifacts"),
            ("K8S_TEST_TIMEOUT", "300"),
            ("K8S_TEST_NAMESPACE_USER", "dagster-test-1"),
            ("K8S_TEST_NAMESPACE_SYSTEM", "dagster-system-1"),
            ("K8S_TEST_URL_WEBSERVER", "http://127.0.0.1:34567/"),
            ("K8S_TEST_IMAGE_DAGSTER_TEST", "example.test/dagster-test:1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    #[test]
    fn reads_what_the_suite_declares() {
        let contract = Contract::read(variables()).unwrap();
        assert_eq!(contract.kubeconfig(), Path::new("/tmp/kubeconfig"));
        assert_eq!(contract.run_id(), "k3x9");
        assert_eq!(contract.suite(), "k8s-run-launcher");
        assert_eq!(contract.variant(), "default");
        assert_eq!(contract.artifacts(), Path::new("/tmp/artifacts"));
        assert_eq!(contract.timeout(), Some(Duration::from_secs(300)));
        assert_eq!(contract.namespace("system").unwrap(), "dagster-system-1");
        assert_eq!(contract.url("webserver").unwrap(), "http://127.0.0.1:34567");
        assert_eq!(contract.image("dagster-test").unwrap(), "example.test/dagster-test:1");
    }

    #[test]
    fn names_the_variable_that_is_missing_and_how_to_get_it() {
        for gone in [KUBECONFIG, RUN_ID, SUITE, VARIANT, ARTIFACTS] {
            let error = Contract::read(variables().into_iter().filter(|(name, _)| name != gone)).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "{gone} is not set: run the suite with `cargo xtask k8s-test`, which deploys it and sets it"
                )
            );
        }
    }

    #[test]
    fn an_empty_variable_is_a_missing_one() {
        let emptied = variables()
            .into_iter()
            .map(|(name, value)| if name == RUN_ID { (name, String::new()) } else { (name, value) });
        assert!(matches!(Contract::read(emptied), Err(Error::Missing { variable }) if variable == RUN_ID));
    }

    #[test]
    fn names_what_suite_yaml_has_when_a_role_is_unknown() {
        let contract = Contract::read(variables()).unwrap();
        assert_eq!(
            contract.namespace("run-pods").unwrap_err().to_string(),
            "K8S_TEST_NAMESPACE_RUN_PODS is not set: add \"run-pods\" below `namespaces` in suite.yaml, \
             which has SYSTEM, USER"
        );
    }
}
