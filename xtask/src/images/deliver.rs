//! Brings images from the local Docker to the nodes: one stream from Docker, copied to every node that lacks
//! one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use futures::future::{join_all, try_join_all};
use kind_client::{Node, Running};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::docker::{Docker, normalized};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith};
use crate::text;

/// How much is held of the stream at a time.
const CHUNK: usize = 1 << 20;
/// How long a node may take to import what it was sent.
const IMPORT: Duration = Duration::from_secs(15 * 60);

/// What was sent to a node.
#[derive(Clone, Debug, Serialize)]
pub struct Delivered {
    /// The node.
    pub node: String,
    /// The images it was sent.
    pub sent: Vec<String>,
    /// The images it had.
    pub present: Vec<String>,
    /// The bytes it was sent.
    pub bytes: u64,
    /// How long it took.
    #[serde(serialize_with = "crate::events::in_seconds", rename = "seconds")]
    pub took: Duration,
}

/// The names of the images that each node holds, as containerd writes them, by the node's name.
pub type Inventory = BTreeMap<String, BTreeSet<String>>;

/// What a delivery came to.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// By node, what was sent.
    pub nodes: Vec<Delivered>,
    /// By node, what it holds now.
    pub held: Inventory,
}

/// Asks the nodes what they hold.
///
/// # Errors
/// A node cannot be asked.
pub async fn inventory(nodes: &[Node]) -> Result<Inventory> {
    let ask = nodes.iter().map(|node| async move {
        let names =
            node.exec(["ctr", "--namespace", "k8s.io", "images", "ls", "--quiet"]).ensure_stdout().await?;
        anyhow::Ok((node.name().to_owned(), names.lines().map(str::to_owned).collect()))
    });
    Ok(try_join_all(ask).await?.into_iter().collect())
}

/// Brings `references`, which the local Docker has, to all of `nodes`.
///
/// # Errors
/// Docker cannot give one of them, or a node did not take it: each such node with its reason; exit 3.
pub async fn deliver(nodes: &[Node], references: &[String], events: &Events) -> Result<Delivery> {
    deliver_coded(nodes, references, events).await.or_exit(Exit::Environment)
}

async fn deliver_coded(nodes: &[Node], references: &[String], events: &Events) -> Result<Delivery> {
    let step = events.step(
        Phase::Images,
        format!("bring {} to {}", text::count(references.len(), "image"), text::count(nodes.len(), "node")),
    );
    let start = Instant::now();
    let held = inventory(nodes).await.context("ask the nodes what they hold")?;
    let mut delivered = Vec::new();
    for node in nodes {
        let holds = &held[node.name()];
        let mut of_node = Delivered {
            node: node.name().to_owned(),
            sent: Vec::new(),
            present: Vec::new(),
            bytes: 0,
            took: Duration::ZERO,
        };
        for reference in references {
            let list = if holds.contains(&normalized(reference)?) {
                &mut of_node.present
            } else {
                &mut of_node.sent
            };
            list.push(reference.clone());
        }
        delivered.push(of_node);
    }
    let missing: BTreeSet<&String> = delivered.iter().flat_map(|node| &node.sent).collect();
    if missing.is_empty() {
        step.done("the nodes have them");
        return Ok(Delivery { nodes: delivered, held });
    }
    let missing: Vec<String> = missing.into_iter().cloned().collect();
    let takers: Vec<&Node> = nodes
        .iter()
        .zip(&delivered)
        .filter(|(_, of_node)| !of_node.sent.is_empty())
        .map(|(node, _)| node)
        .collect();
    let bytes = stream(&takers, &missing, |bytes| step.progress(text::bytes(bytes))).await?;
    step.progress("look what arrived");
    let held = inventory(nodes).await.context("ask the nodes what arrived")?;
    for of_node in delivered.iter_mut().filter(|of_node| !of_node.sent.is_empty()) {
        of_node.bytes = bytes;
        of_node.took = start.elapsed();
        for reference in &of_node.sent {
            if !held[&of_node.node].contains(&normalized(reference)?) {
                bail!("{} imported an archive without an error, but does not hold {reference}", of_node.node);
            }
        }
    }
    step.done(format!("{} to each of {}", text::bytes(bytes), text::count(takers.len(), "node")));
    Ok(Delivery { nodes: delivered, held })
}

struct Import<'a> {
    node: &'a Node,
    running: Running,
    broken: bool,
}

/// Copies `docker save` to an import on each node; gives the stream's length.
async fn stream(nodes: &[&Node], references: &[String], progress: impl Fn(u64)) -> Result<u64> {
    let mut save = Docker.save(references)?;
    let mut imports = Vec::new();
    for node in nodes {
        let import = ["ctr", "--namespace", "k8s.io", "images", "import", "--digests", "-"];
        let running = node.exec(import).deadline(IMPORT).spawn()?;
        imports.push(Import { node, running, broken: false });
    }
    let source = save.child.stdout.take().context("the output of docker save was not captured")?;
    let mut errors = save.child.stderr.take().context("the errors of docker save were not captured")?;
    let mut complaint = String::new();
    let copy = async {
        // Moved in, so that docker's pipe closes when no node takes any more; else docker would wait for ever.
        let mut source = source;
        let mut chunk = vec![0; CHUNK];
        let mut total = 0;
        loop {
            let n = source.read(&mut chunk).await.context("read from docker save")?;
            if n == 0 {
                return anyhow::Ok(total);
            }
            join_all(imports.iter_mut().filter(|import| !import.broken).map(|import| async {
                if let Some(stdin) = &mut import.running.stdin {
                    // Why it takes no more, its status will say.
                    import.broken = stdin.write_all(&chunk[..n]).await.is_err();
                }
            }))
            .await;
            if imports.iter().all(|import| import.broken) {
                return Ok(total);
            }
            total += n as u64;
            progress(total);
        }
    };
    let both = async { tokio::join!(copy, errors.read_to_string(&mut complaint)) };
    let (total, _) = tokio::time::timeout(IMPORT, both)
        .await
        .map_err(|_| anyhow!("the nodes did not take the images within {}", text::seconds(IMPORT)))?;
    let total = total?;
    // A node that got less than the whole must not take it for the whole.
    let cut = imports.iter().all(|import| import.broken);
    if !cut {
        let status = save.child.wait().await.context("wait for docker save")?;
        save.disarm();
        if !status.success() {
            bail!(
                "`docker save {}` ended with {}: {}",
                references.join(" "),
                text::status(status),
                complaint.trim()
            );
        }
    }
    let ends = join_all(imports.into_iter().map(|import| async {
        let name = import.node.name().to_owned();
        import.running.wait().await.map_err(|error| (name, error))
    }))
    .await;
    let failed: Vec<String> = ends
        .into_iter()
        .filter_map(Result::err)
        .map(|(node, error)| format!("{node}: {}", crate::exit::message(&anyhow!(error))))
        .collect();
    if !failed.is_empty() {
        bail!(
            "{} did not take the images:\n{}",
            text::count(failed.len(), "node"),
            text::indent(&failed.join("\n"), "    ")
        );
    }
    Ok(total)
}
