"""Tells probes that a Celery worker consumes: a file whose time is renewed for as long as the worker has its queues open.

The worker imports this (`--includes`) and takes what it needs from its environment. To ask it over the broker instead, as `celery status` does,
would start another Python for each probe.
"""

import os
from pathlib import Path

from celery import bootsteps, current_app

FILE = Path(os.environ["DAGSTER_CELERY_CONSUMING_FILE"])
PERIOD_SECONDS = 2


class Consuming(bootsteps.StartStopStep):
    """The last step of a consumer's start, which is made anew after each loss of the broker."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer, **kwargs):
        super().__init__(consumer, **kwargs)
        self._timer = None

    def start(self, consumer):
        FILE.touch()
        # By the worker's own loop: one that hangs tells nothing any more.
        self._timer = consumer.timer.call_repeatedly(PERIOD_SECONDS, FILE.touch)

    def stop(self, consumer):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


current_app.steps["consumer"].add(Consuming)
