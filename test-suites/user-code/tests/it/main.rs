//! Dagster's code locations, from outside: what they offer, and what is left of it while their servers are away.

mod locations;
mod servers;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use serde_json::Value;
use suite_support::cluster::{self, Select};
use suite_support::dagster::Error;
use suite_support::jobs::RUN_LIMIT;
use suite_support::{Launch, Suite};

/// A run of a job of the small repository that has two editions.
fn edition(location: &str, job: &str) -> Launch {
    Launch { location: location.to_owned(), repository: "editions".to_owned(), ..Launch::job(job) }
}

fn server_labels(location: &str) -> String {
    format!("component=user-deployments,deployment={location}")
}

/// Whether a launch is refused because the location has no such job, or is not there itself.
fn is_unknown<T>(launched: &Result<T, Error>) -> bool {
    matches!(launched, Err(Error::Refused { typename, .. }) if typename == "PipelineNotFoundError")
}

/// Waits until the pods of a location's code server, as a whole, are so.
async fn await_server(
    suite: &Suite,
    location: &str,
    awaited: &str,
    fulfilled: impl Fn(&[Pod]) -> bool,
) -> anyhow::Result<Vec<Pod>> {
    let select = Select::Labels(server_labels(location));
    Ok(cluster::await_objects(suite.user_pods(), &select, awaited, RUN_LIMIT, fulfilled).await?)
}

/// Changes the Deployment of a location's code server by a strategic merge.
async fn change_server(suite: &Suite, location: &str, patch: &Value) -> Result<(), kube::Error> {
    let deployments: Api<Deployment> = Api::namespaced(suite.client().clone(), suite.user_namespace());
    cluster::change_deployment(&deployments, &server_labels(location), patch).await
}
