"""The repository `demo_execution_repo`: which job is which graph on which executor.

Jobs are named by functions and made when they are asked for: a run pod imports only what its own job needs, not Celery and all the rest.
"""

from dagster import repository

from dagster_test.test_project.test_jobs import celery_queues, client, k8s_ops, pipes
from dagster_test.test_project.test_jobs.faults import always_fail_graph, retry_graph
from dagster_test.test_project.test_jobs.layers import JOB_CONFIG, layers_graph, plain_graph
from dagster_test.test_project.test_jobs.patience import deaf_graph, slow_graph, spin_forever_graph
from dagster_test.test_project.test_jobs.platforms import in_run_pod, on_celery_k8s, on_k8s
from dagster_test.test_project.test_jobs.pods import (
    resources_limit_graph,
    slow_execute_k8s_op_graph,
    variables_graph,
    volume_mount_graph,
)
from dagster_test.test_project.test_jobs.teardown import resource_graph, s3_resource_with_context_manager
from dagster_test.test_project.test_jobs.words import demo_graph


@repository
def demo_execution_repo():
    jobs = [
        in_run_pod(demo_graph, "demo_job"),
        in_run_pod(always_fail_graph, "always_fail_job"),
        in_run_pod(deaf_graph, "deaf_job"),
        in_run_pod(variables_graph, "variables_job"),
        in_run_pod(plain_graph, "tagged_job", tags={"dagster-k8s/config": JOB_CONFIG}),
        in_run_pod(slow_execute_k8s_op_graph, "slow_execute_k8s_op_job"),
        on_k8s(demo_graph, "demo_job_k8s"),
        on_k8s(slow_graph, "slow_job_k8s"),
        on_k8s(spin_forever_graph, "spin_forever_job_k8s"),
        on_k8s(volume_mount_graph, "volume_mount_job_k8s"),
        on_k8s(resources_limit_graph, "resources_limit_job_k8s"),
        on_k8s(retry_graph, "retry_job_k8s"),
        on_k8s(layers_graph, "layers_job_k8s"),
        on_celery_k8s(demo_graph, "demo_job_celery_k8s"),
        on_celery_k8s(
            resource_graph,
            "resource_job_celery_k8s",
            s3_resource_with_context_manager=s3_resource_with_context_manager,
        ),
    ]
    return {"jobs": dict(jobs + k8s_ops.jobs() + pipes.jobs() + client.jobs() + celery_queues.jobs())}


def define_demo_execution_repo():
    return demo_execution_repo
