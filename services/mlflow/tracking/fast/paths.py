"""Which requests are answered here, and how a request that is not goes on to MLflow whole."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import mlflow
import msgspec
from mlflow.server import handlers
from starlette.types import Message, Receive, Scope

from tracking import targets
from tracking.fast import experiments, metrics, models, runs, search
from tracking.fast.database import Database, LostError, RefusedError
from tracking.fast.requests import ReplayError, Request
from tracking.fast.rights import Rights
from tracking.identity import Account

# What these handlers were compared with. Another version, or another schema, is answered by MLflow alone until
# tests/stack/test_fast.py has passed with it.
MLFLOW_VERSION = "3.17.2"
SCHEMA = "dc11669786a5"
SCHEMA_OF = "SELECT version_num FROM alembic_version"
MAX_BODY = 1_000_000  # bytes; MLflow refuses larger batches

# What MLflow's middleware adds to every answer; and, for the gateway's access log, that it was given here.
HEADERS = {"vary": "Origin", "x-stack-path": "fast"}

Handler = Callable[[Request], Awaitable[dict[str, Any]]]
log = logging.getLogger("mlflow.stack.fast")


class Route(NamedTuple):
    """How one route is answered.

    Attributes:
        handler: answers, or raises ReplayError.
        is_audited: whether the gateway's audit log is to have what it was about.
        is_repeatable: whether a second time changes nothing.
    """

    handler: Handler
    is_audited: bool = False
    is_repeatable: bool = True


ROUTES = {
    ("GET", "experiments/get"): Route(experiments.get),
    ("GET", "experiments/get-by-name"): Route(experiments.get_by_name),
    ("GET", "runs/get"): Route(runs.get),
    ("POST", "runs/search"): Route(search.search),
    ("POST", "runs/create"): Route(runs.create, is_audited=True, is_repeatable=False),
    ("POST", "runs/update"): Route(runs.update, is_audited=True),
    ("POST", "runs/set-tag"): Route(runs.set_tag, is_audited=True),
    ("POST", "runs/log-parameter"): Route(runs.log_parameter, is_audited=True),
    ("POST", "runs/log-metric"): Route(metrics.log_metric),
    ("POST", "runs/log-batch"): Route(metrics.log_batch),
    ("GET", "metrics/get-history"): Route(metrics.get_history),
    ("GET", "metrics/get-history-bulk-interval"): Route(metrics.get_interval),
    ("GET", "registered-models/alias"): Route(models.get_by_alias),
    ("GET", "model-versions/get-download-uri"): Route(models.get_download_uri),
}
PREFIXES = ("/api/2.0/mlflow/", "/ajax-api/2.0/mlflow/")
WORKSPACE_HEADER = b"x-mlflow-workspace"


class Fast:
    """The fast path of one worker."""

    def __init__(self, database_uri: str, connections: int) -> None:
        """`connections` is how many of MLflow's database the worker may have."""
        self.database = Database(database_uri, connections)
        self.routes = find_routes()
        self.is_checked = False

    def find(self, scope: Scope) -> Route | None:
        """Return how the request is answered here; None if MLflow is to answer."""
        return self.routes.get((scope["method"], scope["path"]))

    async def check(self) -> bool:
        """Return whether the database has the schema that is known here; if not, nothing is answered any more."""
        if not self.is_checked:
            found = [row[0] for row in await self.database.fetch(SCHEMA_OF)]
            if found != [SCHEMA]:
                log.warning("fast path off: schema %s, compared with %s: MLflow answers all", found, SCHEMA)
                self.routes = {}
            self.is_checked = True
        return bool(self.routes)

    async def answer(
        self, route: Route, scope: Scope, receive: Receive, account: Account
    ) -> tuple[bytes | None, dict[str, str], Receive]:
        """Return body and headers of a plain success, or None; in any case also what MLflow reads the request by.

        Raises LostError if the request may have been done, and must not be done twice.
        """
        headers = dict(scope["headers"])
        size = headers.get(b"content-length", b"0")
        kind = headers.get(b"content-type", b"").partition(b";")[0]  # (MLflow takes no other spelling)
        rights = Rights(account)
        if (
            WORKSPACE_HEADER in headers
            or b"transfer-encoding" in headers
            or not (size.isdigit() and int(size) <= MAX_BODY)
            or (scope["method"] != "GET" and kind != b"application/json")
            or not rights.is_plain
        ):
            return None, {}, receive
        body, receive = await read_body(receive)
        request = Request(scope["query_string"].decode("latin-1"), body, rights, self.database)
        try:
            if not await self.check():
                return None, {}, receive
            answer = await route.handler(request)
        except (ReplayError, RefusedError):
            return None, {}, receive
        except LostError:
            if route.is_repeatable:
                return None, {}, receive
            raise
        if not route.is_audited:
            return msgspec.json.encode(answer), HEADERS, receive
        about = targets.render([{}, {}, msgspec.json.decode(body), answer])
        return msgspec.json.encode(answer), {**HEADERS, targets.HEADER.lower(): about}, receive


def find_routes() -> dict[tuple[str, str], Route]:
    """Return the routes by method and path, those of them that this version of MLflow has."""
    if mlflow.__version__ != MLFLOW_VERSION:
        log.warning(
            "fast path off: MLflow %s, compared with %s: MLflow answers all", mlflow.__version__, MLFLOW_VERSION
        )
        return {}
    paths = {(method, path) for path, _, methods in handlers.get_endpoints() for method in methods}
    found = {(method, prefix + name): route for (method, name), route in ROUTES.items() for prefix in PREFIXES}
    return {key: route for key, route in found.items() if key in paths}


async def read_body(receive: Receive) -> tuple[bytes, Receive]:
    """Return the whole body, and a `receive` that gives it once more."""
    pieces: list[bytes] = []
    end: Message = {}
    while end.get("type") != "http.disconnect" and (not end or end.get("more_body", False)):
        end = await receive()
        pieces.append(end.get("body", b""))
    body = b"".join(pieces)
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return end if end["type"] == "http.disconnect" else {"type": "http.request", "body": body, "more_body": False}

    return body, replay
