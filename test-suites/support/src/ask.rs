//! Waits for what nobody tells and nothing can be watched for.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(250);

/// Asks until the answer is as awaited, and gives that answer; `awaited` says in words what is waited for, for the error.
///
/// # Errors
/// It cannot be asked, or no answer within the limit is so: the last one is told.
pub async fn until<T: Debug>(
    awaited: &str,
    limit: Duration,
    ask: impl AsyncFn() -> anyhow::Result<T>,
    so: impl Fn(&T) -> bool,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask().await?;
        if so(&answer) {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s in vain for {awaited}; last answer: {answer:?}", limit.as_secs());
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn the_first_answer_that_is_so_is_given() {
        let asked = Cell::new(0);
        let ask = async || Ok(asked.replace(asked.get() + 1));
        assert_eq!(until("two", Duration::from_secs(20), ask, |answer| *answer == 2).await.unwrap(), 2);
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn an_answer_that_is_never_so_is_told_with_what_was_awaited() {
        let error = until("two", Duration::ZERO, async || Ok(1), |answer| *answer == 2).await.unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s in vain for two; last answer: 1");
    }
}
