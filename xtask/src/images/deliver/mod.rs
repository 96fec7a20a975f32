//! Brings images from the local Docker to the nodes: the layers that a node lacks, to all nodes at once, without files in
//! between, and with a proof that what arrived is what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::future::join_all;
use kind_client::Node;
use serde::Serialize;

use crate::docker::{Docker, Image, architecture, normalized};
use crate::events::{Events, Phase, Step};
use crate::exit::{Exit, ExitWith, message};
use crate::images::LOCAL;
use crate::text;

mod archive;
mod counted;
mod engine;
mod held;
mod layout;
mod legacy;
mod look;
mod outlets;
mod passed;
mod prune;
mod push;
mod pushed;
#[cfg(test)]
mod sim;
mod transfer;

use engine::{Engine, Store};
pub use held::Held;
use look::look_at;
pub use look::{Looked, look, look_at_cluster};
pub use prune::prune;
pub use push::Push;
use transfer::{Outcome, Taker, Transfer};

/// How long what nodes said may be taken for true.
const FRESH: Duration = Duration::from_secs(30);
/// How often a node is sent what it lacks.
const ATTEMPTS: usize = 2;

/// An image that nodes are to hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its full name, under which nodes keep it.
    pub name: String,
    /// What the local Docker has under the reference.
    pub image: Image,
}

impl Wanted {
    /// An image by its reference.
    ///
    /// # Errors
    /// The reference is malformed.
    pub fn new(reference: &str, image: Image) -> Result<Wanted> {
        Ok(Wanted { name: normalized(reference)?, image })
    }
}

/// How layers come out of the local store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By `docker save`, filtered.
    Save,
    /// By `docker push` to an endpoint of ours.
    Push,
}

/// What happened at a node.
#[derive(Clone, Debug, Serialize)]
pub struct Delivered {
    /// The node.
    pub node: String,
    /// By image, what it had and was sent.
    pub images: Vec<DeliveredImage>,
    /// Bytes it was sent in all.
    pub bytes: u64,
    /// How, where anything was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// How long each step took.
    pub seconds: Seconds,
}

/// An image at a node.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveredImage {
    /// Its full name.
    pub name: String,
    /// Whether the node held it before.
    pub present: bool,
    /// Bytes of its layers that the node held before.
    pub existed: u64,
    /// Bytes of its layers, configuration and manifest that were sent for it.
    pub sent: u64,
}

/// How long the steps of a delivery took, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Seconds {
    /// Asking what the node holds.
    #[serde(serialize_with = "crate::events::in_seconds")]
    pub inventory: Duration,
    /// Sending and importing.
    #[serde(serialize_with = "crate::events::in_seconds")]
    pub transfer: Duration,
    /// Looking whether it arrived.
    #[serde(serialize_with = "crate::events::in_seconds")]
    pub proof: Duration,
}

/// What each node holds, by the node's name.
pub type Inventory = BTreeMap<String, Held>;

/// What a delivery came to.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// By node, what happened.
    pub nodes: Vec<Delivered>,
    /// By node, what it holds now.
    pub held: Inventory,
}

/// A node during a delivery.
struct Target<'a, S> {
    node: &'a S,
    held: Held,
    /// Why it failed.
    failure: Option<String>,
    report: Delivered,
}

/// Brings `wanted` to all of `nodes`, of which it is known what they hold where they were `looked` at.
///
/// # Errors
/// An image is for another platform, Docker cannot give one, or a node did not take it: each such node with its reason; exit 3.
pub async fn deliver(
    nodes: &[Node],
    looked: Option<Looked>,
    wanted: &[Wanted],
    push: &Push,
    events: &Events,
) -> Result<Delivery> {
    run(&Docker, nodes, looked, wanted, push, events).await.or_exit(Exit::Environment)
}

/// Has Docker compress and remember the layers of images, so that a later change of one needs nothing but itself. It
/// takes a processor's time, once for each layer: meant for when there is nothing else to do.
///
/// # Errors
/// Docker does not push; exit 3.
pub async fn prepare(images: &[&Image], memory: &Push) -> Result<()> {
    let ids: Vec<String> =
        images.iter().filter(|image| memory.lacks(image)).map(|image| image.id.clone()).collect();
    let Some(first) = images.first().filter(|_| !ids.is_empty()) else { return Ok(()) };
    push::prepare(&Docker, &ids, &first.architecture, memory).await.or_exit(Exit::Environment)
}

