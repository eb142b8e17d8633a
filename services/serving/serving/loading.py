"""A version that is served: loaded, and tried on its example before anybody sees it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml
from mlflow import pyfunc

from serving import copies, formats
from serving.answers import JSON, Answerer, RequestError
from serving.order import Order

MAX_REASON = 400
EXAMPLE = "serving_input_example.json"
SLOW_SECONDS = 0.005  # a prediction that takes longer has the others wait in a queue, not before the door


class LoadError(Exception):
    """A version that can't be served; the message says why, in a line."""


def explain(error: BaseException) -> str:
    """Return an error as one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_REASON] if text else type(error).__name__


def read_flavors(folder: Path) -> dict[str, Any]:
    """Return the flavors in a model's MLmodel. Raises LoadError."""
    try:
        content = yaml.safe_load((folder / "MLmodel").read_text())
        return dict(content["flavors"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise LoadError(f"its MLmodel can't be read: {explain(error)}") from None


def load(order: Order) -> Answerer:
    """Return what answers requests, once it has answered the version's own example. Raises LoadError."""
    folder = copies.COPIES / order.copy
    if fault := copies.find_fault(folder):
        raise LoadError(fault)
    danger = formats.find_danger(read_flavors(folder / copies.FILES))
    if danger and not order.pickle:
        raise LoadError(f"{danger}: {formats.OPEN_IT}")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"  # (what may be loaded was decided above)
    try:
        model = pyfunc.load_model(str(folder / copies.FILES), suppress_warnings=True)
        answerer = Answerer(model, order.rows)
    except MemoryError:
        raise LoadError(describe_memory(order)) from None
    except ModuleNotFoundError as error:
        raise LoadError(f"it needs the Python module {error.name!r}, which the image of serving has not") from None
    except Exception as error:  # noqa: BLE001  (whatever a model raises)
        raise LoadError(f"it can't be loaded: {explain(error)}") from None
    try_example(answerer, folder, order)
    if order.former:
        try_former(answerer, order)
    return answerer


def describe_memory(order: Order) -> str:
    """Return what is wrong with a model that is too big."""
    return f"it needs more memory than STACK_SERVE_MODEL_MEMORY={order.memory_text} allows"


def read_example(folder: Path) -> bytes | None:
    """Return a version's example as the body of a request, None if it has none."""
    path = folder / copies.FILES / EXAMPLE
    return path.read_bytes() if path.is_file() else None


def try_example(answerer: Answerer, folder: Path, order: Order) -> None:
    """Predict the version's own example both ways: what differs from MLflow's may not go ours. Raises LoadError."""
    body = read_example(folder)
    if body is None:
        answerer.is_slow = True  # how long a prediction takes is not known
        return
    try:
        expected = answerer.answer_by_mlflow(body, JSON)
        started = time.monotonic()
        if answerer.takes_arrays and answerer.answer_shortly(json.loads(body)) != expected:
            answerer.takes_arrays = False
        short = answerer.answer_shortly(json.loads(body))
        answerer.is_slow = time.monotonic() - started > 2 * SLOW_SECONDS
    except MemoryError:
        raise LoadError(describe_memory(order)) from None
    except RequestError as error:
        raise LoadError(f"it does not predict its own input example: {error.reason[:MAX_REASON]}") from None
    if short is not None and short != expected:
        answerer.columns = None


def try_former(answerer: Answerer, order: Order) -> None:
    """Predict the example of the version that is served until now: its clients go on. Raises LoadError."""
    body = read_example(copies.COPIES / order.former)
    if body is None:
        return
    try:
        answerer.answer_by_mlflow(body, JSON)
    except MemoryError:
        raise LoadError(describe_memory(order)) from None
    except RequestError as error:
        former = copies.find_version(order.former)
        raise LoadError(
            f"it does not take what the served version {former} takes: {error.reason[:MAX_REASON]}: to serve it all "
            "the same, delete the alias, wait until no version is served, and set it again"
        ) from None
