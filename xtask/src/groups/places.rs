//! Places for what may be under way at a time, tests or deployments: so many, and more while the nodes' processors are idle.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

/// Places to wait for.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    width: Mutex<Width>,
}

#[derive(Debug)]
struct Width {
    /// Places beyond those of the beginning.
    more: usize,
    /// So many of these at most.
    most: usize,
    /// Whether they go when they are left.
    narrows: bool,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Those who wait for places in a row of their own, of which only the first asks: so that rows have places in turn, and not the one that
/// came first all of them until it is through.
#[derive(Debug)]
pub struct Row {
    places: Arc<Places>,
    first: AsyncMutex<()>,
}

impl Row {
    /// An empty row for these places.
    #[must_use]
    pub fn new(places: &Arc<Places>) -> Row {
        Row { places: places.clone(), first: AsyncMutex::default() }
    }

    /// Waits for a place; who came first to this row has the first that it gets.
    pub async fn take(&self) -> Place {
        let _first = self.first.lock().await;
        self.places.take().await
    }
}

/// Somebody who waits for a place, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Places {
    /// Places that grow to so many times their number. With four times, two processors had up to 28 processes to run, the pod of a run took
    /// 46 s to start, and a full run came upon what fails in Dagster itself where it is that slow.
    const GROWTH: usize = 2;

    /// So many places, one at least.
    #[must_use]
    pub fn new(count: usize) -> Arc<Places> {
        let count = count.max(1);
        let width = Width { more: 0, most: count * (Self::GROWTH - 1), narrows: false };
        Arc::new(Places {
            free: Arc::new(Semaphore::new(count)),
            waiting: AtomicUsize::default(),
            width: Mutex::new(width),
        })
    }

    /// Waits for a place; who came first has the first that is free.
    pub async fn take(self: &Arc<Self>) -> Place {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        // It is never closed.
        let permit = self.free.clone().acquire_owned().await.ok();
        Place { places: self.clone(), permit }
    }

    /// Whether one more would be taken at once, and may be added.
    pub(super) fn lacks(&self) -> bool {
        let width = self.width();
        self.are_awaited() && width.more < width.most
    }

    /// Whether somebody waits for one.
    pub(super) fn are_awaited(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Adds a place.
    pub(super) fn widen(&self) {
        self.width().more += 1;
        self.free.add_permits(1);
    }

    /// Whether the places beyond those of the beginning go as they are left.
    pub(super) fn narrow(&self, narrows: bool) {
        self.width().narrows = narrows;
    }

    fn width(&self) -> MutexGuard<'_, Width> {
        self.width.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut width = self.places.width();
        if width.narrows && width.more > 0 {
            width.more -= 1;
            if let Some(permit) = self.permit.take() {
                permit.forget();
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_place_more_goes_to_who_waits_and_goes_when_it_is_left() {
        let places = Places::new(1);
        let first = places.take().await;
        assert!(!places.lacks(), "nobody waits");
        let mut second = Box::pin(places.take());
        assert!(second.as_mut().now_or_never().is_none() && places.lacks());
        places.widen();
        let second = second.await;
        assert!(places.take().now_or_never().is_none() && !places.lacks());
        places.narrow(true);
        drop(first);
        assert!(places.take().now_or_never().is_none(), "one is left, and it is taken");
        drop(second);
        assert!(places.take().now_or_never().is_some(), "that of the beginning stays");
    }

    #[tokio::test]
    async fn rows_have_places_in_turn() {
        let places = Places::new(1);
        let held = places.take().await;
        let (one, two) = (Row::new(&places), Row::new(&places));
        let order = Mutex::new(Vec::new());
        let next = async |row: &Row, name| {
            let _place = row.take().await;
            order.lock().unwrap().push(name);
        };
        let all =
            futures::future::join4(next(&one, "1a"), next(&one, "1b"), next(&two, "2a"), next(&one, "1c"));
        let mut all = Box::pin(all);
        assert!(all.as_mut().now_or_never().is_none());
        drop(held);
        all.await;
        assert_eq!(*order.lock().unwrap(), ["1a", "2a", "1b", "1c"]);
    }

    #[tokio::test]
    async fn there_is_an_end_to_it() {
        let places = Places::new(2);
        let mut taken = vec![places.take().await, places.take().await];
        loop {
            let mut waiting = Box::pin(places.take());
            assert!(waiting.as_mut().now_or_never().is_none());
            if !places.lacks() {
                break;
            }
            places.widen();
            taken.push(waiting.await);
        }
        assert_eq!(taken.len(), 4);
    }
}
