//! A cluster of the user's own, by a kubeconfig that is read and never written.

use anyhow::{Context, Result, anyhow};
use camino::Utf8Path;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::ListParams;
use kube::config::Kubeconfig;
use kube::{Api, Client};

use super::clock::Clock;
use super::{Cluster, client, proxy, write_private};
use crate::config::Guard;
use crate::env::Env;
use crate::exit::{Exit, ExitWith, coded};
use crate::{fail, text};

/// A cluster that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The kubeconfig to read.
    pub file: &'a Utf8Path,
    /// The context that the user has named.
    pub context: Option<&'a str>,
    /// What may be used without being named.
    pub guard: &'a Guard,
}

/// Connects to the cluster that is wanted; a kubeconfig for its context alone goes to `own`.
///
/// # Errors
/// The file or the context does not exist, or it was neither named nor allowed (exit 2); the API does not answer or
/// refuses us (exit 3).
pub async fn connect(
    Wanted { file, context, guard }: Wanted<'_>,
    own: &Utf8Path,
    kind: &kind_client::Kind,
) -> Result<Cluster> {
    if !file.is_file() {
        fail!(
            Exit::Usage,
            "the kubeconfig {file} does not exist; give another by --kubeconfig or KUBECONFIG"
        );
    }
    if file.canonicalize().ok() == own.canonicalize().ok() {
        fail!(Exit::Usage, "the run's own kubeconfig {own} would overwrite {file}; give another --output");
    }
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| {
        coded(Exit::Usage, anyhow::Error::new(error).context(format!("read the kubeconfig {file}")))
    })?;
    let mut kubeconfig = only(kubeconfig, context, file)?;
    proxy::settle(&mut kubeconfig, &Env::proxies());
    let name = kubeconfig.current_context.clone().unwrap_or_default();
    let server = server(&kubeconfig);
    // Before anything is asked of it: the current context is often somebody's production.
    if context.is_none() && !guard.contexts.contains(&name) {
        fail!(
            Exit::Usage,
            "the current context of {file} is `{name}` at {server}, which k8s-test did not make; name it by --context {name} to use it, or allow it in ci/clusters.yaml"
        );
    }
    write_private(own, &serde_yaml::to_string(&kubeconfig)?)?;
    let client = client(kubeconfig)
        .await
        .map_err(|error| coded(Exit::Usage, error.context(format!("use the context `{name}` of {file}"))))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    namespaces
        .list(&ListParams::default().limit(1))
        .await
        .map_err(|error| refused(error, &name, &server))
        .or_exit(Exit::Environment)?;
    let nodes = kind_nodes(&client, kind).await?;
    Ok(Cluster { name, kubeconfig: own.to_owned(), client, clock: Clock::default(), nodes })
}

/// The kubeconfig with one context, which is the current one.
fn only(mut kubeconfig: Kubeconfig, context: Option<&str>, file: &Utf8Path) -> Result<Kubeconfig> {
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let known = || known.iter().map(String::as_str);
    let Some(name) = context.map(str::to_owned).or_else(|| kubeconfig.current_context.clone()) else {
        fail!(
            Exit::Usage,
            "{file} has no current context; name one by --context{}",
            text::suggestion("", known())
        );
    };
    if !kubeconfig.contexts.iter().any(|context| context.name == name) {
        fail!(Exit::Usage, "{file} has no context `{name}`{}", text::suggestion(&name, known()));
    }
    kubeconfig.contexts.retain(|context| context.name == name);
    let used = kubeconfig.contexts.first().and_then(|context| context.context.clone());
    if let Some(used) = used {
        kubeconfig.clusters.retain(|cluster| cluster.name == used.cluster);
        kubeconfig.auth_infos.retain(|user| Some(&user.name) == used.user.as_ref());
    }
    kubeconfig.current_context = Some(name);
    Ok(kubeconfig)
}

fn server(kubeconfig: &Kubeconfig) -> String {
    let cluster = kubeconfig.clusters.first().and_then(|cluster| cluster.cluster.as_ref());
    cluster.and_then(|cluster| cluster.server.clone()).unwrap_or_else(|| "an unknown address".to_owned())
}

fn refused(error: kube::Error, name: &str, server: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.code == 401 => anyhow!(
            "the API server of context `{name}` at {server} refuses its credentials: {}; log in again",
            status.message
        ),
        kube::Error::Api(status) if status.code == 403 => anyhow!(
            "the user of context `{name}` may not list namespaces at {server}: {}; k8s-test makes namespaces and finds its own among all, so it needs that right",
            status.message
        ),
        error => anyhow::Error::new(error).context(format!(
            "the API server of context `{name}` does not answer at {server}; is the cluster running, and is the context the right one?"
        )),
    }
}

