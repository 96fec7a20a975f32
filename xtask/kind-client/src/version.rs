//! The version of kind, read from the line that `kind version` prints.

use crate::{Error, Kind};
use std::fmt;

/// A version of kind.
///
/// Versions compare by their numbers first; of equal numbers a pre-release comes before the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub patch: u32,
    /// What a development build adds, as in `alpha.12+1a2b3c4d5e6f78`. Empty in a release.
    pub pre_release: String,
}

impl Version {
    /// The oldest version whose command line this crate knows.
    pub const OLDEST: Self = Self { major: 0, minor: 20, patch: 0, pre_release: String::new() };

    /// Whether this crate knows the version's command line: [`Version::OLDEST`] or newer.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        *self >= Self::OLDEST
    }

    /// Reads `kind v0.33.0 go1.26.1 linux/amd64`; nothing if the line is not of that form.
    fn from_line(line: &str) -> Option<Self> {
        let text = line.strip_prefix("kind v")?.split_whitespace().next()?;
        let end = text.find(['-', '+']).unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        let numbers: Vec<u32> = numbers.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [major, minor, patch] = numbers[..] else { return None };
        let pre_release = rest.strip_prefix('-').unwrap_or(rest).to_owned();
        Some(Self { major, minor, patch, pre_release })
    }

    fn key(&self) -> (u32, u32, u32, bool, &str) {
        (self.major, self.minor, self.patch, self.pre_release.is_empty(), &self.pre_release)
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        match self.pre_release.as_str() {
            "" => Ok(()),
            build if build.starts_with('+') => f.write_str(build),
            pre_release => write!(f, "-{pre_release}"),
        }
    }
}

impl Kind {
    /// The version of kind. Needs no container engine.
    ///
    /// # Errors
    /// [`Error::Version`] if kind cannot be run, or prints something else than a version.
    pub async fn version(&self) -> Result<Version, Error> {
        let version = async {
            let command = self.command(["version"]);
            let text = command.ensure_stdout().await?;
            Version::from_line(text.trim())
                .ok_or_else(|| command.not_understood(format!("{:?} is not a version of kind", text.trim())))
        };
        version.await.map_err(Error::Version)
    }
}
