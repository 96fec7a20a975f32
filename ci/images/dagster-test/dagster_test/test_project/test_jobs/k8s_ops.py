"""Jobs whose ops run Kubernetes Jobs of their own; what these do, the run config says.

Each is a function, so that dagster_k8s is imported where such a job runs and nowhere else. They run in one process: what is looked at are the Jobs.
"""

from collections.abc import Callable

from dagster import Field, JobDefinition, RetryRequested, StringSource, graph, in_process_executor, op

SHELL = ["/bin/sh", "-c"]
IMAGE = {"image": Field(StringSource, description="Any with a shell.")}
NAMED = {**IMAGE, "k8s_job_name": Field(StringSource, is_required=False, description="By default made of the run and the op.")}


def k8s_op_job() -> JobDefinition:
    from dagster_k8s import k8s_job_op

    run_job = k8s_job_op.alias("run_job")

    @graph
    def k8s_op_graph():
        run_job()

    return k8s_op_graph.to_job(name="k8s_op_job", executor_def=in_process_executor)


def k8s_ops_in_order_job() -> JobDefinition:
    from dagster_k8s import k8s_job_op

    first, second = k8s_job_op.alias("first"), k8s_job_op.alias("second")

    @graph
    def k8s_ops_in_order_graph():
        second(start_after=first())

    return k8s_ops_in_order_graph.to_job(name="k8s_ops_in_order_job", executor_def=in_process_executor)


def execute_k8s_job_job() -> JobDefinition:
    from dagster_k8s import execute_k8s_job

    @op(config_schema=NAMED)
    def greet(context) -> str:
        config = context.op_config
        execute_k8s_job(context, image=config["image"], command=SHELL, args=["echo HI"], k8s_job_name=config.get("k8s_job_name"))
        return "GOODBYE"

    @op(config_schema=IMAGE)
    def answer(context, word: str) -> None:
        execute_k8s_job(context, image=context.op_config["image"], command=SHELL, args=[f"echo {word}"])

    @graph
    def execute_k8s_job_graph():
        answer(greet())

    return execute_k8s_job_graph.to_job(name="execute_k8s_job_job", executor_def=in_process_executor)


def execute_k8s_job_again_job() -> JobDefinition:
    from dagster_k8s import execute_k8s_job

    @op(config_schema=IMAGE)
    def run_twice(context) -> None:
        execute_k8s_job(context, image=context.op_config["image"], command=SHELL, args=[f"echo attempt {context.retry_number}"])
        if context.retry_number == 0:
            raise RetryRequested(max_retries=1)

    @graph
    def execute_k8s_job_again_graph():
        run_twice()

    return execute_k8s_job_again_graph.to_job(name="execute_k8s_job_again_job", executor_def=in_process_executor)


def jobs() -> list[tuple[str, Callable[[], JobDefinition]]]:
    return [(define.__name__, define) for define in [k8s_op_job, k8s_ops_in_order_job, execute_k8s_job_job, execute_k8s_job_again_job]]
