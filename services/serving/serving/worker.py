"""The process of one version: limits first, then the model, then a socket, and only then it says that it is there."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import httptools  # noqa: F401  (what uvicorn would import; here before the processes are made: see workers.py)
import sklearn.linear_model  # noqa: F401
import skops.io  # noqa: F401
import uvicorn
import uvloop  # noqa: F401

from serving import batches
from serving.answers import Answerer
from serving.app import ModelApp
from serving.loading import LoadError, load
from serving.order import Order

if TYPE_CHECKING:
    from serving.log import Log

# The first that ends when memory is short is a version that nobody uses yet; the last is the one that watches all.
OOM_LOADING, OOM_SERVING = 1000, 500


# This module is imported by the process that all workers are forked from, and what it has by now they all share: no
# worker's garbage collection is to look through it, and so touch and copy its memory.
gc.collect()
gc.freeze()


def set_oom_score(score: int) -> None:
    """Say how soon the kernel is to end this process when the container's memory is all used."""
    Path("/proc/self/oom_score_adj").write_text(str(score))


def read_own_memory() -> int:
    """Return how many bytes of writable memory of its own this process has asked for."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmData:")) * 1024


def prepare_log() -> int:
    """Import what writes the log; return how much memory it may have beside the model."""
    from serving import log

    return log.MEMORY


def make_log(answerer: Answerer, order: Order) -> Log | None:
    """Return the log of this version, None if none is wanted."""
    if not order.log:
        return None
    from serving.log import Log

    return Log(answerer, order.name, order.version, order.sample, batches.FOLDER)


def run(order: Order, outcome: Connection) -> None:
    """Serve a version until SIGTERM; say over `outcome` whether that can be, {"fault": ...}, "" for yes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_oom_score(OOM_LOADING)
    # (of writable memory: what Python and MLflow have by now is not the model's)
    memory = order.memory + (prepare_log() if order.log else 0)
    limit = read_own_memory() + memory
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # as MLflow's own scoring server does
    try:
        answerer = load(order)
    except LoadError as error:
        outcome.send_bytes(json.dumps({"fault": str(error)}).encode())
        sys.exit(1)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    os.umask(0o007)
    listener.bind(order.socket)
    listener.listen(1024)
    app = ModelApp(answerer, order.name, order.version, make_log(answerer, order))
    signal.signal(signal.SIGUSR1, lambda *_: app.leave())
    set_oom_score(OOM_SERVING)
    outcome.send_bytes(json.dumps({"fault": ""}).encode())
    outcome.close()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        interface="asgi3",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        timeout_keep_alive=60,  # the gateway ends idle connections sooner, so that none is cut when it sends something
        timeout_graceful_shutdown=65,
    )
    uvicorn.Server(config).run(sockets=[listener])
