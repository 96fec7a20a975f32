//! Commands inside a container of a pod.

use std::io;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::ResourceExt;
use kube::api::{Api, AttachParams};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep, timeout};

use super::Error;
use crate::expect::only_container;

/// Runs the command that it is given and tells its code at the end of both streams. Without that an output that was cut would be
/// taken for all there is, and for a success too: the API server says so of a connection that the kubelet has closed without a
/// word (client-go's tools/remotecommand/errorstream.go).
const SHELL: &str =
    r#""$@"; code=$?; printf '\nexit code %d\n' $code; printf '\nexit code %d\n' $code >&2; exit $code"#;
const END: &str = "\nexit code ";

/// What a shell says of a program that it cannot run, and of one that is not there.
const NOT_RUN: [i32; 2] = [126, 127];

/// Between two attempts of [`ask`].
const PAUSE: Duration = Duration::from_secs(1);

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

/// What a variable is in the only container of a pod, as its process sees it; nothing where it is not set.
///
/// # Errors
/// As [`ask`].
///
/// # Panics
/// The pod has several containers.
pub async fn variable(
    pods: &Api<Pod>,
    pod: &Pod,
    name: &str,
    limit: Duration,
) -> Result<Option<String>, Error> {
    let container = &only_container(pod).name;
    let seen = ask(pods, &pod.name_any(), container, &["printenv", name], limit).await?;
    Ok((seen.code == 0).then(|| seen.stdout.trim().to_owned()))
}

/// Runs a command that may run twice inside a container that has a shell, and runs it again when that does not come to an end; one
/// that fails is no error.
///
/// # Errors
/// It cannot be run within the limit: the last attempt's.
pub async fn ask(
    pods: &Api<Pod>,
    pod: &str,
    container: &str,
    command: &[&str],
    limit: Duration,
) -> Result<Executed, Error> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match execute(pods, pod, container, command, left).await {
            Err(Error::TimedOut { awaited, state, .. }) => {
                return Err(Error::TimedOut { awaited, limit, state });
            }
            Err(_) if Instant::now() + PAUSE < end => sleep(PAUSE).await,
            asked => return asked,
        }
    }
}

/// Runs a command once inside a container that has a shell; one that fails is no error.
///
/// # Errors
/// The command cannot be started, or runs longer than the limit; or its connection breaks, and nobody knows how far it came.
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
    let in_shell = ["sh", "-c", SHELL, "sh"].iter().chain(command).copied();
    let mut process = pods.exec(pod, in_shell, &params).await.map_err(|source| Error::Api {
        operation: format!("run {told} in {container} of pod {pod}"),
        source,
    })?;
    let status = process.take_status();
    // Both at once: a command stands still when nobody takes what it writes.
    let (stdout, stderr) = futures::try_join!(text(process.stdout()), text(process.stderr()))
        .map_err(|source| Error::Output { command: told.to_owned(), pod: pod.to_owned(), source })?;
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    if let Some(status) = status.filter(|status| exit_code(status).is_none()) {
        let reason = status.message.unwrap_or_else(|| "no reason is told".to_owned());
        return Err(Error::NotStarted { command: told.to_owned(), pod: pod.to_owned(), reason });
    }
    let (Some((stdout, code)), Some((stderr, _))) = (whole(&stdout), whole(&stderr)) else {
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before the command did");
        return Err(Error::Output { command: told.to_owned(), pod: pod.to_owned(), source });
    };
    if NOT_RUN.contains(&code) {
        let reason = stderr.trim().to_owned();
        return Err(Error::NotStarted { command: told.to_owned(), pod: pod.to_owned(), reason });
    }
    Ok(Executed { code, stdout: stdout.to_owned(), stderr: stderr.to_owned() })
}

/// What a command wrote to a stream, and its code; nothing where the stream was cut.
fn whole(stream: &str) -> Option<(&str, i32)> {
    let (text, code) = stream.strip_suffix('\n')?.rsplit_once(END)?;
    Some((text, code.parse().ok()?))
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
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_stream_is_whole_when_the_shell_tells_the_code_at_its_end() {
        assert_eq!(whole("foobar\n\nexit code 0\n"), Some(("foobar\n", 0)));
        assert_eq!(whole("\nexit code 3\nexit code 127\n"), Some(("\nexit code 3", 127)));
        for cut in ["", "foobar\n\nexit co", "foobar\n\nexit code ", "foobar\n\nexit code 12"] {
            assert_eq!(whole(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn the_shell_tells_what_the_command_says_and_its_code() {
        let run = |command: &[&str]| {
            let output =
                std::process::Command::new("sh").args(["-c", SHELL, "sh"]).args(command).output().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (text(output.stdout), text(output.stderr), output.status.code())
        };
        let (stdout, stderr, code) = run(&["sh", "-c", "echo 'a b'; echo c >&2; exit 3"]);
        assert_eq!((whole(&stdout), whole(&stderr), code), (Some(("a b\n", 3)), Some(("c\n", 3)), Some(3)));
        let (stdout, _, code) = run(&["no-such-program"]);
        assert_eq!((whole(&stdout), code), (Some(("", 127)), Some(127)));
    }

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
