//! ci/tools.yaml: the tools and the node image, pinned.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Deserializer};

use super::ImageSpec;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// The kind CLI.
    pub kind: Tool,
    /// The Helm CLI.
    pub helm: Tool,
    /// Helm 3, which benchmarks compare with.
    pub helm_3: Tool,
    /// The image of the cluster's nodes.
    pub node_image: NodeImage,
    /// Debian packages that set-up may install.
    pub debian: Debian,
    /// What the machine must have.
    pub machine: Machine,
}

/// A program that is taken from PATH when its version is supported, else fetched.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// The version that is fetched.
    pub version: Version,
    /// The oldest version that is taken from PATH.
    pub minimum: Version,
    /// The first version that is no longer taken.
    pub below: Version,
    /// Where releases are published; absent where only `go install` is to be used.
    #[serde(default)]
    pub release: Option<ReleaseFile>,
    /// The package to `go install` where a release cannot be reached.
    pub go: String,
}

/// A published release: `{version}`, `{os}` and `{arch}` are filled in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseFile {
    /// Its address.
    pub url: String,
    /// The program's path inside the archive; absent where the file is the program.
    #[serde(default)]
    pub member: Option<String>,
    /// `<os>-<arch>` to the file's SHA-256, in hexadecimal.
    pub sha256: BTreeMap<String, String>,
}

/// The node image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeImage {
    /// The reference to pull.
    pub pull: String,
    /// The folder of the recipe, relative to this file.
    pub recipe: Utf8PathBuf,
}

/// Debian packages that set-up may install.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    /// Docker Engine.
    pub engine: Vec<String>,
    /// Program to package: what recipes need.
    pub recipes: BTreeMap<String, String>,
}

/// What the machine must have.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Free disk space that Docker's storage and the cache need, in GiB.
    pub disk_gib: u64,
    /// Memory that Docker has, in GiB.
    pub memory_gib: u64,
    /// `fs.inotify.max_user_watches`.
    pub inotify_watches: u64,
    /// `fs.inotify.max_user_instances`.
    pub inotify_instances: u64,
}

impl Tools {
    /// Reads ci/tools.yaml.
    ///
    /// # Errors
    /// It does not load or its recipe does not exist; exit 2.
    pub fn load(path: &Utf8Path) -> Result<Tools> {
        let mut tools: Tools = super::load(path)?;
        let folder = path.parent().unwrap_or(path);
        tools.node_image.recipe =
            super::existing(folder, &tools.node_image.recipe, "node_image: recipe", path)?;
        Ok(tools)
    }
}

impl NodeImage {
    /// The same as an image of images.yaml.
    #[must_use]
    pub fn spec(&self) -> ImageSpec {
        ImageSpec { pull: Some(self.pull.clone()), recipe: Some(self.recipe.clone()), ..ImageSpec::default() }
    }
}

impl Tool {
    /// Whether `version` is taken from PATH.
    #[must_use]
    pub fn supports(&self, version: Version) -> bool {
        self.minimum <= version && version < self.below
    }
}

/// A version: `v1.2.3`, anything behind it is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Version> {
        let wrong = || anyhow!("`{text}` is no version; write it like v1.2.3");
        let core = text.strip_prefix('v').unwrap_or(text);
        let core = core.split(['-', '+']).next().unwrap_or(core);
        let parts: Vec<u32> =
            core.split('.').map(|part| part.parse().map_err(|_| wrong())).collect::<Result<_>>()?;
        match parts[..] {
            [major, minor, patch] => Ok(Version(major, minor, patch)),
            [major, minor] => Ok(Version(major, minor, 0)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.0, self.1, self.2)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("v0.9.0") < version("v0.33.0"));
        assert_eq!(version("4.3.0+g1a2b").to_string(), "v4.3.0");
        assert!("kind".parse::<Version>().is_err());
    }

    #[test]
    fn the_pinned_tools_load_and_are_supported_themselves() {
        let ci = super::super::Workspace::here().ci();
        let tools = Tools::load(&ci.join("tools.yaml")).unwrap();
        for tool in [&tools.kind, &tools.helm, &tools.helm_3] {
            assert!(tool.supports(tool.version));
            let Some(release) = &tool.release else { continue };
            for platform in ["linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"] {
                let sum = &release.sha256[platform];
                assert!(sum.len() == 64 && sum.chars().all(|c| c.is_ascii_hexdigit()), "{sum}");
            }
        }
    }
}
