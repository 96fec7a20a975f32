"""Jobs whose steps Celery workers run: each a Kubernetes Job that a worker makes and follows.

Queues are named by tags of ops, which a launch cannot change, so each queue has jobs of its own. Their workers stand in the suite's values.
"""

import ctypes

from dagster import graph, op

from dagster_test.test_project.test_jobs.faults import retry_graph
from dagster_test.test_project.test_jobs.patience import slow_op
from dagster_test.test_project.test_jobs.platforms import NamedJob, on_celery_k8s
from dagster_test.test_project.test_jobs.pods import resources_limit_graph, volume_mount_graph
from dagster_test.test_project.test_jobs.words import count_letters, multiply_the_word

QUEUE = "dagster-celery/queue"
PRIORITY = "dagster-celery/priority"


@op
def hard_fail() -> None:
    # An exception would be reported by the step itself; this ends its process before it can report anything.
    ctypes.string_at(0)


@graph
def hard_failer_graph():
    hard_fail()


@graph
def two_queues_graph():
    count_letters.tag({QUEUE: "extra-queue-1"})(multiply_the_word())


@op
def trailing_op() -> None:
    pass


@graph
def one_at_a_time_graph():
    # Dagster submits the step with the higher number first; so once it tells of the second, the first is in the queue.
    slow_op.tag({QUEUE: "one-at-a-time", PRIORITY: "6"})()
    trailing_op.tag({QUEUE: "one-at-a-time", PRIORITY: "1"})()


@graph
def acks_early_graph():
    slow_op.tag({QUEUE: "acks-early"})()


@graph
def acks_late_graph():
    slow_op.tag({QUEUE: "acks-late"})()


def jobs() -> list[NamedJob]:
    return [
        on_celery_k8s(retry_graph, "retry_job_celery_k8s"),
        on_celery_k8s(hard_failer_graph, "hard_failer_job_celery_k8s"),
        on_celery_k8s(resources_limit_graph, "resources_limit_job_celery_k8s"),
        on_celery_k8s(volume_mount_graph, "volume_mount_job_celery_k8s"),
        on_celery_k8s(two_queues_graph, "two_queues_job_celery_k8s"),
        on_celery_k8s(one_at_a_time_graph, "one_at_a_time_job_celery_k8s"),
        on_celery_k8s(acks_early_graph, "acks_early_job_celery_k8s"),
        on_celery_k8s(acks_late_graph, "acks_late_job_celery_k8s"),
    ]
