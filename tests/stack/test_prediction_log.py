"""The log of predictions: nothing of it by default; on, it has each row as it was asked and answered; drift."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from serving import batches
from stack.conftest import WINE
from stack.deployment import Deployment, wait_until
from stack.served import Served
from wine import data as wines

Login = tuple[str, str]
REQUESTS = [1, 1, 48, 150]  # rows of each


@dataclass
class Logged:
    """The wine model with its log: version 1, which the shared stack pins.

    Attributes:
        served: the model.
        rows: what it was trained on.
        folder: where its log is downloaded to.
        ids: the gateway's id of each request.
        answers: each row's prediction.
    """

    served: Served
    rows: pd.DataFrame
    folder: Path
    ids: list[str]
    answers: list[float]

    def predict(self, rows: pd.DataFrame) -> None:
        """Send rows in requests of different sizes and forms, and have the worker write them down at its end."""
        start = 0
        for number, count in enumerate(REQUESTS):
            part = rows.iloc[start : start + count]
            start += count
            split = {"columns": list(part.columns), "data": part.to_numpy().tolist()}
            if number % 2:
                answer = self.served.ask(part.to_csv(index=False).encode(), headers={"content-type": "text/csv"})
            else:
                answer = self.served.ask({"dataframe_split": split})
            assert answer.ok, answer.text
            self.ids += [answer.headers["X-Request-Id"]] * count
            self.answers += answer.json()["predictions"]
        self.served.stack.compose("restart", "serving")
        wait_until(lambda: len(self.read()) >= len(self.ids), "the log is in the store")
        self.wait()

    def wait(self) -> None:
        """Return when the model is served."""
        wait_until(lambda: self.served.ask(question="ping").ok, "the wine model is served")

    def read(self) -> pd.DataFrame:
        """Return the log as it is in the store, by the gateway."""
        client = self.served.client
        experiment = client.get_experiment_by_name("Predictions")
        runs = client.search_runs([experiment.experiment_id], f"tags.model = '{WINE}'")
        # (one that is being written has its files in a moment)
        for run in (run for run in runs if run.info.status == "FINISHED"):
            for file in client.list_artifacts(run.info.run_id):
                if not (self.folder / file.path).exists():
                    client.download_artifacts(run.info.run_id, file.path, str(self.folder))
        found = [path for path, batch in batches.list_batches(self.folder) if batch.model == WINE]
        return pd.concat([pq.read_table(path).to_pandas() for path in found]) if found else pd.DataFrame()

    def drift(self, *options: str) -> Any:
        return self.served.stack.run("drift", f"{WINE}/1", *options)


def list_waiting(stack: Deployment) -> list[str]:
    return stack.compose("exec", "-T", "serving", "ls", "-A", "/predictions").split()


@pytest.fixture(scope="module")
def logged(stack: Deployment, admin: Login, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.login().items():
            patch.setenv(name, value)
        served = Served(stack, admin, MlflowClient(), WINE)
        frame = wines.split_table(wines.load_table(None, "quality"), 40).train_x
        yield Logged(served, frame, tmp_path_factory.mktemp("log"), [], [])


def test_by_default_nothing_is_written(logged: Logged) -> None:
    stack = logged.served.stack
    logged.wait()
    part = logged.rows.head(3)
    assert logged.served.ask({"dataframe_split": {"columns": list(part.columns), "data": part.to_numpy().tolist()}}).ok
    assert "serving_log" not in logged.served.ask(question="metrics").text
    assert list_waiting(stack) == []
    assert logged.served.client.get_experiment_by_name("Predictions") is None
    result = logged.drift()
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(
        f"error: no prediction of version 1 of {WINE} was logged: set STACK_"
    )


@pytest.fixture(scope="module")
def on(logged: Logged) -> Iterator[Logged]:
    """The log is on from here on."""
    stack = logged.served.stack

    def switch() -> None:
        stack.compose("up", "--detach", "--no-build", "--no-deps", "serving", "follower")
        logged.wait()

    stack.environment["STACK_PREDICTION_LOG"] = "on"
    try:
        stack.compose("run", "--rm", "--no-deps", "-T", "migrate")
        switch()
        yield logged
    finally:
        del stack.environment["STACK_PREDICTION_LOG"]
        switch()
        stack.compose("exec", "-T", "serving", "sh", "-c", "rm -f /predictions/*")


def test_every_row_is_in_the_store_as_it_was_asked_and_answered(on: Logged) -> None:
    result = on.drift("--since", "1h")
    assert result.returncode == 1
    assert "error: 0 rows of version 1" in result.stderr
    assert "and 100 are needed" in result.stderr
    rows = on.rows.sample(sum(REQUESTS), random_state=1)
    on.predict(rows)
    found = on.read()
    found = found.sort_values(["time", "row"])
    # (and no request that came while the log was off)
    assert list(found["request_id"]) == on.ids
    assert [json.loads(text) for text in found["output"]] == on.answers
    expected = mlflow.pyfunc.load_model(f"models:/{WINE}/1").predict(rows)
    assert on.answers == pytest.approx(list(expected))
    # (MLflow reads numbers of a CSV to the last bit but one)
    np.testing.assert_allclose(found[[f"input.{name}" for name in rows.columns]], rows, rtol=1e-15)
    assert set(found["version"]) == {"1"}
    assert list_waiting(on.served.stack) == []
    assert "serving_log_rows_total" in on.served.ask(question="metrics").text


def test_the_followers_account_may_write_the_log_and_nothing_else(on: Logged) -> None:
    inside = """
        import requests
        from follower import settings
        gateway, login = settings.load().gateway, settings.read_login()
        def create(experiment):
            url = f"{gateway}/api/2.0/mlflow/runs/create"
            return requests.post(url, json={"experiment_id": experiment}, auth=login, timeout=90).status_code
        def put(experiment):
            url = f"{gateway}/api/2.0/mlflow-artifacts/artifacts/{experiment}/x/artifacts/x"
            return requests.put(url, data=b"x", auth=login, timeout=90).status_code
        def make(name):
            url = f"{gateway}/api/2.0/mlflow/experiments/create"
            return requests.post(url, json={"name": name}, auth=login, timeout=90).status_code
        print(create("OTHER"), put("OTHER"), make("Mine"), create("LOG"))
    """
    client = on.served.client
    ids = {name: client.get_experiment_by_name(name).experiment_id for name in ("Predictions", "Wine Regression")}
    script = inside.replace("OTHER", ids["Wine Regression"]).replace("LOG", ids["Predictions"])
    lines = "\n".join(line.removeprefix("        ") for line in script.splitlines())
    assert on.served.stack.compose("exec", "-T", "follower", "python", "-c", lines).split() == ["403"] * 3 + ["200"]


def test_drift_is_seen_and_its_absence_too(on: Logged) -> None:
    same = on.drift("--since", "1h")
    assert same.returncode == 0, same.stderr
    assert "drifted" not in same.stdout
    stronger = on.rows.sample(sum(REQUESTS), random_state=2).assign(alcohol=lambda rows: rows["alcohol"] * 1.3)
    on.predict(stronger)
    changed = on.drift("--since", "1h")
    assert changed.returncode == 3, changed.stderr
    assert changed.stderr.splitlines()[-1] == f"drifted: {WINE}/1: the PSI of alcohol is above 0.2"
    assert [line.split()[0] for line in changed.stdout.splitlines() if line.endswith("drifted")] == ["alcohol"]
    # As much as the rows of a file have drifted, none has; and the report is there.
    file = on.served.stack.root / "reference.csv"
    pd.concat([on.rows.sample(sum(REQUESTS), random_state=1), stronger]).to_csv(file, index=False)
    against = on.drift("--since", "1h", "--reference", "reference.csv")
    assert against.returncode == 0, against.stderr
    client = on.served.client
    experiment = client.get_experiment_by_name("Drift")
    runs = client.search_runs([experiment.experiment_id], "params.reference != 'reference.csv'")
    assert [run.data.metrics["psi_max"] > 0.2 for run in runs] == [True, False]
    assert {file.path for file in client.list_artifacts(runs[0].info.run_id)} == {"drift.json", "drift.png"}
    assert runs[0].data.metrics["psi alcohol"] == runs[0].data.metrics["psi_max"]
