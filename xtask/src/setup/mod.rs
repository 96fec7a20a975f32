//! What the machine must have before anything can start: looked at by `doctor`, mended by `doctor --fix` and
//! `k8s-test`.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use crate::config::Tools;
use crate::config::tools::Version;
use crate::docker::{Docker, Info};
use crate::env::Env;
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith};
use crate::fail;

mod engine;
mod machine;
pub mod packages;
mod runtime;
mod tool;

pub use machine::{Finding, Level};

/// What set-up needs to know.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The environment.
    pub env: &'a Env,
    /// The pinned tools.
    pub tools: &'a Tools,
    /// Where to say what happens.
    pub events: &'a Events,
    /// Whether to install, start and download what is missing.
    pub mend: Mend,
}

/// Whether set-up may change the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mend {
    /// Install, start and download what is missing.
    Yes,
    /// Say what is missing.
    No,
}

/// A machine that can run clusters.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The kind program.
    pub kind: Utf8PathBuf,
    /// The helm program.
    pub helm: Utf8PathBuf,
    /// Its version.
    pub helm_version: Version,
    /// The engine.
    pub docker: Info,
}

impl Machine {
    /// A client of its kind.
    #[must_use]
    pub fn kind_client(&self) -> kind_client::Kind {
        kind_client(&self.kind)
    }
}

fn kind_client(program: &Utf8Path) -> kind_client::Kind {
    let kind = kind_client::Kind::builder().program(program);
    match crate::cmd::mark_of_ours() {
        Some(run) => kind.env(crate::env::PROGRAM_OF, run).build(),
        None => kind.build(),
    }
}

/// A client of the kind that is there in all likelihood, for questions that need not wait until the machine was looked at.
#[must_use]
pub fn likely_kind(env: &Env, tools: &Tools) -> kind_client::Kind {
    kind_client(&tool::likely(env, "kind", &tools.kind))
}

/// Makes the machine ready; with everything present it only looks.
///
/// # Errors
/// Something is missing and cannot be mended, or may not be; exit 3.
pub async fn ensure(context: Context<'_>) -> Result<Machine> {
    let step = context.events.step(Phase::Setup, "look at the machine");
    let engine = async { engine::ensure(context).await.or_exit(Exit::Environment) };
    let kind = async { tool::ensure(context, "kind", &context.tools.kind).await.or_exit(Exit::Environment) };
    let helm = async { tool::ensure(context, "helm", &context.tools.helm).await.or_exit(Exit::Environment) };
    let (docker, kind, helm) = tokio::try_join!(engine, kind, helm)?;
    let docker_version = docker.server_version.clone();
    for finding in machine::findings(&docker, &context.tools.machine, &context.env.cache) {
        match finding.level {
            Level::Good => {}
            Level::Warning => context.events.warn(finding.to_string()),
            Level::Problem => fail!(Exit::Environment, "{finding}"),
        }
    }
    step.done(format!("Docker {docker_version}, kind {}, helm {}", kind.version, helm.version));
    Ok(Machine { kind: kind.program, helm: helm.program, helm_version: helm.version, docker })
}

/// Helm 3, for benchmarks that compare with it.
///
/// # Errors
/// It cannot be had; exit 3.
pub async fn helm_3(context: Context<'_>) -> Result<Utf8PathBuf> {
    let helm = tool::ensure(context, "helm", &context.tools.helm_3).await.or_exit(Exit::Environment)?;
    Ok(helm.program)
}

/// Looks at everything and changes nothing.
pub async fn look(context: Context<'_>) -> Vec<Finding> {
    let (docker, kind, helm) = tokio::join!(
        Docker.info(),
        tool::find(context.env, "kind", &context.tools.kind),
        tool::find(context.env, "helm", &context.tools.helm)
    );
    let mut findings = Vec::new();
    match &docker {
        Ok(info) => {
            findings.push(Finding::good("Docker Engine", format!("{} answers", info.server_version)));
            findings.push(runtime::finding(info));
            findings.extend(machine::findings(info, &context.tools.machine, &context.env.cache));
            findings.push(node_image(context).await);
        }
        Err(unreachable) => findings.push(Finding::problem("Docker Engine", unreachable.error().to_string())),
    }
    for (name, tool, found) in [("kind", &context.tools.kind, kind), ("helm", &context.tools.helm, helm)] {
        findings.push(match found {
            tool::Found::Usable(found) => {
                Finding::good(name, format!("{} at {}", found.version, found.program))
            }
            tool::Found::Unsupported(found) => Finding::problem(name, tool::unsupported(name, tool, &found)),
            tool::Found::Missing => Finding::problem(name, tool::missing(name, tool)),
        });
    }
    findings
}

async fn node_image(context: Context<'_>) -> Finding {
    let spec = context.tools.node_image.spec();
    match crate::images::source::present("node", &spec, &crate::images::Local::default()).await {
        Ok(Some(reference)) => Finding::good("node image", format!("{reference} is in the local Docker")),
        Ok(None) => Finding::warning(
            "node image",
            format!(
                "it is not in the local Docker; it will be pulled ({}) or built from packages in a few minutes",
                context.tools.node_image.pull
            ),
        ),
        Err(error) => Finding::problem("node image", format!("{error:#}")),
    }
}
