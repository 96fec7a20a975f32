//! Debian packages, installed where we may.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;
use tokio::sync::Mutex;
use xshell::{Shell, cmd};

use crate::cmd::Run;
use crate::env::Env;

/// apt works for one process at a time, and stages run side by side.
static APT: Mutex<()> = Mutex::const_new(());

/// Where `program` is on PATH.
#[must_use]
pub fn on_path(program: &str) -> Option<Utf8PathBuf> {
    Env::search_path()
        .into_iter()
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .and_then(|file| Utf8PathBuf::from_path_buf(file).ok())
}

/// Whether packages can be installed: a Debian or Ubuntu, and we are root.
#[must_use]
pub fn installable() -> bool {
    nix::unistd::geteuid().is_root()
        && is_debian(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
}

fn is_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| {
        line.strip_prefix("ID=")
            .or_else(|| line.strip_prefix("ID_LIKE="))
            .is_some_and(|ids| ids.trim_matches('"').split(' ').any(|id| id == "debian" || id == "ubuntu"))
    })
}

/// Makes sure that each program is on PATH, by installing its package.
///
/// # Errors
/// One is missing and packages cannot be installed: the command that would.
pub async fn ensure_programs(programs: &BTreeMap<String, String>, progress: impl Fn(String)) -> Result<()> {
    let missing: Vec<&String> = programs
        .iter()
        .filter(|(program, _)| on_path(program).is_none())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<String> = missing.into_iter().cloned().collect();
    install(&packages, progress).await
}

/// Installs packages.
///
/// # Errors
/// We may not, or apt-get fails: the command to run, or its last output.
pub async fn install(packages: &[String], progress: impl Fn(String)) -> Result<()> {
    let list = packages.join(" ");
    if !installable() {
        bail!(
            "{list} must be installed; on Debian or Ubuntu run `sudo apt-get install --no-install-recommends {list}`"
        );
    }
    let _one_at_a_time = APT.lock().await;
    let sh = Shell::new()?;
    let deadline = Duration::from_secs(600);
    let wait = "DPkg::Lock::Timeout=300";
    progress("read the package lists".to_owned());
    Run::new(cmd!(sh, "apt-get -o {wait} update"), deadline)
        .success()
        .await
        .context("read Debian's package lists")?;
    progress(format!("install {list}"));
    Run::new(cmd!(sh, "apt-get -o {wait} install --yes --no-install-recommends {packages...}"), deadline)
        .grace(Duration::from_secs(120))
        .outlives_us()
        .env("DEBIAN_FRONTEND", "noninteractive")
        .success()
        .await
        .with_context(|| format!("install the packages {list}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_of_debian_are_recognised() {
        assert!(is_debian("NAME=x\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nID_LIKE=\"rhel centos\"\n"));
    }
}
