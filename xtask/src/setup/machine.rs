//! What can be read off the machine: disk, memory, inotify limits, cgroups.

use std::fmt;

use camino::Utf8Path;

use crate::config::tools::Machine;
use crate::docker::Info;
use crate::text;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Good,
    /// It may matter.
    Warning,
    /// Nothing can run.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Finding {
    /// How serious it is.
    pub level: Level,
    /// What was looked at.
    pub what: &'static str,
    /// What was seen and, unless good, what to do.
    pub detail: String,
}

impl Finding {
    pub(super) fn good(what: &'static str, detail: String) -> Finding {
        Finding { level: Level::Good, what, detail }
    }

    pub(super) fn warning(what: &'static str, detail: String) -> Finding {
        Finding { level: Level::Warning, what, detail }
    }

    pub(super) fn problem(what: &'static str, detail: String) -> Finding {
        Finding { level: Level::Problem, what, detail }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)
    }
}

const GIB: u64 = 1 << 30;

/// Reads the machine; what only Linux has is left out elsewhere, where Docker runs in a machine of its own.
pub(super) fn findings(docker: &Info, wanted: &Machine, cache: &Utf8Path) -> Vec<Finding> {
    let mut findings = vec![memory(docker.mem_total, wanted.memory_gib)];
    // On Docker Desktop the folder is inside its own machine.
    let places = [("disk for Docker", Utf8Path::new(&docker.docker_root_dir)), ("disk for the cache", cache)];
    findings.extend(places.into_iter().filter_map(|(what, path)| {
        let existing = path.ancestors().find(|path| path.exists())?;
        let local = path.parent().is_none_or(Utf8Path::exists) || what == "disk for the cache";
        local.then(|| disk(what, existing, wanted.disk_gib)).flatten()
    }));
    for (name, least) in
        [("max_user_watches", wanted.inotify_watches), ("max_user_instances", wanted.inotify_instances)]
    {
        let path = format!("/proc/sys/fs/inotify/{name}");
        if let Some(value) = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()) {
            findings.push(inotify(name, value, least));
        }
    }
    findings.push(match docker.cgroup_version.as_str() {
        "1" => {
            Finding::good("cgroups", "version 1, which Kubernetes supports up to 1.34 by default".to_owned())
        }
        version => Finding::good("cgroups", format!("version {version}")),
    });
    findings
}

fn memory(bytes: u64, least: u64) -> Finding {
    let detail = format!("Docker has {}", text::bytes(bytes));
    // Firmware takes a part of what is sold as a gibibyte.
    if bytes == 0 || bytes + GIB / 2 >= least * GIB {
        Finding::good("memory", detail)
    } else {
        Finding::warning("memory", format!("{detail}, and the suites want {least} GiB; give Docker more"))
    }
}

fn disk(what: &'static str, path: &Utf8Path, least: u64) -> Option<Finding> {
    let stat = nix::sys::statvfs::statvfs(path.as_std_path()).ok()?;
    #[allow(clippy::useless_conversion, reason = "it is 32 bits wide on macOS")]
    let free = u64::from(stat.blocks_available()) * stat.fragment_size();
    Some(free_space(what, path, free, least))
}

fn free_space(what: &'static str, path: &Utf8Path, free: u64, least: u64) -> Finding {
    let detail = format!("{} free at {path}", text::bytes(free));
    let want = format!(
        "a first run needs {least} GiB; remove what is no longer needed, such as `docker image prune`"
    );
    match free {
        free if free < 2 * GIB => Finding::problem(what, format!("only {detail}; {want}")),
        free if free < least * GIB => Finding::warning(what, format!("{detail}; {want}")),
        _ => Finding::good(what, detail),
    }
}

fn inotify(name: &str, value: u64, least: u64) -> Finding {
    let detail = format!("fs.inotify.{name} is {value}");
    if value >= least {
        Finding::good("inotify", detail)
    } else {
        Finding::warning(
            "inotify",
            format!(
                "{detail}, and nodes need {least} (\"too many open files\"); run `sudo sysctl fs.inotify.{name}={least}`"
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_a_problem_and_a_small_one_a_warning() {
        let level = |gib: u64| free_space("disk", "/x".into(), gib * GIB, 15).level;
        assert_eq!([level(1), level(10), level(20)], [Level::Problem, Level::Warning, Level::Good]);
    }

    #[test]
    fn low_limits_come_with_the_command_that_raises_them() {
        let finding = inotify("max_user_instances", 64, 128);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.detail.contains("sudo sysctl fs.inotify.max_user_instances=128"), "{finding}");
    }

    #[test]
    fn memory_is_not_judged_where_docker_does_not_say() {
        assert_eq!(memory(0, 6).level, Level::Good);
        assert_eq!(memory(4 * GIB, 6).level, Level::Warning);
    }
}
