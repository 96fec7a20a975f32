//! Waits on a run, each with a deadline.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Dagster, Error, Event, Run, RunId};

/// After so long without news all events are read. Dagster's watcher looks each 16 s when there was nothing for a while; and it goes by
/// a number that an event has before it can be seen, so that it passes over one that another process writes at the same moment
/// (dagster/_core/storage/event_log/polling_event_watcher.py).
const SILENCE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(10) };

/// From a stream that broke to the first attempt at another, while the forward is made anew; each further pause is twice as long, up to [`SILENCE`].
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(10) } else { Duration::from_secs(1) };

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
        self.search(run, awaited, limit, wanted, true).await
    }

    /// As [`Dagster::await_event`], of an event that may come when the run has ended.
    ///
    /// # Errors
    /// There is nothing of the kind within the limit.
    pub async fn await_event_after_end(
        &self,
        run: &RunId,
        awaited: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Result<Event, Error> {
        self.search(run, awaited, limit, wanted, false).await
    }

    async fn search(
        &self,
        run: &RunId,
        awaited: &str,
        limit: Duration,
        wanted: impl Fn(&Event) -> bool,
        ends_with_run: bool,
    ) -> Result<Event, Error> {
        let is_last = |event: &Event| ends_with_run && event.ends_run();
        let mut seen = Vec::new();
        let search = async {
            let mut log = self.follow(run);
            let mut pause = PAUSE;
            loop {
                match timeout(SILENCE, log.next()).await {
                    Ok(Ok(Some(event))) => {
                        pause = PAUSE;
                        seen.push(event.clone());
                        if wanted(&event) {
                            return Ok(event);
                        }
                        if !is_last(&event) {
                            continue;
                        }
                    }
                    // The events can be read without their stream.
                    Ok(Ok(None)) => {
                        sleep(pause).await;
                        pause = SILENCE.min(2 * pause);
                    }
                    Ok(Err(error)) => return Err(error),
                    Err(_) => {}
                }
                seen = self.events(run).await?;
                if let Some(event) = seen.iter().find(|event| wanted(event)) {
                    return Ok(event.clone());
                }
                if seen.iter().any(is_last) {
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

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::fake::{Subscription, events};
    use super::*;

    /// Tells of these events by the subscription, which may break then, and of those when it is asked for all.
    async fn webserver(listener: TcpListener, told: &[&str], breaks: bool, all: &[&str]) {
        let (mut subscription, _) = Subscription::accept(&listener).await;
        subscription.tell(told, "c1").await;
        let _held = (!breaks).then_some(subscription);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = json!({"data": {"logsForRun": {
                "__typename": "EventConnection", "cursor": "c2", "hasMore": false, "events": events(all)}}});
            answer_once(stream, &answer.to_string()).await;
        }
    }

    async fn answer_once(mut stream: TcpStream, body: &str) {
        let mut request = Vec::new();
        while !request.ends_with(b"}") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request was cut");
        }
        let head =
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length:";
        stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    }

    async fn search(told: &[&str], breaks: bool, all: &[&str], ends_with_run: bool) -> Result<Event, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dagster = Dagster::new(format!("http://{}", listener.local_addr().unwrap()));
        let run = RunId::from("8a1f");
        let started = |event: &Event| event.is("STEP_START");
        tokio::select! {
            event = dagster.search(&run, "its step", Duration::from_secs(20), started, ends_with_run) => event,
            () = webserver(listener, told, breaks, all) => unreachable!(),
        }
    }

    async fn awaited(told: &[&str], breaks: bool, all: &[&str]) -> Result<Event, Error> {
        search(told, breaks, all, true).await
    }

    async fn awaited_after_end(told: &[&str], all: &[&str]) -> Result<Event, Error> {
        search(told, false, all, false).await
    }

    #[tokio::test]
    async fn an_event_that_the_watcher_passed_over_is_found() {
        let missed = ["RUN_START", "STEP_START", "RUN_SUCCESS"];
        assert!(awaited(&["RUN_START"], false, &missed[..2]).await.unwrap().is("STEP_START"));
        assert!(awaited(&["RUN_START", "RUN_SUCCESS"], false, &missed).await.unwrap().is("STEP_START"));
    }

    #[tokio::test]
    async fn what_comes_after_the_end_is_awaited_where_that_is_asked_for() {
        let all = ["RUN_FAILURE", "STEP_START"];
        assert!(awaited_after_end(&all, &all).await.unwrap().is("STEP_START"));
        assert!(awaited_after_end(&all[..1], &all).await.unwrap().is("STEP_START"));
    }

    #[tokio::test]
    async fn a_stream_that_breaks_ends_no_wait() {
        assert!(awaited(&["RUN_START"], true, &["RUN_START", "STEP_START"]).await.unwrap().is("STEP_START"));
    }

    #[tokio::test]
    async fn an_end_without_the_event_is_an_error() {
        let all = ["RUN_START", "RUN_FAILURE"];
        for told in [&all[..1], &all] {
            let error = awaited(told, false, &all).await.unwrap_err();
            assert!(matches!(&error, Error::EndedBefore { seen, .. } if seen.len() == 2), "{error}");
        }
    }
}
