"""A code location in two editions, as two images have them: each has a job that the other has not, and one that both have."""

import time
from pathlib import Path

from dagster import Field, in_process_executor, job, op, repository

from dagster_test.locations.edition_name import EDITION


@op(config_schema={"until": Field(str, is_required=False, description="A file; the step goes on when it is there.")})
def tell_edition(context) -> None:
    until = context.op_config.get("until")
    while until and not Path(until).exists():
        time.sleep(0.1)
    context.log.info(f"this is the {EDITION} edition")


@job(name=f"{EDITION}_job", executor_def=in_process_executor)
def own_job():
    tell_edition()


@job(executor_def=in_process_executor)
def common_job():
    tell_edition()


@repository
def editions():
    return [own_job, common_job]
