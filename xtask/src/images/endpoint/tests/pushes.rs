//! What a client is answered in the course of a push.

use super::*;

#[tokio::test]
async fn a_pushed_image_is_received_as_it_was_sent() {
    let world = World::new(ROOMY, &[]).await;
    let answer = world.send(Method::GET, "/v2/").await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "docker-distribution-api-version")),
        (200, "registry/2.0".to_owned())
    );

    let (layer, config) = (vec![7; 5000], b"{}".to_vec());
    let (layer_digest, config_digest) = (digest_of(&layer), digest_of(&config));
    let answer = world.ask(Method::HEAD, &format!("blobs/{layer_digest}")).await;
    assert_eq!(answer.status(), 404);
    let answer = world.upload(&layer, &layer_digest).await;
    assert_eq!(
        (answer.status().as_u16(), header(&answer, "docker-content-digest")),
        (201, layer_digest.clone())
    );
    // Docker's client asks once more before it goes on.
    let answer = world.ask(Method::HEAD, &format!("blobs/{layer_digest}")).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "5000".to_owned()));
    // As containerd does: all with the end.
    let location = world.begin().await;
    let end = world.request(Method::PUT, &format!("{location}?digest={config_digest}")).body(config.clone());
    assert_eq!(end.send().await.unwrap().status(), 201);

    let manifest = format!(
        r#"{{"config": {{"digest": "{config_digest}"}}, "layers": [{{"digest": "{layer_digest}"}}]}}"#
    );
    let digest = digest_of(manifest.as_bytes());
    let answer = world.put_manifest("v1", manifest.clone()).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "docker-content-digest")), (201, digest.clone()));
    for reference in ["v1", &digest] {
        let answer = world.ask(Method::GET, &format!("manifests/{reference}")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, MEDIA_TYPE.to_owned()));
        assert_eq!(answer.text().await.unwrap(), manifest, "{reference}");
    }
    let answer = world.ask(Method::HEAD, "manifests/v1").await;
    assert_eq!(header(&answer, "content-length"), manifest.len().to_string());
    let index = format!(r#"{{"manifests": [{{"digest": "{digest}"}}]}}"#);
    assert_eq!(world.put_manifest(&digest_of(index.as_bytes()), index.clone()).await.status(), 201);

    let received = world.endpoint.finish().await;
    assert_eq!(received.bytes, (layer.len() + config.len() + manifest.len() + index.len()) as u64);
    let name = format!("{REPOSITORY}:v1");
    let expected = Manifest { bytes: manifest.into(), media_type: MEDIA_TYPE.to_owned(), digest };
    assert_eq!(received.manifests[&name], expected);
    assert!(received.manifests.contains_key(&format!("{REPOSITORY}@{}", digest_of(index.as_bytes()))));
    let blobs = BTreeMap::from([(layer_digest, layer.into()), (config_digest, config.into())]);
    assert_eq!((received.blobs, received.dropped), (blobs, BTreeMap::new()));
}

#[tokio::test]
async fn what_the_nodes_hold_exists_with_its_length_and_can_be_mounted() {
    let held = digest_of(b"held");
    let lacked = digest_of(b"lacked");
    let world = World::new(ROOMY, &[(&held, 123_456)]).await;
    let answer = world.ask(Method::HEAD, &format!("blobs/{held}")).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "content-length")), (200, "123456".to_owned()));
    let answer = world
        .ask(Method::POST, &format!("blobs/uploads/?from=a%2Fb&mount={}", held.replace(':', "%3A")))
        .await;
    assert_eq!((answer.status().as_u16(), header(&answer, "docker-content-digest")), (201, held.clone()));
    let answer = world.ask(Method::POST, &format!("blobs/uploads/?from=a%2Fb&mount={lacked}")).await;
    assert_eq!((answer.status().as_u16(), header(&answer, "range")), (202, "0-0".to_owned()));
    let manifest = format!(r#"{{"layers": [{{"digest": "{held}"}}]}}"#);
    assert_eq!(world.put_manifest("v1", manifest).await.status(), 201);
    assert!(world.endpoint.finish().await.blobs.is_empty());
}

