"""A version's files on this machine: fetched, looked at before anything of them runs, loaded."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel

from lifecycle.refusals import Refused

FORMAT, TRUST = "format", "--trust-model"


@dataclass(frozen=True)
class Files:
    """The files of a version."""

    name: str
    version: int
    folder: Path

    def __str__(self) -> str:
        """Return how it is called in a line."""
        return f"version {self.version} of {self.name}"


def fetch(name: str, version: int, folder: Path) -> Files:
    """Download a version. Raises Refused if a file is missing."""
    target = folder / str(version)
    target.mkdir()
    files = Files(name, version, target)
    try:
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(target))
    except (MlflowException, OSError) as error:
        raise Refused("artifact", f"{files} can't be fetched ({first_line(error)})") from error
    if not (target / "MLmodel").is_file():
        raise Refused("artifact", f"{files} has no file MLmodel: it is no model, or its artifacts were deleted")
    return files


def check_format(files: Files) -> None:
    """Raise Refused for a format that runs whatever its author wrote into it.

    To load a pickle is to run it, here with the caller's login at hand. MLflow's own switch is no help: it takes the
    list of types that skops is to trust from the model itself, and refuses all of scikit-learn's models if it is off.
    """
    import skops.io

    try:
        flavors = yaml.safe_load((files.folder / "MLmodel").read_text())["flavors"]
        pyfunc, flavor = flavors["python_function"], flavors.get("sklearn", {})
        model = str(pyfunc.get("model_path"))
        reasons = [
            (pyfunc.get("loader_module") != "mlflow.sklearn", f"is loaded by {pyfunc.get('loader_module')}"),
            (bool(pyfunc.get("code") or pyfunc.get("data") or flavor.get("code")), "brings code of its own"),
            (flavor.get("serialization_format") != "skops", f"is saved as {flavor.get('serialization_format')}"),
            (Path(model).name != model, f"names a file outside of it ({model})"),
        ]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise Refused("artifact", f"the file MLmodel of {files} can't be read ({first_line(error)})") from error
    found = next((reason for is_so, reason in reasons if is_so), None)
    if found is None:
        try:
            types = skops.io.get_untrusted_types(file=files.folder / model)
        except Exception as error:  # whatever is wrong with the file
            raise Refused("artifact", f"the file {model} of {files} can't be read ({first_line(error)})") from error
        found = f"holds {', '.join(types)}" if types else None
    if found is not None:
        raise Refused(
            FORMAT,
            f"{files} {found}, which can run its author's code, and only skops is safe: {TRUST} if you trust them",
        )


def load(files: Files) -> PyFuncModel:
    """Load a version. Raises Refused if it can't be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mlflow.pyfunc.load_model(str(files.folder), suppress_warnings=True)
    except Exception as error:  # it may raise anything
        raise Refused("load", f"{files} can't be loaded ({first_line(error)})") from error


def read_card(files: Files) -> Model:
    """Return what MLmodel says."""
    return Model.load(str(files.folder))


def read_example(files: Files) -> Any:
    """Return the input example, None if there is none."""
    return read_card(files).load_input_example(str(files.folder))


def first_line(error: BaseException) -> str:
    """Return an error's first line, its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
