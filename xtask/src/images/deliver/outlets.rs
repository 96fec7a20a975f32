//! One stream copied to several nodes, none of which holds up the others for long.

use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::layout;

/// How many pieces wait for a node at most; with [`PIECE`] this bounds the memory.
const QUEUE: usize = 8;
/// The size of a piece in bytes.
pub(super) const PIECE: usize = 256 << 10;
/// How long a node may take no byte. Writing to a busy disk stops for seconds, a node that is paused for ever.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// What goes to a node.
enum Piece {
    Bytes(Bytes),
    /// The archive is whole.
    End,
}

/// The sending side: one queue for each node.
pub(super) struct Outlets {
    queues: Vec<Queue>,
}

struct Queue {
    sender: Option<mpsc::Sender<Piece>>,
    sent: u64,
    stalled: bool,
}

/// The receiving side of one node.
pub(super) struct Inlet(mpsc::Receiver<Piece>);

impl Outlets {
    /// Queues for `count` nodes.
    pub(super) fn new(count: usize) -> (Outlets, Vec<Inlet>) {
        let (queues, inlets) = (0..count)
            .map(|_| {
                let (sender, receiver) = mpsc::channel(QUEUE);
                (Queue { sender: Some(sender), sent: 0, stalled: false }, Inlet(receiver))
            })
            .unzip();
        (Outlets { queues }, inlets)
    }

    /// Whether nobody takes anything any more.
    pub(super) fn all_closed(&self) -> bool {
        self.queues.iter().all(|queue| queue.sender.is_none())
    }

    /// Whether any node of `who` still takes something.
    pub(super) fn takes(&self, who: &[bool]) -> bool {
        self.queues.iter().zip(who).any(|(queue, takes)| *takes && queue.sender.is_some())
    }

    /// Whether a node takes nothing any more.
    pub(super) fn is_closed(&self, node: usize) -> bool {
        self.queues[node].sender.is_none()
    }

    /// The bytes that went to a node.
    pub(super) fn sent(&self, node: usize) -> u64 {
        self.queues[node].sent
    }

    /// Whether a node was given up because it took nothing.
    pub(super) fn stalled(&self, node: usize) -> bool {
        self.queues[node].stalled
    }

    /// Sends a whole file.
    pub(super) async fn file(&mut self, who: &[bool], name: &str, content: Bytes) -> Result<()> {
        let size = content.len() as u64;
        self.begin(who, name, size).await?;
        self.bytes(who, content).await;
        self.pad(who, size).await;
        Ok(())
    }

    /// Begins a file, whose bytes have to follow.
    pub(super) async fn begin(&mut self, who: &[bool], name: &str, size: u64) -> Result<()> {
        self.bytes(who, layout::header(name, size)?).await;
        Ok(())
    }

    /// Ends a file of this size.
    pub(super) async fn pad(&mut self, who: &[bool], size: u64) {
        self.bytes(who, layout::padding(size)).await;
    }

    /// Sends bytes to the nodes of `who` that still take some.
    pub(super) async fn bytes(&mut self, who: &[bool], bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len() as u64;
        let sends = self.queues.iter_mut().zip(who).filter(|(_, takes)| **takes).map(|(queue, _)| {
            let bytes = bytes.clone();
            async move {
                let Some(sender) = &queue.sender else { return };
                match timeout(STALL, sender.send(Piece::Bytes(bytes))).await {
                    Ok(Ok(())) => queue.sent += length,
                    Ok(Err(_)) => queue.sender = None,
                    Err(_) => {
                        queue.stalled = true;
                        queue.sender = None;
                    }
                }
            }
        });
        futures::future::join_all(sends).await;
    }

    /// Ends a node's archive: without this what it got counts as cut.
    pub(super) async fn end(&mut self, node: usize) {
        let mut who = vec![false; self.queues.len()];
        who[node] = true;
        self.bytes(&who, layout::end()).await;
        if let Some(sender) = self.queues[node].sender.take()
            && timeout(STALL, sender.send(Piece::End)).await.is_err()
        {
            self.queues[node].stalled = true;
        }
    }
}

impl Inlet {
    /// Copies everything to `writer` and gives its length; nothing where the archive was cut, so that nobody may take it
    /// for whole.
    ///
    /// # Errors
    /// The writer's, or it takes no byte for [`STALL`].
    pub(super) async fn copy_to(mut self, writer: &mut (impl AsyncWrite + Unpin)) -> Result<Option<u64>> {
        let mut copied = 0;
        while let Some(piece) = self.0.recv().await {
            match piece {
                Piece::Bytes(bytes) => match timeout(STALL, writer.write_all(&bytes)).await {
                    Ok(written) => {
                        written?;
                        copied += bytes.len() as u64;
                    }
                    Err(_) => bail!("it took no bytes for {}", crate::text::seconds(STALL)),
                },
                Piece::End => {
                    writer.shutdown().await?;
                    return Ok(Some(copied));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_nothing_does_not_hold_up_the_others() {
        let (mut outlets, mut inlets) = Outlets::new(2);
        let stuck = inlets.remove(1);
        let mut taken = Vec::new();
        let send = async {
            for _ in 0..100 {
                outlets.bytes(&[true, true], Bytes::from_static(&[7; 1000])).await;
            }
            outlets.end(0).await;
        };
        let (_, whole) = tokio::join!(send, inlets.remove(0).copy_to(&mut taken));
        assert_eq!(whole.unwrap(), Some(100 * 1000 + 1024));
        assert_eq!(taken.len(), 100 * 1000 + 1024);
        assert!(outlets.stalled(1) && !outlets.stalled(0));
        drop(stuck);
    }

    #[tokio::test]
    async fn an_archive_without_its_end_is_cut() {
        let (mut outlets, mut inlets) = Outlets::new(1);
        let mut taken = Vec::new();
        outlets.file(&[true], "a", Bytes::from_static(b"abc")).await.unwrap();
        drop(outlets);
        assert_eq!(inlets.remove(0).copy_to(&mut taken).await.unwrap(), None);
        assert_eq!(taken.len(), 1024);
    }
}
