//! Records a case of the corpus: applies it to a cluster and writes down what the API server tells.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::Utf8Path;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, discovery};
use tokio::time::Instant;

use super::Place;
use super::asked::Asked;
use super::cause::{Cause, Kind};
use super::corpus::{Applied, Case, Expect, Later, Outcome};
use super::observe::Watching;
use super::record::Recorder;
use super::verdict::{self, Verdict};
use super::world::World;
use crate::cluster::clock::Clock;
use crate::events::Events;
use crate::release::{Installed, Texts};
use crate::{fixtures, labels};

/// How long after everything is ready a case that heals is recorded on.
const AFTER_READY: Duration = Duration::from_secs(3);

/// The field manager of what is applied.
const MANAGER: &str = "k8s-test-corpus";
/// When `cargo xtask clean` may remove what a recording that was broken off has left.
const EXPIRES: jiff::SignedDuration = jiff::SignedDuration::from_mins(60);

/// Where and from what a case is recorded.
#[derive(Clone, Copy, Debug)]
pub struct Tape<'a> {
    /// The case's name.
    pub name: &'a str,
    /// The case.
    pub case: &'a Case,
    /// The namespace to make; it is deleted at the end, without waiting for that.
    pub namespace: &'a str,
    /// The reference of an image with Python and a shell that the nodes have.
    pub image: &'a str,
    /// The file to write.
    pub to: &'a Utf8Path,
}

/// Records a case.
///
/// # Errors
/// The API refuses its objects, or the file cannot be written.
pub async fn record(client: &Client, tape: Tape<'_>) -> Result<()> {
    inside(client, tape.namespace, tape.name, record_in(client, tape)).await
}

/// Does `work` with a namespace of ours, which it makes and deletes, without waiting for that; `what` goes on its label.
///
/// # Errors
/// Of the work, or the API refuses the namespace.
pub async fn inside(
    client: &Client,
    name: &str,
    what: &str,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let expires = Timestamp::now() + EXPIRES;
    let mut meta = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    meta.labels = Some(labels::of("corpus", "corpus", what));
    meta.annotations = Some([(labels::EXPIRES.to_owned(), expires.to_string())].into());
    let namespace = Namespace { metadata: meta, ..Namespace::default() };
    namespaces.create(&PostParams::default(), &namespace).await.context("make its namespace")?;
    let done = work.await;
    let gone = namespaces.delete(name, &DeleteParams::default()).await;
    done?;
    gone.context("delete its namespace")?;
    Ok(())
}

async fn record_in(client: &Client, tape: Tape<'_>) -> Result<()> {
    let Tape { name, case, to, .. } = tape;
    let manifest = tape.render(&case.manifest)?;
    let asked = Asked::read(&manifest, tape.namespace)?;
    let mut watching = Watching::new(client, &asked).await;
    let start = Timestamp::now();
    let applied = Applied { namespace: tape.namespace.to_owned(), start, manifest: manifest.clone() };
    // Whole or not at all: a recording that was broken off would be replayed as a short one.
    let partial = to.with_extension("jsonl.partial");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&partial)?);
    writeln!(file, "{}", serde_json::to_string(&applied)?)?;
    let mut recorder = Recorder::new(start);
    let mut world = World::default();
    let begun = Instant::now();
    let end = begun + Duration::from_secs(case.seconds);
    let mut ready_since: Option<Instant> = None;
    let steps = async {
        fixtures::apply_text(client, name.into(), &manifest, tape.namespace, MANAGER).await?;
        for step in &case.later {
            tokio::time::sleep_until(begun + Duration::from_secs(step.after)).await;
            tape.later(client, step).await?;
        }
        anyhow::Ok(())
    };
    tokio::pin!(steps);
    let mut steps_open = true;
    loop {
        let until = ready_since.map_or(end, |since| end.min(since + AFTER_READY));
        let tick = until.min(Instant::now() + Duration::from_millis(500));
        tokio::select! {
            done = &mut steps, if steps_open => {
                done?;
                steps_open = false;
            }
            change = watching.next() => if let Some(change) = change {
                let at = Timestamp::now();
                if let Some(line) = recorder.line(at, &change)? {
                    writeln!(file, "{}", serde_json::to_string(&line)?)?;
                }
                watching.want(world.apply(at, change));
            },
            () = tokio::time::sleep_until(tick) => if Instant::now() >= until { break },
        }
        if case.expect == Expect::READY && watching.is_synced() && !steps_open {
            let verdicts = verdict::judge(&world, &asked, &asked.items, &case.patience, Timestamp::now());
            if verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Ready) {
                ready_since.get_or_insert_with(Instant::now);
            }
        }
    }
    file.flush()?;
    std::fs::rename(&partial, to)?;
    Ok(())
}

