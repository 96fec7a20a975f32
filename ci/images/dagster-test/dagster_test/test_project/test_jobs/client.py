"""What dagster_k8s finds out about pods and Jobs of others: its waits, and its account of a pod that did not do well."""

from collections.abc import Callable

from dagster import Field, Float, JobDefinition, StringSource, graph, in_process_executor, op

from dagster_test.test_project.test_jobs.pipes import own_namespace

# What an op says when it is about to ask the cluster.
LOOKS = "it looks"


def in_cluster():
    """The client, as Dagster's run launcher makes it."""
    from dagster_k8s.client import DagsterKubernetesClient
    from kubernetes import config

    config.load_incluster_config()
    return DagsterKubernetesClient.production_client()


@op(
    config_schema={
        "pod": Field(StringSource),
        "state": Field(StringSource, description="READY or TERMINATED."),
        "seconds": Field(Float, default_value=60.0),
    }
)
def await_pod(context) -> None:
    from dagster_k8s.client import WaitForPodState

    config = context.op_config
    kubernetes = in_cluster()
    context.log.info(LOOKS)
    kubernetes.wait_for_pod(
        config["pod"],
        own_namespace(),
        wait_for_state=WaitForPodState(config["state"]),
        wait_timeout=config["seconds"],
        wait_time_between_attempts=0.5,
    )
    context.log.info(kubernetes.retrieve_pod_logs(config["pod"], own_namespace()))


@op(config_schema={"job": Field(StringSource), "seconds": Field(Float, default_value=60.0)})
def await_k8s_job(context) -> None:
    name, seconds = context.op_config["job"], context.op_config["seconds"]
    kubernetes = in_cluster()
    context.log.info(LOOKS)
    kubernetes.wait_for_job(name, own_namespace(), wait_time_between_attempts=0.5)
    [pod] = kubernetes.wait_for_job_to_have_pods(name, own_namespace(), wait_time_between_attempts=0.5)
    kubernetes.wait_for_job_success(name, own_namespace(), wait_timeout=seconds, wait_time_between_attempts=0.5)
    context.log.info(f"{name} had {pod.metadata.name}")


@op(config_schema={"pods": [StringSource], "logs": Field(bool, default_value=True)})
def tell_of_pods(context) -> None:
    kubernetes = in_cluster()
    context.log.info(LOOKS)
    for pod in context.op_config["pods"]:
        told = kubernetes.get_pod_debug_info(pod, own_namespace(), include_container_logs=context.op_config["logs"])
        context.log.info(told)


def await_pod_job() -> JobDefinition:
    @graph
    def await_pod_graph():
        await_pod()

    return await_pod_graph.to_job(name="await_pod_job", executor_def=in_process_executor)


def await_k8s_job_job() -> JobDefinition:
    @graph
    def await_k8s_job_graph():
        await_k8s_job()

    return await_k8s_job_graph.to_job(name="await_k8s_job_job", executor_def=in_process_executor)


def tell_of_pods_job() -> JobDefinition:
    @graph
    def tell_of_pods_graph():
        tell_of_pods()

    return tell_of_pods_graph.to_job(name="tell_of_pods_job", executor_def=in_process_executor)


def jobs() -> list[tuple[str, Callable[[], JobDefinition]]]:
    return [(define.__name__, define) for define in [await_pod_job, await_k8s_job_job, tell_of_pods_job]]
