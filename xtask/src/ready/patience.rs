//! How long a cause may take to heal before it counts as one that does not.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::some_duration;

/// The limits of patience of a release, in suite.yaml under `patience`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Patience {
    /// How often in a row a program may end in the same way while all that it may depend on is ready.
    pub restarts: usize,
    /// The same, where its last words speak of a connection.
    pub connection_restarts: usize,
    /// How often it may end while something that it may depend on is starting.
    pub restarts_while_starting: usize,
    /// How long a ConfigMap, Secret or ServiceAccount may be missing that something of the release may yet make.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "String")]
    pub missing: Duration,
    /// How long a pod may find no room on a node that has enough when it is empty.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "String")]
    pub resources: Duration,
    /// How long a registry may give no answer.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "String")]
    pub registry: Duration,
    /// How long a readiness probe may be refused with the HTTP status 401, 403, 404 or 405.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "String")]
    pub probe: Duration,
    /// How long a container without a readiness probe has to run before it counts as ready: one that ends at once is
    /// ready for a moment too.
    #[serde(deserialize_with = "some_duration")]
    #[schemars(with = "String")]
    pub steady: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            restarts: 3,
            connection_restarts: 5,
            restarts_while_starting: 9,
            missing: Duration::from_secs(60),
            resources: Duration::from_secs(60),
            registry: Duration::from_secs(60),
            probe: Duration::from_secs(45),
            steady: Duration::from_secs(5),
        }
    }
}
