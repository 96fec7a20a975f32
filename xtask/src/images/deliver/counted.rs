//! How much of an archive has come, and of about how much.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::docker::Image;

/// After how many bytes it is told again: often enough for an eye.
pub(super) const STEP: u64 = 1 << 20;

/// A stream that tells how many bytes have come.
pub(super) struct Counted<R, F> {
    stream: R,
    read: u64,
    told: u64,
    tell: F,
}

impl<R, F: FnMut(u64)> Counted<R, F> {
    pub(super) fn new(stream: R, tell: F) -> Self {
        Counted { stream, read: 0, told: 0, tell }
    }
}

impl<R: AsyncRead + Unpin, F: FnMut(u64) + Unpin> AsyncRead for Counted<R, F> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.read += (buffer.filled().len() - before) as u64;
        if this.read - this.told >= STEP {
            this.told = this.read;
            (this.tell)(this.read);
        }
        polled
    }
}

/// About how big an archive of these images is. Docker tells the size of a whole image only, so what two of them share is
/// known where one has all layers of the other, as of an image that both are made from; it is counted twice elsewhere.
pub(super) fn expected(images: &[&Image]) -> u64 {
    let mut seen = BTreeSet::new();
    let own = |image: &Image| {
        let below = images.iter().filter(|other| {
            other.layers.len() < image.layers.len() && image.layers.starts_with(&other.layers)
        });
        image.size.saturating_sub(below.map(|other| other.size).max().unwrap_or(0))
    };
    images.iter().filter(|image| seen.insert(&image.layers)).map(|image| own(image)).sum()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn what_has_come_is_told_now_and_then() {
        let mut told = Vec::new();
        let all = vec![7; 5 << 20];
        let mut read = Vec::new();
        Counted::new(all.as_slice(), |bytes| told.push(bytes)).read_to_end(&mut read).await.unwrap();
        assert_eq!(read.len(), all.len());
        assert!(told.is_sorted() && told.len() <= 5, "{told:?}");
        assert!(told.last().is_some_and(|last| *last > 4 << 20), "{told:?}");
    }

    #[test]
    fn what_is_in_another_image_is_counted_once() {
        let image = |size, layers: &[&str]| Image {
            size,
            layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
            ..Image::default()
        };
        let (base, app, twin, other) =
            (image(10, &["a"]), image(15, &["a", "b"]), image(15, &["a", "b"]), image(3, &["c"]));
        assert_eq!(expected(&[&base, &app, &twin, &other]), 18);
        let (second, third) = (image(12, &["a", "d"]), image(17, &["a", "b", "e"]));
        assert_eq!(expected(&[&third, &second, &app, &base, &other]), 10 + 5 + 2 + 2 + 3);
    }
}
