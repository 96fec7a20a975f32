//! The creation of a cluster, with what kind says meanwhile.

use crate::{Error, Kind, config};
use std::path::PathBuf;
use std::time::Duration;

/// What is to be created.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The cluster's name. It takes precedence over the config's.
    pub name: String,
    /// The file to which the cluster's kubeconfig is written, readable by the user alone. Entries of other
    /// clusters in it stay; the cluster becomes the current context.
    pub kubeconfig: PathBuf,
    /// The config: kind's defaults, with a single node, if there is none.
    pub config: Option<config::Cluster>,
    /// The image of all nodes, also of those for which the config names one. The image for which this kind
    /// was built if there is none.
    pub image: Option<String>,
    /// Leaves the nodes of a failed creation in place, to look into them. They are deleted otherwise.
    pub retain: bool,
    /// How long kind waits for the control plane to be ready, on top of the deadline. Not at all if none.
    pub wait: Option<Duration>,
}

impl CreateOptions {
    /// A cluster with kind's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, kubeconfig: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            kubeconfig: kubeconfig.into(),
            config: None,
            image: None,
            retain: false,
            wait: None,
        }
    }
}

/// A cluster that has been created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Created {
    /// Whether the control plane is ready.
    pub readiness: Readiness,
}

/// What is known of a new cluster's control plane. Of workers kind knows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nobody waited for it.
    Unknown,
    /// It was ready within the time.
    Ready,
    /// It was not ready within the time. kind takes that for a success.
    NotReady,
}

/// A step of the creation, as one of kind's lines tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A step begins.
    Started(&'a str),
    /// A step has succeeded.
    Done(&'a str),
    /// A step has failed.
    Failed(&'a str),
}

impl<'a> Step<'a> {
    /// The step of which a line of `kind create` tells, without kind's pictographs; nothing if the line tells
    /// of something else.
    #[must_use]
    pub fn from_line(line: &'a str) -> Option<Self> {
        let line = line.trim();
        let title = |text: &'a str| {
            text.trim_matches(|c: char| {
                c.is_whitespace() || c == '.' || !(c.is_ascii() || c.is_alphanumeric())
            })
        };
        if let Some(text) = line.strip_prefix('✓') {
            return Some(Self::Done(title(text)));
        }
        if let Some(text) = line.strip_prefix('✗') {
            return Some(Self::Failed(title(text)));
        }
        // Remarks have the same bullet; only what goes on ends in an ellipsis.
        line.strip_prefix('•').filter(|text| text.ends_with("...")).map(|text| Self::Started(title(text)))
    }
}

impl Kind {
    /// Creates a cluster.
    ///
    /// If the call is cancelled, or its future dropped, nodes may be left: [`Kind::delete`] removes them.
    ///
    /// # Errors
    /// [`Error::Create`] if kind fails: also if a cluster of that name exists.
    pub async fn create(&self, options: CreateOptions) -> Result<Created, Error> {
        self.create_with(options, |_| {}).await
    }

    /// Creates a cluster, and gives each line that kind writes meanwhile to `on_line`: see [`Step::from_line`].
    ///
    /// # Errors
    /// As [`Kind::create`].
    pub async fn create_with(
        &self,
        options: CreateOptions,
        mut on_line: impl FnMut(&str) + Send,
    ) -> Result<Created, Error> {
        let CreateOptions { name, kubeconfig, config, image, retain, wait } = options;
        let create = async {
            let mut command = self.on(&name, &["create", "cluster"])?;
            command.args.extend(["--kubeconfig".into(), kubeconfig.into()]);
            if config.is_some() {
                command.args.extend(["--config".into(), "-".into()]);
            }
            if let Some(image) = image {
                command.args.extend(["--image".into(), image.into()]);
            }
            if retain {
                command.args.push("--retain".into());
            }
            let mut readiness = Readiness::Unknown;
            if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
                readiness = Readiness::NotReady;
                command.args.extend(["--wait".into(), format!("{}ms", wait.as_millis()).into()]);
                command.limits.deadline = self.deadline().saturating_add(wait);
            }
            let input = config.map(|config| config.to_yaml());
            let input = input.as_ref().map(|yaml| yaml.as_bytes());
            let output = &mut tokio::io::sink();
            command
                .capture(input, output, |line| {
                    // kind ends with 0 whether or not the control plane got ready: this line is the proof.
                    if readiness == Readiness::NotReady && line.trim_start().starts_with("• Ready after") {
                        readiness = Readiness::Ready;
                    }
                    on_line(line);
                })
                .await?;
            Ok(Created { readiness })
        };
        create.await.map_err(|source| Error::Create { cluster: name.clone(), source })
    }
}
