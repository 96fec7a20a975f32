//! `images build|load`: the image stage alone.

use std::collections::BTreeMap;

use anyhow::Result;
use kind_client::Node;
use serde::Serialize;

use crate::cli::Images;
use crate::docker::{Docker, Image, normalized};
use crate::env::Env;
use crate::events::Phase;
use crate::exit::{Exit, ExitWith};
use crate::images::deliver::{self, Delivered, Looked, Wanted};
use crate::images::{self, Built, Local, Maker};
use crate::pipeline::Session;
use crate::plan::DEFAULT_CLUSTER;
use crate::setup::{Machine, likely_kind};
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
            let built = make(&session, &machine, Local::default(), &names).await?;
            print(&built, Vec::new(), args.json)?;
        }
        Images::Load(args) => {
            let cluster = args.kind_cluster.clone().unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
            let asked = if args.images.is_empty() { all(&session) } else { args.images.clone() };
            let (names, given): (Vec<String>, Vec<String>) =
                asked.into_iter().partition(|name| session.images.images.contains_key(name));
            let Asked { machine, local, nodes, looked, found } =
                ask(&session, &cluster, &names, &given).await?;
            if nodes.is_empty() {
                let known = machine.kind_client().clusters().await.or_exit(Exit::Environment)?;
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
            let built = make(&session, &machine, local, &names).await?;
            for name in &names {
                wanted.push(built[name].wanted()?);
            }
            let push = session.push(&machine, true);
            let delivery = deliver::deliver(&nodes, Some(looked), &wanted, &push, &session.events).await?;
            if args.prepare {
                let step = session.events.step(Phase::Images, "prepare docker to push changes alone");
                let images: Vec<&Image> = wanted.iter().map(|wanted| &wanted.image).collect();
                deliver::prepare(&images, &push).await?;
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

/// What a load needs to know before anything is made or brought.
struct Asked {
    machine: Machine,
    local: Local,
    nodes: Vec<Node>,
    looked: Looked,
    /// By reference that was given, the image.
    found: Vec<Option<Image>>,
}

/// Asks the machine, the cluster and Docker at once: where nothing has changed, that is all there is to do.
async fn ask(session: &Session, cluster: &str, names: &[String], given: &[String]) -> Result<Asked> {
    let kind = likely_kind(&session.env, &session.tools);
    let full: Vec<String> =
        given.iter().map(|name| normalized(name)).collect::<Result<_>>().or_exit(Exit::Usage)?;
    let local = Local::default();
    let early = async {
        let local = async {
            if !names.is_empty() {
                local.ask().await;
            }
        };
        tokio::join!(deliver::look_at_cluster(&kind, cluster, &full), Docker.images(given), local)
    };
    // The nodes take longest to answer.
    let (early, machine) = tokio::join!(early, session.machine(true));
    let machine = machine?;
    let ((nodes, looked), found) = match early {
        (Ok(nodes), Ok(found), ()) => (nodes, found),
        // Set-up may have started Docker only then; what is wrong shows now.
        _ => {
            let kind = machine.kind_client();
            let again = tokio::join!(deliver::look_at_cluster(&kind, cluster, &full), Docker.images(given));
            (again.0?, again.1.or_exit(Exit::Environment)?)
        }
    };
    Ok(Asked { machine, local, nodes, looked, found })
}

async fn make(
    session: &Session,
    machine: &Machine,
    local: Local,
    names: &[String],
) -> Result<BTreeMap<String, Built>> {
    let order = session.images.closure(names)?;
    images::make(&Maker { local, ..session.maker(machine, true) }, &session.images, &order).await
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