/// The nodes' containers, where the cluster is one of kind's on this machine, so that images can be brought.
async fn kind_nodes(client: &Client, kind: &kind_client::Kind) -> Result<Vec<kind_client::Node>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let all = match nodes.list(&ListParams::default()).await {
        // Whose nodes nobody may see, to those nobody on this machine brings images.
        Err(kube::Error::Api(status)) if status.code == 403 => return Ok(Vec::new()),
        all => all.context("list the cluster's nodes").or_exit(Exit::Environment)?,
    };
    let names = all.items.iter().map(|node| {
        let id = node.spec.as_ref()?.provider_id.as_deref()?;
        // kind://<engine>/<cluster>/<node>
        id.strip_prefix("kind://")?.rsplit('/').next().map(|name| kind.node(name))
    });
    let nodes: Vec<_> = names.collect::<Option<_>>().unwrap_or_default();
    // As with a cluster of our own: what takes no pods needs no images.
    let takers = super::takers(all.items.iter());
    let nodes: Vec<_> = nodes.into_iter().filter(|node| takers.contains(node.name())).collect();
    for node in &nodes {
        // The cluster may be one of kind's on another machine.
        if !node.is_running().await.unwrap_or(false) {
            return Ok(Vec::new());
        }
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c1, user: u1}}
- {name: two, context: {cluster: c2, user: u2}}
clusters:
- {name: c1, cluster: {server: 'https://127.0.0.1:1'}}
- {name: c2, cluster: {server: 'https://127.0.0.1:2'}}
users:
- {name: u1, user: {token: t1}}
- {name: u2, user: {token: t2}}
";

    fn kubeconfig() -> Kubeconfig {
        Kubeconfig::from_yaml(TWO).unwrap()
    }

    #[test]
    fn the_copy_has_one_context_with_its_credentials_and_no_others() {
        let copy = only(kubeconfig(), Some("two"), "f".into()).unwrap();
        let text = serde_yaml::to_string(&copy).unwrap();
        assert!(text.contains("t2") && text.contains("127.0.0.1:2"), "{text}");
        assert!(!text.contains("t1") && !text.contains("127.0.0.1:1"), "{text}");
        assert_eq!(server(&copy), "https://127.0.0.1:2");
    }

    #[test]
    fn an_unknown_context_gets_a_suggestion() {
        let error = only(kubeconfig(), Some("tow"), "f".into()).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert_eq!(error.to_string(), "f has no context `tow`; did you mean `two`?");
    }

    #[test]
    fn refused_credentials_and_missing_rights_are_told_apart() {
        let status = |code: u16| {
            let text = format!(
                r#"{{"kind": "Status", "status": "Failure", "reason": "x", "message": "no", "code": {code}}}"#
            );
            kube::Error::Api(serde_json::from_str(&text).unwrap())
        };
        let text = |code| refused(status(code), "mine", "https://10.0.0.1").to_string();
        assert!(text(401).contains("refuses its credentials: no; log in again"), "{}", text(401));
        assert!(text(403).contains("may not list namespaces"), "{}", text(403));
    }

    #[tokio::test]
    async fn an_api_that_does_not_answer_is_named_with_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let file = folder.join("config");
        std::fs::write(&file, TWO).unwrap();
        let kind = kind_client::Kind::new();
        let guard = Guard { contexts: vec!["one".to_owned()] };
        let wanted = Wanted { file: &file, context: None, guard: &guard };
        let error = connect(wanted, &folder.join("own"), &kind).await.err().unwrap();
        assert_eq!(Exit::of(&error), Exit::Environment);
        assert!(error.to_string().contains("does not answer at https://127.0.0.1:1"), "{error}");
    }

    #[tokio::test]
    async fn a_current_context_that_nobody_named_is_not_even_asked() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let file = folder.join("config");
        std::fs::write(&file, TWO).unwrap();
        let guard = Guard { contexts: vec!["two".to_owned()] };
        let connect = async |context| {
            let wanted = Wanted { file: &file, context, guard: &guard };
            connect(wanted, &folder.join("own"), &kind_client::Kind::new()).await.err().unwrap()
        };
        let error = connect(None).await;
        assert_eq!(Exit::of(&error), Exit::Usage);
        assert!(error.to_string().contains("name it by --context one"), "{error}");
        assert!(!folder.join("own").exists());
        // As soon as it is named it is asked, and does not answer.
        assert_eq!(Exit::of(&connect(Some("one")).await), Exit::Environment);
    }
}
