"""How gunicorn runs the tracking server. It also reads the secret files, before MLflow is imported."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tracking import jobs, settings

try:
    chosen = settings.load()
    settings.apply(chosen)
    settings.apply_secrets()
    if chosen.jobs:
        os.environ.update(jobs.environment(chosen))
except settings.SettingsError as error:
    sys.exit("\n".join(f"mlflow: {line}" for line in str(error).splitlines()))

# Only the gateway can reach the server: it shares this folder, and no network. Each worker has a socket of its own, so
# that the gateway spreads requests evenly: of one for all, whoever is quickest takes what comes, and keeps it.
bind = [f"unix:/run/mlflow/http-{number}.sock" for number in range(1, chosen.workers + 1)]
umask = 0o007
worker_class = "tracking.worker.Worker"
workers = chosen.workers
# One import of MLflow for all workers: they share its memory.
preload_app = True
forwarded_allow_ips = "*"  # X-Forwarded-*: only the gateway can connect
graceful_timeout = 8  # Docker waits 10 s
timeout = 120
keepalive = 75
worker_tmp_dir = "/dev/shm"
accesslog = None  # the gateway's log has every request
errorlog = "-"


def on_starting(_server: Any) -> None:
    """Empty the spool: what a server that was killed had in it is nobody's."""
    for left in Path(os.environ["TMPDIR"]).iterdir():
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def pre_fork(server: Any, worker: Any) -> None:
    """Choose the socket that fewest workers have: a new worker gets that of the one that ended."""
    taken = Counter(other.place for other in server.WORKERS.values())
    worker.place = min(range(len(bind)), key=lambda place: taken[place])


def post_fork(server: Any, worker: Any) -> None:
    """Leave the others' sockets alone, and drop the database connections that would be shared with the parent."""
    worker.sockets = [server.LISTENERS[worker.place]]
    from mlflow.server import handlers
    from mlflow.server.auth import store as auth_store

    auth_store.engine.dispose(close=False)
    for store in (handlers._tracking_store, handlers._model_registry_store):
        if store is not None:
            store.engine.dispose(close=False)


def when_ready(server: Any) -> None:
    """Before the workers are forked: settle what they share, and start MLflow's job runners if they are wanted."""
    # What is loaded by now lives as long as the process: no worker's garbage collection is to look through it and so
    # touch and copy its memory.
    gc.collect()
    gc.freeze()
    if chosen.jobs:
        jobs.start(server.pid)
