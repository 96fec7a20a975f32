//! Commands inside a container of a pod.

use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::Error;

/// What a command inside a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The code it ended with.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

/// Runs a command inside a container; one that fails is no error.
///
/// # Errors
/// The command cannot be started, or runs longer than the limit.
pub async fn execute(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    limit: Duration,
) -> Result<Executed, Error> {
    let told = command.join(" ");
    match timeout(limit, run(pods, pod, container, command, &told)).await {
        Ok(result) => result,
        Err(_) => Err(Error::TimedOut {
            awaited: format!("the end of {told} in {container} of pod {pod}"),
            limit,
            state: "it runs".to_owned(),
        }),
    }
}

async fn run(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    told: &str,
) -> Result<Executed, Error> {
    let params = AttachParams::default().container(container).stdout(true).stderr(true);
    let mut process = pods.exec(pod, command.iter().copied(), &params).await.map_err(|source| {
        Error::Api { operation: format!("run {told} in {container} of pod {pod}"), source }
    })?;
    let status = process.take_status();
    // Both at once: a command stands still when nobody takes what it writes.
    let (stdout, stderr) = futures::try_join!(text(process.stdout()), text(process.stderr()))
        .map_err(|source| Error::Output { command: told.to_owned(), pod: pod.to_owned(), source })?;
    let status = match status {
        Some(status) => status.await.unwrap_or_default(),
        None => Status::default(),
    };
    let code = exit_code(&status).ok_or_else(|| Error::NotStarted {
        command: told.to_owned(),
        pod: pod.to_owned(),
        reason: status.message.unwrap_or_else(|| "the connection broke".to_owned()),
    })?;
    Ok(Executed { code, stdout, stderr })
}

/// The API server tells a code other than 0 as the cause of a failure; a failure without one is not the command's.
fn exit_code(status: &Status) -> Option<i32> {
    if status.status.as_deref() == Some("Success") {
        return Some(0);
    }
    let causes = status.details.as_ref()?.causes.as_ref()?;
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"))?;
    code.message.as_ref()?.parse().ok()
}

async fn text(stream: Option<impl AsyncRead + Unpin>) -> io::Result<String> {
    let mut text = String::new();
    if let Some(mut stream) = stream {
        stream.read_to_string(&mut text).await?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_code_comes_from_the_command_alone() {
        let code = |json| exit_code(&serde_json::from_value(json).unwrap());
        assert_eq!(code(json!({"metadata": {}, "status": "Success"})), Some(0));
        let failed =
            |causes| json!({"status": "Failure", "reason": "NonZeroExitCode", "details": {"causes": causes}});
        assert_eq!(code(failed(json!([{"reason": "ExitCode", "message": "3"}]))), Some(3));
        assert_eq!(code(failed(json!([]))), None);
        assert_eq!(code(json!({"status": "Failure", "message": "no such container"})), None);
        assert_eq!(code(json!({})), None);
    }
}
