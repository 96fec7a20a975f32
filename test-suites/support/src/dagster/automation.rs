//! What Dagster's daemon does by itself: schedules and sensors, to be switched on and off, and backfills.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dagster, Error, RunId, answer};

/// A repository of a code location.
#[derive(Debug, Clone, Copy)]
pub struct Repository<'a> {
    /// The code location.
    pub location: &'a str,
    /// The repository's own name.
    pub name: &'a str,
}

impl Repository<'_> {
    fn selector(&self) -> Value {
        json!({"repositoryLocationName": self.location, "repositoryName": self.name})
    }

    fn select(&self, key: &str, name: &str) -> Value {
        let mut selector = self.selector();
        selector[key] = json!(name);
        selector
    }
}

/// A schedule or a sensor that was switched on; Dagster has this word for both.
#[derive(Debug, Clone)]
pub struct Instigator {
    id: String,
    selector: Value,
}

/// A moment at which a schedule or a sensor looked what to do.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tick {
    /// When it was due or, for a sensor, began, in seconds since 1970.
    pub timestamp: f64,
    /// As Dagster spells it, such as `SUCCESS` or `SKIPPED`.
    pub status: String,
    /// The runs that it made.
    pub run_ids: Vec<RunId>,
}

#[derive(Deserialize)]
struct WithTicks {
    ticks: Vec<Tick>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WithState {
    #[serde(alias = "scheduleState", alias = "sensorState")]
    state: State,
}

#[derive(Deserialize)]
struct State {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LaunchedBackfill {
    backfill_id: String,
}

#[derive(Deserialize)]
struct Backfill {
    status: String,
}

impl Dagster {
    /// Switches a schedule on; it starts at its next tick.
    ///
    /// # Errors
    /// There is no such schedule.
    pub async fn start_schedule(&self, of: &Repository<'_>, name: &str) -> Result<Instigator, Error> {
        let operation = format!("start schedule {name}");
        let variables = json!({"selector": of.select("scheduleName", name)});
        let answer = self.ask(&operation, START_SCHEDULE, variables).await?;
        let started: WithState = answer::member(&operation, answer, "ScheduleStateResult")?;
        Ok(Instigator { id: started.state.id, selector: of.select("name", name) })
    }

    /// Switches a schedule off; the runs that it has made go on.
    ///
    /// # Errors
    /// Dagster refuses.
    pub async fn stop_schedule(&self, schedule: &Instigator) -> Result<(), Error> {
        let operation = "stop a schedule";
        let answer = self.ask(operation, STOP_SCHEDULE, json!({"id": schedule.id})).await?;
        answer::member::<Value>(operation, answer, "ScheduleStateResult").map(drop)
    }

    /// The ticks of a schedule or a sensor so far, the newest first.
    ///
    /// # Errors
    /// There is no such one.
    pub async fn ticks(&self, of: &Instigator) -> Result<Vec<Tick>, Error> {
        let operation = "read the ticks of a schedule or a sensor";
        let variables = json!({"selector": of.selector, "id": of.id});
        let answer = self.ask(operation, TICKS, variables).await?;
        answer::member::<WithTicks>(operation, answer, "InstigationState").map(|state| state.ticks)
    }

    /// Switches a sensor on.
    ///
    /// # Errors
    /// There is no such sensor.
    pub async fn start_sensor(&self, of: &Repository<'_>, name: &str) -> Result<Instigator, Error> {
        let operation = format!("start sensor {name}");
        let variables = json!({"selector": of.select("sensorName", name)});
        let answer = self.ask(&operation, START_SENSOR, variables).await?;
        let started: WithState = answer::member(&operation, answer, "Sensor")?;
        Ok(Instigator { id: started.state.id, selector: of.select("name", name) })
    }

