//! Every environment variable, and the only place that reads them.

use camino::Utf8PathBuf;

/// Set by CI systems; makes the cluster ephemeral.
pub const CI: &str = "CI";
/// The kubeconfig that `--cluster-provider kubeconfig` reads when `--kubeconfig` is absent.
pub const KUBECONFIG: &str = "KUBECONFIG";
/// Where tools and build outputs are kept between runs; default `$XDG_CACHE_HOME/k8s-test`.
pub const CACHE_DIR: &str = "K8S_TEST_CACHE_DIR";
/// Diagnostics of the engine itself, in tracing's filter syntax.
pub const LOG: &str = "K8S_TEST_LOG";
/// The base of user caches by the XDG specification; default `~/.cache`.
pub const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
/// A Docker Engine elsewhere, as Docker's client reads it.
pub const DOCKER_HOST: &str = "DOCKER_HOST";
/// The user's home.
pub const HOME: &str = "HOME";
/// The cargo that runs us, set by cargo.
pub const CARGO: &str = "CARGO";
/// The folder of the package whose program runs, set by cargo.
pub const CARGO_MANIFEST_DIR: &str = "CARGO_MANIFEST_DIR";
/// The proxy for HTTPS, also in small letters.
pub const HTTPS_PROXY: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
/// What is reached without a proxy, with commas between: hosts, domains, networks; also in small letters.
pub const NO_PROXY: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Where programs are looked for.
pub const PATH: &str = "PATH";
/// `true` in a job of GitHub Actions, which shows errors beside the run.
pub const GITHUB_ACTIONS: &str = "GITHUB_ACTIONS";
/// Switches off colours (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";

/// Set for the programs that a run starts: the run's id, by which its reaper finds those that outlive it.
pub const PROGRAM_OF: &str = "K8S_TEST_PROGRAM_OF";
/// What the reaper must not inherit: our own mark, and those by which CI systems end what a job has left running.
pub const NOT_FOR_THE_REAPER: [&str; 3] = [PROGRAM_OF, "RUNNER_TRACKING_ID", "JENKINS_NODE_COOKIE"];

/// Names of what a suite's tests are given.
pub mod suite {
    /// The kubeconfig of the cluster under test, a file of the run's own.
    pub const KUBECONFIG: &str = super::KUBECONFIG;
    /// The run's id.
    pub const RUN_ID: &str = "K8S_TEST_RUN_ID";
    /// The suite's name.
    pub const SUITE: &str = "K8S_TEST_SUITE";
    /// The variant's name.
    pub const VARIANT: &str = "K8S_TEST_VARIANT";
    /// The suite's folder; a copy of it where the suite is broken on purpose.
    pub const FOLDER: &str = "K8S_TEST_FOLDER";
    /// The helm that the suite was deployed with.
    pub const HELM: &str = "K8S_TEST_HELM";
    /// A folder for what the test wants kept.
    pub const ARTIFACTS: &str = "K8S_TEST_ARTIFACTS";
    /// Where a command may write a JUnit file, whose cases are then the suite's tests.
    pub const JUNIT: &str = "K8S_TEST_JUNIT";
    /// In seconds, how long the test may take before it is ended.
    pub const TIMEOUT: &str = "K8S_TEST_TIMEOUT";
    /// `K8S_TEST_NAMESPACE_<ROLE>`.
    pub const NAMESPACE: &str = "K8S_TEST_NAMESPACE_";
    /// `K8S_TEST_URL_<FORWARD>`.
    pub const URL: &str = "K8S_TEST_URL_";
    /// `K8S_TEST_IMAGE_<NAME>`.
    pub const IMAGE: &str = "K8S_TEST_IMAGE_";

    /// `dagster-test` as the last part of a variable's name: `DAGSTER_TEST`.
    #[must_use]
    pub fn key(name: &str) -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
    }
}

/// What the environment says of proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The proxy for HTTPS.
    pub https: Option<String>,
    /// What is reached without one, with commas between.
    pub except: String,
}

impl Proxies {
    /// What is reached without a proxy, with this machine.
    #[must_use]
    pub fn except_here(&self) -> String {
        // Alone it stands for everything, and beside others it is an error to some programs.
        if self.except.trim() == "*" {
            return "*".to_owned();
        }
        let entries = self.except.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let mut entries: Vec<&str> = entries.collect();
        for here in ["127.0.0.1", "localhost"] {
            if !entries.contains(&here) {
                entries.push(here);
            }
        }
        entries.join(",")
    }
}