async fn run<E: Engine, S: Store>(
    engine: &E,
    nodes: &[S],
    looked: Option<Looked>,
    wanted: &[Wanted],
    push: &Push,
    events: &Events,
) -> Result<Delivery> {
    let step = events.step(
        Phase::Images,
        format!("bring {} to {}", text::count(wanted.len(), "image"), text::count(nodes.len(), "node")),
    );
    // One that did not answer was perhaps being started; and in a longer time others change what nodes hold.
    let looked = looked.filter(|looked| {
        let answered = |node: &S| looked.held.get(node.name()).is_some_and(|(held, _)| held.is_ok());
        looked.at.elapsed() < FRESH && nodes.iter().all(answered)
    });
    let mut looked = match looked {
        Some(looked) => looked,
        None => look_at(nodes, &names(wanted)).await,
    };
    let mut targets: Vec<Target<'_, S>> = nodes
        .iter()
        .filter_map(|node| Some(target(node, looked.held.remove(node.name())?, wanted)))
        .collect();
    refuse_other_platforms(&targets, wanted)?;
    let mut sent = 0;
    for attempt in 1..=ATTEMPTS {
        let takers: Vec<Taker<'_, S>> = targets
            .iter()
            .enumerate()
            .filter(|(_, target)| target.failure.is_none())
            .map(|(at, target)| Taker {
                at,
                node: target.node,
                held: &target.held,
                lacks: lacking(&target.held, wanted),
            })
            .filter(|taker| !taker.lacks.is_empty())
            .collect();
        if takers.is_empty() {
            break;
        }
        let start = Instant::now();
        let transfer = Transfer { engine, wanted, push, events, step: &step };
        let transferred = transfer.run(&takers).await?;
        let took = start.elapsed();
        let took_part: Vec<usize> = takers.iter().map(|taker| taker.at).collect();
        step.progress("look what arrived");
        for (at, outcome) in took_part.iter().zip(&transferred.nodes) {
            let report = &mut targets[*at].report;
            report.method = Some(transferred.method);
            report.seconds.transfer += took;
            report.bytes += outcome.bytes;
            sent += outcome.bytes;
            for (name, existed, sent) in &outcome.images {
                if let Some(image) = report.images.iter_mut().find(|image| image.name == *name) {
                    (image.existed, image.sent) = (*existed, image.sent + sent);
                }
            }
        }
        let proofs = took_part
            .iter()
            .zip(transferred.nodes)
            .map(|(at, outcome)| prove(targets[*at].node, wanted, &transferred.configs, outcome));
        let proofs = join_all(proofs).await;
        for (at, proof) in took_part.iter().zip(proofs) {
            let target = &mut targets[*at];
            target.report.seconds.proof += proof.took;
            let wrong = proof.wrong;
            if let Some(held) = proof.held {
                target.held = held;
            } else {
                target.failure = wrong;
                continue;
            }
            if let Some(wrong) = wrong {
                if attempt < ATTEMPTS {
                    events.warn(format!("{}: {wrong}; once more", target.node.name()));
                } else {
                    target.failure = Some(wrong);
                }
            }
        }
    }
    finish(step, targets, sent)
}

/// The end: what arrived, or every node that failed with its reason.
fn finish<S: Store>(step: Step, targets: Vec<Target<'_, S>>, sent: u64) -> Result<Delivery> {
    let failed: Vec<String> = targets
        .iter()
        .filter_map(|target| Some(format!("{}: {}", target.node.name(), target.failure.as_ref()?)))
        .collect();
    if !failed.is_empty() {
        return Err(anyhow!(
            "{} of {} did not take the images:\n{}",
            failed.len(),
            text::count(targets.len(), "node"),
            text::indent(&failed.join("\n"), "    ")
        ));
    }
    let takers = targets.iter().filter(|target| target.report.method.is_some()).count();
    if takers == 0 {
        step.done("the nodes have them");
    } else {
        let existed: u64 = targets.iter().flat_map(|t| &t.report.images).map(|image| image.existed).sum();
        step.done(format!(
            "{} sent to {}, {} were there, proven",
            text::bytes(sent),
            text::count(takers, "node"),
            text::bytes(existed)
        ));
    }
    let held = targets.iter().map(|target| (target.node.name().to_owned(), target.held.clone())).collect();
    Ok(Delivery { nodes: targets.into_iter().map(|target| target.report).collect(), held })
}

