"""What Dagster's daemon starts by itself or holds back: a schedule, sensors, partitions, retries, and runs to wait in the queue."""

import time

from dagster import (
    Field,
    IntSource,
    RunRequest,
    ScheduleDefinition,
    StaticPartitionsDefinition,
    in_process_executor,
    job,
    op,
    repository,
    sensor,
)

LETTERS = StaticPartitionsDefinition(["a", "b", "c"])
EACH_MINUTE = "* * * * *"
EVERY_OTHER_MINUTE = "*/2 * * * *"


@op(config_schema={"seconds": Field(IntSource, default_value=0)})
def work(context) -> None:
    time.sleep(context.op_config["seconds"])


@op
def fail() -> None:
    raise Exception("Op Exception Message")


@op
def name_partition(context) -> None:
    context.log.info(f"partition {context.partition_key}")


@job(executor_def=in_process_executor)
def queued_job():
    work()


@job(executor_def=in_process_executor)
def scheduled_job():
    work()


@job(executor_def=in_process_executor)
def sensed_job():
    work()


@job(executor_def=in_process_executor)
def restart_job():
    work()


@job(executor_def=in_process_executor)
def restart_scheduled_job():
    work()


@job(executor_def=in_process_executor)
def failing_job():
    fail()


@job(executor_def=in_process_executor, partitions_def=LETTERS)
def lettered_job():
    name_partition()


def keyed_sensor(name, target):
    """At each look it asks for one run under the same key, and at the third for one more: once that is there, the first key was asked for three times.

    Its cursor is how keys begin and how many looks there were.
    """

    @sensor(name=name, job=target, minimum_interval_seconds=2)
    def asks_again(context):
        asker, looks = context.cursor.rsplit(" ", 1)
        look = int(looks) + 1
        context.update_cursor(f"{asker} {look}")
        yield RunRequest(run_key=f"{asker} at each look")
        if look == 3:
            yield RunRequest(run_key=f"{asker} at the third look")

    return asks_again


@repository
def automation():
    return [
        queued_job,
        failing_job,
        lettered_job,
        ScheduleDefinition(name="each_minute", job=scheduled_job, cron_schedule=EACH_MINUTE),
        # Dagster makes up for one tick that was missed and not for more, so that a new daemon has to be there before the next.
        ScheduleDefinition(name="of_restart", job=restart_scheduled_job, cron_schedule=EVERY_OTHER_MINUTE),
        keyed_sensor("keyed_sensor", sensed_job),
        keyed_sensor("keyed_sensor_of_restart", restart_job),
    ]
