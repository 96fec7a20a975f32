//! The API server takes all that is rendered, and knows each of its fields.

use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::{ApiResource, GroupVersionKind, TypeMeta};
use serde_json::json;
use suite_support::Suite;

use crate::helm::render_as;
use crate::manifests::id;
use crate::values::documents;

#[tokio::test]
async fn the_api_server_takes_every_object_of_every_document() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;
    // Where there is nothing of their names.
    let namespace = suite.contract.namespace("runs")?;
    let dry = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("chart-suite")
    };
    let mut objects = Vec::new();
    for document in documents()? {
        for release in ["accepted".to_owned(), "r".repeat(53)] {
            let manifests = render_as(document.chart, &release, document.values.clone()).await?;
            objects.extend(manifests.all().iter().map(|object| (document.name.clone(), object.clone())));
        }
    }
    let refused: Vec<String> = stream::iter(objects)
        .map(|(document, mut object)| {
            let dry = &dry;
            let suite = &suite;
            async move {
                object["metadata"]["namespace"] = json!(namespace);
                let types: TypeMeta = serde_json::from_value(object.clone())?;
                let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
                let api: Api<DynamicObject> =
                    Api::namespaced_with(suite.client().clone(), namespace, &resource);
                let answer = api.patch(crate::manifests::name(&object), dry, &Patch::Apply(&object)).await;
                let refused = answer.err().map(|error| match error {
                    kube::Error::Api(status) => status.message,
                    error => error.to_string(),
                });
                anyhow::Ok(refused.map(|why| format!("{document}: {}: {why}", id(&object))))
            }
        })
        .buffer_unordered(4)
        .try_filter_map(async |refused| Ok(refused))
        .try_collect()
        .await?;
    assert!(refused.is_empty(), "refused: {}", refused.join("\n"));
    Ok(())
}
