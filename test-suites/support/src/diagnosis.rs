//! What a failed test tells of its run: Dagster's events, and the Jobs, pods and logs in the cluster.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event as ClusterEvent, Pod};
use kube::api::{Api, ListParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::cluster::{self, State};
use crate::dagster::{Event, Run, RunId};
use crate::suite::Suite;

/// As many last lines of a log as are read at a glance; the whole log goes to the artifacts.
const TAIL: usize = 30;

/// What could be found out; what could not has the reason in its place, so that one fault does not hide the rest.
pub(crate) struct Diagnosis {
    id: RunId,
    run: Result<Run, String>,
    events: Result<Vec<Event>, String>,
    jobs: Result<Vec<Job>, String>,
    pods: Result<Vec<Pod>, String>,
    warnings: Result<Vec<String>, String>,
    logs: Vec<Log>,
}

struct Log {
    pod: String,
    container: String,
    text: Result<String, String>,
}

impl Diagnosis {
    pub(crate) async fn of(suite: &Suite, run: &RunId) -> Self {
        let selector = format!("dagster/run-id={run}");
        let pods_api = suite.user_pods();
        let (now, events, jobs, pods) = futures::join!(
            suite.dagster.run(run),
            suite.dagster.events(run),
            list(suite.user_jobs(), &selector),
            list(pods_api.clone(), &selector)
        );
        let mut logs = Vec::new();
        for pod in pods.iter().flatten() {
            let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
            for container in init.chain(pod.spec.iter().flat_map(|spec| &spec.containers)) {
                let name = pod.name_any();
                let text = cluster::logs_now(&pods_api, &name, &container.name, None).await;
                logs.push(Log {
                    pod: name,
                    container: container.name.clone(),
                    text: text.map_err(|error| chain(&error)),
                });
            }
        }
        let of_jobs = jobs.iter().flatten().map(ResourceExt::name_any);
        let names: Vec<_> = of_jobs.chain(pods.iter().flatten().map(ResourceExt::name_any)).collect();
        Self {
            id: run.clone(),
            run: now.map_err(|error| chain(&error)),
            events: events.map_err(|error| chain(&error)),
            warnings: warnings(suite, run, &names).await,
            jobs,
            pods,
            logs,
        }
    }

    /// The events as text, with the seconds since the first. The end of a run repeats the error of its step; it is told once.
    fn told_events(&self) -> Result<Vec<String>, &String> {
        let events = self.events.as_ref()?;
        let mut errors = Vec::new();
        let told = events.iter().map(|event| {
            let error = event.error.as_ref().map(ToString::to_string);
            let again = error.as_ref().is_some_and(|error| errors.contains(error));
            errors.extend(error);
            let text = if again { event.headline() } else { event.to_string() };
            let seconds = event.since(&events[0]).unwrap_or_default().as_secs_f64();
            format!("{seconds:>6.1} {text}")
        });
        Ok(told.collect())
    }

    /// Writes all of it, logs whole, below a folder.
    pub(crate) fn keep(&self, artifacts: &Path) -> anyhow::Result<()> {
        let folder = artifacts.join(format!("run-{}", self.id));
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let write = |name: String, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("diagnosis.txt".to_owned(), &self.to_string())?;
        for log in &self.logs {
            if let Ok(text) = &log.text {
                write(format!("{}.{}.log", log.pod, log.container), text)?;
            }
        }
        Ok(())
    }
}

async fn list<K>(api: Api<K>, selector: &str) -> Result<Vec<K>, String>
where
    K: Resource + Clone + fmt::Debug + DeserializeOwned,
{
    let list = api.list(&ListParams::default().labels(selector)).await;
    list.map(|list| list.items).map_err(|error| chain(&error))
}

/// What the cluster itself complains of in the run's objects, such as an image that no node has. Its events bear no label of the
/// run, so they are found by the names of the objects; of those that are gone already, the worker's tells the run.
async fn warnings(suite: &Suite, run: &RunId, names: &[String]) -> Result<Vec<String>, String> {
    let events: Api<ClusterEvent> = Api::namespaced(suite.client().clone(), suite.user_namespace());
    let list = events.list(&ListParams::default().fields("type=Warning")).await;
    let list = list.map_err(|error| chain(&error))?;
    Ok(list.items.into_iter().filter_map(|event| warning(event, run, names)).collect())
}

fn warning(event: ClusterEvent, run: &RunId, names: &[String]) -> Option<String> {
    let object = event.involved_object.name?;
    let of_run = object.contains(run.as_str()) || names.contains(&object);
    of_run.then(|| {
        let reason = event.reason.unwrap_or_default();
        format!("{object}: {reason}: {}", event.message.unwrap_or_default())
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "---- run {} ----", self.id)?;
        match &self.run {
            Ok(run) => {
                writeln!(f, "{}: {:?}", run.job_name, run.status)?;
                for tag in &run.tags {
                    writeln!(f, "  tag {} = {}", tag.key, tag.value)?;
                }
            }
            Err(reason) => writeln!(f, "status unknown: {reason}")?,
        }
        part(f, "events", &self.told_events(), String::clone)?;
        part(f, "Jobs", &self.jobs, State::state)?;
        part(f, "pods", &self.pods, State::state)?;
        part(f, "warnings of the cluster", &self.warnings, String::clone)?;
        for log in &self.logs {
            match &log.text {
                Ok(text) => {
                    writeln!(f, "log of {} in {}, last lines:", log.container, log.pod)?;
                    let lines: Vec<_> = text.lines().collect();
                    for line in &lines[lines.len().saturating_sub(TAIL)..] {
                        writeln!(f, "  | {line}")?;
                    }
                }
                Err(reason) => writeln!(f, "log of {} in {}: {reason}", log.container, log.pod)?,
            }
        }
        write!(f, "---- end of run {} ----", self.id)
    }
}

fn part<T, E: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    title: &str,
    items: &Result<Vec<T>, E>,
    told: impl Fn(&T) -> String,
) -> fmt::Result {
    match items {
        Ok(items) if items.is_empty() => writeln!(f, "{title}: none"),
        Ok(items) => {
            writeln!(f, "{title}:")?;
            items.iter().try_for_each(|item| writeln!(f, "  {}", told(item).replace('\n', "\n  ")))
        }
        Err(reason) => writeln!(f, "{title} unknown: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn diagnosis() -> Diagnosis {
        let pod = json!({"metadata": {"name": "dagster-run-8a1f-x"}, "status": {"phase": "Succeeded"}});
        let run = json!({"runId": "8a1f", "jobName": "demo_job", "status": "FAILURE", "canTerminate": false,
                         "tags": [{"key": "docker/image", "value": "test:1"}]});
        let event = |kind: &str, message: &str, timestamp: &str| {
            json!({"__typename": "X", "eventType": kind, "message": message, "timestamp": timestamp,
                   "error": {"message": "Exception: why\n", "stack": ["  File \"x.py\"\n"]}})
        };
        let (step, end) =
            (event("STEP_FAILURE", "It failed.", "1000"), event("RUN_FAILURE", "Steps failed.", "2260"));
        let log: String = (1..=TAIL + 2).map(|n| format!("line {n}\n")).collect();
        Diagnosis {
            id: serde_json::from_value(json!("8a1f")).unwrap(),
            run: Ok(serde_json::from_value(run).unwrap()),
            events: Ok(vec![step, end]
                .into_iter()
                .map(|event| serde_json::from_value(event).unwrap())
                .collect()),
            jobs: Err("forbidden".to_owned()),
            pods: Ok(vec![serde_json::from_value(pod).unwrap()]),
            warnings: Ok(Vec::new()),
            logs: vec![Log {
                pod: "dagster-run-8a1f-x".to_owned(),
                container: "dagster".to_owned(),
                text: Ok(log),
            }],
        }
    }

    #[test]
    fn tells_each_part_and_why_one_is_not_there() {
        let mut short = diagnosis();
        short.logs[0].text = Ok("one\ntwo\n".to_owned());
        assert_eq!(
            short.to_string(),
            "---- run 8a1f ----
demo_job: Failure
  tag docker/image = test:1
events:
     0.0 STEP_FAILURE             It failed.
      Exception: why
        File \"x.py\"
     1.3 RUN_FAILURE              Steps failed.
Jobs unknown: forbidden
pods:
  pod dagster-run-8a1f-x Succeeded
warnings of the cluster: none
log of dagster in dagster-run-8a1f-x, last lines:
  | one
  | two
---- end of run 8a1f ----"
        );
    }

    #[test]
    fn a_warning_belongs_to_the_run_by_its_object() {
        let run: RunId = serde_json::from_value(json!("8a1f")).unwrap();
        let told = |object: &str| {
            let event = json!({"metadata": {}, "involvedObject": {"name": object}, "reason": "Failed", "message": "no image"});
            warning(serde_json::from_value(event).unwrap(), &run, &["dagster-step-1".to_owned()])
        };
        assert_eq!(told("dagster-run-8a1f-x").unwrap(), "dagster-run-8a1f-x: Failed: no image");
        assert_eq!(told("dagster-step-1").unwrap(), "dagster-step-1: Failed: no image");
        assert_eq!(told("dagster-run-77-x"), None);
    }

    #[test]
    fn shows_the_end_of_a_long_log_and_keeps_all_of_it() {
        let told = diagnosis().to_string();
        assert!(!told.contains("| line 2\n"), "{told}");
        assert!(told.contains(&format!("| line 3\n{}", "  | line 4\n")), "{told}");
        let folder = std::env::temp_dir().join(format!("suite-support-{}", std::process::id()));
        diagnosis().keep(&folder).unwrap();
        let kept = fs::read_to_string(folder.join("run-8a1f/dagster-run-8a1f-x.dagster.log")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(kept.lines().count(), TAIL + 2);
    }
}
