//! A layer that is too big for memory, passed on to the nodes while Docker pushes it.
//!
//! An archive says how long a file is before the file comes. Docker's classic store knows no length before it has compressed
//! the layer, which it does while it sends. So such a layer is pushed twice: the first push tells the length of everything and
//! keeps what is small, and this is the second, of one layer alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Result, bail};
use bytes::BytesMut;
use tokio::sync::mpsc;

use super::counted::STEP;
use super::engine::Engine;
use super::held::Blob;
use super::outlets::{Outlets, PIECE};
use super::push::{Names, TAG, secret};
use crate::images::endpoint::{Endpoint, Has, Take};

/// Pieces of a request that wait; hyper makes none bigger than its buffer of 408 KiB.
const QUEUE: usize = 4;

/// Has the engine push the image of `id`, of which all but `layer` exists as `exists` says, and sends the layer to the nodes of
/// `who`; `tell` is told how much of it has come. Where none of them takes it any more it ends early, and their imports know
/// why.
///
/// # Errors
/// The engine does not push, or pushes something else than before: what the nodes got is no archive then.
pub(super) async fn pass_on<E: Engine>(
    engine: &E,
    id: &str,
    layer: &Blob,
    exists: &Arc<Has>,
    outlets: &mut Outlets,
    who: &[bool],
    tell: impl Fn(u64),
) -> Result<()> {
    let (exists, lacking) = (exists.clone(), layer.digest.clone());
    let has: Arc<Has> = Arc::new(move |digest: &str| if digest == lacking { None } else { exists(digest) });
    let (sender, mut pieces) = mpsc::channel(QUEUE);
    let repository = format!("{}/0", secret());
    let served = BTreeSet::from([repository.clone()]);
    let endpoint = Endpoint::listen(None, served, Take::Pass(sender), has).await?;
    let name = endpoint.reference(&repository, TAG);
    let _names = Names { engine, names: vec![name.clone()] };
    let push = async {
        let pushed = engine.push(id, &name).await;
        // This ends the pieces, also where none has come.
        let received = endpoint.finish().await;
        pushed.map(|()| received)
    };
    let pass = async {
        let (mut passed, mut told) = (0, 0);
        let mut buffer = BytesMut::new();
        while let Some(piece) = pieces.recv().await {
            passed += piece.len() as u64;
            if passed > layer.bytes {
                bail!("docker pushes more of the layer {} than {} bytes", layer.digest, layer.bytes);
            }
            buffer.extend_from_slice(&piece);
            while buffer.len() >= PIECE {
                outlets.bytes(who, buffer.split_to(PIECE).freeze()).await;
            }
            if !outlets.takes(who) {
                bail!("no node takes the layer {} any more", layer.digest);
            }
            if passed - told >= STEP {
                told = passed;
                tell(passed);
            }
        }
        outlets.bytes(who, buffer.freeze()).await;
        Ok(passed)
    };
    let ended = tokio::try_join!(push, pass);
    if !outlets.takes(who) {
        return Ok(());
    }
    let (received, passed) = ended?;
    if passed != layer.bytes || received.dropped.get(&layer.digest) != Some(&layer.bytes) {
        bail!(
            "docker pushed {passed} bytes, which are not the {} of the layer {}",
            layer.bytes,
            layer.digest
        );
    }
    Ok(())
}
