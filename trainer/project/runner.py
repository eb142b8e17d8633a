"""The run of an MLproject: copied from the folder that is mounted, since that one can't be written."""

from __future__ import annotations

import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
import mlflow.projects
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME

from wine import gateway, tracking
from wine.edge import tell
from wine.errors import TrainerError
from wine.settings import Settings, prepare_programs

MOUNTED = Path("/project")


@dataclass(frozen=True)
class Project:
    """A project and what to run of it."""

    source: str
    """How the user calls it."""
    entry_point: str
    params: list[str]
    experiment: str
    run_name: str | None


def run_project(settings: Settings, project: Project) -> None:
    """Run an entry point to its end.

    Raises:
        TrainerError: There is no such project or entry point, or its program fails.
    """
    folder, params = MOUNTED, dict(_split_param(text) for text in project.params)
    if not (folder / "MLproject").is_file():
        raise TrainerError(f"{project.source} has no file MLproject: --project takes a folder or repository with one")
    client = gateway.connect(settings)
    prepare_programs()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # MLflow ends the program and the run at a Ctrl-C
    with tempfile.TemporaryDirectory() as scratch, gateway.explained(settings):
        copy = Path(scratch) / "project"
        try:
            shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".git", "__pycache__"))
        except (OSError, shutil.Error) as error:
            raise TrainerError(f"{project.source} can't be copied ({_shorten(error)}): let others read it") from None
        experiment_id = tracking.find_experiment(client, project.experiment)
        try:
            done = mlflow.projects.run(
                str(copy),
                entry_point=project.entry_point,
                parameters=params,
                experiment_id=experiment_id,
                run_name=project.run_name,
                env_manager="local",
            )
        except ExecutionException as error:
            raise TrainerError(f"{project.source}, entry point {project.entry_point!r}: {_shorten(error)}") from None
        except MlflowException as error:
            if error.error_code not in {"INVALID_PARAMETER_VALUE", "INTERNAL_ERROR"}:
                raise
            raise TrainerError(f"{project.source}, entry point {project.entry_point!r}: {_shorten(error)}") from None
        origin = tracking.Labels(project.experiment, "", settings.user).origin | {MLFLOW_SOURCE_NAME: project.source}
        for name, value in origin.items():
            client.set_tag(done.run_id, name, value)
        tell(f"Logged run {done.run_id} in experiment {project.experiment!r}")
    tell("Done")


def _split_param(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not (name and found):
        raise TrainerError(f"-P is {text!r}: write it as NAME=VALUE")
    return name, value


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
