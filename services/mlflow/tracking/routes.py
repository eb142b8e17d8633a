"""Every route of the running version, from the server itself: `python -m tracking.routes` in its container.

The tests hold this list against the reviewed one (tests/stack/routes.csv): an upgrade that adds a route is seen.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute, Mount, Route

from tracking import settings

Found = tuple[str, str]
IMPLIED = {"HEAD", "OPTIONS"}


def find_native(routes: list[BaseRoute], prefix: str = "") -> Iterator[Found]:
    """Yield (method, path) of FastAPI's own routes; parameters are written <name>, as Flask writes them."""
    for route in routes:
        if isinstance(route, Route):
            for method in (route.methods or {"GET"}) - IMPLIED:
                yield method, re.sub(r"\{(\w+)(?::\w+)?\}", r"<\1>", prefix + route.path)
        elif isinstance(route, Mount) and route.routes:
            yield from find_native(route.routes, prefix + route.path)
        elif (inner := getattr(route, "original_router", None)) is not None:  # FastAPI's included routers
            yield from find_native(inner.routes, prefix + route.include_context.prefix)  # type: ignore[attr-defined]


def find_flask(app: Any) -> Iterator[Found]:
    """Yield (method, path) of the Flask application's routes; converters are left out."""
    for rule in app.url_map.iter_rules():
        for method in set(rule.methods) - IMPLIED:
            yield method, re.sub(r"<\w+:(\w+)>", r"<\1>", rule.rule)


def main() -> None:
    """Print the routes, sorted, one a line."""
    settings.apply(settings.load())
    settings.apply_secrets()
    from mlflow.server import app as flask_app
    from mlflow.server.auth import create_app

    fastapi_app = create_app()
    if not isinstance(fastapi_app, FastAPI):
        sys.exit("routes: MLflow's application is not FastAPI's any more: mend tracking/routes.py")
    for method, path in sorted({*find_native(fastapi_app.routes), *find_flask(flask_app)}, key=lambda r: (r[1], r[0])):
        print(method, path)


if __name__ == "__main__":
    main()
