"""A step that outlasts every patience with a resource that leaves a proof of its teardown: an object in S3, named by the run."""

import time
from contextlib import contextmanager

from dagster import Field, StringSource, graph, op, resource


@resource(
    config_schema={
        "bucket": Field(StringSource, default_value="dagster-scratch-80542c2"),
        "prefix": Field(StringSource, default_value="resource_termination_test"),
    }
)
@contextmanager
def s3_resource_with_context_manager(context):
    import boto3

    context.log.info("initializing s3_resource_with_context_manager")
    s3 = boto3.client("s3")
    try:
        yield s3
    finally:
        context.log.info("tearing down s3_resource_with_context_manager")
        config = context.resource_config
        s3.put_object(Bucket=config["bucket"], Key=f"{config['prefix']}/{context.run_id}", Body=b"torn down")


@op(required_resource_keys={"s3_resource_with_context_manager"})
def super_slow_solid() -> None:
    time.sleep(1000)


@graph
def resource_graph():
    super_slow_solid()
