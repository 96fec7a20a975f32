//! A cluster's clock: how far it is from this machine's. What limits and leases are compared with was written down by the
//! cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;

/// How long the API server may take to say what time it is.
const ANSWER: Duration = Duration::from_secs(5);
/// An answer's date is a whole second.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);

/// How far a cluster's clock is ahead of this machine's, to about a second; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// The clock of a cluster. Where that does not say, it counts as this machine's.
    pub async fn of(client: &Client) -> Clock {
        let clock = Clock::default();
        clock.compare(client).await;
        clock
    }

    /// Compares the two once more; where the cluster does not say, all stays as it was.
    pub async fn compare(&self, client: &Client) {
        match ask(client).await {
            Ok(ahead) => self.0.store(i64::try_from(ahead.as_millis()).unwrap_or(0), Ordering::Relaxed),
            Err(error) => tracing::debug!("the API server does not say what time it is: {error:#}"),
        }
    }

    /// How far the cluster's clock is ahead of this machine's.
    #[must_use]
    pub fn ahead(&self) -> SignedDuration {
        SignedDuration::from_millis(self.0.load(Ordering::Relaxed))
    }

    /// The time by the cluster's clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::now() + self.ahead()
    }
}

/// Asks for whatever is answered at once; HTTP has every answer carry its date.
async fn ask(client: &Client) -> Result<SignedDuration> {
    let request = Request::get("/version").body(Body::empty())?;
    let before = Timestamp::now();
    let answer = timeout(ANSWER, client.send(request)).await??;
    let after = Timestamp::now();
    let date = answer.headers().get(http::header::DATE).context("it sends no date")?;
    let date = jiff::fmt::rfc2822::parse(date.to_str()?)?.timestamp();
    Ok(ahead(before, after, date))
}

/// How far the clock that said `date` between these two times of ours is ahead. One that may be right counts as right.
fn ahead(before: Timestamp, after: Timestamp, date: Timestamp) -> SignedDuration {
    let least = date.duration_since(after);
    let most = date.duration_since(before) + RESOLUTION;
    if least <= SignedDuration::ZERO && most >= SignedDuration::ZERO {
        return SignedDuration::ZERO;
    }
    (least + most) / 2
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};

    use super::*;
    use crate::fake_api;

    #[test]
    fn a_clock_that_may_be_right_is_right() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let ahead = |date: &str| {
            let (before, after) = (at("2026-01-01T00:00:10.9Z"), at("2026-01-01T00:00:11.1Z"));
            ahead(before, after, at(date)).as_millis()
        };
        assert_eq!(ahead("2026-01-01T00:00:10Z"), 0);
        assert_eq!(ahead("2026-01-01T00:00:11Z"), 0);
        assert_eq!(ahead("2026-01-01T00:01:10Z"), 59_500);
        assert_eq!(ahead("2025-12-31T23:59:10Z"), -60_500);
    }

    #[tokio::test]
    async fn the_clusters_time_is_read_from_any_answer() {
        let (client, mut server) = fake_api::client();
        let clock = Clock::default();
        for date in [Some("Wed, 01 Jan 2200 00:00:00 GMT"), None] {
            let compared = async { clock.compare(&client).await };
            let answered = async {
                let (request, send) = server.next_request().await.unwrap();
                assert_eq!(request.uri().path(), "/version");
                let mut answer = Response::builder().status(StatusCode::FORBIDDEN);
                if let Some(date) = date {
                    answer = answer.header("date", date);
                }
                send.send_response(answer.body(Body::empty()).unwrap());
            };
            tokio::join!(compared, answered);
            // What was known stays where nothing is said.
            assert_eq!(clock.now().to_string()[..4], *"2200");
        }
    }
}
