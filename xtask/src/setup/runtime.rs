//! A runtime for engines whose capability bounding set is incomplete, as inside some virtual machines and
//! containers: runc refuses privileged containers there, and kind needs them.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::{Context, Finding, packages};
use crate::docker::Info;

/// The wrapper around runc.
const SCRIPT: &str = include_str!("runc-bounded.sh");
const PATH: &str = "/usr/local/sbin/k8s-test-runc";
/// Where dockerd records its process.
pub(super) const DOCKERD_PID: &str = "/var/run/docker.pid";
/// The name under which dockerd knows it.
const NAME: &str = "k8s-test-bounded";

/// Capabilities by their numbers (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Whether the running engine can start privileged containers.
pub(super) fn finding(info: &Info) -> Finding {
    let what = "privileged containers";
    // Without it the engine runs elsewhere, or under other names; then kind itself will tell.
    let pid = recorded_process(DOCKERD_PID.into(), "dockerd").unwrap_or_default();
    let missing = missing_of(&format!("/proc/{pid}/status"));
    if missing.is_empty() {
        return Finding::good(what, "the engine's capability bounding set is complete".to_owned());
    }
    let list = missing.join(", ");
    if info.default_runtime != "runc" {
        let detail = format!("the runtime {} makes up for the missing {list}", info.default_runtime);
        return Finding::good(what, detail);
    }
    Finding::problem(
        what,
        format!(
            "the engine lacks {list}, so runc refuses them and kind cannot start a node; end dockerd (process {pid}) and run `cargo xtask doctor --fix`, which starts it with a runtime that leaves {list} out"
        ),
    )
}

/// The process that a file records, if it runs and is this program.
pub(super) fn recorded_process(file: &Utf8Path, program: &str) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == program).then_some(pid)
}

/// Arguments for dockerd: none where nothing is missing, else those of the wrapper, which is written.
pub(super) async fn install(context: Context<'_>, progress: impl Fn(String)) -> Result<Vec<String>> {
    let missing = missing_of("/proc/self/status");
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    packages::ensure_programs(&context.tools.debian.runtime_wrapper, progress).await?;
    let drop = serde_json::to_string(&missing)?;
    write_program(PATH.into(), &SCRIPT.replace("@DROP@", &drop))?;
    Ok(["--add-runtime", &format!("{NAME}={PATH}"), "--default-runtime", NAME].map(str::to_owned).to_vec())
}

fn write_program(path: &Utf8Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {path}"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {path} executable"))
}

fn missing_of(status: &str) -> Vec<String> {
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap_or_default();
    let last = last.trim().parse().unwrap_or(CAPABILITIES.len() - 1);
    missing(&std::fs::read_to_string(status).unwrap_or_default(), last)
}

/// The capabilities up to number `last` that the bounding set in a /proc/…/status lacks.
fn missing(status: &str, last: usize) -> Vec<String> {
    let Some(set) = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
    else {
        return Vec::new();
    };
    let known = CAPABILITIES.iter().enumerate().take(last + 1);
    known.filter(|(bit, _)| set & (1 << bit) == 0).map(|(_, name)| format!("CAP_{name}")).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn finds_what_the_bounding_set_lacks() {
        assert_eq!(missing("Name:\tx\nCapBnd:\t000001fffeffffff\n", 40), ["CAP_SYS_RESOURCE"]);
        assert!(missing("CapBnd:\t000001ffffffffff\n", 40).is_empty());
        // An older kernel has fewer; those it does not know are not missing.
        assert!(missing("CapBnd:\t0000003fffffffff\n", 37).is_empty());
        assert!(missing("no such line", 40).is_empty());
    }

    #[test]
    fn a_recorded_process_must_be_the_program_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(folder.path()).unwrap().join("pid");
        assert_eq!(recorded_process(&file, "x"), None);
        let pid = std::process::id();
        std::fs::write(&file, format!("{pid}\n")).unwrap();
        assert_eq!(recorded_process(&file, "dockerd"), None);
        let name = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
        if !name.is_empty() {
            assert_eq!(recorded_process(&file, name.trim()), Some(pid));
        }
    }

    /// The wrapper as dockerd calls it, with a `runc` that shows what it was given.
    #[test]
    fn the_wrapper_takes_capabilities_out_of_both_specifications() {
        if packages::on_path("jq").is_none() {
            // Set-up installs jq wherever it installs the wrapper; elsewhere the wrapper is never used.
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let wrapper = folder.join("wrapper");
        write_program(&wrapper, &SCRIPT.replace("@DROP@", r#"["CAP_SYS_RESOURCE"]"#)).unwrap();
        write_program(&folder.join("runc"), "#!/bin/sh\necho \"$@\"\n").unwrap();
        let set = r#"{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"]}"#;
        std::fs::write(folder.join("config.json"), format!(r#"{{"process":{{"capabilities":{set}}}}}"#))
            .unwrap();
        std::fs::write(folder.join("process.json"), format!(r#"{{"capabilities":{set}}}"#)).unwrap();
        let run = |arguments: &[&str]| {
            let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
            let output = Command::new(&wrapper).args(arguments).env("PATH", path).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let shown = run(&["--log", "x", "create", "--bundle", folder.as_str(), "id"]);
        assert_eq!(shown.trim(), format!("--log x create --bundle {folder} id"));
        run(&["exec", "--process", folder.join("process.json").as_str(), "id"]);
        for file in ["config.json", "process.json"] {
            let text = std::fs::read_to_string(folder.join(file)).unwrap();
            assert!(text.contains("CAP_CHOWN") && !text.contains("CAP_SYS_RESOURCE"), "{file}: {text}");
        }
    }
}