/// The environment as it was at the start.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// Whether a CI system runs us.
    pub ci: bool,
    /// The user's kubeconfig: the first file that `KUBECONFIG` lists, else `~/.kube/config`.
    pub kubeconfig: Option<Utf8PathBuf>,
    /// Where tools and build outputs are kept between runs.
    pub cache: Utf8PathBuf,
    /// The Docker Engine that the user has named.
    pub docker_host: Option<String>,
    /// The filter for the engine's own diagnostics.
    pub log: Option<String>,
    /// The cargo to build tests with.
    pub cargo: String,
    /// Whether output may have colours.
    pub color: bool,
    /// Whether this is a job of GitHub Actions.
    pub github: bool,
}

impl Env {
    /// Reads the process' environment.
    #[must_use]
    pub fn read() -> Env {
        Env::from(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The folders in which programs are looked for.
    #[must_use]
    pub fn search_path() -> Vec<std::path::PathBuf> {
        std::env::var_os(PATH).map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
    }

    /// The proxies.
    #[must_use]
    pub fn proxies() -> Proxies {
        let first = |names: [&str; 2]| {
            names.into_iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
        };
        Proxies { https: first(HTTPS_PROXY), except: first(NO_PROXY).unwrap_or_default() }
    }

    /// Names of what cargo has set for us about our own package.
    #[must_use]
    pub fn set_by_cargo() -> Vec<std::ffi::OsString> {
        let ours = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.to_str().is_some_and(ours)).collect()
    }

    fn from(get: impl Fn(&str) -> Option<String>) -> Env {
        let home = get(HOME).map_or_else(|| Utf8PathBuf::from("/"), Utf8PathBuf::from);
        // Programs in it are run in other folders than ours.
        let ours = get(CACHE_DIR).map(|path| camino::absolute_utf8(&path).unwrap_or_else(|_| path.into()));
        // By its specification a relative one is no value.
        let base = get(XDG_CACHE_HOME).map(Utf8PathBuf::from).filter(|base| base.is_absolute());
        let cache = ours.unwrap_or_else(|| base.unwrap_or_else(|| home.join(".cache")).join("k8s-test"));
        Env {
            ci: get(CI).is_some_and(|value| value != "false" && value != "0"),
            kubeconfig: get(KUBECONFIG)
                .and_then(|list| list.split(':').find(|path| !path.is_empty()).map(Utf8PathBuf::from))
                .or_else(|| get(HOME).map(|_| home.join(".kube/config"))),
            cache,
            docker_host: get(DOCKER_HOST),
            log: get(LOG),
            cargo: get(CARGO).unwrap_or_else(|| "cargo".to_owned()),
            color: get(NO_COLOR).is_none(),
            github: get(GITHUB_ACTIONS).as_deref() == Some("true"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        Env::from(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn ci_is_off_when_said_so() {
        assert!(env(&[("CI", "true")]).ci);
        assert!(env(&[("CI", "1")]).ci);
        assert!(!env(&[("CI", "false")]).ci);
        assert!(!env(&[]).ci);
    }

    #[test]
    fn the_first_kubeconfig_of_a_list_counts() {
        assert_eq!(env(&[("KUBECONFIG", ":/a:/b")]).kubeconfig.unwrap(), "/a");
        assert_eq!(env(&[("HOME", "/home/x")]).kubeconfig.unwrap(), "/home/x/.kube/config");
    }

    #[test]
    fn this_machine_is_added_to_what_needs_no_proxy() {
        let here = |except: &str| Proxies { https: None, except: except.to_owned() }.except_here();
        assert_eq!(here(""), "127.0.0.1,localhost");
        assert_eq!(here("localhost, .example.com,"), "localhost,.example.com,127.0.0.1");
        assert_eq!(here("*"), "*");
    }

    #[test]
    fn the_cache_is_the_same_from_every_folder() {
        assert_eq!(env(&[("K8S_TEST_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b")]).cache, "/a");
        let here = camino::absolute_utf8("a/b").unwrap();
        assert_eq!(env(&[("K8S_TEST_CACHE_DIR", "a/b")]).cache, here);
        assert_eq!(env(&[("XDG_CACHE_HOME", "/b"), ("HOME", "/home/x")]).cache, "/b/k8s-test");
        assert_eq!(env(&[("XDG_CACHE_HOME", "b"), ("HOME", "/home/x")]).cache, "/home/x/.cache/k8s-test");
    }

    #[test]
    fn suite_keys_are_valid_variable_names() {
        assert_eq!(suite::key("dagster-test.v2"), "DAGSTER_TEST_V2");
    }
}
