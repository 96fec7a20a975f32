"""A code location in two editions, as two images have them: each has a job that the other has not, and one that both have."""

import time

from dagster import Field, IntSource, in_process_executor, job, op, repository

from dagster_test.locations.edition_name import EDITION


@op(config_schema={"seconds": Field(IntSource, default_value=0)})
def tell_edition(context) -> None:
    time.sleep(context.op_config["seconds"])
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
