//! kind and helm: from PATH where the version is supported, else fetched into the cache.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest, Sha256};
use xshell::{Shell, cmd};

use super::{Context, Mend, packages};
use crate::cmd::Run;
use crate::config::Tool;
use crate::config::tools::Version;
use crate::env::Env;
use crate::events::Phase;

/// A program and its version.
#[derive(Clone, Debug)]
pub(super) struct Program {
    pub(super) program: Utf8PathBuf,
    pub(super) version: Version,
}

/// What was found of a tool.
pub(super) enum Found {
    Usable(Program),
    /// On PATH, but of a version that is not supported.
    Unsupported(Program),
    Missing,
}

/// The tool, fetched where it has to be.
pub(super) async fn ensure(context: Context<'_>, name: &str, tool: &Tool) -> Result<Program> {
    let found = find(context.env, name, tool).await;
    match (&found, context.mend) {
        (Found::Usable(program), _) => return Ok(program.clone()),
        (Found::Unsupported(program), Mend::No) => bail!("{}", unsupported(name, tool, program)),
        (Found::Missing, Mend::No) => bail!("{}", missing(name, tool)),
        (Found::Unsupported(program), Mend::Yes) => {
            context.events.note(format!(
                "{}; {} is used instead",
                unsupported(name, tool, program),
                tool.version
            ));
        }
        (Found::Missing, Mend::Yes) => {}
    }
    let step = context.events.step(Phase::Setup, format!("{name} {}", tool.version));
    let place = cached(context.env, name, tool);
    let folder = place.parent().unwrap_or(&place);
    std::fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
    let scratch = tempfile::tempdir_in(folder)?;
    let scratch = Utf8Path::from_path(scratch.path()).context("the cache's path is not UTF-8")?;
    step.progress("download the release");
    let fresh = match download(name, tool, scratch).await {
        Ok(fresh) => fresh,
        Err(no_release) => {
            step.progress(format!("go install {}@{}", tool.go, tool.version));
            go_install(tool, name, scratch).await.map_err(|no_go| {
                anyhow!(
                    "{name} {} can be had neither as a release ({no_release:#}) nor by `go install` ({no_go:#}); install it yourself and put it on PATH",
                    tool.version
                )
            })?
        }
    };
    let version = version_of(name, &fresh).await?;
    // Complete and of the version that its name says: another run may look at the same moment.
    if version != tool.version {
        bail!("{name} {} was asked for, and {version} has come: correct ci/tools.yaml", tool.version);
    }
    std::fs::rename(&fresh, &place).with_context(|| format!("move {fresh} to {place}"))?;
    step.done(format!("into {folder}"));
    Ok(Program { program: place, version })
}

/// Looks on PATH, then in the cache.
pub(super) async fn find(env: &Env, name: &str, tool: &Tool) -> Found {
    let mut unsupported = None;
    if let Some(program) = packages::on_path(name).filter(|program| program.is_file())
        && let Ok(version) = version_of(name, &program).await
    {
        let found = Program { program, version };
        if tool.supports(version) {
            return Found::Usable(found);
        }
        unsupported = Some(found);
    }
    // It was asked for its version when it got its name; helm takes longer to say it than all else that a look takes.
    let program = cached(env, name, tool);
    if program.is_file() {
        return Found::Usable(Program { program, version: tool.version });
    }
    unsupported.map_or(Found::Missing, Found::Unsupported)
}

/// Where the tool is in all likelihood, for what must not wait for a look at it.
pub(super) fn likely(env: &Env, name: &str, tool: &Tool) -> Utf8PathBuf {
    packages::on_path(name).unwrap_or_else(|| cached(env, name, tool))
}

pub(super) fn unsupported(name: &str, tool: &Tool, found: &Program) -> String {
    format!(
        "{name} {} at {} is not supported: it must be at least {} and below {}",
        found.version, found.program, tool.minimum, tool.below
    )
}

pub(super) fn missing(name: &str, tool: &Tool) -> String {
    format!(
        "there is no {name} on PATH; `cargo xtask doctor --fix` fetches {}, or install one that is at least {} and below {}",
        tool.version, tool.minimum, tool.below
    )
}

fn cached(env: &Env, name: &str, tool: &Tool) -> Utf8PathBuf {
    env.cache.join(format!("tools/{name}-{}/{name}", tool.version))
}

async fn version_of(name: &str, program: &Utf8Path) -> Result<Version> {
    let sh = Shell::new()?;
    let short = if name == "helm" { vec!["--short"] } else { vec![] };
    let output =
        Run::new(cmd!(sh, "{program} version {short...}"), Duration::from_secs(20)).success().await?;
    version_in(&output.stdout)
        .with_context(|| format!("`{program} version` shows no version: {}", output.stdout))
}

fn version_in(text: &str) -> Option<Version> {
    text.split_whitespace().filter(|word| word.starts_with('v')).find_map(|word| word.parse().ok())
}

/// Fetches the published release and checks it; gives the program's path in `scratch`.
async fn download(name: &str, tool: &Tool, scratch: &Utf8Path) -> Result<Utf8PathBuf> {
    let os = if cfg!(target_os = "macos") { "darwin" } else { std::env::consts::OS };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let platform = format!("{os}-{arch}");
    let release = tool.release.as_ref().context("ci/tools.yaml has no release of it")?;
    let Some(expected) = release.sha256.get(&platform) else {
        bail!("no release for {platform} is known");
    };
    let fill = |text: &str| {
        text.replace("{version}", &tool.version.to_string()).replace("{os}", os).replace("{arch}", arch)
    };
    let url = fill(&release.url);
    let file = scratch.join("release");
    let sh = Shell::new()?;
    let command =
        cmd!(sh, "curl --fail --silent --show-error --location --connect-timeout 10 --output {file} {url}");
    Run::new(command, Duration::from_secs(600)).success().await?;
    check_sum(&file, expected, &url)?;
    let program = match &release.member {
        None => file,
        Some(member) => {
            let member = fill(member);
            Run::new(
                cmd!(sh, "tar --extract --gzip --file {file} --directory {scratch} {member}"),
                Duration::from_secs(120),
            )
            .success()
            .await?;
            scratch.join(member)
        }
    };
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {name} executable"))?;
    Ok(program)
}

fn check_sum(file: &Utf8Path, expected: &str, url: &str) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("read {file}"))?;
    let actual = crate::images::key::hex(&Sha256::digest(&bytes));
    if actual != expected {
        bail!("{url} has the SHA-256 {actual}, but ci/tools.yaml expects {expected}");
    }
    Ok(())
}

async fn go_install(tool: &Tool, name: &str, scratch: &Utf8Path) -> Result<Utf8PathBuf> {
    let package = format!("{}@{}", tool.go, tool.version);
    let sh = Shell::new()?;
    Run::new(cmd!(sh, "go install -trimpath {package}"), Duration::from_secs(1200))
        .env("GOBIN", scratch.as_str())
        .success()
        .await?;
    Ok(scratch.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_tools_print() {
        assert_eq!(version_in("kind v0.33.0 go1.26.8 linux/amd64\n"), Some(Version(0, 33, 0)));
        assert_eq!(version_in("v4.3.0+gabcdef"), Some(Version(4, 3, 0)));
        assert_eq!(version_in("usage: something"), None);
    }

    #[test]
    fn a_wrong_checksum_is_refused_with_both() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Utf8Path::from_path(file.path()).unwrap();
        let error = check_sum(path, "00", "https://example.test/kind").unwrap_err().to_string();
        assert!(error.contains("e3b0c44298fc1c14") && error.contains("expects 00"), "{error}");
    }
}
