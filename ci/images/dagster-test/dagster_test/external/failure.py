"""Fails in the middle of a session, once it was seen to run: of a pod that has ended already, Dagster's client reads nothing."""

import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes():
    time.sleep(30)
    raise Exception("External Exception Message")
