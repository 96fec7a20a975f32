"""Runs and steps whose pods are configured at different levels. Of the steps one with nothing of its own, one by its op's tags, one by its op's tags and, at launch, by its key."""

import os

from dagster import graph, op

# As what the test writes at the other levels, but for labels, and for containers, which would need an image.
OP_CONFIG = {
    "container_config": {
        "env": [{"name": "AT_OP", "value": "yes"}, {"name": "LEVEL", "value": "AT_OP"}],
        "env_from": [
            {"secret_ref": {"name": "test-other-env-secret"}},
            {"config_map_ref": {"name": "at-op", "optional": True}},
            {"secret_ref": {"name": "at-op", "optional": True}},
        ],
        "volume_mounts": [{"name": "at-op", "mount_path": "/at-op"}],
        "security_context": {"run_as_group": 43},
        "resources": {"requests": {"memory": "43Mi"}},
    },
    "pod_spec_config": {
        "termination_grace_period_seconds": 43,
        "service_account_name": "makes-config-maps",
        "image_pull_secrets": [{"name": "at-op"}],
        "volumes": [{"name": "at-op", "empty_dir": {}}],
    },
}


# What a job's definition says of the run's pod.
JOB_CONFIG = {
    "container_config": {
        "env": [{"name": "AT_JOB", "value": "yes"}],
        "env_from": [
            {"config_map_ref": {"name": "test-other-env-configmap"}},
            {"secret_ref": {"name": "test-other-env-secret"}},
        ],
        "volume_mounts": [{"name": "at-job", "mount_path": "/at-job"}],
    },
    "pod_spec_config": {"volumes": [{"name": "at-job", "empty_dir": {}}]},
    "pod_template_spec_metadata": {"labels": {"layer": "AT_JOB"}},
}


def tell(context) -> None:
    """What different levels set: a variable that each does, one of the executor's ConfigMap, one of the op's Secret."""
    names = ["LEVEL", "TEST_OTHER_ENV_VAR", "TEST_OTHER_SECRET_ENV_VAR"]
    seen = ", ".join(os.environ.get(name, "nothing") for name in names)
    context.log.info(f"{context.op.name} sees {seen}")


@op
def plain_op(context) -> None:
    tell(context)


@op(tags={"dagster-k8s/config": OP_CONFIG})
def tagged_op(context) -> None:
    tell(context)


@op(tags={"dagster-k8s/config": OP_CONFIG})
def named_op(context) -> None:
    tell(context)


@graph
def layers_graph():
    plain_op()
    tagged_op()
    named_op()


@graph
def plain_graph():
    plain_op()
