"""From the body of a request to the body of an answer.

MLflow's own scoring code answers whatever there is. Rows of plain numbers for a scikit-learn model, which are most
requests, go a short way: the same DataFrame without the checks that they can't fail. Whatever is odd about a request,
and every error, goes MLflow's way, so that its words are the same (tests/unit/test_serving_answers.py compares them).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_schema
from mlflow.pyfunc import PyFuncModel, scoring_server
from mlflow.types import DataType

JSON = "application/json"
SHORT_LOADER = "mlflow.sklearn"
# Python's types that are a column's without a conversion that could fail or lose anything.
NUMBERS: dict[DataType, tuple[type, ...]] = {
    DataType.double: (float, int),
    DataType.float: (float, int),
    DataType.long: (int,),
    DataType.integer: (int,),
}
TOO_LARGE = 413
# Estimators that make an array of a DataFrame before they do anything else: they get the array, which takes a quarter
# of the time. (A pipeline may choose its columns by name.)
ARRAY_MODULES = tuple(
    f"sklearn.{name}." for name in ("linear_model", "ensemble", "tree", "svm", "neighbors", "neural_network")
)
warnings.filterwarnings("ignore", "X does not have valid feature names")


class RequestError(Exception):
    """A request that can't be answered.

    Attributes:
        status: HTTP's.
        code: MLflow's name for it.
        reason: a line for the client.
    """

    def __init__(self, status: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason = status, code, reason


class TooManyRowsError(MlflowException):
    """A request with more rows than one may have; MLflow's code lets its own exceptions through, and no others."""


class LimitedModel:
    """A model that predicts no more than so many rows, as MLflow's scoring code calls it."""

    def __init__(self, model: PyFuncModel, rows: int) -> None:
        self.metadata = model.metadata
        self._model = model
        self._rows = rows

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        """Return the predictions. Raises TooManyRowsError."""
        if (found := count_rows(data)) > self._rows:
            raise TooManyRowsError(describe_rows(found, self._rows))
        return self._model.predict(data, params=params)


class SeeingModel:
    """A model that predicts nothing, and keeps what MLflow's scoring code has made of a request."""

    def __init__(self, model: PyFuncModel) -> None:
        self.metadata = model.metadata
        self.data: Any = None

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Keep the data."""
        self.data = data
        return []


def count_rows(data: Any) -> int:
    """Return how many rows a model's input has."""
    if isinstance(data, dict):
        return max((count_rows(column) for column in data.values()), default=0)
    if isinstance(data, list | np.ndarray | pd.DataFrame) and np.ndim(data):
        return len(data)
    return 1


def describe_rows(found: int, limit: int) -> str:
    """Return what is wrong with a large request."""
    return f"the request has {found} rows, {limit} are the most (STACK_SERVE_ROWS): send fewer at once"


def find_error(error: MlflowException) -> str:
    """Return the line of the model's own error, "" if there is none: it follows a traceback's last indented line."""
    lines: list[str] = error.json_kwargs.get("stack_trace", "").splitlines()
    indented = [number for number, line in enumerate(lines) if line.startswith(" ")]
    return lines[indented[-1] + 1] if indented and indented[-1] + 1 < len(lines) else ""


def shorten(error: MlflowException) -> str:
    """Return the reason in MLflow's message, which repeats all data and the schema before it."""
    message = str(error.message)
    if message.startswith("Failed to predict data"):
        message = message.rpartition("Error: ")[2] or message
    if "unexpected error while evaluating the model" in message:
        message = f"the model can't predict this: {find_error(error)}"
    return " ".join(message.split())


class Answerer:
    """What a model answers.

    Attributes:
        columns: names and types of the signature's columns, None if nothing can go the short way.
        takes_arrays: whether the short way needs no DataFrame.
        is_slow: whether one prediction takes so long that it must not be made on the event loop.
    """

    def __init__(self, model: PyFuncModel, rows: int) -> None:
        self.model = model
        self.rows = rows
        self.schema = model.metadata.get_input_schema()
        self.columns = find_columns(model)
        self.takes_arrays = self.columns is not None and takes_arrays(model.get_raw_model(), self.columns)
        self.is_slow = False
        self._limited = LimitedModel(model, rows)
        self._predict: Callable[[Any], Any] = model._predict_fn
        self._index = pd.Index([name for name, _ in self.columns or []])

    def answer_by_mlflow(self, body: bytes, content_type: str) -> str:
        """Return the answer's JSON. Raises RequestError, MemoryError."""
        try:
            answer = scoring_server.invocations(body, content_type, self._limited, self.schema)
        except TooManyRowsError as error:
            raise RequestError(TOO_LARGE, "REQUEST_LIMIT_EXCEEDED", shorten(error)) from None
        except MlflowException as error:
            if "MemoryError" in find_error(error).partition(":")[0]:
                raise MemoryError from None
            raise RequestError(error.get_http_status_code(), error.error_code, shorten(error)) from None
        if answer.status != 200:  # noqa: PLR2004
            raise RequestError(answer.status, "INVALID_PARAMETER_VALUE", answer.response)
        return str(answer.response)

    def read_data(self, body: bytes, content_type: str) -> Any:
        """Return what a model with a signature is given for this body. Raises MlflowException."""
        seeing = SeeingModel(self.model)
        scoring_server.invocations(body, content_type, seeing, self.schema)
        return _enforce_schema(seeing.data, self.schema)

    def answer_shortly(self, request: object) -> str | None:
        """Return the answer's JSON, None if this is not for the short way. Raises RequestError for too many rows."""
        columns = self.columns
        found = read_numbers(request, columns) if columns else None
        if not columns or found is None:
            return None
        if len(found[0]) > self.rows:
            raise RequestError(TOO_LARGE, "REQUEST_LIMIT_EXCEEDED", describe_rows(len(found[0]), self.rows))
        try:
            data = make_array(found, columns) if self.takes_arrays else make_frame(found, columns, self._index)
            predictions = self._predict(data)
            return json.dumps({"predictions": predictions.tolist()}) if isinstance(predictions, np.ndarray) else None
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  (whatever a model raises: MLflow's way says it in MLflow's words)
            return None


