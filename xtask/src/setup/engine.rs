//! Docker Engine: reachable, or installed and started.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use xshell::{Shell, cmd};

use super::{Context, Mend, packages, runtime};
use crate::cmd::Run;
use crate::docker::{Docker, Info, Unreachable};
use crate::events::Phase;
use crate::text;

/// How long dockerd may take to answer; its first start makes its storage.
const START: Duration = Duration::from_secs(90);

/// The engine, installed and started where it has to be.
pub(super) async fn ensure(context: Context<'_>) -> Result<Info> {
    let unreachable = match Docker.info().await {
        Ok(info) => {
            let finding = runtime::finding(&info);
            if finding.level == super::Level::Problem {
                bail!("{finding}");
            }
            if context.mend == Mend::Yes {
                runtime::refresh(&info);
            }
            return Ok(info);
        }
        Err(unreachable) => unreachable,
    };
    // A remote engine, Docker Desktop or a forbidden socket is the user's to mend.
    let ours_to_start = context.env.docker_host.is_none()
        && packages::installable()
        && !matches!(unreachable, Unreachable::NotPermitted(_));
    if context.mend == Mend::No || !ours_to_start {
        return Err(unreachable.error());
    }
    let step = context.events.step(Phase::Setup, "Docker Engine");
    if packages::on_path("dockerd").is_none() || unreachable == Unreachable::NoClient {
        packages::install(&context.tools.debian.engine, |text| step.progress(text)).await?;
    }
    if Utf8Path::new("/run/systemd/system").exists() {
        step.progress("start docker.service");
        let sh = Shell::new()?;
        Run::new(cmd!(sh, "systemctl start docker"), START).success().await?;
        let info = Docker.info().await.map_err(|unreachable| unreachable.error())?;
        step.done(format!("{} started by systemd", info.server_version));
        return Ok(info);
    }
    // Nothing starts services here, so we do; it stays when we end, as a service would.
    let runtime = runtime::install()?;
    step.progress("start dockerd");
    std::fs::create_dir_all(&context.env.cache).with_context(|| format!("make {}", context.env.cache))?;
    let log = context.env.cache.join("dockerd.log");
    forget_dead_processes();
    let mut child = start(&runtime, &log)?;
    let info = answer(&mut child, &log).await?;
    step.done(format!("{} started by hand as process {}; its log is {log}", info.server_version, child.id()));
    Ok(info)
}

/// dockerd takes any process with a number that it has recorded for itself or its containerd, and refuses to start or
/// waits for it; after a crash that may be another program.
fn forget_dead_processes() {
    let containerd = "/var/run/docker/containerd/containerd.pid";
    for (file, program) in [(runtime::DOCKERD_PID, "dockerd"), (containerd, "containerd")] {
        if runtime::recorded_process(file.into(), program).is_none() {
            // Mostly it does not exist.
            let _ = std::fs::remove_file(file);
        }
    }
}

fn start(arguments: &[String], log: &Utf8Path) -> Result<Child> {
    let file = File::create(log).with_context(|| format!("write {log}"))?;
    let errors = file.try_clone()?;
    Command::new("dockerd")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .context("start dockerd")
}

/// Waits until dockerd answers or ends.
async fn answer(child: &mut Child, log: &Utf8Path) -> Result<Info> {
    let deadline = Instant::now() + START;
    loop {
        // dockerd tells nobody that it is ready (only systemd), so ask.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let tail = || text::indent(&text::tail(&std::fs::read_to_string(log).unwrap_or_default(), 8), "    ");
        if let Some(status) = child.try_wait()? {
            bail!(
                "dockerd ended with {} right after its start; the end of {log}:\n{}",
                text::status(status),
                tail()
            );
        }
        match Docker.info().await {
            Ok(info) => return Ok(info),
            Err(_) if Instant::now() < deadline => {}
            Err(_) => {
                bail!("dockerd did not answer within {}; the end of {log}:\n{}", text::seconds(START), tail())
            }
        }
    }
}
