"""Two steps of which the second needs the first's value: the least that shows a whole run."""

from collections import Counter

from dagster import IntSource, graph, op


@op(config_schema={"factor": IntSource})
def multiply_the_word(context, word: str) -> str:
    return word * context.op_config["factor"]


@op
def count_letters(word: str) -> dict[str, int]:
    return dict(Counter(word))


@graph
def demo_graph():
    count_letters(multiply_the_word())
