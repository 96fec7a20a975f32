//! Logs of programs that run: those of attempts that have ended come with the watch.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, Client};

use super::asked::Item;
use super::verdict::Verdict;

/// How many of a container's last lines are looked at.
const LINES: i64 = 20;
/// At most so many bytes of them.
const BYTES: i64 = 64 << 10;
/// How long they may take: whoever waits for the message is to have it.
const TIME: Duration = Duration::from_secs(1);

/// Asks for the last lines of a container, or of its attempt before.
pub(super) fn last_lines(container: &str, previous: bool) -> LogParams {
    LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(LINES),
        limit_bytes: Some(BYTES),
        previous,
        ..LogParams::default()
    }
}

/// Adds the last lines of the containers that keep something from being ready and have none yet.
pub(super) async fn add(client: &Client, verdicts: &mut [(Item, Verdict)]) {
    let read = verdicts.iter_mut().map(async |(item, verdict)| {
        let (Verdict::Wait { cause, .. } | Verdict::Doomed(cause)) = verdict else { return };
        let (Some(pod), Some(container), None) = (&cause.pod, &cause.container, &cause.log) else { return };
        let pods: Api<Pod> = Api::namespaced(client.clone(), &item.key.namespace);
        // One that has not begun has none.
        let text = tokio::time::timeout(TIME, pods.logs(pod, &last_lines(container, false))).await;
        cause.log = text.ok().and_then(Result::ok).filter(|text| !text.trim().is_empty());
    });
    join_all(read).await;
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::fake_api;
    use crate::ready::asked::Kind;
    use crate::ready::cause::{Cause, Kind as CauseKind};
    use crate::ready::object::Key;

    fn waits(pod: &str, log: Option<&str>) -> (Item, Verdict) {
        let mut cause = Cause::new(CauseKind::Readiness, "its probe fails").at(pod, Some("c"));
        cause.log = log.map(str::to_owned);
        (Item { kind: Kind::Deployment, key: Key::new("ns", "web") }, Verdict::Wait { cause, until: None })
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_of_what_runs_are_added_and_waited_for_a_moment_only() {
        let (client, mut server) = fake_api::client();
        let serving = tokio::spawn(async move {
            let mut unanswered = Vec::new();
            while let Some((request, send)) = server.next_request().await {
                match request.uri().path() {
                    "/api/v1/namespaces/ns/pods/slow/log" => unanswered.push(send),
                    "/api/v1/namespaces/ns/pods/new/log" => {
                        let status = json!({"kind": "Status", "status": "Failure", "code": 400, "message": "waiting to start"});
                        send.send_response(fake_api::answer(StatusCode::BAD_REQUEST, &status));
                    }
                    path => {
                        let text = format!("{path} waits for a lock\n");
                        send.send_response(Response::new(Body::from(text.into_bytes())));
                    }
                }
            }
        });
        let mut verdicts =
            [waits("slow", None), waits("new", None), waits("web-0", None), waits("known", Some("before"))];
        add(&client, &mut verdicts).await;
        serving.abort();
        let logs = verdicts.map(|(_, verdict)| match verdict {
            Verdict::Wait { cause, .. } => cause.log,
            other => panic!("{other:?}"),
        });
        let log = "/api/v1/namespaces/ns/pods/web-0/log waits for a lock\n".to_owned();
        assert_eq!(logs, [None, None, Some(log), Some("before".to_owned())]);
    }
}
