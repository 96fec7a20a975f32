//! What the charts render to; nothing of it needs a cluster.

mod checksums;
mod containers;
mod every_value;
mod ingress;
mod instance;
mod names;
mod probes;
mod references;
mod refusals;
pub(crate) mod rights;

use crate::helm::render_as;
use crate::manifests::Manifests;
use crate::values::documents;

/// The longest name of a release that helm takes.
pub(crate) const LONGEST: usize = 53;

/// Releases of all documents, by what they are: with the name of the chart, and with the longest of another kind.
pub(crate) async fn releases() -> anyhow::Result<Vec<(String, Manifests)>> {
    let mut releases = Vec::new();
    for document in documents()? {
        for release in ["dagster".to_owned(), "r".repeat(LONGEST)] {
            let what = format!("{} as {release}", document.name);
            releases.push((what, render_as(document.chart, &release, document.values.clone()).await?));
        }
    }
    Ok(releases)
}