#[tokio::test]
async fn a_wrong_digest_is_refused_and_leaves_nothing() {
    let world = World::new(ROOMY, &[]).await;
    let wrong = digest_of(b"other");
    let answer = world.upload(b"content", &wrong).await;
    assert_eq!(code(answer).await, (400, "DIGEST_INVALID".to_owned()));
    assert_eq!(world.ask(Method::HEAD, &format!("blobs/{wrong}")).await.status(), 404);
    let whole = world.request(Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/?digest={wrong}"));
    assert_eq!(code(whole.body("content").send().await.unwrap()).await, (400, "DIGEST_INVALID".to_owned()));
    let answer = world.put_manifest(&wrong, "{}").await;
    assert_eq!(code(answer).await, (400, "DIGEST_INVALID".to_owned()));
    let unverifiable = world.upload(b"content", "sha512:00").await;
    assert_eq!(code(unverifiable).await, (400, "DIGEST_INVALID".to_owned()));
    let received = world.endpoint.finish().await;
    assert!(received.blobs.is_empty() && received.manifests.is_empty() && received.dropped.is_empty());
}

#[tokio::test]
async fn a_blob_may_come_in_one_request_or_in_many() {
    let world = World::new(ROOMY, &[]).await;
    let whole = digest_of(b"whole");
    let request = world.request(Method::POST, &format!("/v2/{REPOSITORY}/blobs/uploads/?digest={whole}"));
    assert_eq!(request.body("whole").send().await.unwrap().status(), 201);

    let location = world.begin().await;
    let piece = |range: &'static str, text: &'static str| {
        world.request(Method::PATCH, &location).header("Content-Range", range).body(text).send()
    };
    assert_eq!(header(&piece("0-1", "pi").await.unwrap(), "range"), "0-1");
    let out_of_order = piece("5-6", "xx").await.unwrap();
    assert_eq!((out_of_order.status().as_u16(), header(&out_of_order, "range")), (416, "0-1".to_owned()));
    assert_eq!(header(&world.send(Method::GET, &location).await, "range"), "0-1");
    assert_eq!(piece("2-3", "ec").await.unwrap().status(), 202);
    let pieces = digest_of(b"pieces");
    let end = world.request(Method::PUT, &format!("{location}?digest={pieces}")).body("es");
    assert_eq!(end.send().await.unwrap().status(), 201);

    let cancelled = world.begin().await;
    assert_eq!(world.send(Method::DELETE, &cancelled).await.status(), 204);
    assert_eq!(
        code(world.send(Method::GET, &cancelled).await).await,
        (404, "BLOB_UPLOAD_UNKNOWN".to_owned())
    );
    let received = world.endpoint.finish().await;
    assert_eq!(received.blobs.len(), 2);
    assert_eq!((&received.blobs[&whole][..], &received.blobs[&pieces][..]), (&b"whole"[..], &b"pieces"[..]));
}

#[tokio::test]
async fn only_the_repositories_it_was_told_of_are_served() {
    let world = World::new(ROOMY, &[]).await;
    let digest = digest_of(b"");
    for repository in ["app", "secret", "secret/app2", "other/secret/app"] {
        for (method, path) in [
            (Method::POST, "blobs/uploads/".to_owned()),
            (Method::HEAD, format!("blobs/{digest}")),
            (Method::GET, "manifests/v1".to_owned()),
            (Method::PUT, "manifests/v1".to_owned()),
        ] {
            let head = method == Method::HEAD;
            let answer = world.send(method, &format!("/v2/{repository}/{path}")).await;
            assert_eq!(answer.status(), 404, "{repository}/{path}");
            if !head {
                assert_eq!(code(answer).await.1, "NAME_UNKNOWN", "{repository}/{path}");
            }
        }
    }
    assert_eq!(code(world.ask(Method::PUT, "blobs/uploads/").await).await, (405, "UNSUPPORTED".to_owned()));
}

#[tokio::test]
async fn a_manifest_may_only_name_what_is_somewhere() {
    let world = World::new(ROOMY, &[]).await;
    let lacked = digest_of(b"lacked");
    for manifest in [
        format!(r#"{{"config": {{"digest": "{lacked}"}}}}"#),
        format!(r#"{{"layers": [{{"digest": "{lacked}"}}]}}"#),
        format!(r#"{{"manifests": [{{"digest": "{lacked}"}}]}}"#),
    ] {
        let answer = world.put_manifest("v1", manifest.clone()).await;
        assert_eq!(code(answer).await, (400, "MANIFEST_BLOB_UNKNOWN".to_owned()), "{manifest}");
    }
    let elsewhere = format!(r#"{{"layers": [{{"digest": "{lacked}", "urls": ["https://example.com/x"]}}]}}"#);
    assert_eq!(world.put_manifest("v1", elsewhere).await.status(), 201);
    assert_eq!(code(world.put_manifest("v1", "no JSON").await).await, (400, "MANIFEST_INVALID".to_owned()));
    assert_eq!(code(world.put_manifest("-v1", "{}").await).await, (400, "TAG_INVALID".to_owned()));
}
