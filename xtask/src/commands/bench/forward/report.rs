//! What was measured of forwards, as JSON with every value and as a table of medians.

use anyhow::{Context, Result};
use camino::Utf8Path;
use serde::Serialize;

use super::Peer;
use super::rollouts::Noticed;
use crate::commands::bench::report::{Facts, median, range};

/// One run of one peer.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) peer: Peer,
    /// Half of the requests took at most this, in milliseconds.
    pub(super) p50: f64,
    /// 99 of 100 requests took at most this, in milliseconds.
    pub(super) p99: f64,
    /// Megabytes of a large body per second.
    pub(super) throughput: f64,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) facts: Facts,
    pub(super) kubectl: Option<String>,
    /// Requests of each run.
    pub(super) requests: u32,
    /// The large body, in MiB.
    pub(super) mebibytes: u32,
    pub(super) rollouts: u16,
    /// Whether all was measured that was asked for.
    pub(super) complete: bool,
    pub(super) runs: Vec<Run>,
    pub(super) noticed: Vec<(Peer, Noticed)>,
}

impl Report {
    /// Writes `forward.md` and `forward.json` into `folder`.
    pub(super) fn write(&self, folder: &Utf8Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        for (name, text) in [("forward.md", self.markdown()), ("forward.json", json)] {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
        }
        Ok(())
    }

    pub(super) fn markdown(&self) -> String {
        let mut out = "# Forwarding a pod's port\n".to_owned();
        if !self.runs.is_empty() {
            out.push_str(&format!(
                "\nMedian (least to greatest) of alternating runs of {} GETs with a connection each, and of one body of {} MiB each; how many times \
                 that of kubectl port-forward it is.\n\n",
                self.requests, self.mebibytes
            ));
            out.push_str("| | GET, p50 | / kubectl | GET, p99 | / kubectl | large body | / kubectl |\n|---|---|---|---|---|---|---|\n");
            for peer in [Peer::Direct, Peer::Api, Peer::Kubectl] {
                let cells = [(|run: &Run| run.p50) as fn(&Run) -> f64, |run| run.p99, |run| run.throughput];
                let units = ["ms", "ms", "MB/s"];
                let cells: Vec<String> =
                    cells.into_iter().zip(units).map(|(value, unit)| self.cell(peer, value, unit)).collect();
                out.push_str(&format!("| {} | {} |\n", peer.name(), cells.join(" | ")));
            }
        }
        if !self.noticed.is_empty() {
            out.push_str(&format!(
                "\n{} rollouts, then a pod killed with grace 0, then the API server killed, under requests without a pause; kubectl \
                 port-forward ends with its first pod.\n\n| | requests | failed | longest answer | pod ready to first answer, median (max) |\n|---|---|---|---|---|\n",
                self.rollouts
            ));
            for (peer, noticed) in &self.noticed {
                let gaps = match (median(&noticed.gaps), noticed.gaps.last()) {
                    (Some(median), Some(max)) => format!("{median:.0} ms ({max:.0} ms)"),
                    _ => "—".to_owned(),
                };
                let Noticed { requests, failed, longest, .. } = noticed;
                out.push_str(&format!(
                    "| {} | {requests} | {failed} | {longest:.1} s | {gaps} |\n",
                    peer.name()
                ));
            }
            for (peer, noticed) in &self.noticed {
                for failure in &noticed.failures {
                    out.push_str(&format!("\nA failure, {}: {failure}\n", peer.name()));
                }
            }
        }
        let Facts { processors, load, docker, kind, .. } = &self.facts;
        let kubectl = match &self.kubectl {
            Some(version) => format!("kubectl {version}"),
            None => "no kubectl was found on PATH, so nothing is compared".to_owned(),
        };
        out.push_str(&format!(
            "\n{processors} processors with a load of {load:.1} before; Docker {docker}; kind {kind}; {kubectl}.\n"
        ));
        if self.facts.is_busy() {
            out.push_str("\n**The machine was busy with something else: these times mean little.**\n");
        }
        if !self.complete {
            out.push_str("\n**The benchmark was interrupted or failed: runs are missing.**\n");
        }
        out
    }

    /// A value with its range, and its ratio to kubectl's.
    fn cell(&self, peer: Peer, value: impl Fn(&Run) -> f64, unit: &str) -> String {
        let of = |peer: Peer| {
            let mut values: Vec<f64> = self.runs.iter().filter(|run| run.peer == peer).map(&value).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let (ours, kubectl) = (of(peer), of(Peer::Kubectl));
        let ratio = match (median(&ours), median(&kubectl)) {
            (Some(ours), Some(kubectl)) if peer != Peer::Kubectl => format!("{:.2}", ours / kubectl),
            _ => "—".to_owned(),
        };
        format!("{} | {ratio}", range(&ours, unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_stand_beside_kubectls() {
        let run = |peer, p50, throughput| Run { peer, p50, p99: 2.0 * p50, throughput };
        let runs = vec![
            run(Peer::Direct, 1.0, 900.0),
            run(Peer::Kubectl, 8.0, 100.0),
            run(Peer::Direct, 3.0, 900.0),
            run(Peer::Direct, 2.0, 900.0),
        ];
        let text = Report { runs, ..Report::default() }.markdown();
        assert!(text.contains("| directly | 2.00 ms (1.00 to 3.00) | 0.25 | 4.00 ms (2.00 to 6.00) | 0.25 | 900.0 MB/s (900.0 to 900.0) | 9.00 |"), "{text}");
        assert!(text.contains("| through the API server | — | — |"), "{text}");
        assert!(text.contains("runs are missing"), "{text}");
    }
}
