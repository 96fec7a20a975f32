//! The corpus: recorded failures and start-ups that heal, by which the verdict is measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::asked::Asked;
use super::cause::{Cause, Kind};
use super::patience::Patience;
use super::verdict::{self, Verdict};
use super::world::World;
use super::{AFTER_DOOM, message, record};
use crate::text;

/// A case: what is applied to a cluster, and what comes of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// In one sentence.
    pub about: String,
    /// A cause's kind, or `ready` where it heals.
    pub expect: Expect,
    /// What the cause's text must contain.
    #[serde(default)]
    pub names: String,
    /// Whether it is one of those that a real cluster is asked each time.
    #[serde(default)]
    pub live: bool,
    /// How long to record, in seconds; one that heals ends when it is ready.
    #[serde(default = "forty_five")]
    pub seconds: u64,
    /// Limits that differ from the usual ones.
    #[serde(default)]
    pub patience: Patience,
    /// The objects, a template that knows `image` and `namespace`.
    pub manifest: String,
    /// What is applied or deleted later.
    #[serde(default)]
    pub later: Vec<Later>,
}

/// A step of a case.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Later {
    /// Seconds after the first objects.
    pub after: u64,
    /// Applied then, as the case's own manifest.
    #[serde(default)]
    pub manifest: String,
    /// Deleted then: kind and name.
    #[serde(default)]
    pub delete: Vec<(String, String)>,
}

fn forty_five() -> u64 {
    45
}

/// What a case should end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Expect {
    /// It heals.
    Ready(ReadyWord),
    /// It fails by this.
    Fails(Kind),
}

impl Expect {
    /// It heals.
    pub const READY: Expect = Expect::Ready(ReadyWord::Ready);
}

/// The word `ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyWord {
    /// All of it is ready in the end.
    Ready,
}

/// What the verdict made of a recording.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Everything was ready.
    Ready,
    /// It was given up, so many milliseconds after the recording began.
    Doomed(Cause, i64),
    /// The recording ended while it waited for this.
    Late(Cause),
}

impl Outcome {
    /// In one line.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Outcome::Ready => "ready".to_owned(),
            Outcome::Doomed(cause, at) => {
                let seconds = std::time::Duration::from_millis(u64::try_from(*at).unwrap_or(0));
                format!("given up after {}, {}: {}", text::seconds(seconds), cause.kind, cause.text)
            }
            Outcome::Late(cause) => format!("late, {}: {}", cause.kind, cause.text),
        }
    }
}

/// A case that has been recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its file's name, without the ending.
    pub name: String,
    /// The case.
    pub case: Case,
    /// The rendered manifest, as it was applied, and its namespace.
    pub applied: Applied,
    /// The recording's lines.
    pub lines: String,
}

/// The first line of a recording.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Applied {
    /// The namespace.
    pub namespace: String,
    /// When the recording began; the objects' own times are of that day.
    pub start: Timestamp,
    /// The first objects.
    pub manifest: String,
}

