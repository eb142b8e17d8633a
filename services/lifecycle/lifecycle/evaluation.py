"""Rows that no candidate was trained on, and what a model makes of them."""

from __future__ import annotations

import logging
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pyarrow as pa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models.evaluation import EvaluationResult
from mlflow.pyfunc import PyFuncModel

from lifecycle.models import first_line
from lifecycle.refusals import Refused
from lifecycle.schema import Column, check_names, conform
from wine import data as wines
from wine.errors import TrainerError
from wine.registry import find_run

WINE_TARGET = "quality"
LATENCY_ROUNDS = 50
WARM_ROUNDS = 5


@dataclass(frozen=True)
class HeldOut:
    """The rows to compare on."""

    frame: pd.DataFrame
    target: str
    shown: str

    def present(self, columns: list[Column] | None) -> pd.DataFrame:
        """Return the rows as a model wants them, and the target. Raises TrainerError."""
        if columns is None:
            return self.frame
        check_names(columns, [str(name) for name in self.frame.columns], self.shown)
        found = {column.name: pa.array(self.frame[column.name]) for column in columns if column.name in self.frame}
        inputs = pa.table(conform(found, columns, 1, self.shown)).to_pandas()
        return inputs.assign(**{self.target: self.frame[self.target].to_numpy()})


def find_held_out(
    client: MlflowClient, versions: list[Any], data: Path | None, shown: str, target: str | None
) -> HeldOut:
    """Return the rows of a file, or the quarter of the red wines that the runs of these versions didn't train on.

    Raises:
        TrainerError: The file can't be used, or the candidate (the first of the versions) learned from other data.
    """
    if data is not None:
        if target is None:
            raise TrainerError("--data needs --target: name the column to predict")
        return read_file(data, shown, target)
    table = wines.load_table(None, WINE_TARGET)
    seeds = [seed for version in versions if (seed := find_seed(client, version, table.digest)) is not None]
    if not seeds or find_seed(client, versions[0], table.digest) is None:
        raise TrainerError(
            f"version {versions[0].version} of {versions[0].name} was not trained on the red wines with a seed: "
            "give rows that it has not seen, by --data FILE --target COLUMN"
        )
    # (another seed held out another quarter: what is left is fair to both)
    tests = [wines.split_table(table, seed) for seed in dict.fromkeys(seeds)]
    index = tests[0].test_x.index
    for other in tests[1:]:
        index = index.intersection(other.test_x.index)
    frame = tests[0].table.frame.loc[index].reset_index(drop=True)
    return HeldOut(
        frame, WINE_TARGET, f"{len(frame)} red wines held out by seed {', '.join(map(str, dict.fromkeys(seeds)))}"
    )


def read_table(path: Path, shown: str) -> pd.DataFrame:
    """Read a CSV or Parquet file. Raises TrainerError."""
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
        else:
            with path.open(encoding="utf-8-sig") as file:
                separator = wines.detect_separator(file.readline())
            frame = pd.read_csv(path, sep=separator)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TrainerError(f"{shown} can't be read ({first_line(error)}): give a CSV or Parquet file") from None
    if frame.empty:
        raise TrainerError(f"{shown} has no rows: give rows to compare on")
    return frame


def read_file(path: Path, shown: str, target: str) -> HeldOut:
    """Read a file of rows with a target. Raises TrainerError."""
    frame = read_table(path, shown)
    if target not in frame.columns:
        raise TrainerError(f"{shown} has no column {target!r}, it has {', '.join(frame.columns)}: name one by --target")
    if (gone := frame[target].isna()).any():
        raise TrainerError(f"{shown}, row {int(gone.to_numpy().argmax()) + 1}, column {target!r}: the value is missing")
    return HeldOut(frame, target, shown)


def find_seed(client: MlflowClient, version: Any, digest: str) -> int | None:
    """Return the seed by which the run of a version split the table of this digest."""
    run = find_run(client, version)
    if run is None or digest not in {used.dataset.digest for used in run.inputs.dataset_inputs}:
        return None
    seed = run.data.params.get("seed", "")
    return int(seed) if seed.isdigit() else None


def find_kind(model: PyFuncModel, held_out: HeldOut) -> str:
    """Return whether it is a classifier or a regressor, as MLflow's evaluation wants to know."""
    from sklearn.base import is_classifier

    try:
        if is_classifier(model.get_raw_model()):
            return "classifier"
    except (AttributeError, NotImplementedError, MlflowException):
        pass  # a model that doesn't say
    return "regressor" if pd.api.types.is_numeric_dtype(held_out.frame[held_out.target]) else "classifier"


def measure(model: PyFuncModel, rows: pd.DataFrame, target: str, kind: str) -> EvaluationResult:
    """Have MLflow evaluate a model; its metrics, plots and table go to the active run.

    Raises:
        Refused: The model fails on these rows.
    """
    for name in ("mlflow.models.evaluation", "mlflow.data", "mlflow.types"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return mlflow.models.evaluate(
                model,
                rows,
                targets=target,
                model_type=kind,
                evaluators="default",
                evaluator_config={"log_model_explainability": False},
            )
    except (MlflowException, ValueError, TypeError, KeyError, AttributeError) as error:
        raise Refused("evaluation", f"the model fails on the held-out rows ({first_line(error)})") from error


def measure_latency(model: PyFuncModel, inputs: pd.DataFrame) -> float:
    """Return the milliseconds within which 95 of 100 predictions of one row are there."""
    times = []
    for index in range(WARM_ROUNDS + LATENCY_ROUNDS):
        row = inputs.iloc[[index % len(inputs)]]
        started = time.perf_counter()
        model.predict(row)
        times.append(1000 * (time.perf_counter() - started))
    return sorted(times[WARM_ROUNDS:])[math.ceil(0.95 * LATENCY_ROUNDS) - 1]
