//! What the code server's deployment is given reaches the runs of its code, and nothing else.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use suite_support::cluster;
use suite_support::expect::only;
use suite_support::jobs::{CLUSTER_LIMIT, RUN_LIMIT, words};
use suite_support::{Launch, Suite};

use crate::deployment::{CODE_SERVER, DAEMON, WEBSERVER, variable};

/// In a secret that only the deployment of the code server names.
const VARIABLE: &str = "WORD_FACTOR";

#[tokio::test]
async fn a_secret_of_the_code_server_reaches_the_run_and_not_the_system() -> anyhow::Result<()> {
    let suite = Suite::connect().await?;

    let server = variable(&suite.user_pods(), CODE_SERVER, VARIABLE).await?;
    assert_eq!(server.as_deref(), Some("2"), "{VARIABLE} of the code server");
    for component in [WEBSERVER, DAEMON] {
        let system = variable(&suite.system_pods(), component, VARIABLE).await?;
        assert_eq!(system, None, "{VARIABLE} of {component}");
    }

    // The run itself reads the variable: without it, the run config has no factor.
    suite
        .with_run(Launch::job("demo_job").config(words(&json!({"env": VARIABLE}))), async |run| {
            let of_run = Suite::of_run(&run.run_id);
            let running = |pods: &[Pod]| pods.iter().any(cluster::is_running);
            let wait = cluster::await_objects(
                suite.user_pods(),
                &of_run,
                "the run's pod to run",
                RUN_LIMIT,
                running,
            );
            let pods = suite.while_it_goes(run, wait).await?;
            // Now, as no command can be run in a pod that has ended; Python needs seconds to boot and longer to work.
            let pod = only(&pods, "pod of the run");
            let value = cluster::variable(&suite.user_pods(), pod, VARIABLE, CLUSTER_LIMIT).await?;
            assert_eq!(value.as_deref(), Some("2"), "{VARIABLE} of the run's pod");

            suite.succeeds(&run.run_id).await?;
            Ok(())
        })
        .await
}
