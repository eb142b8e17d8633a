"""A search of hyper-parameters by containers: what it leaves, and that no kill in its middle changes that."""

from __future__ import annotations

import re
import subprocess

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from stack.deployment import CHECKOUT, Deployment, wait_until

Login = tuple[str, str]
# Some tenths of a second for a trial.
FOREST = ["--model", "RandomForestRegressor", "--params", '{"n_estimators": 40}', "--folds", "3", "--no-prune"]
WINES = pd.read_csv(CHECKOUT / "trainer/data/winequality-red.csv", sep=";", dtype=float).drop(columns="quality")


class Sweep:
    """`./stack sweep` as it runs."""

    def __init__(self, stack: Deployment, *arguments: str) -> None:
        self._stack = stack
        self._process = subprocess.Popen(
            ["./stack", "sweep", *arguments],
            cwd=stack.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""

    def wait_for_trials(self, count: int) -> None:
        """Return when so many trials have ended since its start."""
        assert self._process.stdout
        for line in self._process.stdout:
            self.output += line
            count -= bool(re.match(r"\[ *\d+/\d+\] trial", line))
            if count == 0:
                return
        raise AssertionError(f"it ended before that:\n{self.output}")

    def finish(self) -> int:
        """Return its exit code."""
        rest, _ = self._process.communicate(timeout=1500)
        self.output += rest
        return self._process.returncode

    @property
    def run_id(self) -> str:
        found = re.search(r"[Ss]weep ([0-9a-f]{32})", self.output)
        assert found, self.output
        return found[1]

    def list_workers(self) -> list[str]:
        names = subprocess.run(
            ["docker", "ps", "--filter", f"name=^{self._stack.name}-sweep-", "--format", "{{.Names}}"],
            check=True,
            capture_output=True,
            text=True,
        )
        return names.stdout.split()

    def kill_workers(self) -> None:
        workers = self.list_workers()
        assert workers
        subprocess.run(["docker", "kill", "--signal", "KILL", *workers], check=True, capture_output=True)


def list_children(client: MlflowClient, run_id: str) -> list[Run]:
    parent = client.get_run(run_id)
    query = f"tags.`mlflow.parentRunId` = '{run_id}'"
    return list(client.search_runs([parent.info.experiment_id], query, order_by=["start_time"]))


def list_complete(client: MlflowClient, run_id: str) -> list[tuple[dict[str, str], float]]:
    """Return params and error of each trial that came to its end, in the order of their beginning."""
    children = [child for child in list_children(client, run_id) if "sweep.trial" in child.data.tags]
    assert {child.info.status for child in children} <= {"FINISHED", "FAILED"}, "a trial is still said to run"
    assert all(child.data.tags["sweep.state"] == "COMPLETE" for child in children if child.info.status == "FINISHED")
    return [(child.data.params, child.data.metrics["cv_rmse"]) for child in children if child.info.status == "FINISHED"]


@pytest.fixture(scope="module")
def count(soak: bool) -> int:
    return 50 if soak else 7  # of which so many are left after a kill that it comes before their end


@pytest.fixture(scope="module")
def whole(stack: Deployment, count: int) -> str:
    """A sweep by one worker that nothing disturbs."""
    sweep = Sweep(stack, *FOREST, "--trials", str(count), "--workers", "1", "--seed", "7")
    assert sweep.finish() == 0, sweep.output
    return sweep.run_id


def test_a_sweep_leaves_trials_under_its_parent_and_the_best_registered(
    whole: str, client: MlflowClient, count: int
) -> None:
    parent = client.get_run(whole)
    assert (parent.info.status, parent.data.metrics["trials_complete"]) == ("FINISHED", count)
    errors = [error for _, error in list_complete(client, whole)]
    assert len(errors) == count
    assert parent.data.metrics["best_cv_rmse"] == min(errors)
    assert {item.path for item in client.list_artifacts(whole, "sweep")} >= {
        f"sweep/{name}.png" for name in ("history", "parallel-coordinates", "importance", "contour")
    }
    (version,) = client.search_model_versions("name = 'Wine_RandomForestRegressor'")
    assert (version.current_stage, list(version.aliases)) == ("None", [])
    best = client.get_run(version.run_id)
    assert best.data.tags["mlflow.parentRunId"] == whole
    predicted = mlflow.pyfunc.load_model("models:/Wine_RandomForestRegressor/1").predict(WINES.head(2))
    assert all(3 < value < 8 for value in predicted)


def test_a_worker_that_is_killed_costs_nothing_but_its_trial(
    stack: Deployment, whole: str, client: MlflowClient, count: int, soak: bool
) -> None:
    sweep = Sweep(stack, *FOREST, "--trials", str(count), "--workers", "1", "--seed", "7")
    for _ in range(10 if soak else 1):
        sweep.wait_for_trials(2)
        sweep.kill_workers()
        assert sweep.finish() == 1
        assert re.search(
            rf"the workers ended after \d+ of {count} trials: ./stack sweep --resume goes on", sweep.output
        )
        run_id = sweep.run_id
        sweep = Sweep(stack, "--resume", "--workers", "1")
    assert sweep.finish() == 0, sweep.output
    assert sweep.run_id == run_id
    # Not only as many: the same trials as without the kill.
    assert list_complete(client, run_id) == list_complete(client, whole)
    assert client.get_run(run_id).data.metrics["trials_complete"] == count


def test_one_worker_and_a_server_are_killed_and_then_the_whole_stack(
    stack: Deployment, admin: Login, client: MlflowClient, count: int
) -> None:
    sweep = Sweep(stack, *FOREST, "--trials", str(count + 2), "--workers", "2", "--no-register")
    sweep.wait_for_trials(1)
    first, _ = sweep.list_workers()
    subprocess.run(["docker", "kill", first], check=True, capture_output=True)
    stack.kill("mlflow")
    sweep.wait_for_trials(2)  # the other worker has waited for the server
    sweep.kill_workers()
    stack.compose("kill", "postgres", "mlflow", "nginx")
    assert sweep.finish() == 1
    assert sweep.output.count("stack: note: a worker of the sweep ended early") == 2

    stack.compose("start", "postgres", "mlflow", "nginx")
    wait_until(lambda: stack.is_served(admin), "the gateway serves again")
    resumed = Sweep(stack, "--resume", "--workers", "2")
    assert resumed.finish() == 0, resumed.output
    assert resumed.run_id == sweep.run_id
    assert len(list_complete(client, sweep.run_id)) == count + 2
    assert client.get_run(sweep.run_id).data.metrics["trials_complete"] == count + 2


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--workers", "0"], "stack: --workers is '0': choose a whole number from 1 to 32\n"),
        (
            ["--data", "nowhere.csv"],
            "stack: --data 'nowhere.csv' is not a file that can be read: name a CSV file or a URL\n",
        ),
    ],
)
def test_bad_options_are_one_line(stack: Deployment, options: list[str], complaint: str) -> None:
    result = stack.run("sweep", *options)
    assert (result.returncode, result.stderr) == (1, complaint)


def test_a_search_that_can_not_begin_says_why_once_and_leaves_no_worker(stack: Deployment) -> None:
    result = stack.run("sweep", "--metric", "f1", "--workers", "2")
    assert (result.returncode, result.stdout) == (1, "")
    said = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert said == ["error: --metric is 'f1', but ElasticNet is a regressor: choose rmse, mae, r2"]
    names = subprocess.run(
        ["docker", "ps", "--all", "--filter", f"name=^{stack.name}-sweep-", "--format", "{{.Names}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert names.stdout == ""


def test_help_is_about_the_command_as_users_type_it(stack: Deployment) -> None:
    said = stack.check("sweep", "--help")
    assert said.startswith("Usage: ./stack sweep [OPTIONS]")
    assert all(option in said for option in ("--workers", "--trials", "--timeout", "--resume"))
    assert "--call" not in said
