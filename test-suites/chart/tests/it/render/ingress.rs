//! The webservers under host names.

use serde_json::{Value, json};

use crate::helm::render;

const NAME: &str = "dagster-ingress";

fn ingress(more: Value) -> Value {
    crate::values::merged(&json!({"ingress": {"enabled": true}}), &more)
}

fn webserver(path: &str, service: &str) -> Value {
    json!({"path": path, "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"name": "http"}}}})
}

#[tokio::test]
async fn without_being_asked_for_it_is_not_there() -> anyhow::Result<()> {
    assert!(render(json!({})).await?.names("Ingress").is_empty());
    Ok(())
}

#[tokio::test]
async fn it_leads_to_the_webserver_from_every_host_unless_one_is_named() -> anyhow::Result<()> {
    let manifests = render(ingress(json!({}))).await?;
    let spec = &manifests.one("Ingress", NAME)["spec"];
    let rule = json!({"http": {"paths": [webserver("/", "dagster-dagster-webserver")]}});
    assert_eq!(spec, &json!({"rules": [rule]}));
    assert_eq!(manifests.one("Ingress", NAME)["apiVersion"], "networking.k8s.io/v1");
    Ok(())
}

#[tokio::test]
async fn paths_before_and_after_the_webserver_s_stay_in_their_order() -> anyhow::Result<()> {
    let path = |path: &str, port: Value| json!({"path": path, "pathType": "Exact", "serviceName": "other", "servicePort": port});
    let values = ingress(json!({"ingress": {
        "ingressClassName": "class",
        "annotations": {"of": "ingress"},
        "dagsterWebserver": {
            "host": "dagster.example.com",
            "path": "/dagster",
            "precedingPaths": [path("/a", json!("ssl")), path("/b", json!(8443))],
            "succeedingPaths": [path("/c", json!("ssl"))],
        },
    }}));
    let manifests = render(values).await?;
    let ingress = manifests.one("Ingress", NAME);
    let other = |path: &str, port: Value| json!({"path": path, "pathType": "Exact", "backend": {"service": {"name": "other", "port": port}}});
    let paths = json!([
        other("/a", json!({"name": "ssl"})),
        other("/b", json!({"number": 8443})),
        webserver("/dagster", "dagster-dagster-webserver"),
        other("/c", json!({"name": "ssl"})),
    ]);
    let rules = json!([{"host": "dagster.example.com", "http": {"paths": paths}}]);
    assert_eq!(ingress["spec"], json!({"ingressClassName": "class", "rules": rules}));
    assert_eq!(ingress["metadata"]["annotations"], json!({"of": "ingress"}));
    Ok(())
}

#[tokio::test]
async fn the_webserver_that_only_shows_has_its_own_host_and_certificate() -> anyhow::Result<()> {
    let host =
        |host: &str| json!({"host": host, "tls": {"enabled": true, "secretName": format!("of-{host}")}});
    let hosts = json!({"ingress": {"dagsterWebserver": host("one.example.com"), "readOnlyDagsterWebserver": host("two.example.com")}});
    let tls = |host: &str| json!({"hosts": [host], "secretName": format!("of-{host}")});
    // Without such a webserver there is nothing to lead to.
    let manifests = render(ingress(hosts.clone())).await?;
    let spec = &manifests.one("Ingress", NAME)["spec"];
    assert_eq!(spec["tls"], json!([tls("one.example.com")]));
    assert_eq!(spec["rules"].as_array().map(Vec::len), Some(1));

    let both = crate::values::merged(&hosts, &json!({"dagsterWebserver": {"enableReadOnly": true}}));
    let manifests = render(ingress(both)).await?;
    let spec = &manifests.one("Ingress", NAME)["spec"];
    assert_eq!(spec["tls"], json!([tls("one.example.com"), tls("two.example.com")]));
    let second = json!({"host": "two.example.com", "http": {"paths": [webserver("/", "dagster-dagster-webserver-read-only")]}});
    assert_eq!(spec["rules"][1], second);
    for service in ["dagster-dagster-webserver", "dagster-dagster-webserver-read-only"] {
        assert_eq!(manifests.one("Service", service)["spec"]["ports"][0]["name"], "http", "{service}");
    }
    Ok(())
}

#[tokio::test]
async fn flower_has_a_host_of_its_own() -> anyhow::Result<()> {
    let host = json!({"ingress": {"flower": {"host": "flower.example.com"}}, "flower": {"enabled": true}});
    let celery = json!({"runLauncher": {"type": "CeleryK8sRunLauncher"}, "rabbitmq": {"enabled": true}});
    let manifests = render(ingress(crate::values::merged(&host, &celery))).await?;
    let rules = manifests.one("Ingress", NAME)["spec"]["rules"].as_array().cloned().unwrap_or_default();
    let of_flower: Vec<&Value> = rules.iter().filter(|rule| rule["host"] == "flower.example.com").collect();
    let [rule] = of_flower[..] else { panic!("not one rule of Flower's host among {rules:?}") };
    let service = &rule["http"]["paths"][0]["backend"]["service"];
    assert_eq!(service["port"], json!({"name": "flower"}));
    let service = manifests.one("Service", service["name"].as_str().unwrap_or_default());
    assert_eq!(service["spec"]["selector"]["component"], "flower");
    assert_eq!(service["spec"]["ports"][0]["name"], "flower");
    // The webserver stays where it was.
    assert_eq!(rules.len(), 2, "{rules:?}");
    Ok(())
}
