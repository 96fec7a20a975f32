//! The handle on a kind program: where it is, and how long it may take.

use crate::Provider;
use crate::process::{Invocation, Limits};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(10 * 60);
const GRACE: Duration = Duration::from_secs(5);
const INSTALL_KIND: &str =
    "install it (https://kind.sigs.k8s.io/docs/user/quick-start/#installation) or set its path";
const INSTALL_ENGINE: &str = "install it, set its path, or choose another provider";

/// A kind program and the settings with which it runs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kind {
    program: PathBuf,
    provider: Provider,
    container_program: PathBuf,
    env: Vec<(OsString, OsString)>,
    limits: Limits,
}

impl Kind {
    /// `kind` and `docker` from PATH, with a deadline of ten minutes.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings other than those of [`Kind::new`].
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The container engine that kind uses.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The same kind, whose calls may each take up to `deadline` from their start.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let mut kind = self.clone();
        kind.limits.deadline = deadline;
        kind
    }

    /// The same kind, whose calls end when `cancel` is cancelled.
    #[must_use]
    pub fn with_cancel(&self, cancel: CancellationToken) -> Self {
        let mut kind = self.clone();
        kind.limits.cancel = cancel;
        kind
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.limits.deadline
    }

    /// A call of kind.
    pub(crate) fn command<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut env = self.env.clone();
        env.push(("KIND_EXPERIMENTAL_PROVIDER".into(), self.provider.program().into()));
        let mut command = self.invocation(&self.program, INSTALL_KIND, args);
        command.env = env;
        // Docker is what kind takes by itself wherever it is there: a pasted command need not name it.
        if self.provider != Provider::Docker {
            command.prefix = format!("KIND_EXPERIMENTAL_PROVIDER={} ", self.provider);
        }
        command
    }

    /// A call of the container engine.
    pub(crate) fn container<A: Into<OsString>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.invocation(&self.container_program, INSTALL_ENGINE, args)
    }

    fn invocation<A: Into<OsString>>(
        &self,
        program: &std::path::Path,
        remedy: &'static str,
        args: impl IntoIterator<Item = A>,
    ) -> Invocation {
        Invocation {
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            env: self.env.clone(),
            limits: self.limits.clone(),
            remedy,
            prefix: String::new(),
        }
    }
}

impl Default for Kind {
    fn default() -> Self {
        Self::new()
    }
}

/// Builds a [`Kind`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Builder {
    program: Option<PathBuf>,
    provider: Provider,
    container_program: Option<PathBuf>,
    env: Vec<(OsString, OsString)>,
    deadline: Option<Duration>,
    grace: Option<Duration>,
    cancel: CancellationToken,
}

impl Builder {
    /// The kind program: a path, or a name to look up on PATH. `kind` if not set.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// The container engine. Docker if not set.
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// The container engine's program, for what is done on nodes: a path, or a name to look up on PATH.
    /// [`Provider::program`] if not set. kind itself always looks the engine up on PATH.
    pub fn container_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.container_program = Some(program.into());
        self
    }

    /// Sets a variable for all programs, which otherwise inherit the environment. A `PATH` set here is also
    /// the one on which the programs are looked up.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// How long a call may take, from its start. Ten minutes if not set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long a program may go on after SIGTERM before it gets SIGKILL. Five seconds if not set.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Ends all calls when it is cancelled, and lets none start from then on.
    pub fn cancel(mut self, cancel: CancellationToken) -> Self {
        self.cancel = cancel;
        self
    }

    /// The kind with these settings. Nothing is run and nothing can fail: a missing program is reported by
    /// the first call that needs it.
    #[must_use]
    pub fn build(self) -> Kind {
        Kind {
            program: self.program.unwrap_or_else(|| "kind".into()),
            provider: self.provider,
            container_program: self.container_program.unwrap_or_else(|| self.provider.program().into()),
            env: self.env,
            limits: Limits {
                deadline: self.deadline.unwrap_or(DEADLINE),
                grace: self.grace.unwrap_or(GRACE),
                cancel: self.cancel,
            },
        }
    }
}
