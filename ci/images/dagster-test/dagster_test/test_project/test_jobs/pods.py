"""Steps that look at the pod they run in, or make one of their own."""

import os
from pathlib import Path

from dagster import Field, StringSource, graph, op

MOUNTED_FILE = Path("/opt/dagster/test_mount_path/volume_mounted_file.yaml")


@op
def check_volume_mount(context) -> None:
    contents = MOUNTED_FILE.read_text(encoding="utf-8")
    context.log.info(f"{MOUNTED_FILE} contains {contents!r}")
    if contents != "BAR_CONTENTS":
        raise ValueError(f"{MOUNTED_FILE} contains {contents!r} instead of 'BAR_CONTENTS'")


@graph
def volume_mount_graph():
    check_volume_mount()


@op(config_schema={"names": [str]})
def tell_variables(context) -> None:
    for name in context.op_config["names"]:
        context.log.info(f"{name} is {os.environ.get(name)}")


@graph
def variables_graph():
    tell_variables()


@op(
    tags={
        "dagster-k8s/config": {
            "container_config": {
                "resources": {
                    "requests": {"cpu": "25m", "memory": "64Mi"},
                    "limits": {"cpu": "500m", "memory": "2560Mi"},
                }
            }
        }
    }
)
def resource_req_op(context) -> None:
    context.log.info("running within the limits that the op's tags ask for")


@graph
def resources_limit_graph():
    resource_req_op()


@op(
    config_schema={
        "namespace": Field(StringSource, is_required=False, description="By default the one that runs are launched in."),
        "k8s_job_name": Field(StringSource, is_required=False, description="By default made of the run and the op."),
        "image": Field(StringSource, is_required=False, description="Any with a shell; by default the run's own."),
        "load_incluster_config": Field(bool, default_value=True),
        "kubeconfig_file": Field(StringSource, is_required=False, description="Read only without load_incluster_config."),
    }
)
def slow_execute_k8s_op(context) -> None:
    from dagster_k8s import execute_k8s_job

    config = context.op_config
    execute_k8s_job(
        context,
        image=config.get("image") or own_image(context),
        command=["/bin/sh", "-c"],
        # As the container's first process a shell without a trap would ignore SIGTERM, and its deletion would last the whole grace period.
        args=["trap 'exit 143' TERM; sleep 1200 & wait $!; echo HI"],
        namespace=config.get("namespace"),
        k8s_job_name=config.get("k8s_job_name"),
        load_incluster_config=config["load_incluster_config"],
        kubeconfig_file=None if config["load_incluster_config"] else config.get("kubeconfig_file"),
    )


def own_image(context) -> str:
    """The image that the launcher noted on the run, or that the chart tells code servers about."""
    image = context.run.tags.get("dagster/image") or os.environ.get("DAGSTER_CURRENT_IMAGE")
    if not image:
        raise ValueError("nothing tells which image this run has: name one in the config of slow_execute_k8s_op")
    return image


@graph
def slow_execute_k8s_op_graph():
    slow_execute_k8s_op()
