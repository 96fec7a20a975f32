//! The proof that a forward works: HTTP round trips whose answers are as they must be.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::Instant;

use crate::config::{Forward as Spec, Probe};

/// Between two attempts of a probe; the server behind it cannot be watched.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// Repeats the probes until each holds; after a failed attempt `hopeless` may say why no other can succeed.
pub(super) async fn prove(
    url: &str,
    spec: &Spec,
    after_rollout: bool,
    hopeless: impl Fn() -> Option<anyhow::Error>,
    progress: impl Fn(String),
) -> Result<()> {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()?;
    let deadline = Instant::now() + spec.timeout;
    let remedy = async |probe: &Probe| {
        if let Some(remedy) = &probe.remedy {
            // What it answers does not count; the next attempt does.
            let _ = http.post(format!("{url}{}", probe.path)).json(remedy).send().await;
        }
    };
    for probe in &spec.probes {
        if after_rollout {
            remedy(probe).await;
        }
        loop {
            let Err(error) = attempt(&http, url, probe).await else { break };
            if let Some(reason) = hopeless() {
                return Err(reason);
            }
            if Instant::now() > deadline {
                return Err(error.context(format!(
                    "the probe {} did not hold within {} s",
                    probe.path,
                    spec.timeout.as_secs()
                )));
            }
            progress(format!("{}: {error:#}", probe.path));
            remedy(probe).await;
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
    Ok(())
}

async fn attempt(http: &reqwest::Client, url: &str, probe: &Probe) -> Result<()> {
    let url = format!("{url}{}", probe.path);
    let request = match &probe.json {
        Some(body) => http.post(url).json(body),
        None => http.get(url),
    };
    let response = request.send().await.map_err(|error| anyhow!("no answer ({})", innermost(&error)))?;
    let status = response.status();
    let text =
        response.text().await.map_err(|error| anyhow!("the answer broke off ({})", innermost(&error)))?;
    if !status.is_success() {
        bail!("it answers {status}: {}", excerpt(&text));
    }
    judge(probe, &text)
}

/// reqwest's own text repeats the address; the cause is what helps.
fn innermost(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

fn judge(probe: &Probe, text: &str) -> Result<()> {
    if let Some(part) = &probe.contains
        && !text.contains(part)
    {
        bail!("the answer does not contain `{part}`: {}", excerpt(text));
    }
    if !probe.expect.is_empty() {
        let value: serde_json::Value = serde_json::from_str(text)
            .with_context(|| format!("the answer is no JSON: {}", excerpt(text)))?;
        for (pointer, expected) in &probe.expect {
            let actual = value.pointer(pointer);
            if actual != Some(expected) {
                let shown = actual.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                bail!("{pointer} is {shown}, not {expected}, in {}", excerpt(text));
            }
        }
    }
    Ok(())
}

fn excerpt(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() > 600 { text.chars().take(600).chain("…".chars()).collect() } else { text }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn probe(text: &str) -> Probe {
        serde_yaml::from_str(text).unwrap()
    }

    #[test]
    fn an_answer_is_judged_by_its_values() {
        let probe = probe("{path: /graphql, expect: {/data/entry/status: LOADED, /data/entry/count: 1}}");
        assert!(judge(&probe, r#"{"data": {"entry": {"status": "LOADED", "count": 1}}}"#).is_ok());
        let error = judge(&probe, r#"{"data": {"entry": {"status": "LOADING", "count": 1}}}"#)
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(r#"/data/entry/status is "LOADING", not "LOADED""#), "{error}");
        let error = judge(&probe, r#"{"errors": [{"message": "boom"}]}"#).unwrap_err().to_string();
        assert!(error.contains("is nothing") && error.contains("boom"), "{error}");
        assert!(judge(&probe, "<html>").unwrap_err().to_string().contains("no JSON"));
    }

    #[test]
    fn an_answer_is_judged_by_its_text() {
        let probe = probe("{path: /server_info, contains: dagster}");
        assert!(judge(&probe, r#"{"dagster_version": "1"}"#).is_ok());
        assert!(judge(&probe, "nginx").is_err());
    }

    /// A server that answers `new` once it was told to look again; gives its address.
    async fn forgetful() -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut knows = "old";
            loop {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 4096];
                let n = connection.read(&mut request).await.unwrap();
                if request[..n].starts_with(b"POST") {
                    knows = "new";
                }
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{knows}");
                connection.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn after_a_rollout_servers_look_again_before_they_are_believed() {
        let spec: Spec = serde_yaml::from_str(
            "{namespace: a, selector: b, port: 1, timeout: 20s, probes: [{path: /, contains: new, remedy: {}}]}",
        )
        .unwrap();
        let attempts = std::cell::Cell::new(0);
        let failed = |_| attempts.set(attempts.get() + 1);
        prove(&forgetful().await, &spec, true, || None, failed).await.unwrap();
        assert_eq!(attempts.get(), 0);
        prove(&forgetful().await, &spec, false, || None, failed).await.unwrap();
        assert_eq!(attempts.get(), 1);
    }
}
