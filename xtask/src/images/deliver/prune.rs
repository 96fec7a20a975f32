//! Old content of our images goes from the nodes: what nothing in the cluster names and nobody has just brought.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use futures::future::{join_all, try_join_all};
use kube::api::{DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};

use super::Inventory;
use super::engine::Store;
use super::held::Held;
use crate::cleanup;
use crate::cluster::Cluster;
use crate::events::Events;
use crate::exit::{Exit, ExitWith, message};
use crate::images::{LOCAL, is_content_reference};
use crate::text;

/// How long it may take: nothing waits for it but the next step.
const LIMIT: Duration = Duration::from_secs(30);
/// The kinds whose objects name images: those that run them, and those that tell a program which ones to run.
const NAMING: [(&str, &str, &str, &str); 8] = [
    ("", "v1", "Pod", "pods"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("batch", "v1", "Job", "jobs"),
    ("batch", "v1", "CronJob", "cronjobs"),
];

/// Removes from the nodes the images of ours with an old content: not in `keep`, older than a day, and named by no object of
/// the cluster; none while another run than `run` has something there. Where that fails there is a warning: nothing depends
/// on it.
pub async fn prune(cluster: &Cluster, run: &str, held: &Inventory, keep: &BTreeSet<String>, events: &Events) {
    let pruned = match tokio::time::timeout(LIMIT, prune_all(cluster, run, held, keep, events)).await {
        Ok(pruned) => pruned,
        Err(_) => Err(anyhow::anyhow!("the cluster did not answer within {}", text::seconds(LIMIT))),
    };
    match pruned {
        Ok(0) => {}
        Ok(count) => {
            events.note(format!("{} of old content removed from the nodes", text::count(count, "image")));
        }
        Err(error) => events.warn(format!("old images stay on the nodes: {}", message(&error))),
    }
}

async fn prune_all(
    cluster: &Cluster,
    run: &str,
    held: &Inventory,
    keep: &BTreeSet<String>,
    events: &Events,
) -> Result<usize> {
    if held.values().all(|held| old(held, keep).is_empty()) {
        return Ok(0);
    }
    let Cluster { nodes, client, clock, .. } = cluster;
    // What a run is about to deploy no object names yet, and its age is counted from when it first came.
    let others = cleanup::others(client, run, clock.now()).await.or_exit(Exit::Environment)?;
    if !others.is_empty() {
        events.note(format!(
            "old images stay on the nodes, because other runs may deploy them: {}",
            others.join(", ")
        ));
        return Ok(0);
    }
    let named = named(client).await.or_exit(Exit::Environment)?;
    let of_nodes = nodes.iter().filter_map(|node| {
        let names = unnamed(&old(held.get(node.name())?, keep), &named);
        (!names.is_empty()).then_some((node, names))
    });
    let removed = join_all(of_nodes.map(async |(node, names)| {
        // What else has the same content keeps it, and only the node knows all of its names.
        let full = node.held(&held[node.name()].all_names().map(str::to_owned).collect::<Vec<_>>()).await?;
        let names = with_ids(&full, names);
        let remove = ["ctr", "--namespace", "k8s.io", "images", "rm"].into_iter().map(str::to_owned);
        node.exec(remove.chain(names.iter().cloned())).ensure_success().await?;
        anyhow::Ok(names.iter().filter(|name| name.starts_with(LOCAL)).count())
    }));
    let counts: Result<Vec<usize>> = removed.await.into_iter().collect();
    Ok(counts?.into_iter().sum())
}

/// Images of ours by content, older than a day, that are not in `keep`.
fn old(held: &Held, keep: &BTreeSet<String>) -> Vec<String> {
    let names = held
        .all_names()
        .filter(|name| is_content_reference(name) && !keep.contains(*name) && held.is_old(name));
    names.map(str::to_owned).collect()
}

/// Those of `names` that the text of no object has.
fn unnamed(names: &[String], objects: &str) -> Vec<String> {
    names.iter().filter(|name| !objects.contains(name.as_str())).cloned().collect()
}

/// `names`, and the names by id that kubelet's interface gave to the same content where no other name has it.
fn with_ids(held: &Held, mut names: Vec<String>) -> Vec<String> {
    let mut by_config: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in held.all_names() {
        if let Some(config) = held.config(name) {
            by_config.entry(config).or_default().push(name);
        }
    }
    let ids: Vec<String> = by_config
        .iter()
        .filter(|(id, all)| all.iter().all(|name| name == *id || names.iter().any(|gone| gone == name)))
        .filter(|(id, all)| all.contains(id) && all.len() > 1)
        .map(|(id, _)| (*id).to_owned())
        .collect();
    names.extend(ids);
    names
}

/// The text of all objects that may name an image.
async fn named(client: &Client) -> Result<String> {
    let list = NAMING.iter().map(|(group, version, kind, plural)| async move {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let objects = api.list(&ListParams::default()).await?;
        anyhow::Ok(serde_json::to_string(&objects.items)?)
    });
    Ok(try_join_all(list).await?.concat())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;

    use super::*;
    use crate::cluster::clock::Clock;
    use crate::fake_api::{self, answer};

    const ANSWER: &str = "MACHINE x86_64
SIZE aa 1
NAME k8s-test.local/app:0123456789ab
NAME k8s-test.local/app:0123456789ac
NAME k8s-test.local/app:builtin
NAME docker.io/library/app:0123456789ab
NAME sha256:c0
REF TYPE DIGEST SIZE PLATFORMS LABELS
k8s-test.local/app:0123456789ab type sha256:aa 1 MiB linux/amd64 -
sha256:c0 type sha256:aa 1 MiB linux/amd64 -
k8s-test.local/app:0123456789ac type sha256:bb 1 MiB linux/amd64 -
DIGEST\tSIZE\tAGE\tLABELS
sha256:aa\t1B\t3 days\tcontainerd.io/gc.ref.content.config=sha256:c0
sha256:bb\t1B\t3 minutes\tcontainerd.io/gc.ref.content.config=sha256:c1
";

    #[test]
    fn only_old_content_of_ours_goes() {
        let held = Held::parse(ANSWER);
        let ours = "k8s-test.local/app:0123456789ab".to_owned();
        assert_eq!(old(&held, &BTreeSet::new()), std::slice::from_ref(&ours));
        assert!(old(&held, &BTreeSet::from([ours.clone()])).is_empty());
        assert!(unnamed(std::slice::from_ref(&ours), "image: k8s-test.local/app:0123456789ab,").is_empty());
        assert_eq!(with_ids(&held, vec![ours.clone()]), [ours, "sha256:c0".to_owned()]);
    }

    #[tokio::test]
    async fn while_another_run_is_there_all_content_stays() {
        let (client, mut server) = fake_api::client();
        let (name, clock) = ("k8s-test".to_owned(), Clock::default());
        let cluster = Cluster { name, kubeconfig: "/k".into(), client, clock, nodes: Vec::new() };
        let held = Inventory::from([("node".to_owned(), Held::parse(ANSWER))]);
        let (keep, events) = (BTreeSet::new(), Events::new(Vec::new()));
        let serve = async {
            let (request, send) = server.next_request().await.unwrap();
            assert_eq!(request.uri().path(), "/api/v1/namespaces");
            let lives = json!({"metadata": {"name": "a-3fcd70", "labels": {"k8s-test.local/run": "other"}}});
            let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": [lives]});
            send.send_response(answer(StatusCode::OK, &list));
            // Whoever asks for more waits for it.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            pruned = prune_all(&cluster, "r", &held, &keep, &events) => assert_eq!(pruned.unwrap(), 0),
            () = serve => {}
            () = tokio::time::sleep(LIMIT) => panic!("it looks for what to remove"),
        }
    }

    #[test]
    fn content_that_has_another_name_stays() {
        let more = ANSWER
            .replace("DIGEST\t", "docker.io/library/other:1 type sha256:aa 1 MiB linux/amd64 -\nDIGEST\t");
        let held =
            Held::parse(&more.replace("NAME sha256:c0", "NAME sha256:c0\nNAME docker.io/library/other:1"));
        let ours = "k8s-test.local/app:0123456789ab".to_owned();
        assert_eq!(with_ids(&held, vec![ours.clone()]), [ours]);
    }
}
