"""How steps in different pods hand values to each other: through an S3 bucket, a shared folder, or, told nothing, the instance's own database.

The last needs nothing that a deployment does not have anyway, so jobs whose steps are pods run without S3. Its values are kept small for that.
"""

import base64
import pickle

from dagster import Field, FilesystemIOManager, InputContext, IOManager, OutputContext, StringSource, io_manager
from dagster._core.storage.daemon_cursor import DaemonCursorStorage

LARGEST_VALUE = 1_000_000


class InstanceIOManager(IOManager):
    """Keeps values in the instance's table of keys and values."""

    def __init__(self, values: DaemonCursorStorage):
        self._values = values

    def handle_output(self, context: OutputContext, obj: object) -> None:
        value = base64.b64encode(pickle.dumps(obj)).decode()
        if len(value) > LARGEST_VALUE:
            raise ValueError(
                f"the output {context.name} of {context.step_key} takes {len(value)} bytes, more than the {LARGEST_VALUE} that the "
                "instance's database shall hold: give io_manager an s3_bucket or a base_dir"
            )
        self._values.set_cursor_values({self._key(context): value})

    def load_input(self, context: InputContext) -> object:
        if context.upstream_output is None:
            raise ValueError(f"the input {context.name} comes from no step: give its value in the run config")
        key = self._key(context.upstream_output)
        value = self._values.get_cursor_values({key}).get(key)
        if value is None:
            raise KeyError(f"no value {key} in the instance's database: the step that makes it has not run")
        return pickle.loads(base64.b64decode(value))

    @staticmethod
    def _key(context: OutputContext) -> str:
        return "/".join(["dagster_test", "values", *context.get_identifier()])


@io_manager(
    config_schema={
        "s3_bucket": Field(StringSource, is_required=False, description="A bucket that exists; AWS_ENDPOINT_URL tells where."),
        "s3_prefix": Field(StringSource, default_value="dagster"),
        "base_dir": Field(StringSource, is_required=False, description="A folder that all steps share."),
    }
)
def shared_io_manager(context):
    config = context.resource_config
    if "s3_bucket" in config:
        import boto3
        from dagster_aws.s3 import PickledObjectS3IOManager

        return PickledObjectS3IOManager(config["s3_bucket"], boto3.client("s3"), config["s3_prefix"])
    if "base_dir" in config:
        return FilesystemIOManager(base_dir=config["base_dir"]).create_io_manager(context)
    return InstanceIOManager(context.instance.daemon_cursor_storage)
