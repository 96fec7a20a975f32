//! What was measured, as JSON with every value and as a table of medians.

use anyhow::{Context, Result};
use camino::Utf8Path;
use serde::Serialize;

use super::peers::{Delivery, Peer};
use crate::cli::BenchCase;
use crate::text;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Value {
    pub(super) megabytes: u32,
    pub(super) case: BenchCase,
    pub(super) peer: Peer,
    pub(super) run: u16,
    pub(super) seconds: f64,
    /// What the nodes were sent, where the peer says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes: Option<u64>,
    /// The most memory that its process has held at once, in bytes, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory: Option<u64>,
}

/// On what it was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Facts {
    pub(super) processors: usize,
    /// How many processes wanted a processor before anything was measured, on an average of a minute.
    pub(super) load: f64,
    pub(super) memory: u64,
    pub(super) docker: String,
    pub(super) storage_driver: String,
    pub(super) kind: String,
    pub(super) containerd: String,
    /// Whether the nodes have it.
    pub(super) crictl: bool,
    pub(super) registry: Option<String>,
}

impl Facts {
    /// Whether something else than the benchmark has kept the machine busy.
    pub(super) fn is_busy(&self) -> bool {
        self.load > self.processors as f64 / 2.0
    }
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) facts: Facts,
    /// Whether all was measured that was asked for.
    pub(super) complete: bool,
    pub(super) values: Vec<Value>,
}

const PEERS: [Peer; 3] = [Peer::Ours, Peer::KindLoad, Peer::Registry];

impl Report {
    pub(super) fn add(&mut self, megabytes: u32, case: BenchCase, peer: Peer, run: u16, delivery: Delivery) {
        let Delivery { took, bytes, memory } = delivery;
        self.values.push(Value { megabytes, case, peer, run, seconds: took.as_secs_f64(), bytes, memory });
    }

    /// Writes `images.md` and `images.json` into `folder`.
    pub(super) fn write(&self, folder: &Utf8Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        for (name, text) in [("images.md", self.markdown()), ("images.json", json)] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
        }
        Ok(())
    }

    /// A table with a row for each size and case, in the order in which they were first measured.
    pub(super) fn markdown(&self) -> String {
        let mut rows: Vec<(u32, BenchCase)> = Vec::new();
        for value in &self.values {
            if !rows.contains(&(value.megabytes, value.case)) {
                rows.push((value.megabytes, value.case));
            }
        }
        rows.sort_by_key(|(megabytes, case)| (*case, *megabytes));
        let mut out = "# Bringing images to the nodes of a Kind cluster\n\n".to_owned();
        out.push_str("Median (fastest to slowest) of alternating runs; how many times longer a peer took than we did.\n\n");
        out.push_str("| case | image | ours | kind load | registry | kind load / ours | registry / ours |\n");
        out.push_str("|---|---|---|---|---|---|---|\n");
        for (megabytes, case) in rows {
            let [ours, kind, registry] = PEERS.map(|peer| self.seconds(megabytes, case, peer));
            let ratio = |peer: &[f64]| match (median(peer), median(&ours)) {
                (Some(peer), Some(ours)) => format!("{:.1}", peer / ours),
                _ => "—".to_owned(),
            };
            let image = match case {
                BenchCase::Unchanged => format!("5 of {megabytes} MB"),
                _ => format!("{megabytes} MB"),
            };
            out.push_str(&format!(
                "| {} | {image} | {} | {} | {} | {} | {} |\n",
                name(case),
                shown(&ours),
                shown(&kind),
                shown(&registry),
                ratio(&kind),
                ratio(&registry)
            ));
        }
        let Facts { processors, load, memory, docker, storage_driver, kind, containerd, crictl, registry } =
            &self.facts;
        out.push_str(&format!(
            "\n{processors} processors with a load of {load:.1} before, {}; Docker {docker} with {storage_driver}; kind {kind}; {containerd}; {}.\n",
            text::bytes(*memory),
            registry.as_deref().unwrap_or("no registry was found on PATH")
        ));
        if let Some(memory) = self.values.iter().filter_map(|value| value.memory).max() {
            out.push_str(&format!("\nThe most memory that ours has held: {}.\n", text::bytes(memory)));
        }
        if self.facts.is_busy() {
            out.push_str("\n**The machine was busy with something else: these times mean little.**\n");
        }
        if !self.complete {
            out.push_str("\n**The benchmark was interrupted or failed: rows and runs are missing.**\n");
        }
        if !crictl {
            out.push_str(
                "\nThese nodes have no crictl, by which `kind load` finds out that a node has an image: it loads everything again here, \
                 which is not what it is like elsewhere, so it is not measured where nothing changed.\n",
            );
        }
        out
    }

    fn seconds(&self, megabytes: u32, case: BenchCase, peer: Peer) -> Vec<f64> {
        let of = |value: &&Value| (value.megabytes, value.case, value.peer) == (megabytes, case, peer);
        let mut seconds: Vec<f64> = self.values.iter().filter(of).map(|value| value.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds
    }
}

/// What a case is called in the table.
fn name(case: BenchCase) -> &'static str {
    match case {
        BenchCase::Empty => "node empty",
        BenchCase::Prepare => "preparing docker, once for each layer",
        BenchCase::LastLine => "one line in the last layer",
        BenchCase::Middle => "one layer in the middle",
        BenchCase::Unchanged => "nothing changed",
        BenchCase::ThreeNodes => "three nodes empty",
    }
}

/// The median of sorted values.
pub(super) fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 0 => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
        _ => Some(sorted[middle]),
    }
}

fn shown(sorted: &[f64]) -> String {
    range(sorted, "s")
}

/// The median of values with the least and the greatest.
pub(super) fn range(sorted: &[f64], unit: &str) -> String {
    let (Some(median), Some(first), Some(last)) = (median(sorted), sorted.first(), sorted.last()) else {
        return "—".to_owned();
    };
    // Of what is small, tenths are too coarse to compare.
    let digits = if median < 10.0 { 2 } else { 1 };
    if sorted.len() == 1 {
        return format!("{median:.digits$} {unit}");
    }
    format!("{median:.digits$} {unit} ({first:.digits$} to {last:.digits$})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_row_has_medians_and_ratios() {
        let mut report = Report::default();
        for (peer, seconds) in [
            (Peer::Ours, 2.0),
            (Peer::Ours, 1.0),
            (Peer::Ours, 30.0),
            (Peer::KindLoad, 20.0),
            (Peer::KindLoad, 24.0),
        ] {
            let took = Duration::from_secs_f64(seconds);
            let delivery = Delivery { took, bytes: None, memory: None };
            report.add(60, BenchCase::Empty, peer, 1, delivery);
        }
        let table = report.markdown();
        let row = table.lines().find(|line| line.contains("60 MB")).unwrap();
        assert!(table.contains("runs are missing"), "{table}");
        assert_eq!(
            row,
            "| node empty | 60 MB | 2.00 s (1.00 to 30.00) | 22.0 s (20.0 to 24.0) | — | 11.0 | — |"
        );
    }
}
