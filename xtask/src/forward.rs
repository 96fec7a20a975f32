//! Forwards: a pod's port on 127.0.0.1, dialled anew for each connection and proven by HTTP round trips.
//!
//! The listener takes a connection first and looks for a ready pod then, so a rollout delays it instead of
//! refusing it.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::config::{Forward as Spec, Probe};
use crate::events::{Events, Phase};
use crate::exit::{Exit, ExitWith};
use crate::namespaces::Namespaces;
use crate::watch;

/// How long a connection is held while no pod is ready.
const HOLD: Duration = Duration::from_secs(5);
/// Between two attempts of a probe; the server behind it cannot be watched.
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// An open forward, closed when dropped.
#[derive(Debug)]
pub struct Forward {
    /// Its name.
    pub name: String,
    /// `http://127.0.0.1:<port>`, as long as it is open.
    pub url: String,
    /// What it was opened for.
    pub spec: Spec,
    accepting: AbortHandle,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Opens a forward; whether somebody answers, [`Forward::prove`] finds out.
///
/// # Errors
/// No port can be listened on; exit 3.
pub async fn open(
    client: &Client,
    name: &str,
    spec: &Spec,
    namespaces: &Namespaces,
    events: &Events,
) -> Result<Forward> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .context("listen on a free port of 127.0.0.1")
        .or_exit(Exit::Environment)?;
    let url = format!("http://127.0.0.1:{}", listener.local_addr()?.port());
    let target = Target {
        pods: Api::namespaced(client.clone(), &namespaces.by_role[&spec.namespace]),
        selector: spec.selector.clone(),
        port: spec.port,
    };
    let accepting = tokio::spawn(accept(listener, target, events.clone(), name.to_owned())).abort_handle();
    Ok(Forward { name: name.to_owned(), url, spec: spec.clone(), accepting })
}

impl Forward {
    /// Waits until its probes hold; after a rollout the server is told to look again first, because what it knows may
    /// be of pods that are gone.
    ///
    /// # Errors
    /// One of them does not hold in time: its last answer; exit 4.
    pub async fn prove(&self, after_rollout: bool, events: &Events) -> Result<()> {
        let Forward { name, url, spec, .. } = self;
        let step = events.step(Phase::Forward, name.clone());
        prove(url, spec, after_rollout, |why| step.progress(why))
            .await
            .with_context(|| format!("forward {name}: {} on port {}", spec.selector, spec.port))
            .or_exit(Exit::NotReady)?;
        step.done(url.clone());
        Ok(())
    }
}

#[derive(Clone)]
struct Target {
    pods: Api<Pod>,
    selector: String,
    port: u16,
}

async fn accept(listener: TcpListener, target: Target, events: Events, name: String) {
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                let (target, events, name) = (target.clone(), events.clone(), name.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(connection, &target).await {
                        tracing::debug!("forward {name}: {error:#}");
                        if error.is::<NoPod>() {
                            events.warn(format!("forward {name}: {error}"));
                        }
                    }
                });
            }
            // Out of file descriptors, say: others may be closed soon.
            Err(error) => {
                events.warn(format!("forward {name}: cannot take a connection: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[derive(Debug)]
struct NoPod(String);

impl std::fmt::Display for NoPod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoPod {}

async fn serve(mut connection: TcpStream, target: &Target) -> Result<()> {
    connection.set_nodelay(true)?;
    let deadline = Instant::now() + HOLD;
    let mut upstream = loop {
        let pod = target.ready_pod(deadline).await?;
        match target.dial(&pod).await {
            Ok(upstream) => break upstream,
            Err(error) if Instant::now() > deadline => return Err(error),
            // The pod may have gone since it was listed.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let mut stream = upstream.take_stream(target.port).context("the forward has no stream")?;
    tokio::io::copy_bidirectional(&mut connection, &mut stream).await?;
    Ok(())
}

impl Target {
    async fn ready_pod(&self, deadline: Instant) -> Result<String> {
        let config = watcher::Config::default().labels(&self.selector);
        let hold = deadline.saturating_duration_since(Instant::now());
        let newest_ready = |pods: &watch::Objects<Pod>| {
            let ready = pods.values().filter(|pod| is_ready(pod));
            ready.max_by_key(|pod| pod.creation_timestamp()).map(ResourceExt::name_any)
        };
        watch::until(self.pods.clone(), config, hold, newest_ready).await.map_err(|late| {
            anyhow!(NoPod(match (late.objects.len(), late.error) {
                (_, Some(error)) =>
                    format!("the pods of the selector {} cannot be watched: {error}", self.selector),
                (0, None) => format!("no pod matches the selector {}", self.selector),
                (n, None) => format!(
                    "none of the {n} pods of the selector {} was ready within {} s",
                    self.selector,
                    HOLD.as_secs()
                ),
            }))
        })
    }

    async fn dial(&self, pod: &str) -> Result<kube::api::Portforwarder> {
        self.pods
            .portforward(pod, &[self.port])
            .await
            .with_context(|| format!("reach port {} of pod {pod}", self.port))
    }
}

fn is_ready(pod: &Pod) -> bool {
    let going = pod.metadata.deletion_timestamp.is_some();
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    !going && conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

/// Repeats the probes until each holds.
async fn prove(url: &str, spec: &Spec, after_rollout: bool, progress: impl Fn(String)) -> Result<()> {
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

    #[test]
    fn a_pod_that_is_going_is_not_ready() {
        let pod = |meta: &str| -> Pod {
            serde_yaml::from_str(&format!(
                "{{metadata: {{{meta}}}, status: {{conditions: [{{type: Ready, status: 'True'}}]}}}}"
            ))
            .unwrap()
        };
        assert!(is_ready(&pod("name: a")));
        assert!(!is_ready(&pod("name: a, deletionTimestamp: '2026-01-01T00:00:00Z'")));
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
        prove(&forgetful().await, &spec, true, failed).await.unwrap();
        assert_eq!(attempts.get(), 0);
        prove(&forgetful().await, &spec, false, failed).await.unwrap();
        assert_eq!(attempts.get(), 1);
    }
}
