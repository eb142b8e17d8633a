"""A real MLflow backend for a test of the trainer: SQLite, in the test's own folder."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wine.settings import tame_libraries


@contextmanager
def open_store(folder: Path) -> Iterator[str]:
    """Yield the tracking URI of an empty store; it and what the trainer sets besides is undone at the end."""
    before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
    tame_libraries()
    import mlflow

    shutil.copy(_make_template(), folder / "mlflow.db")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    yield os.environ["MLFLOW_TRACKING_URI"]
    mlflow.set_tracking_uri(None)
    signal.signal(signal.SIGTERM, handler)
    os.environ.clear()
    os.environ.update(before)


@functools.cache
def _make_template() -> Path:
    """Make an empty database, once: creating its tables takes two seconds."""
    from mlflow import MlflowClient

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    path = folder / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path
