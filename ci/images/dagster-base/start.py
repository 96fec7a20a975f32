"""What a run's process takes to start, and what each measure of install.sh takes off it, in seconds of processor time.

usage: docker run --rm -i IMAGE python - < start.py
"""

import os
import resource
import statistics
import subprocess
import sys

ROUNDS = 9
# What `dagster api execute_run` imports with the instance of the chart.
START = "import dagster._cli, dagster_k8s, dagster_postgres"
EAGER = "import kubernetes.client as client; [getattr(client, name) for name in dir(client)]"
CASES = {
    "as it is": (START, {}),
    "the collector works as often as by default": (f"import gc; gc.set_threshold(700, 10, 10); {START}", {}),
    "the Kubernetes client imports all of itself": (f"{EAGER}; {START}", {}),
    "nothing is compiled ahead": (START, {"PYTHONPYCACHEPREFIX": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}),
}


def measure(code: str, more: dict[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **more}, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    times: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(ROUNDS):
        # In turns, so that what else the machine does meets all of them.
        for case, (code, more) in CASES.items():
            times[case].append(measure(code, more))
    first = statistics.median(times["as it is"])
    print("| a start | median | of the first |\n|---|---|---|")
    for case, all_of_it in times.items():
        median = statistics.median(all_of_it)
        print(f"| {case} | {median:.2f} s ({min(all_of_it):.2f} to {max(all_of_it):.2f}) | {median / first:.2f} |")


if __name__ == "__main__":
    main()
