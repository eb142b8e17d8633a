"""A user's MLproject, run without a container: what is refused in one line, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner, Result

from project import runner
from unit.trainer_store import open_store
from wine import cli

DESCRIPTION = """
name: small
entry_points:
  main:
    parameters: {word: string}
    command: "python main.py {word}"
"""
PROGRAM = """
import pathlib, sys, mlflow
pathlib.Path("written").write_text("the copy can be written")
with mlflow.start_run():
    mlflow.log_metric("length", len(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    with open_store(tmp_path) as uri:
        yield uri


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "MLproject").write_text(DESCRIPTION)
    (folder / "main.py").write_text(PROGRAM)
    monkeypatch.setattr(runner, "MOUNTED", folder)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["project", "mine", *arguments])


def test_a_project_runs_in_a_copy_and_its_run_says_where_it_came_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_USER", "ada")
    result = run("-P", "word=four")
    assert result.exit_code == 0, result.output
    (made,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("Wine Regression").experiment_id])
    assert made.info.status == "FINISHED"
    assert (made.data.params, made.data.metrics) == ({"word": "four"}, {"length": 4})
    assert (made.data.tags["mlflow.source.name"], made.data.tags["mlflow.user"]) == ("mine", "ada")
    assert sorted(path.name for path in folder.iterdir()) == ["MLproject", "main.py"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--entry-point", "none"], "mine, entry point 'none': Could not find none among entry points"),
        (["-P", "word"], "-P is 'word': write it as NAME=VALUE"),
        ([], "mine, entry point 'main': No value given for missing parameters"),
    ],
)
def test_what_can_not_be_run_is_one_line(folder: Path, options: list[str], complaint: str) -> None:
    result = run(*options)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert complaint in result.stderr


def test_a_program_that_fails_fails_its_run(folder: Path) -> None:
    (folder / "main.py").write_text("raise SystemExit(3)")
    result = run("-P", "word=x")
    assert result.exit_code == 1
    assert "mine, entry point 'main': Run (ID '" in result.stderr
    (made,) = MlflowClient().search_runs([MlflowClient().get_experiment_by_name("Wine Regression").experiment_id])
    assert made.info.status == "FAILED"


def test_a_folder_without_a_project_is_one_line(folder: Path) -> None:
    (folder / "MLproject").unlink()
    result = run()
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "mine has no file MLproject" in result.stderr