    /// Sets what a sensor is given at its next look.
    ///
    /// # Errors
    /// There is no such sensor.
    pub async fn set_cursor(&self, of: &Repository<'_>, sensor: &str, cursor: &str) -> Result<(), Error> {
        let operation = format!("set the cursor of sensor {sensor}");
        let variables = json!({"selector": of.select("sensorName", sensor), "cursor": cursor});
        let answer = self.ask(&operation, SET_CURSOR, variables).await?;
        answer::member::<Value>(&operation, answer, "Sensor").map(drop)
    }

    /// Switches a sensor off; the runs that it has made go on.
    ///
    /// # Errors
    /// Dagster refuses.
    pub async fn stop_sensor(&self, sensor: &Instigator) -> Result<(), Error> {
        let operation = "stop a sensor";
        let answer = self.ask(operation, STOP_SENSOR, json!({"id": sensor.id})).await?;
        answer::member::<Value>(operation, answer, "StopSensorMutationResult").map(drop)
    }

    /// Asks for a run of each of these partitions of a job, and gives the backfill's id; the daemon makes the runs.
    ///
    /// # Errors
    /// Dagster refuses, for instance because the job has no such partition.
    pub async fn launch_backfill(
        &self,
        of: &Repository<'_>,
        job: &str,
        partitions: &[&str],
    ) -> Result<String, Error> {
        let operation = format!("launch a backfill of {job}");
        let set =
            json!({"partitionSetName": format!("{job}_partition_set"), "repositorySelector": of.selector()});
        let variables = json!({"params": {"selector": set, "partitionNames": partitions}});
        let answer = self.ask(&operation, LAUNCH_BACKFILL, variables).await?;
        answer::member::<LaunchedBackfill>(&operation, answer, "LaunchBackfillSuccess")
            .map(|launched| launched.backfill_id)
    }

    /// Where a backfill stands, as Dagster spells it, such as `REQUESTED` or `COMPLETED_SUCCESS`.
    ///
    /// # Errors
    /// There is no such backfill.
    pub async fn backfill_status(&self, id: &str) -> Result<String, Error> {
        let operation = format!("read backfill {id}");
        let answer = self.ask(&operation, BACKFILL, json!({"id": id})).await?;
        answer::member::<Backfill>(&operation, answer, "PartitionBackfill").map(|backfill| backfill.status)
    }
}

const START_SCHEDULE: &str = "mutation ($selector: ScheduleSelector!) {
  startSchedule(scheduleSelector: $selector) {
    __typename
    ... on ScheduleStateResult { scheduleState { id } }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const STOP_SCHEDULE: &str = "mutation ($id: String!) {
  stopRunningSchedule(id: $id) {
    __typename
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const TICKS: &str = "query ($selector: InstigationSelector!, $id: String) {
  instigationStateOrError(instigationSelector: $selector, id: $id) {
    __typename
    ... on InstigationState { ticks { timestamp status runIds } }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const START_SENSOR: &str = "mutation ($selector: SensorSelector!) {
  startSensor(sensorSelector: $selector) {
    __typename
    ... on Sensor { sensorState { id } }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const SET_CURSOR: &str = "mutation ($selector: SensorSelector!, $cursor: String!) {
  setSensorCursor(sensorSelector: $selector, cursor: $cursor) {
    __typename
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const STOP_SENSOR: &str = "mutation ($id: String!) {
  stopSensor(id: $id) {
    __typename
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const LAUNCH_BACKFILL: &str = "mutation ($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

const BACKFILL: &str = "query ($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    __typename
    ... on PartitionBackfill { status }
    ... on Error { message }
    ... on PythonError { stack }
  }
}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_names_the_repository_and_what_is_in_it() {
        let repository = Repository { location: "code", name: "automation" };
        assert_eq!(
            repository.select("sensorName", "each_file"),
            json!({"repositoryLocationName": "code", "repositoryName": "automation", "sensorName": "each_file"})
        );
    }

    #[test]
    fn the_state_of_a_schedule_and_of_a_sensor_are_read_alike() {
        for key in ["scheduleState", "sensorState"] {
            let read: WithState =
                serde_json::from_value(json!({"__typename": "X", key: {"id": "7"}})).unwrap();
            assert_eq!(read.state.id, "7");
        }
    }
}
