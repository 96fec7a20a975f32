//! `corpus`: the verdict on recorded failures, measured; and the recording of more.

use std::sync::Arc;

use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use futures::StreamExt;

use super::clean::reach;
use crate::cli::{Corpus, CorpusRecord};
use crate::cluster::kind::image_nodes;
use crate::config::Workspace;
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith, message};
use crate::plan::DEFAULT_CLUSTER;
use crate::ready::corpus::{self, Score};
use crate::ready::tape::{self, Tape};
use crate::{fail, fixtures, images, names, text};

/// The image that the cases' containers run.
const IMAGE: &str = "python-base";
/// What several cases need beside their own objects, such as a registry that refuses.
const SHARED: &str = "shared/registry.yaml";

pub(super) async fn run(args: &Corpus, env: &Env) -> Result<Exit> {
    let folder = Workspace::here().root.join("xtask/corpus");
    match args {
        Corpus::Score => {
            let score = corpus::score(&folder)?;
            print(&score);
            Ok(if score.wrong.is_empty() { Exit::Passed } else { Exit::TestsFailed })
        }
        Corpus::Record(args) => record(args, env, folder).await,
    }
}

fn print(score: &Score) {
    let Score { failures, right, early, healing, aborted, wrong } = score;
    println!("{failures} failures: the cause of {right} found, {early} of them before the recording's end");
    println!("{healing} start-ups that heal: {aborted} given up");
    for line in wrong {
        println!("  {line}");
    }
}

async fn record(args: &CorpusRecord, env: &Env, folder: Utf8PathBuf) -> Result<Exit> {
    let session = Arc::new(super::session(env, None)?);
    let known = corpus::names(&folder)?;
    for name in &args.cases {
        if !known.contains(name) {
            let near = text::suggestion(name, known.iter().map(String::as_str));
            fail!(Exit::Usage, "there is no case `{name}` in {folder}{near}");
        }
    }
    let chosen: Vec<String> = known
        .into_iter()
        .filter(|name| match args.cases.as_slice() {
            [] => !corpus::recording(&folder, name).exists(),
            cases => cases.contains(name),
        })
        .collect();
    let machine = session.machine(true).await?;
    let kind = machine.kind_client();
    let cluster = args.kind_cluster.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
    let nodes = image_nodes(&kind, &cluster).await?;
    if nodes.is_empty() {
        fail!(Exit::Usage, "there is no Kind cluster {cluster}; `cargo xtask cluster up` makes one");
    }
    let order = session.images.closure(&[IMAGE.to_owned()])?;
    let built = images::make(&session.maker(&machine, true), &session.images, &order).await?;
    let image = built[IMAGE].wanted()?;
    images::deliver::deliver(&nodes, None, &[image], &session.push(&machine, true), &session.events).await?;
    let reference = &built[IMAGE].reference;
    let reached = reach(&kind, &cluster, &machine.helm).await?;
    let client = &reached.client;
    let shared =
        std::fs::read_to_string(folder.join(SHARED)).with_context(|| format!("read {folder}/{SHARED}"))?;
    let shared =
        minijinja::Environment::new().render_str(&shared, minijinja::context! { image => reference })?;
    let beside = format!("corpus-{}", names::suffix());
    let (events, folder) = (&session.events, &folder);
    let one = |name: String| async move {
        let step = events.step(Phase::Ready, format!("record {name}"));
        let case = corpus::load(folder, &name).or_exit(Exit::Usage)?;
        let namespace = format!("corpus-{}", names::suffix());
        let to = corpus::recording(folder, &name);
        let tape = Tape { name: &name, case: &case, namespace: &namespace, image: reference, to: &to };
        tape::record(client, tape).await?;
        let outcome = corpus::replay(&corpus::recorded(folder, &name)?)?;
        let right = if corpus::is_right(&case, &outcome) { "as expected" } else { "NOT as expected" };
        step.done(format!("{right}: {}", outcome.describe()));
        anyhow::Ok(())
    };
    let mut failed = Vec::new();
    let count = chosen.len();
    let all = async {
        fixtures::apply_text(client, SHARED.into(), &shared, &beside, "k8s-test-corpus").await?;
        let mut recorded = futures::stream::iter(chosen)
            .map(|name| async { (name.clone(), one(name).await) })
            .buffer_unordered(usize::from(args.jobs));
        while let Some((name, end)) = recorded.next().await {
            if let Err(error) = end {
                failed.push(format!("{name}: {}", message(&error)));
            }
        }
        Ok(())
    };
    tape::inside(client, &beside, "shared", all).await.or_exit(Exit::Environment)?;
    if !failed.is_empty() {
        let number = text::count(failed.len(), "case");
        fail!(
            Exit::Environment,
            "{number} could not be recorded:\n{}",
            text::indent(&failed.join("\n"), "  ")
        );
    }
    println!("{} recorded", text::count(count, "case"));
    Ok(Exit::Passed)
}
