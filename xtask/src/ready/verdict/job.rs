//! Jobs that are not there: their time to live may take them away before anybody has looked.

use super::{Look, State};
use crate::ready::asked::Item;

/// Reasons of events by which the Job controller says that a Job has failed.
/// See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup>.
const FAILED: [&str; 5] = [
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "PodFailurePolicy",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
];

/// What is known of a Job that is not there. Events stay when it goes; those of an earlier one of its name were before this
/// one was asked for.
pub(super) fn gone(look: &Look<'_>, item: &Item) -> Option<State> {
    let since = look.asked.since.or(look.world.begun);
    let events = look.world.events_of("Job", &item.key).into_iter().rev();
    let told = events.filter(|event| look.world.is_since(since, event)).find_map(|event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        if reason == "Completed" {
            return Some(State::Ready);
        }
        let message = event.message.as_deref().unwrap_or_default();
        FAILED.contains(&reason).then(|| State::Failed(format!("it failed: {reason}: {message}")))
    });
    told.or_else(|| {
        let why = "it is not there: its ttlSecondsAfterFinished may have removed it, and no event tells how it ended";
        look.asked.is_short_lived(item).then(|| State::Waiting(why.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::super::{Verdict, judge};
    use crate::ready::asked::Asked;
    use crate::ready::object::Object;
    use crate::ready::patience::Patience;
    use crate::ready::world::{Change, World};

    const JOB: &str = "{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {ttlSecondsAfterFinished: 0, template: {}}}";

    /// What is said of a Job that is not there, asked for at noon, with an event of this reason and time.
    fn said(reason: &str, at: &str) -> String {
        let noon: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let asked = Asked::read(JOB, "ns").unwrap().at(noon);
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "ns"},
            "involvedObject": {"kind": "Job", "name": "once", "namespace": "ns", "uid": "u"},
            "reason": reason, "message": "so it is", "lastTimestamp": at, "firstTimestamp": at,
        });
        // The wait begins when helm has come to its end.
        let begun = "2026-01-01T12:05:00Z".parse().unwrap();
        let mut world = World::since(begun);
        world.apply(begun, Change::Applied(Object::parse(event).unwrap()));
        match judge(&world, &asked, &asked.items, &Patience::default(), begun).remove(0).1 {
            Verdict::Ready => "ready".to_owned(),
            Verdict::Wait { cause, .. } => format!("wait: {}", cause.text),
            Verdict::Doomed(cause) => format!("doomed: {} ({})", cause.text, cause.said.unwrap_or_default()),
        }
    }

    #[test]
    fn a_job_that_has_ended_before_it_was_seen_is_judged_by_its_events() {
        assert_eq!(said("Completed", "2026-01-01T12:00:02Z"), "ready");
        let failed = said("BackoffLimitExceeded", "2026-01-01T12:00:02Z");
        assert!(failed.starts_with("doomed: ") && failed.contains("so it is"), "{failed}");
    }

    #[test]
    fn events_of_an_earlier_job_of_its_name_say_nothing() {
        let why = said("Completed", "2026-01-01T11:00:00Z");
        assert!(why.starts_with("wait: ") && why.contains("ttlSecondsAfterFinished"), "{why}");
        assert!(said("SuccessfulCreate", "2026-01-01T12:00:02Z").starts_with("wait: "));
    }
}
