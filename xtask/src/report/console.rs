//! The console: a line for each step that ended, bars for those under way where a person watches.

use std::collections::HashMap;
use std::io::Write;
use std::time::Duration;

use console::{Style, Term};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::Verdict;
use crate::events::{Consumer, Event, Outcome, Phase, StepEnd, TestResult};
use crate::text;

/// Prints events to standard error; standard output is for results that programs read.
pub struct Console {
    term: Term,
    bars: Option<MultiProgress>,
    open: HashMap<u64, Open>,
    styles: Styles,
}

struct Open {
    phase: Phase,
    what: String,
    start: Timestamp,
    bar: Option<ProgressBar>,
    /// Whether the bar shows bytes.
    bytes: bool,
    last: String,
}

struct Styles {
    good: Style,
    bad: Style,
    warn: Style,
    dim: Style,
}

impl Console {
    /// With bars when standard error is a terminal that can show them and `ci` is not set.
    #[must_use]
    pub fn new(ci: bool, color: bool) -> Console {
        let term = Term::stderr();
        // Hidden where there is no terminal or a dumb one (`TERM` is not set, or says so); lines above them would be hidden too.
        let bars = MultiProgress::new();
        let can_show = !bars.is_hidden();
        let bars = (can_show && !ci).then_some(bars);
        let color = color && can_show;
        let style = |style: Style| style.for_stderr().force_styling(color);
        let styles = Styles {
            good: style(Style::new().green()),
            bad: style(Style::new().red().bold()),
            warn: style(Style::new().yellow()),
            dim: style(Style::new().dim()),
        };
        Console { term, bars, open: HashMap::new(), styles }
    }

    fn line(&self, line: &str) {
        match &self.bars {
            Some(bars) => {
                // Above the bars.
                let _ = bars.println(line);
            }
            None => {
                let _ = (&self.term).write_all(format!("{line}\n").as_bytes());
            }
        }
    }

    fn started(&mut self, at: Timestamp, step: u64, phase: Phase, what: &str) {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(style(SPINNER));
            bar.set_prefix(phase.name());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        let what = what.to_owned();
        self.open.insert(step, Open { phase, what, start: at, bar, bytes: false, last: String::new() });
    }

    fn progress(&mut self, at: Timestamp, step: u64, text: &str) {
        let Some(open) = self.open.get_mut(&step) else { return };
        if let Some(bar) = &open.bar {
            let short: String = text.chars().take(70).collect();
            if std::mem::take(&mut open.bytes) {
                bar.set_style(style(SPINNER));
            }
            if let Some((at, of)) = part(text) {
                if bar.length().is_none() {
                    bar.set_style(style("  {prefix:<11.dim} {msg} {bar:16} {elapsed:.dim}"));
                }
                bar.set_length(of);
                // The part that is named has only begun.
                bar.set_position(at.saturating_sub(1));
            }
            bar.set_message(format!("{}: {short}", open.what));
        } else if is_title(text) && open.last != text {
            text.clone_into(&mut open.last);
            let line =
                format!("  {:<11} {}: {text} ({})", open.phase.name(), open.what, since(open.start, at));
            self.line(&line);
        }
    }

    /// A bar of bytes, for whoever watches: a log has the step's end, which says how many they were.
    fn bytes(&mut self, step: u64, done: u64, of: u64) {
        let Some(Open { what, bar: Some(bar), bytes, .. }) = self.open.get_mut(&step) else { return };
        if !std::mem::replace(bytes, true) {
            bar.set_style(style(BYTES));
            bar.set_message(what.clone());
        }
        // Of how many is known only about.
        bar.set_length(of.max(done));
        bar.set_position(done);
    }

    fn finished(&mut self, at: Timestamp, step: u64, end: &StepEnd) {
        let Some(open) = self.open.remove(&step) else { return };
        if let Some(bar) = &open.bar {
            bar.finish_and_clear();
        }
        let took = since(open.start, at);
        let (mark, detail) = match end {
            StepEnd::Done(detail) => (self.styles.good.apply_to("ok"), detail.as_str()),
            StepEnd::Failed => (self.styles.bad.apply_to("stopped"), ""),
        };
        let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        let phase = self.styles.dim.apply_to(format!("{:<11}", open.phase.name()));
        self.line(&format!("  {phase} {}{detail} {mark} {}", open.what, self.styles.dim.apply_to(took)));
    }

    fn test(&self, result: &TestResult) {
        let (mark, style) = match result.outcome {
            Outcome::Passed if result.is_flaky() => ("FLAKY", &self.styles.warn),
            Outcome::Passed => ("PASS", &self.styles.good),
            Outcome::Failed => ("FAIL", &self.styles.bad),
            Outcome::TimedOut => ("TIME", &self.styles.bad),
            Outcome::Skipped => ("SKIP", &self.styles.warn),
        };
        let took = self.styles.dim.apply_to(text::seconds(result.took));
        self.line(&format!("  {} {} {took}", style.apply_to(mark), name(result)));
        if let Some(reason) = &result.reason {
            self.line(&text::indent(reason, "         "));
        }
    }
}

