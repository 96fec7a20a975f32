//! `times`: the stages' times of past runs, from their reports, as a table.

use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use jiff::Timestamp;
use serde::Deserialize;

use crate::cli::Times;
use crate::config::Workspace;
use crate::exit::{Exit, ExitWith};
use crate::{fail, text};

/// What is read of report.json.
#[derive(Deserialize)]
struct Past {
    plan: PastPlan,
    seconds: f64,
    #[serde(default)]
    times: Option<PastTimes>,
    steps: Vec<PastStep>,
    verdict: PastVerdict,
}

#[derive(Deserialize)]
struct PastPlan {
    run: String,
}

#[derive(Deserialize)]
struct PastTimes {
    seconds_to_first_test: f64,
    seconds_of_pods: f64,
}

#[derive(Deserialize)]
struct PastStep {
    phase: String,
    start: Timestamp,
    end: Option<Timestamp>,
}

#[derive(Deserialize)]
struct PastVerdict {
    passed: usize,
    failed: usize,
}

/// Columns: title and the stages whose steps count, from the first one's start to the last one's end.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("set-up", &["setup"]),
    ("cluster", &["cluster"]),
    ("images", &["images"]),
    ("install", &["namespaces", "fixtures", "release"]),
    ("pods start", &["ready", "forward"]),
    ("clean up", &["cleanup"]),
];

pub(super) fn run(args: &Times) -> Result<Exit> {
    let workspace = Workspace::here();
    let mut pasts = Vec::new();
    for name in wanted(args, &workspace)? {
        let path = workspace.runs().join(&name).join("report.json");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("read the report {path}"))
            .or_exit(Exit::Usage)?;
        let past: Past = serde_json::from_str(&text)
            .with_context(|| format!("understand the report {path}"))
            .or_exit(Exit::Usage)?;
        pasts.push(past);
    }
    print!("{}", table(&pasts));
    Ok(Exit::Passed)
}

fn wanted(args: &Times, workspace: &Workspace) -> Result<Vec<String>> {
    if !args.runs.is_empty() {
        return Ok(args.runs.clone());
    }
    let mut names = Vec::new();
    for entry in workspace.runs().read_dir_utf8().into_iter().flatten().flatten() {
        let path: Utf8PathBuf = entry.into_path();
        let is_link = path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
        if path.join("report.json").is_file() && !is_link {
            names.extend(path.file_name().map(str::to_owned));
        }
    }
    names.sort();
    if names.is_empty() {
        fail!(
            Exit::Usage,
            "there is no report under {} yet; `cargo xtask k8s-test` writes one",
            workspace.runs()
        );
    }
    Ok(names)
}

fn table(pasts: &[Past]) -> String {
    let mut out = String::from("| run |");
    for (title, _) in COLUMNS {
        out.push_str(&format!(" {title} |"));
    }
    out.push_str(" command to first test | of that ours | all | passed, failed |\n|---|");
    out.push_str(&"---|".repeat(COLUMNS.len() + 4));
    out.push('\n');
    for past in pasts {
        out.push_str(&format!("| {} |", past.plan.run));
        for (_, phases) in COLUMNS {
            out.push_str(&format!(
                " {} |",
                span(&past.steps, phases).map_or_else(|| "—".to_owned(), text::seconds)
            ));
        }
        let seconds = |value: f64| text::seconds(Duration::try_from_secs_f64(value).unwrap_or_default());
        let [first, ours] = match &past.times {
            Some(times) => [times.seconds_to_first_test, times.seconds_to_first_test - times.seconds_of_pods]
                .map(seconds),
            None => ["—", "—"].map(str::to_owned),
        };
        let PastVerdict { passed, failed } = past.verdict;
        out.push_str(&format!(" {first} | {ours} | {} | {passed}, {failed} |\n", seconds(past.seconds)));
    }
    out
}

fn span(steps: &[PastStep], phases: &[&str]) -> Option<Duration> {
    let of = || steps.iter().filter(|step| phases.contains(&step.phase.as_str()));
    let from = of().map(|step| step.start).min()?;
    let to = of().filter_map(|step| step.end).max()?;
    Duration::try_from(to.duration_since(from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_span_from_their_first_start_to_their_last_end() {
        let report = r#"{
            "plan": {"run": "r1"}, "seconds": 30.5, "verdict": {"passed": 6, "failed": 0},
            "times": {"seconds_to_first_test": 12.0, "seconds_of_pods": 10.5},
            "steps": [
                {"phase": "ready", "start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:07Z"},
                {"phase": "ready", "start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:09Z"},
                {"phase": "forward", "start": "2026-01-01T00:00:09Z", "end": "2026-01-01T00:00:10Z"},
                {"phase": "setup", "start": "2026-01-01T00:00:00Z", "end": null}
            ]
        }"#;
        let table = table(&[serde_json::from_str(report).unwrap()]);
        let row = table.lines().nth(2).unwrap();
        assert_eq!(row, "| r1 | — | — | — | — | 10.0 s | — | 12.0 s | 1.5 s | 30.5 s | 6, 0 |");
    }
}
