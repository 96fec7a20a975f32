//! `images build|load`: the image stage alone.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::cli::Images;
use crate::docker::{Docker, Image};
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::images::deliver::{self, Delivered, Wanted};
use crate::images::{self, Built};
use crate::pipeline::Session;
use crate::plan::DEFAULT_CLUSTER;
use crate::setup::Machine;
use crate::{cmd, fail, text};

#[derive(Serialize)]
struct Answer<'a> {
    images: Vec<&'a Built>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Delivered>,
    /// The most memory that our own process has held at once, in bytes.
    peak_memory: u64,
}

pub(super) async fn run(args: &Images, env: &Env) -> Result<Exit> {
    let session = super::session(env, None)?;
    match args {
        Images::Build(args) => {
            let names = if args.images.is_empty() { all(&session) } else { args.images.clone() };
            let machine = session.machine(true).await?;
            let built = make(&session, &machine, &names).await?;
            print(&built, Vec::new(), args.json)?;
        }
        Images::Load(args) => {
            let machine = session.machine(true).await?;
            let cluster = args.kind_cluster.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
            let kind = machine.kind_client();
            let asked = if args.images.is_empty() { all(&session) } else { args.images.clone() };
            let (names, given): (Vec<String>, Vec<String>) =
                asked.into_iter().partition(|name| session.images.images.contains_key(name));
            let (nodes, found) =
                tokio::join!(crate::cluster::kind::image_nodes(&kind, &cluster), Docker.images(&given));
            let (nodes, found) = (nodes?, found.or_exit(Exit::Environment)?);
            if nodes.is_empty() {
                let known = kind.clusters().await.or_exit(Exit::Environment)?;
                let near = text::suggestion(&cluster, known.iter().map(String::as_str));
                fail!(
                    Exit::Usage,
                    "there is no Kind cluster {cluster}{near}; `cargo xtask cluster up` makes one"
                );
            }
            let mut wanted = Vec::new();
            for (reference, image) in given.iter().zip(found) {
                let Some(image) = image else {
                    let mut near: Vec<String> = Docker.references().await?;
                    near.extend(all(&session));
                    fail!(
                        Exit::Usage,
                        "there is no image `{reference}`, neither in ci/images.yaml nor in the local Docker{}",
                        text::suggestion(reference, near.iter().map(String::as_str))
                    );
                };
                wanted.push(Wanted::new(reference, image).or_exit(Exit::Usage)?);
            }
            let built = make(&session, &machine, &names).await?;
            for name in &names {
                wanted.push(built[name].wanted()?);
            }
            let delivery =
                deliver::deliver(&nodes, None, &wanted, &session.push(&machine, true), &session.events)
                    .await?;
            if args.prepare {
                let step = session.events.step(Phase::Images, "prepare docker to push changes alone");
                let images: Vec<&Image> = wanted.iter().map(|wanted| &wanted.image).collect();
                deliver::prepare(&images, &session.push(&machine, true)).await?;
                step.done("");
            }
            print(&built, delivery.nodes, args.json)?;
        }
    }
    Ok(Exit::Passed)
}

fn all(session: &Session) -> Vec<String> {
    session.images.images.keys().cloned().collect()
}

async fn make(session: &Session, machine: &Machine, names: &[String]) -> Result<BTreeMap<String, Built>> {
    let order = session.images.closure(names)?;
    images::make(&session.maker(machine, true), &session.images, &order).await
}

fn print(built: &BTreeMap<String, Built>, nodes: Vec<Delivered>, json: bool) -> Result<()> {
    let answer = Answer { images: built.values().collect(), nodes, peak_memory: cmd::own_peak_memory() };
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else {
        for image in &answer.images {
            println!("{}  {}  {}", image.reference, text::bytes(image.bytes), text::seconds(image.took));
        }
    }
    Ok(())
}
