"""A user of MLflow: its unmodified client in a process of its own, so that what it takes of the CPU is told apart.

Run by bench/clients.py as `python -m bench.user`, with URL and login in the environment as users have them. Each line
of JSON on stdin is [task, how often]; each on stdout what was found: [milliseconds of each call, CPU seconds of all].
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import mlflow
import pandas as pd
from mlflow.entities import Metric
from sklearn.ensemble import RandomForestRegressor

from bench.metadata import EXPERIMENT as FILLED

CHECKOUT = Path(__file__).parents[1]
SCRIPT = CHECKOUT / "examples/train.py"
DATA = CHECKOUT / "trainer/data/winequality-red.csv"
SCRIPTS = "Wine Regression"  # its experiment
MODEL = "Wine_Elasticnet_Sklearn_Regressor"
EXPERIMENT = "Clients"
KEYS, BATCH, TREES, FOUND = 50, 100, 100, 1000

Call = Callable[[int], object]


def run_script() -> Call:
    """Return the article's script, from a shell, and the registration of its model, which its reader does in the UI."""
    client = mlflow.MlflowClient()

    def call(number: int) -> None:
        subprocess.run([sys.executable, SCRIPT, DATA, str(0.1 + number / 100)], check=True, stdout=sys.stderr)
        experiment = client.get_experiment_by_name(SCRIPTS)
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id], max_results=1)
        mlflow.register_model(f"runs:/{run.info.run_id}/model", MODEL)

    return call


def log_metric() -> Call:
    """Return a step of a loop that logs one metric."""
    mlflow.start_run()
    return lambda step: mlflow.log_metric("loss", 1 / (step + 1), step)


def log_metrics() -> Call:
    """Return a step of a loop that logs many metrics."""
    mlflow.start_run()
    return lambda step: mlflow.log_metrics({f"key {key}": key + step / 10 for key in range(KEYS)}, step)


def log_batch() -> Call:
    """Return a batch of metrics of MlflowClient, each of another key."""
    client, run = mlflow.MlflowClient(), mlflow.start_run().info.run_id
    return lambda step: client.log_batch(run, [Metric(f"key {n}", n + step / 10, 1 + step, step) for n in range(BATCH)])


def autolog() -> Call:
    """Return the training of a forest that logs itself and its model."""
    data = pd.read_csv(DATA, sep=";")
    mlflow.sklearn.autolog(silent=True)
    return lambda seed: RandomForestRegressor(TREES, random_state=seed).fit(
        data.drop(columns="quality"), data["quality"]
    )


def search_runs() -> Call:
    """Return a search for runs that bench/metadata.py wrote."""
    client = mlflow.MlflowClient()

    def call(_: int) -> None:
        assert len(client.search_runs([FILLED], max_results=FOUND)) == FOUND

    return call


TASKS = {
    "script": run_script,
    "log_metric": log_metric,
    "log_metrics": log_metrics,
    "log_batch": log_batch,
    "autolog": autolog,
    "search_runs": search_runs,
}


warm: set[str] = set()  # what was done before


def read_cpu() -> float:
    """Return the CPU seconds that this process and its children have taken so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def do(task: str, count: int) -> tuple[list[float], float]:
    """Do a task that often; the first time after once that doesn't count, unless it takes seconds in any case."""
    call, milliseconds = TASKS[task](), []
    if task not in {*warm, "script", "autolog"}:
        call(count)
        warm.add(task)
    cpu = read_cpu()
    for number in range(count):
        start = time.perf_counter()
        call(number)
        milliseconds.append((time.perf_counter() - start) * 1000)
    cpu = read_cpu() - cpu
    mlflow.end_run()
    return milliseconds, cpu


def main() -> None:
    """Do what is asked, one after the other."""
    warnings.simplefilter("ignore")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with redirect_stdout(sys.stderr):
        mlflow.set_experiment(EXPERIMENT)
        for line in sys.stdin:
            print(json.dumps(do(*json.loads(line))), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main()