fn target<'a, S: Store>(node: &'a S, looked: (Result<Held>, Duration), wanted: &[Wanted]) -> Target<'a, S> {
    let (held, took) = looked;
    let (held, failure) = match held {
        Ok(held) => (held, None),
        Err(error) => (Held::default(), Some(format!("it does not say what it holds: {}", message(&error)))),
    };
    let images = wanted.iter().map(|wanted| DeliveredImage {
        name: wanted.name.clone(),
        present: held.differs(&wanted.name, &wanted.image.id).is_none(),
        existed: wanted
            .image
            .layers
            .iter()
            .filter_map(|layer| held.layer(layer))
            .map(|blob| blob.bytes)
            .sum(),
        sent: 0,
    });
    let report = Delivered {
        node: node.name().to_owned(),
        images: images.collect(),
        bytes: 0,
        method: None,
        seconds: Seconds { inventory: took, ..Seconds::default() },
    };
    Target { node, held, failure, report }
}

/// The names of those images that nodes do not list by themselves.
fn names(wanted: &[Wanted]) -> Vec<String> {
    wanted.iter().map(|wanted| wanted.name.clone()).filter(|name| !name.starts_with(LOCAL)).collect()
}

/// Which of `wanted` a node lacks.
fn lacking(held: &Held, wanted: &[Wanted]) -> Vec<usize> {
    let lacks = |(_, wanted): &(usize, &Wanted)| held.differs(&wanted.name, &wanted.image.id).is_some();
    wanted.iter().enumerate().filter(lacks).map(|(at, _)| at).collect()
}

struct Proof {
    /// What the node holds, where it says so.
    held: Option<Held>,
    wrong: Option<String>,
    took: Duration,
}

/// Looks whether what arrived is what was sent: `configs`, by the image's place in `wanted`.
async fn prove<S: Store>(
    node: &S,
    wanted: &[Wanted],
    configs: &BTreeMap<usize, String>,
    outcome: Outcome,
) -> Proof {
    let start = Instant::now();
    let proof = |held, wrong| Proof { held, wrong, took: start.elapsed() };
    let held = match (outcome.held, outcome.failure) {
        (Some(held), None) => held,
        // That the import said no comes first: it knows why.
        (_, Some(failure)) => return proof(node.held(&names(wanted)).await.ok(), Some(failure)),
        (None, None) => match node.held(&names(wanted)).await {
            Ok(held) => held,
            Err(error) => {
                return proof(None, Some(format!("it does not say what arrived: {}", message(&error))));
            }
        },
    };
    // All of them: what was there before may have gone meanwhile.
    let wrong = wanted
        .iter()
        .enumerate()
        .find_map(|(at, wanted)| held.differs(&wanted.name, configs.get(&at).unwrap_or(&wanted.image.id)));
    if wrong.is_some() {
        return proof(Some(held), wrong);
    }
    // Where Docker's id is no configuration's digest, the node has to remember which image this is.
    let unlabelled: Vec<(String, String)> = configs
        .keys()
        .map(|at| &wanted[*at])
        .filter(|wanted| held.differs(&wanted.name, &wanted.image.id).is_some())
        .filter_map(|wanted| Some((wanted.name.clone(), held.source_of(&wanted.name, &wanted.image.id)?)))
        .collect();
    if unlabelled.is_empty() {
        return proof(Some(held), None);
    }
    let again = async {
        node.label(&unlabelled).await?;
        node.held(&names(wanted)).await
    };
    match again.await {
        Ok(held) => {
            let wrong = wanted.iter().find_map(|wanted| held.differs(&wanted.name, &wanted.image.id));
            proof(Some(held), wrong)
        }
        Err(error) => proof(None, Some(format!("it does not remember what arrived: {}", message(&error)))),
    }
}

fn refuse_other_platforms<S>(targets: &[Target<'_, S>], wanted: &[Wanted]) -> Result<()> {
    let machines: BTreeSet<&str> = targets
        .iter()
        .map(|target| architecture(&target.held.machine))
        .filter(|arch| !arch.is_empty())
        .collect();
    for Wanted { name, image } in wanted {
        if let Some(machine) =
            machines.iter().find(|machine| !image.architecture.is_empty() && image.architecture != **machine)
        {
            return Err(anyhow!(
                "the image {name} is for {}, and the nodes are {machine}: build or pull it with --platform linux/{machine}",
                image.architecture
            ));
        }
    }
    Ok(())
}
