//! Images are brought to the nodes while others are still being made.

use std::collections::BTreeSet;

use anyhow::Result;
use kind_client::Node;
use tokio::sync::mpsc::UnboundedReceiver;

use super::Built;
use super::deliver::{self, Delivered, Looked, Push, Wanted};
use crate::events::Events;

/// What was brought early.
#[derive(Default)]
pub struct Early {
    /// By node, what happened each time.
    pub delivered: Vec<Delivered>,
    /// What the nodes hold now, where they were asked.
    pub looked: Option<Looked>,
}

/// Brings those of the images `names` that come through `made` to `nodes`, as soon as each has come and the delivery before
/// has ended; all that have come meanwhile go together, because what they share then goes once. Ends with the images.
///
/// # Errors
/// As [`deliver::deliver`].
pub async fn bring(
    nodes: &[Node],
    looked: Option<Looked>,
    mut made: UnboundedReceiver<Built>,
    names: &BTreeSet<&String>,
    push: &Push,
    events: &Events,
) -> Result<Early> {
    let mut early = Early { delivered: Vec::new(), looked };
    while let Some(first) = made.recv().await {
        let mut all = vec![first];
        while let Ok(next) = made.try_recv() {
            all.push(next);
        }
        let wanted = all.iter().filter(|built| names.contains(&built.name));
        let wanted = wanted.map(Built::wanted).collect::<Result<Vec<Wanted>>>()?;
        // What the nodes have is for the one look at all of them at the end.
        if early.looked.as_ref().is_some_and(|looked| looked.has(&wanted)) {
            continue;
        }
        let delivery = deliver::deliver(nodes, early.looked.take(), &wanted, push, events).await?;
        early.delivered.extend(delivery.nodes);
        early.looked = Some(Looked::known(delivery.held));
    }
    Ok(early)
}
