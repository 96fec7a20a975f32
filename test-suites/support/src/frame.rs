//! The frame in which a test looks at its runs: when that fails, or is not done when the test is about to be ended, it is told why.

use std::any::Any;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep_until};

/// What is left of a test's time to tell why it takes so long.
const TO_TELL: Duration = Duration::from_secs(30);

tokio::task_local! {
    /// How many frames are open within the one that is polled.
    static WITHIN: Arc<AtomicUsize>;
}

/// Counted in the frame around it until it is dropped.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn within(outer: &Arc<AtomicUsize>) -> Self {
        outer.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(outer))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// When a test that begins now has to tell why it is not done, where it is ended after `limit`.
pub(crate) fn end(limit: Option<Duration>) -> Option<Instant> {
    // Where there is little time, most of it is the test's.
    limit.map(|limit| Instant::now() + (limit - TO_TELL.min(limit / 4)))
}

/// Awaits `body`; when it fails, by error or by panic, or is not done at `end`, awaits `tell`. Of frames one within the other the
/// innermost tells first: it knows most.
pub(crate) async fn framed<T>(
    end: Option<Instant>,
    body: impl Future<Output = anyhow::Result<T>>,
    tell: impl Future<Output = ()>,
) -> anyhow::Result<T> {
    let within = Arc::new(AtomicUsize::new(0));
    let _open = WITHIN.try_with(Open::within).ok();
    let ended = {
        let body = WITHIN.scope(Arc::clone(&within), AssertUnwindSafe(body).catch_unwind());
        tokio::select! {
            // So that a frame within has begun to tell before this one asks whether there is one.
            biased;
            ended = body => ended,
            () = late(end, &within) => Ok(Err(anyhow::anyhow!(
                "the test is not done shortly before it would be ended, by test_timeout or timeout in suite.yaml"
            ))),
        }
    };
    match ended {
        Ok(Ok(done)) => Ok(done),
        failed => {
            tell.await;
            failed.unwrap_or_else(|panic: Box<dyn Any + Send>| resume_unwind(panic))
        }
    }
}

/// Ends at `end`, unless a frame is open within: that one ends by itself then.
async fn late(end: Option<Instant>, within: &AtomicUsize) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
    if within.load(Ordering::Relaxed) > 0 {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::time::sleep;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    /// Tells its name, which takes a while.
    async fn tells(told: &RefCell<Vec<&'static str>>, name: &'static str) {
        sleep(Duration::from_secs(5)).await;
        told.borrow_mut().push(name);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_done_in_time_is_told_from_within() {
        let (told, begun) = (RefCell::default(), Instant::now());
        let end = end(Some(LIMIT));
        let inner = framed::<()>(end, std::future::pending(), tells(&told, "inner"));
        let error = framed(end, inner, tells(&told, "outer")).await.unwrap_err();
        assert!(error.to_string().contains("not done"), "{error}");
        assert_eq!(*told.borrow(), ["inner", "outer"]);
        assert_eq!(begun.elapsed(), LIMIT - TO_TELL + Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn frames_beside_each_other_all_tell() {
        let told = RefCell::default();
        let end = end(Some(LIMIT));
        let one = framed::<()>(end, std::future::pending(), tells(&told, "one"));
        let other = framed::<()>(end, std::future::pending(), tells(&told, "other"));
        let both = futures::join!(one, other);
        assert!(both.0.is_err() && both.1.is_err());
        assert_eq!(*told.borrow(), ["one", "other"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_just_before_keeps_its_own_words() {
        let told = RefCell::default();
        let end = end(Some(LIMIT));
        let fails = async {
            sleep(LIMIT - TO_TELL - Duration::from_secs(1)).await;
            anyhow::bail!("the run failed")
        };
        let inner = framed::<()>(end, fails, tells(&told, "inner"));
        let error = framed(end, inner, tells(&told, "outer")).await.unwrap_err();
        assert_eq!(error.to_string(), "the run failed");
        assert_eq!(*told.borrow(), ["inner", "outer"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_done_tells_nothing_and_a_short_limit_is_mostly_the_test_s() {
        let told = RefCell::default();
        let done = async {
            sleep(Duration::from_secs(14)).await;
            Ok(7)
        };
        let end = end(Some(Duration::from_secs(20)));
        assert_eq!(framed(end, done, tells(&told, "it")).await.unwrap(), 7);
        assert!(told.borrow().is_empty());
    }
}
