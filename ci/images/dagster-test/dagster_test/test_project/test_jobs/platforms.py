"""Where a graph's steps run: each function gives a job's name and the function that makes the job, with its executor imported no sooner."""

from collections.abc import Callable

from dagster import GraphDefinition, JobDefinition, ResourceDefinition

from dagster_test.test_project.test_jobs.storage import shared_io_manager

NamedJob = tuple[str, Callable[[], JobDefinition]]


def in_run_pod(graph: GraphDefinition, name: str, tags: dict | None = None, **resources: ResourceDefinition) -> NamedJob:
    """Steps are processes of the run's own pod, which share its disk."""

    def define() -> JobDefinition:
        return graph.to_job(name=name, tags=tags, resource_defs=resources)

    return name, define


def on_k8s(graph: GraphDefinition, name: str, **resources: ResourceDefinition) -> NamedJob:
    """Each step is a Kubernetes Job, made by the run's pod."""

    def define() -> JobDefinition:
        from dagster_k8s import k8s_job_executor

        return graph.to_job(
            name=name,
            executor_def=k8s_job_executor,
            resource_defs={"io_manager": shared_io_manager, **resources},
        )

    return name, define


def on_celery_k8s(graph: GraphDefinition, name: str, **resources: ResourceDefinition) -> NamedJob:
    """Each step is a Kubernetes Job, made by a Celery worker."""

    def define() -> JobDefinition:
        from dagster_celery_k8s import celery_k8s_job_executor

        return graph.to_job(
            name=name,
            executor_def=celery_k8s_job_executor,
            resource_defs={"io_manager": shared_io_manager, **resources},
        )

    return name, define
