"""Steps that fail: always, or the first time only."""

from dagster import RetryRequested, graph, op

from dagster_test.test_project.test_jobs.words import multiply_the_word


@op
def always_fail(word: str) -> None:
    raise Exception("Op Exception Message")


@graph
def always_fail_graph():
    always_fail(multiply_the_word())


@op
def fail_first_time(context) -> str:
    if context.retry_number == 0:
        raise RetryRequested(max_retries=1)
    return f"succeeded at retry {context.retry_number}"


@graph
def retry_graph():
    fail_first_time()