def takes_arrays(estimator: Any, columns: list[tuple[str, DataType]]) -> bool:
    """Return whether this estimator makes the same of an array of these columns as of a DataFrame."""
    names = list(getattr(estimator, "feature_names_in_", ()))
    is_plain = type(estimator).__module__.startswith(ARRAY_MODULES) and len({kind for _, kind in columns}) == 1
    return is_plain and names == [name for name, _ in columns]


def make_array(values: list[list[float]], columns: list[tuple[str, DataType]]) -> Any:
    """Return the array that scikit-learn makes of MLflow's DataFrame, to the layout in memory: sums depend on it."""
    return np.array(values, columns[0][1].to_numpy()).T


def make_frame(values: list[list[float]], columns: list[tuple[str, DataType]], index: pd.Index) -> pd.DataFrame:
    """Return the DataFrame that MLflow makes of these columns, to the layout in memory."""
    types = [kind.to_numpy() for _, kind in columns]
    if len(set(types)) == 1:
        return pd.DataFrame(make_array(values, columns), columns=index, copy=False)
    return pd.DataFrame(
        {name: np.array(column, kind) for (name, _), column, kind in zip(columns, values, types, strict=True)}
    )


def find_columns(model: PyFuncModel) -> list[tuple[str, DataType]] | None:
    """Return the columns of a model that takes rows of numbers, None for any other."""
    metadata = model.metadata
    schema = metadata.get_input_schema()
    if (
        schema is None
        or model.loader_module != SHORT_LOADER
        or metadata.get_params_schema() is not None
        or metadata._is_signature_from_type_hint()
        or metadata._is_type_hint_from_example()
        or schema.is_tensor_spec()
        or not schema.has_input_names()
    ):
        return None
    columns = [(spec.name, spec.type) for spec in schema.inputs]
    is_plain = all(spec.type in NUMBERS and spec.required for spec in schema.inputs)
    return columns if is_plain and len({name for name, _ in columns}) == len(columns) else None


def read_numbers(request: object, columns: list[tuple[str, DataType]]) -> list[list[float]] | None:
    """Return the values of each column, if the request holds nothing but rows of numbers for all columns."""
    if not isinstance(request, dict) or len(request) != 1:
        return None
    ((form, data),) = request.items()
    names = [name for name, _ in columns]
    if form == "dataframe_split":
        found = read_split(data, names)
    elif form in ("dataframe_records", "inputs", "instances") and isinstance(data, list):
        found = read_records(data, names)
    elif form == "inputs" and isinstance(data, dict):
        found = read_columns(data, names)
    else:
        return None
    if not found or not found[0]:
        return None
    for values, (_, kind) in zip(found, columns, strict=True):
        known = NUMBERS[kind]
        for value in values:
            # (true is an int to Python; MLflow says what it thinks of NaN)
            if type(value) not in known or (type(value) is float and not math.isfinite(value)):
                return None
            if type(value) is int and not -(2**31) <= value < 2**31:
                return None
    return found


def read_split(data: object, names: list[str]) -> list[list[Any]] | None:
    """Return the columns of {"columns": [...], "data": [[...], ...]}."""
    if not isinstance(data, dict) or data.keys() != {"columns", "data"}:
        return None
    head, rows = data["columns"], data["data"]
    if not (isinstance(head, list) and isinstance(rows, list)):
        return None
    if not all(isinstance(row, list) and len(row) == len(head) for row in rows):
        return None
    places = {name: place for place, name in enumerate(head) if isinstance(name, str)}
    if len(places) != len(head) or not places.keys() >= set(names):
        return None
    return [[row[places[name]] for row in rows] for name in names]


def read_records(data: list[Any], names: list[str]) -> list[list[Any]] | None:
    """Return the columns of [{name: value, ...}, ...], where each row has the same names."""
    if not data or not isinstance(data[0], dict):
        return None
    keys = data[0].keys()
    if not keys >= set(names) or not all(isinstance(row, dict) and row.keys() == keys for row in data):
        return None
    return [[row[name] for row in data] for name in names]


def read_columns(data: dict[str, Any], names: list[str]) -> list[list[Any]] | None:
    """Return the columns of {name: [value, ...], ...}."""
    if data.keys() != set(names) or not all(isinstance(column, list) for column in data.values()):
        return None
    lengths = {len(column) for column in data.values()}
    return [data[name] for name in names] if len(lengths) == 1 else None
