//! `down`: removes what `up` and `dev` have deployed.

use anyhow::Result;
use camino::Utf8Path;

use super::clean::{self, Reached};
use crate::cleanup::{self, Remover, Whose, leftovers};
use crate::cli::Down;
use crate::env::Env;
use crate::exit::{Exit, ExitWith};
use crate::local::{self, Up};
use crate::pipeline::Session;
use crate::plan::ClusterPlan;
use crate::setup::Machine;
use crate::{fail, text};

pub(super) async fn run(args: &Down, env: &Env) -> Result<Exit> {
    let plan = ClusterPlan::resolve(&args.cluster, &Env { ci: false, ..env.clone() }, "")?;
    let session = super::session(env, None)?;
    let machine = session.machine(!args.no_setup).await?;
    match plan {
        ClusterPlan::Kind { name, .. } => {
            let kind = machine.kind_client();
            if !kind.clusters().await.or_exit(Exit::Environment)?.contains(&name) {
                println!("nothing to remove: there is no Kind cluster {name}");
                return Ok(Exit::Passed);
            }
            let reached = clean::reach(&kind, &name, &machine.helm).await?;
            remove(args, &session, &machine, &reached).await
        }
        ClusterPlan::Kubeconfig { .. } => {
            let (_, reached) = clean::reach_existing(&args.cluster, &session, &machine).await?;
            remove(args, &session, &machine, &reached).await
        }
    }
}

async fn remove(
    args: &Down,
    session: &Session,
    machine: &Machine,
    Reached { client, clock, helm, .. }: &Reached,
) -> Result<Exit> {
    let all = local::find(client).await?;
    let chosen = choose(args, &all)?;
    if chosen.is_empty() {
        println!("nothing to remove");
        return Ok(Exit::Passed);
    }
    for up in &chosen {
        println!("{}: {}", up.id(), up.namespaces.join(", "));
    }
    let runs: Vec<String> = chosen.iter().map(|up| up.run.clone()).collect();
    // What another run uses too becomes that run's.
    let whose = Whose::Runs(&runs);
    let made = leftovers::find(|run, _| whose.names(run), client, helm, clock.now()).await?.made;
    let kind = machine.kind_client();
    let remover = Remover {
        whose,
        kind: Some(&kind),
        helm: Some(helm),
        client: Some(client),
        clock: clock.clone(),
        cache: &session.env.cache,
        events: &session.events,
    };
    let left = cleanup::remove_objects(&remover, &made).await;
    if !left.is_empty() {
        fail!(
            Exit::Leftovers,
            "not everything could be removed:\n{}\n  try again by the same command",
            text::indent(&left.join("\n"), "    ")
        );
    }
    Ok(Exit::Passed)
}

/// The deployments that are named; a name that none has is an error while there are others.
fn choose<'a>(args: &Down, all: &'a [Up]) -> Result<Vec<&'a Up>> {
    // A suite outside test-suites/ is named by its folder.
    let suite = args.suite.as_deref().map(|name| Utf8Path::new(name).file_name().unwrap_or(name));
    let is_named = |up: &&Up| {
        suite.is_none_or(|name| name == up.suite)
            && args.variant.as_ref().is_none_or(|name| *name == up.variant)
    };
    let chosen: Vec<&Up> = all.iter().filter(is_named).collect();
    if chosen.is_empty() && !all.is_empty() {
        let known: Vec<String> = all.iter().map(Up::id).collect();
        fail!(
            Exit::Usage,
            "no deployment of that name is up; there are {}, and `cargo xtask down` without a name removes them all",
            known.join(", ")
        );
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(suite: Option<&str>, variant: Option<&str>) -> Result<Vec<String>> {
        let up = |suite: &str, variant: &str| Up {
            run: "r".to_owned(),
            suite: suite.to_owned(),
            variant: variant.to_owned(),
            namespaces: Vec::new(),
        };
        let all = [up("one", "default"), up("one", "subchart"), up("two", "default")];
        let args =
            Down { suite: suite.map(str::to_owned), variant: variant.map(str::to_owned), ..Down::default() };
        Ok(choose(&args, &all)?.into_iter().map(Up::id).collect())
    }

    #[test]
    fn without_a_name_all_go_and_with_one_its_variants() {
        assert_eq!(chosen(None, None).unwrap().len(), 3);
        assert_eq!(chosen(Some("one"), None).unwrap(), ["one/default", "one/subchart"]);
        assert_eq!(chosen(Some("somewhere/one/"), Some("subchart")).unwrap(), ["one/subchart"]);
        assert_eq!(chosen(None, Some("default")).unwrap(), ["one/default", "two/default"]);
    }

    #[test]
    fn a_name_that_is_not_up_is_a_usage_error() {
        let error = chosen(Some("three"), None).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("two/default"), "{error}");
        assert!(
            choose(&Down { suite: Some("three".to_owned()), ..Down::default() }, &[]).unwrap().is_empty()
        );
    }
}
