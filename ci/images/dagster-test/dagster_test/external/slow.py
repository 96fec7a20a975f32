"""Says something now and then: between two messages, one who reads with a timeout of a second gives up and begins anew."""

import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as context:
    for count in range(3):
        context.log.info(f"count {count}")
        time.sleep(6)
    context.report_asset_materialization(metadata={"is_even": count % 2 == 0})