const SPINNER: &str = "  {prefix:<11.dim} {msg} {spinner} {elapsed:.dim}";
const BYTES: &str = "  {prefix:<11.dim} {msg} {bar:16} {bytes}/{total_bytes}, {bytes_per_sec} {elapsed:.dim}";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// Which part of how many a text such as `3/9 compile` or `Step 3/9 : COPY` tells of.
fn part(text: &str) -> Option<(u64, u64)> {
    let word = text.strip_prefix("Step ").unwrap_or(text).split_whitespace().next()?;
    let (at, of) = word.split_once('/')?;
    Some((at.parse().ok()?, of.parse().ok()?))
}

/// What a machine's log should show of a step under way: its parts, not its percentages.
fn is_title(text: &str) -> bool {
    let counts = text.chars().filter(char::is_ascii_digit).count();
    text.len() > 8 && counts * 3 < text.len()
}

fn since(start: Timestamp, at: Timestamp) -> String {
    text::seconds(Duration::try_from(at.duration_since(start)).unwrap_or_default())
}

fn name(result: &TestResult) -> String {
    format!("{}/{} {}", result.id.suite, result.id.variant, result.id.name)
}

impl Consumer for Console {
    fn consume(&mut self, at: Timestamp, event: &Event) {
        match event {
            Event::Started { step, phase, what, within: None } => self.started(at, *step, *phase, what),
            // A stage says what it is about by one line; a bar shows which part is under way.
            Event::Started { what, within: Some(stage), .. } => {
                if let Some(Open { what: whole, bar: Some(bar), .. }) = self.open.get(stage) {
                    bar.set_message(format!("{whole}: {what}"));
                }
            }
            Event::Progress { step, text } => self.progress(at, *step, text),
            Event::Bytes { step, done, of } => self.bytes(*step, *done, *of),
            Event::Finished { step, end } => self.finished(at, *step, end),
            Event::Note(text) => self.line(&format!("  {:<11} {text}", "note")),
            Event::Warning(text) => {
                self.line(&format!("  {} {text}", self.styles.warn.apply_to(format!("{:<11}", "warning"))));
            }
            Event::TestStarted(_) => {}
            Event::TestFinished(result) => self.test(result),
        }
    }
}

/// The end of a run: failures last but one, the count last.
#[must_use]
pub fn summary(tests: &[TestResult], verdict: &Verdict, report: &str) -> String {
    let mut out = String::new();
    for test in tests.iter().filter(|test| test.outcome.is_failure()) {
        out.push_str(&format!(
            "\n{} failed: {}\n",
            name(test),
            test.reason.as_deref().unwrap_or("no reason known")
        ));
        out.push_str(&text::indent(&text::tail(&test.tail, 25), "    "));
        out.push_str(&format!("\n  all of its output: {}\n", test.log));
    }
    for test in tests.iter().filter(|test| test.is_flaky()) {
        let attempts = test.earlier.len() + 1;
        let reason = test.earlier.iter().find_map(|attempt| attempt.reason.as_deref());
        let reason = reason.unwrap_or("no reason known");
        out.push_str(&format!("\n{} passed at attempt {attempts} only: {reason}\n", name(test)));
    }
    let flaky = if verdict.flaky > 0 { format!(" ({} flaky)", verdict.flaky) } else { String::new() };
    let skipped = if verdict.skipped > 0 { format!(", {} skipped", verdict.skipped) } else { String::new() };
    out.push_str(&format!(
        "\nreport: {report}\n{} passed{flaky}, {} failed{skipped}\n",
        verdict.passed, verdict.failed
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_not_logged() {
        assert!(is_title("3/9 compile Kubernetes v1.34.4"));
        assert!(is_title("wait for the nodes"));
        assert!(!is_title("12.34 MiB"));
        assert!(!is_title("345.10 MiB"));
    }

    #[test]
    fn parts_are_read_from_recipes_and_builds() {
        assert_eq!(part("3/9 compile Kubernetes"), Some((3, 9)));
        assert_eq!(part("Step 2/5 : COPY . ."), Some((2, 5)));
        assert_eq!(part("and/or"), None);
    }

    #[test]
    fn the_count_stands_alone_on_the_last_line() {
        let verdict = Verdict { exit: 0, passed: 6, failed: 0, skipped: 0, flaky: 0, error: None };
        assert!(summary(&[], &verdict, "target/x").ends_with("\n6 passed, 0 failed\n"));
        let verdict = Verdict { flaky: 2, skipped: 1, ..verdict };
        let end = "\n6 passed (2 flaky), 0 failed, 1 skipped\n";
        assert!(summary(&[], &verdict, "target/x").ends_with(end));
    }
}
