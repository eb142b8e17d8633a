"""MLflow's job runners (online scoring, trace archival), which `mlflow server` would start and gunicorn does not."""

from __future__ import annotations

import secrets
from pathlib import Path

from tracking.settings import Settings

STORAGE = Path("/tmp/huey")  # scratch: the jobs themselves are rows in the database


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that server and runners share (as mlflow/server/__init__.py, _run_server, sets them)."""
    STORAGE.mkdir(exist_ok=True)
    return {
        "_MLFLOW_HUEY_STORAGE_PATH": str(STORAGE),
        "_MLFLOW_INTERNAL_GATEWAY_AUTH_TOKEN": secrets.token_hex(32),
        "MLFLOW_BACKEND_STORE_URI": settings.database_uri,
        # Runners work on the database; the server can be reached by its socket only.
        "MLFLOW_TRACKING_URI": settings.database_uri,
    }


def start(server_pid: int) -> None:
    """Start the runners with this process's environment; they end when the server's process does."""
    from mlflow.server.jobs.utils import _launch_job_execution_runner

    _launch_job_execution_runner({}, server_pid)
