//! Waits on a run, each with a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::{Dagster, Error, Event, Run, RunId};

impl Dagster {
    /// Waits for an event; `awaited` says in words what it means, for the error.
    ///
    /// # Errors
    /// The run ends without it, or does nothing of the kind within the limit.
    pub async fn await_event(
        &self,
        run: &RunId,
        awaited: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, Error> {
        let mut seen = Vec::new();
        let search = async {
            let mut log = self.follow(run).await?;
            loop {
                let event = log.next().await?;
                seen.push(event.clone());
                if wanted(&event) {
                    return Ok(event);
                }
                if event.ends_run() {
                    let (run, awaited) = (run.clone(), awaited.to_owned());
                    return Err(Error::EndedBefore { run, awaited, seen: std::mem::take(&mut seen) });
                }
            }
        };
        let outcome = timeout_at(Instant::now() + limit, search).await;
        match outcome {
            Ok(result) => result,
            Err(_) => Err(Error::TimedOut { run: run.clone(), awaited: awaited.to_owned(), limit, seen }),
        }
    }

    /// Makes the webserver ask the code server of a location until it answers with definitions.
    ///
    /// # Errors
    /// It does not within the limit; the error is that of the last attempt.
    pub async fn await_location(&self, name: &str, limit: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + limit;
        loop {
            match self.reload_location(name).await {
                // The answer comes when it has been loaded.
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // A server that is ready may be out of the webserver's reach for a moment: gRPC waits between attempts to
                // connect, and nobody tells when it has.
                Err(_) => sleep(Duration::from_millis(250)).await,
            }
        }
    }

    /// Waits until a run has ended, in whatever way.
    ///
    /// # Errors
    /// It goes on after the limit.
    pub async fn await_end(&self, run: &RunId, limit: Duration) -> Result<Run, Error> {
        let deadline = Instant::now() + limit;
        self.await_event(run, "its end", limit, Event::ends_run).await?;
        // Dagster stores the event first and the run's new status right after it, and tells nobody of the latter.
        loop {
            let ended = self.run(run).await?;
            if ended.status.is_end() {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                let awaited = format!("its status to follow its end, it is {:?}", ended.status);
                return Err(Error::TimedOut { run: run.clone(), awaited, limit, seen: Vec::new() });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
