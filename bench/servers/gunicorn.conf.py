"""The server's own configuration, without the connections of a user store that this one doesn't have."""

from __future__ import annotations

import runpy
from typing import Any

globals().update(
    {name: value for name, value in runpy.run_path("/app/gunicorn.conf.py").items() if not name.startswith("__")}
)


def post_fork(_server: Any, _worker: Any) -> None:
    """Drop the database connections that the workers would share with the parent after fork."""
    from mlflow.server import handlers

    for store in (handlers._tracking_store, handlers._model_registry_store):
        if store is not None:
            store.engine.dispose(close=False)
