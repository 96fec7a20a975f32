"""Steps that last: long enough to be terminated, resumed or orphaned meanwhile."""

import signal
import time

from dagster import Field, IntSource, graph, op


@op(config_schema={"seconds": Field(IntSource, default_value=100)})
def slow_op(context) -> None:
    time.sleep(context.op_config["seconds"])


@graph
def slow_graph():
    slow_op()


@op
def spin_forever_op(context) -> None:
    context.log.info("spinning until somebody ends this pod")
    while True:
        time.sleep(1)


@graph
def spin_forever_graph():
    spin_forever_op()


@op
def deaf_op(context) -> None:
    # In the run's own process, which then goes on until the kubelet kills it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.log.info("SIGTERM is ignored from now on")
    time.sleep(1000)


@graph
def deaf_graph():
    deaf_op()
