"""Reports whether a number is even: the one in NUMBER plus the one that Dagster gives along."""

import os

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as context:
    number = int(os.environ["NUMBER"]) + context.get_extra("more")
    context.log.info(f"the number is {number}")
    context.report_asset_materialization(metadata={"is_even": number % 2 == 0})
