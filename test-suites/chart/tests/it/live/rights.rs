//! What the accounts of a release may do: what their Roles say, where they say it, and nothing else.

use std::collections::BTreeSet;

use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::{Value, json};
use suite_support::cluster;
use suite_support::contract::Contract;

use crate::render::rights::{rules, rules_elsewhere};

/// The account of the release `rights`, in the namespace of its own role, where no run starts.
const SYSTEM: &str = "rights-dagster";
/// The account of the release `code`, in the namespace of the runs.
const CODE: &str = "code-dagster-user-deployments-user-deployments";

/// Verb, API group and resource.
type Right = (String, String, String);

/// A client that is a service account to the cluster.
async fn account(contract: &Contract, role: &str, name: &str) -> anyhow::Result<Client> {
    let mut config = cluster::config(contract.kubeconfig()).await?;
    let user = format!("system:serviceaccount:{}:{name}", contract.namespace(role)?);
    config.auth_info.impersonate = Some(user);
    Ok(Client::try_from(config)?)
}

/// What the cluster says that a client may do in a namespace.
async fn rights(client: &Client, namespace: &str) -> anyhow::Result<BTreeSet<Right>> {
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let reviews: Api<SelfSubjectRulesReview> = Api::all(client.clone());
    let review = reviews.create(&PostParams::default(), &review).await?;
    let rules = review.status.map(|status| status.resource_rules).unwrap_or_default();
    let mut rights = BTreeSet::new();
    for rule in rules {
        let named = rule.resource_names.unwrap_or_default();
        assert!(named.is_empty(), "rights for {named:?} alone");
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| (verb.clone(), group.clone(), resource.clone())));
            }
        }
    }
    Ok(rights)
}

/// These rules one by one.
fn each(rules: &Value) -> BTreeSet<Right> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let mut each = BTreeSet::new();
    for rule in rules.as_array().into_iter().flatten() {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                each.extend(
                    texts(&rule["verbs"]).into_iter().map(|verb| (verb, group.clone(), resource.clone())),
                );
            }
        }
    }
    each
}

#[tokio::test]
async fn an_account_has_the_rights_of_its_role_and_none_besides() -> anyhow::Result<()> {
    let contract = Contract::from_env()?;
    for (of, name, given) in [("rights", SYSTEM, rules_elsewhere()), ("runs", CODE, rules())] {
        let client = account(&contract, of, name).await?;
        // What everybody may do, such as ask for one's own rights.
        let nobody = account(&contract, of, "default").await?;
        for role in ["rights", "runs", "system"] {
            let namespace = contract.namespace(role)?;
            let everybody = rights(&nobody, namespace).await?;
            let own: BTreeSet<Right> =
                rights(&client, namespace).await?.difference(&everybody).cloned().collect();
            let expected = if role == "runs" { each(&given) } else { BTreeSet::new() };
            assert_eq!(own, expected, "{name} in {role}");
        }
    }
    Ok(())
}

/// Whether the cluster did what it was asked for, or forbade it.
fn allowed<T>(answer: Result<T, kube::Error>) -> anyhow::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[tokio::test]
async fn runs_are_launched_where_they_belong_and_no_secret_is_read() -> anyhow::Result<()> {
    let contract = Contract::from_env()?;
    let client = account(&contract, "rights", SYSTEM).await?;
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": "probe"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "probe"}]}}},
    }))?;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    for (role, expected) in [("rights", false), ("runs", true), ("system", false)] {
        let jobs: Api<Job> = Api::namespaced(client.clone(), contract.namespace(role)?);
        assert_eq!(allowed(jobs.create(&dry, &job).await)?, expected, "create a Job in {role}");
        let pods: Api<Pod> = Api::namespaced(client.clone(), contract.namespace(role)?);
        assert_eq!(allowed(pods.list(&ListParams::default()).await)?, expected, "list the pods in {role}");
    }
    let all = ListParams::default();
    for role in ["rights", "runs"] {
        let namespace = contract.namespace(role)?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        assert!(!allowed(secrets.list(&all).await)?, "list the Secrets in {role}");
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        assert!(!allowed(maps.list(&all).await)?, "list the ConfigMaps in {role}");
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
        assert!(!allowed(bindings.list(&all).await)?, "list the RoleBindings in {role}");
    }
    let nodes: Api<Node> = Api::all(client);
    assert!(!allowed(nodes.list(&all).await)?, "list the nodes");
    Ok(())
}
