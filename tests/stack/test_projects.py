"""MLprojects of a user's own, by folder and by git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from stack.deployment import Deployment

PROGRAM = """
import pathlib, sys, mlflow
pathlib.Path("written").write_text("the copy can be written")
with mlflow.start_run():
    mlflow.log_param("word", sys.argv[1])
"""
DESCRIPTION = """
name: small
entry_points:
  main:
    parameters: {word: {type: string, default: none}}
    command: "python main.py {word}"
  fails:
    command: "python -c 'raise SystemExit(3)'"
"""


@pytest.fixture
def repository(stack: Deployment) -> Path:
    """A git repository with a project in a folder; the tag `one` is a version before its last."""
    root = stack.root / "repository"
    (root / "sub").mkdir(parents=True, exist_ok=True)
    (root / "sub/MLproject").write_text(DESCRIPTION)

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=ann", "-c", "user.email=ann@example.org"]
        subprocess.run(["git", *author, *arguments], cwd=root, check=True, capture_output=True)

    (root / "sub/main.py").write_text(PROGRAM)
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "one")
    git("tag", "--force", "one")
    (root / "sub/main.py").write_text("raise SystemExit('this is not version one')")
    git("commit", "--quiet", "--all", "--message", "two")
    return root


def test_a_folder_with_three_libraries_is_logged_by_autolog(stack: Deployment, client: MlflowClient) -> None:
    output = stack.check("train", "--project", "examples/project", "-P", "rounds=5", "--experiment", "Libraries")
    experiment = client.get_experiment_by_name("Libraries")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for library in ("sklearn", "xgboost", "lightgbm"):
        run = runs.pop(library)
        assert run.info.status == "FINISHED"
        assert run.data.params[{"sklearn": "n_estimators"}.get(library, "num_boost_round")] == "5"
        assert 0.5 < run.data.metrics["test_rmse"] < 1
        (model,) = run.outputs.model_outputs
        pins = Path(mlflow.pyfunc.get_model_dependencies(f"models:/{model.model_id}")).read_text()
        assert {"sklearn": "scikit-learn", "xgboost": "xgboost-cpu", "lightgbm": "lightgbm"}[library] in pins
    ((_, parent),) = runs.items()
    assert parent.data.tags["mlflow.source.name"] == "examples/project"
    assert f"Logged run {parent.info.run_id} in experiment 'Libraries'" in output


def test_a_folder_of_a_repository_at_a_version(stack: Deployment, repository: Path, client: MlflowClient) -> None:
    url = f"file://{repository}#sub"
    stack.environment["TMPDIR"] = str(stack.root)  # a folder that the engine sees too
    try:
        stack.check("train", "--project", url, "--version", "one", "-P", "word=new", "--experiment", "By git")
        unknown = stack.run("train", "--project", url, "--version", "none")
    finally:
        del stack.environment["TMPDIR"]
    (run,) = client.search_runs([client.get_experiment_by_name("By git").experiment_id])
    assert (run.info.status, run.data.params["word"]) == ("FINISHED", "new")
    assert run.data.tags["mlflow.source.name"] == url
    assert not list(stack.root.glob("tmp.*"))
    assert unknown.returncode == 1
    assert f"stack: --project '{url}' can't be fetched, see above" in unknown.stderr


def test_a_project_that_can_not_be_run_is_one_line(stack: Deployment, repository: Path) -> None:
    folder = str(repository / "sub")
    for options, complaint in (
        (["nowhere"], "--project 'nowhere' is no folder"),
        ([folder, "--entry-point", "fails", "--experiment", "Failures"], "entry point 'fails': Run (ID '"),
    ):
        result = stack.run("train", "--project", *options)
        assert result.returncode == 1, options
        assert complaint in result.stderr.splitlines()[-1], result.stderr