/// Applies a case and waits as a run does; the outcome is that of a whole run's wait.
///
/// # Errors
/// The API refuses its objects.
pub async fn live(client: &Client, tape: Tape<'_>, events: &Events) -> Result<Outcome> {
    let mut outcome = Outcome::Ready;
    let work = async {
        let manifest = tape.render(&tape.case.manifest)?;
        let release = Installed {
            name: tape.name.to_owned(),
            asked: Asked::read(&manifest, tape.namespace)?,
            patience: tape.case.patience.clone(),
            timeout: Duration::from_secs(tape.case.seconds.max(90)),
            texts: Texts::default(),
        };
        let steps = async {
            for step in &tape.case.later {
                tokio::time::sleep(Duration::from_secs(step.after)).await;
                tape.later(client, step).await?;
            }
            anyhow::Ok(())
        };
        fixtures::apply_text(client, tape.name.into(), &manifest, tape.namespace, MANAGER).await?;
        let begun = Instant::now();
        let releases = [release];
        let (clock, beside) = (Clock::of(client).await, Asked::default());
        let place = Place { client, clock: &clock, beside: &beside, events };
        let (mut end, done) = tokio::join!(super::watch(place, &releases), steps);
        done?;
        if end.is_ok() && !tape.case.later.is_empty() {
            // What came later is a deployment of its own.
            end = super::watch(place, &releases).await;
        }
        if let Err(failure) = end {
            let cause = failure.cause.unwrap_or_else(|| Cause::new(Kind::Unfinished, failure.text));
            let late = begun.elapsed() >= releases[0].timeout;
            let at = i64::try_from(begun.elapsed().as_millis())?;
            outcome = if late { Outcome::Late(cause) } else { Outcome::Doomed(cause, at) };
        }
        Ok(())
    };
    inside(client, tape.namespace, tape.name, work).await?;
    Ok(outcome)
}

impl Tape<'_> {
    /// A manifest of the case with its references filled in.
    ///
    /// # Errors
    /// It is no template.
    pub fn render(self, text: &str) -> Result<String> {
        let facts = minijinja::context! { image => self.image, namespace => self.namespace };
        minijinja::Environment::new()
            .render_str(text, facts)
            .with_context(|| format!("{}: render the manifest", self.name))
    }

    async fn later(self, client: &Client, step: &Later) -> Result<()> {
        let manifest = self.render(&step.manifest)?;
        fixtures::apply_text(client, self.name.into(), &manifest, self.namespace, MANAGER).await?;
        for (kind, name) in &step.delete {
            let (version, kind) = kind.rsplit_once('/').unwrap_or(("v1", kind));
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let kind = GroupVersionKind::gvk(group, version, kind);
            let (resource, _) = discovery::pinned_kind(client, &kind).await?;
            let api: Api<kube::api::DynamicObject> =
                Api::namespaced_with(client.clone(), self.namespace, &resource);
            let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
            api.delete(name, &params).await.with_context(|| format!("delete {name}"))?;
        }
        Ok(())
    }
}
