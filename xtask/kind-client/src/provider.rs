//! The container engines that kind can build its nodes on.

use std::fmt;

/// A container engine below kind.
///
/// It is always named to kind (by `KIND_EXPERIMENTAL_PROVIDER`): left to its own detection, kind could use
/// another engine than the one in which this crate looks for the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// Docker Engine, or what else answers to `docker`.
    #[default]
    Docker,
    /// Podman.
    Podman,
    /// nerdctl on containerd. kind knows it since version 0.23; before, it ignores the name and detects.
    Nerdctl,
}

impl Provider {
    /// The name of the engine's program, which is also its name towards kind.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Nerdctl => "nerdctl",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}
