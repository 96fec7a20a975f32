"""Steps whose pods are configured at different levels: one with nothing of its own, one by its op's tags, one by its op's tags and, at launch, by its key."""

from dagster import graph, op

OP_CONFIG = {
    "container_config": {"env": [{"name": "AT_OP", "value": "yes"}]},
    "pod_spec_config": {"termination_grace_period_seconds": 43},
}


@op
def plain_op() -> None:
    pass


@op(tags={"dagster-k8s/config": OP_CONFIG})
def tagged_op() -> None:
    pass


@op(tags={"dagster-k8s/config": OP_CONFIG})
def named_op() -> None:
    pass


@graph
def layers_graph():
    plain_op()
    tagged_op()
    named_op()