/// The names of a folder's cases, sorted.
///
/// # Errors
/// The folder cannot be read.
pub fn names(folder: &Utf8Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder.read_dir_utf8().with_context(|| format!("read the folder {folder}"))? {
        let path = entry?.into_path();
        if path.extension() == Some("yaml") {
            names.extend(path.file_stem().map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

/// A case's file.
///
/// # Errors
/// It cannot be read: file, line and column.
pub fn load(folder: &Utf8Path, name: &str) -> Result<Case> {
    let path = folder.join(format!("{name}.yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    serde_yaml::from_str(&text).with_context(|| path.to_string())
}

/// Where a case's recording is.
#[must_use]
pub fn recording(folder: &Utf8Path, name: &str) -> Utf8PathBuf {
    folder.join(format!("{name}.jsonl"))
}

/// A case with its recording.
///
/// # Errors
/// One of the files cannot be read.
pub fn recorded(folder: &Utf8Path, name: &str) -> Result<Recorded> {
    let case = load(folder, name)?;
    let path = recording(folder, name);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let (first, lines) = text.split_once('\n').with_context(|| format!("{path} is empty"))?;
    let applied = serde_json::from_str(first).with_context(|| format!("{path}: line 1"))?;
    Ok(Recorded { name: name.to_owned(), case, applied, lines: lines.to_owned() })
}

/// Has the verdict judge a recording as if it happened now: at each change, and when a chance is over.
///
/// # Errors
/// The recording cannot be read.
pub fn replay(recorded: &Recorded) -> Result<Outcome> {
    replay_timed(recorded, &mut Vec::new())
}

/// As [`replay`]; adds how long each change took from its coming to the judgement.
fn replay_timed(recorded: &Recorded, took: &mut Vec<Duration>) -> Result<Outcome> {
    let asked = Asked::read(&recorded.applied.manifest, &recorded.applied.namespace)?;
    let start = recorded.applied.start;
    let end = start.checked_add(SignedDuration::from_secs(i64::try_from(recorded.case.seconds)?))?;
    let changes = record::read(&recorded.lines, start)?;
    let doom_time = SignedDuration::try_from(AFTER_DOOM)?;
    let mut world = World::since(start);
    let mut doomed_since: Option<Timestamp> = None;
    let mut last = None;
    let mut changes = changes.into_iter().peekable();
    while let Some((at, change)) = changes.next() {
        let mut begun = Some(Instant::now());
        world.apply(at, change);
        let mut now = at;
        let next = changes.peek().map_or(end, |(at, _)| *at);
        loop {
            let verdicts = verdict::judge(&world, &asked, &asked.items, &recorded.case.patience, now);
            took.extend(begun.take().map(|begun| begun.elapsed()));
            if !verdicts.is_empty() && verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Ready) {
                return Ok(Outcome::Ready);
            }
            let is_doomed = verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Doomed(_)));
            let first = message::first(&verdicts).cloned();
            let doom = first.clone().filter(|_| is_doomed);
            let mut wake: Option<Timestamp> = verdicts
                .iter()
                .filter_map(|(_, verdict)| match verdict {
                    Verdict::Wait { until, .. } => *until,
                    _ => None,
                })
                .min();
            match doom {
                None => doomed_since = None,
                Some(cause) => {
                    let since = *doomed_since.get_or_insert(now);
                    if now.duration_since(since) >= doom_time {
                        return Ok(Outcome::Doomed(cause, now.duration_since(start).as_millis() as i64));
                    }
                    wake = Some(wake.map_or(since + doom_time, |wake| wake.min(since + doom_time)));
                }
            }
            last = first.or(last);
            match wake {
                Some(wake) if wake > now && wake < next => now = wake,
                _ => break,
            }
        }
    }
    let nothing = || Cause::new(Kind::Unfinished, "nothing was recorded");
    Ok(Outcome::Late(last.unwrap_or_else(nothing)))
}

/// Whether the outcome is what the case says.
#[must_use]
pub fn is_right(case: &Case, outcome: &Outcome) -> bool {
    match (case.expect, outcome) {
        (Expect::Ready(_), Outcome::Ready) => true,
        (Expect::Fails(kind), Outcome::Doomed(cause, _) | Outcome::Late(cause)) => {
            cause.kind == kind && cause.text.contains(&case.names)
        }
        _ => false,
    }
}

/// How a whole corpus came out.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Cases that fail.
    pub failures: usize,
    /// Of those, the ones whose cause was found.
    pub right: usize,
    /// Of those, the ones that ended before their deadline.
    pub early: usize,
    /// Cases that heal.
    pub healing: usize,
    /// Of those, the ones that were given up.
    pub aborted: usize,
    /// What was wrong, a line each.
    pub wrong: Vec<String>,
    /// How long each change took from its coming to the judgement.
    pub took: Vec<Duration>,
}

impl Score {
    /// The time within which 99 of 100 changes were judged.
    #[must_use]
    pub fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        took.get(took.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
    }
}

/// Replays all that is recorded in a folder.
///
/// # Errors
/// A file cannot be read.
pub fn score(folder: &Utf8Path) -> Result<Score> {
    let mut score = Score::default();
    for name in names(folder)? {
        if !recording(folder, &name).exists() {
            score.wrong.push(format!("{name}: not recorded"));
            continue;
        }
        let recorded = recorded(folder, &name)?;
        let outcome = replay_timed(&recorded, &mut score.took).with_context(|| name.clone())?;
        let right = is_right(&recorded.case, &outcome);
        match recorded.case.expect {
            Expect::Ready(_) => {
                score.healing += 1;
                score.aborted += usize::from(matches!(outcome, Outcome::Doomed(..)));
            }
            Expect::Fails(_) => {
                score.failures += 1;
                score.right += usize::from(right);
                score.early += usize::from(matches!(outcome, Outcome::Doomed(..)));
            }
        }
        if !right {
            score.wrong.push(format!("{name}: {}", outcome.describe()));
        }
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the verdict is held to: of each hundred causes, and of all start-ups that heal.
    #[test]
    fn causes_are_found_and_nothing_that_heals_is_given_up() {
        let folder = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let score = score(&folder).unwrap();
        let wrong = score.wrong.join("\n");
        assert!(score.failures >= 60 && score.healing >= 30, "the corpus has shrunk: {score:?}");
        assert!(score.right * 100 >= score.failures * 95, "{wrong}");
        assert_eq!(score.aborted, 0, "{wrong}");
    }
}
