"""Runs side by side: the table and the report, by the command."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from lifecycle import comparison
from stack.deployment import Deployment
from stack.walk import open_browser
from wine.errors import TrainerError

# Of each table its rows, of each plot its size and how many of its marks take room; and whether the styles count.
LOOK = """
const size = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
return {
    rows: [...document.querySelectorAll("table")].map(table => table.rows.length),
    plots: [...document.querySelectorAll("figure svg")].map(size),
    marks: [...document.querySelectorAll("figure svg")].map(plot =>
        [...plot.querySelectorAll("path, use")].filter(mark => size(mark).some(side => side > 1)).length),
    best: getComputedStyle(document.querySelector("td.best")).backgroundColor,
    said: document.querySelector("td.best").textContent,
};
"""


def see_report(report: Path, folder: Path) -> None:
    """Open a report in a browser: it loads without an error and shows its tables and plots."""
    with open_browser(folder / "profile") as browser:
        browser.get(report.as_uri())
        seen = browser.execute_script(LOOK)
        errors = [entry["message"] for entry in browser.get_log("browser")]
    assert errors == []
    assert seen["rows"] == [4, 3, 3]  # each with its head: metrics of three runs, differences of two, two params
    assert len(seen["plots"]) == 2
    assert all(width > 200 and height > 150 for width, height in seen["plots"])
    lines, points = seen["marks"]  # with the axes and their ticks
    assert (lines >= 8, points >= 12) == (True, True), seen["marks"]
    assert (seen["best"], seen["said"]) == ("rgb(230, 244, 234)", "0.71")


def test_runs_are_compared_by_id_and_by_experiment(stack: Deployment, client: MlflowClient, tmp_path: Path) -> None:
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
    see_report(report, tmp_path)
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
