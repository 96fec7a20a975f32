//! A runtime for engines whose capability bounding set is incomplete, as inside some virtual machines and
//! containers: runc refuses privileged containers there, and kind needs them.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::Finding;
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
pub(super) fn install() -> Result<Vec<String>> {
    let missing = missing_of("/proc/self/status");
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    write_program(PATH.into(), &script(&missing))?;
    Ok(["--add-runtime", &format!("{NAME}={PATH}"), "--default-runtime", NAME].map(str::to_owned).to_vec())
}

/// Puts today's wrapper in the place of an older one, which an engine that runs has been given: it is started anew for each
/// container and each process in one, so the engine need not be.
pub(super) fn refresh(info: &Info) {
    // An engine elsewhere has a wrapper of its own, if any.
    let Some(pid) = recorded_process(DOCKERD_PID.into(), "dockerd").filter(|_| info.default_runtime == NAME)
    else {
        return;
    };
    let now = script(&missing_of(&format!("/proc/{pid}/status")));
    let before = std::fs::read_to_string(PATH).unwrap_or_default();
    if !before.is_empty()
        && before != now
        && let Err(error) = write_program(PATH.into(), &now)
    {
        // The older one does as well, only more slowly.
        tracing::debug!("{error:#}");
    }
}

/// The wrapper that leaves these capabilities out.
fn script(missing: &[String]) -> String {
    SCRIPT.replace("@DROP@", &missing.join("|"))
}

/// Writes a program in one step, because it may be started at any moment.
fn write_program(path: &Utf8Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o755))?;
        file.persist(path)?;
        anyhow::Ok(())
    };
    write().with_context(|| format!("write {path}"))
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

    use serde_json::{Value, json};

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

    /// What the wrapper makes of a specification, and what it calls `runc` with.
    fn wrap(folder: &Utf8Path, arguments: &[&str]) -> String {
        let wrapper = folder.join("wrapper");
        write_program(&wrapper, &script(&["CAP_SYS_RESOURCE".to_owned(), "CAP_SYS_TIME".to_owned()]))
            .unwrap();
        write_program(&folder.join("runc"), "#!/bin/sh\necho \"$@\"\n").unwrap();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
        let output = Command::new(&wrapper).args(arguments).env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The wrapper as dockerd calls it, with a `runc` that shows what it was given.
    #[test]
    fn the_wrapper_takes_capabilities_out_of_both_specifications() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let set = |sets: &[&[&str]]| json!({"bounding": sets[0], "effective": sets[1], "permitted": sets[2], "ambient": null});
        let before = set(&[
            &["CAP_CHOWN", "CAP_SYS_RESOURCE", "CAP_SYS_TIME"],
            &["CAP_SYS_RESOURCE"],
            &["CAP_SYS_TIME", "CAP_KILL", "CAP_SYS_RESOURCE", "CAP_SYS_TIMES"],
        ]);
        let after = set(&[&["CAP_CHOWN"], &[], &["CAP_KILL", "CAP_SYS_TIMES"]]);
        // What a user may write anywhere, also with spaces between the parts.
        let text = r#"a "capabilities":{"bounding":["CAP_SYS_RESOURCE", "CAP_SYS_TIME"]} \"#;
        let process = |set| {
            let args = ["CAP_SYS_RESOURCE", text, "capabilities", ":{", "\"CAP_SYS_TIME\"", "\\"];
            json!({"args": args, "capabilities": set, "env": [text], "zone": "CAP_SYS_TIME"})
        };
        let config = |set| {
            let annotations = json!({"capabilities": "CAP_SYS_RESOURCE", "CAP_SYS_TIME": text});
            json!({"annotations": annotations, "process": process(set), "zone": ["CAP_SYS_TIME"]})
        };
        for pretty in [false, true] {
            let write = |name: &str, value: &Value| {
                let text = if pretty { format!("{value:#}") } else { value.to_string() };
                std::fs::write(folder.join(name), text).unwrap();
            };
            let read = |name: &str| -> Value {
                serde_json::from_str(&std::fs::read_to_string(folder.join(name)).unwrap()).unwrap()
            };
            write("config.json", &config(before.clone()));
            write("process.json", &process(before.clone()));
            let shown = wrap(folder, &["--log", "x", "create", "--bundle", folder.as_str(), "id"]);
            assert_eq!(shown, format!("--log x create --bundle {folder} id"));
            wrap(folder, &["exec", "--process", folder.join("process.json").as_str(), "id"]);
            assert_eq!(read("config.json"), config(after.clone()));
            assert_eq!(read("process.json"), process(after.clone()));
        }
    }
}
