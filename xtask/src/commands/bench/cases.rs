//! What is measured, in which order.
//!
//! A peer begins with empty nodes and an empty registry, brings the base, then what changed: so what it finds is what it
//! has brought itself, and the base has not to be brought again for each case.

use anyhow::Result;

use super::Running;
use super::content::Pool;
use super::field::Field;
use super::images::Images;
use super::peers::{Delivery, Peer, Ways};
use crate::cli::BenchCase;
use crate::events::Phase;
use crate::text;

/// Measures all cases that are for a cluster of this many nodes.
pub(super) async fn measure(bench: &Running<'_>, field: &Field, ways: &Ways) -> Result<()> {
    let pool = Pool::new();
    for (index, &megabytes) in bench.args.sizes.iter().enumerate() {
        let step = bench.session.events.step(Phase::Images, format!("build images of {megabytes} MB"));
        let folder = bench.scratch().join(megabytes.to_string());
        let images = Images::new(megabytes, &folder, &bench.secret, &pool, &bench.session.events).await?;
        step.done("");
        let sized = Sized { bench, field, ways, images: &images, megabytes };
        sized.changes().await?;
        if index == 0 {
            sized.unchanged().await?;
        }
        // The nodes let go of them first: they may hold on to what Docker shares with them.
        ways.clear(field).await?;
        images.remove_all().await?;
    }
    Ok(())
}

/// A size of images on a cluster.
struct Sized<'a> {
    bench: &'a Running<'a>,
    field: &'a Field,
    ways: &'a Ways,
    images: &'a Images<'a>,
    megabytes: u32,
}

impl Sized<'_> {
    /// The base to empty nodes, then what changed.
    async fn changes(&self) -> Result<()> {
        let many = self.field.cluster == super::THREE;
        let empty = if many { BenchCase::ThreeNodes } else { BenchCase::Empty };
        let line = !many && self.wanted(BenchCase::LastLine);
        let middle = !many && self.wanted(BenchCase::Middle);
        if !self.wanted(empty) && !line && !middle {
            return Ok(());
        }
        for (run, peer) in self.turns() {
            self.ways.clear(self.field).await?;
            // A case that is not wanted is the preparation of the next one all the same.
            let base = [self.images.base()];
            self.deliver(empty, peer, run, &base, self.wanted(empty)).await?;
            if peer == Peer::Ours && (line || middle) {
                // What `dev` does while it has nothing else to do.
                let what = format!("Prepare, {} MB, {}, run {run}", self.megabytes, peer.name());
                let step = self.bench.session.events.step(Phase::Images, what);
                let delivery = self.ways.prepare(self.field, &base[0]).await?;
                step.done(text::seconds(delivery.took));
                self.bench.report().add(self.megabytes, BenchCase::Prepare, peer, run, delivery);
            }
            if line {
                let tag = format!("line-{run}-{}", tag(peer));
                self.changed(BenchCase::LastLine, peer, run, self.images.other_line(&tag).await?).await?;
            }
            if middle {
                let tag = format!("middle-{run}-{}", tag(peer));
                self.changed(BenchCase::Middle, peer, run, self.images.other_middle(&tag).await?).await?;
            }
        }
        Ok(())
    }

    async fn changed(&self, case: BenchCase, peer: Peer, run: u16, reference: String) -> Result<()> {
        self.deliver(case, peer, run, std::slice::from_ref(&reference), true).await?;
        self.images.remove(&reference).await
    }

    /// Five images that the nodes have.
    async fn unchanged(&self) -> Result<()> {
        if !self.wanted(BenchCase::Unchanged) || self.field.cluster == super::THREE {
            return Ok(());
        }
        let mut five = vec![self.images.base()];
        for index in 1..5 {
            five.push(self.images.other_line(&format!("five-{index}")).await?);
        }
        for (run, peer) in self.turns() {
            if peer == Peer::KindLoad && !self.field.crictl {
                // It cannot see that the nodes have the images: the report says so.
                continue;
            }
            self.ways.clear(self.field).await?;
            self.deliver(BenchCase::Unchanged, peer, run, &five, false).await?;
            self.deliver(BenchCase::Unchanged, peer, run, &five, true).await?;
        }
        for reference in &five[1..] {
            self.images.remove(reference).await?;
        }
        Ok(())
    }

    async fn deliver(
        &self,
        case: BenchCase,
        peer: Peer,
        run: u16,
        references: &[String],
        counts: bool,
    ) -> Result<Delivery> {
        let what = if counts { format!("{case:?}") } else { "preparation".to_owned() };
        let what = format!("{what}, {} MB, {}, run {run}", self.megabytes, peer.name());
        let step = self.bench.session.events.step(Phase::Images, what);
        let delivery = self.ways.deliver(peer, self.field, references).await?;
        step.done(text::seconds(delivery.took));
        if counts {
            self.bench.report().add(self.megabytes, case, peer, run, delivery);
        }
        Ok(delivery)
    }

    fn wanted(&self, case: BenchCase) -> bool {
        self.bench.cases.contains(&case)
    }

    fn turns(&self) -> Vec<(u16, Peer)> {
        turns(self.bench.args.runs, &self.ways.peers())
    }
}

fn tag(peer: Peer) -> String {
    peer.name().replace(' ', "-")
}

/// Each run begins with another peer, so that none always follows the same one.
fn turns(runs: u16, peers: &[Peer]) -> Vec<(u16, Peer)> {
    let mut turns = Vec::new();
    for run in 1..=runs {
        let mut order = peers.to_vec();
        order.rotate_left(usize::from(run - 1) % peers.len().max(1));
        turns.extend(order.into_iter().map(|peer| (run, peer)));
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_take_turns_and_do_not_always_begin() {
        let peers = [Peer::Ours, Peer::KindLoad];
        let expected = [(1, Peer::Ours), (1, Peer::KindLoad), (2, Peer::KindLoad), (2, Peer::Ours)];
        assert_eq!(turns(2, &peers), expected);
    }
}
