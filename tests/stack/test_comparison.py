"""Runs side by side: the table and the report, by the command."""

from __future__ import annotations

import time

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from lifecycle import comparison
from stack.deployment import Deployment
from wine.errors import TrainerError


def test_runs_are_compared_by_id_and_by_experiment(stack: Deployment, client: MlflowClient) -> None:
    name = f"compared-{time.time_ns()}"
    experiment = client.create_experiment(name)
    runs = []
    for alpha in (0.1, 0.5, 0.9):
        run = client.create_run(experiment, run_name=f"alpha {alpha}").info.run_id
        client.log_batch(
            run, [Metric("rmse", 0.7 + alpha / 10, 0, 0)], [Param("alpha", str(alpha)), Param("seed", "40")]
        )
        runs.append(run)
    said = stack.check("compare", runs[2], runs[0])
    lines = said.splitlines()
    assert lines[0].split() == ["RUN", "START", "rmse", "alpha", "="]
    assert [("0.79" in lines[1], "0.71*" in lines[2])] == [(True, True)]
    report = stack.root / "report.html"
    result = stack.run("compare", "--experiment", name, "--output", "report.html")
    assert result.returncode == 0, result.stderr
    assert "3 runs" in result.stderr
    text = report.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.rstrip().endswith("</html>")
    assert all(run[:8] in text for run in runs)
    assert text.count("<svg") == 2
    for ids, experiment_name, line in (
        ([runs[0], "0" * 32], None, f"there is no run '{'0' * 32}': copy its id from its page"),
        ([runs[0], runs[0]], None, "one run can't be compared"),
        ([], "nowhere", "there is no experiment 'nowhere'"),
    ):
        with pytest.raises(TrainerError, match=line):
            comparison.read_runs(client, ids, experiment_name)
