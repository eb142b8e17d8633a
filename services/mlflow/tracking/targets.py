"""What a request was about, told to the gateway, which alone writes the audit log.

The names and ids in a request's body are known here only, who asked and how it ended at the gateway: so they go there
in a header of the answer, which the gateway takes off. This process has no way to the log itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import flask

HEADER = "X-Stack-Targets"
READING = {"GET", "HEAD", "OPTIONS"}
MAX_BODY = 64 * 1024
MAX_HEADER = 1500  # well below the gateway's proxy_buffer_size
# Names and ids only: never a value, a text or a password.
KEYS = (
    "experiment_id", "run_id", "run_uuid", "model_id", "version", "alias", "stage", "username", "role_id", "role_name",
    "is_admin", "resource_type", "resource_id", "resource_pattern", "permission", "dataset_id", "webhook_id",
    "trace_id", "request_id", "key", "name", "new_name", "path",
)  # fmt: skip
MAX_DEPTH = 3


def find_targets(value: object, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of the names and ids in a JSON value, the outermost first."""
    if not isinstance(value, dict) or depth > MAX_DEPTH:
        return
    for key in KEYS:
        found = value.get(key)
        if isinstance(found, str | int) and found != "":
            yield key, str(found)
    for inner in value.values():
        yield from find_targets(inner, depth + 1)


def render(sources: list[object]) -> str:
    """Return the targets as a JSON object in ASCII; what comes first is kept, what is too long is cut."""
    targets: dict[str, str] = {}
    for source in sources:
        for key, value in find_targets(source):
            grown = {**targets, key: value[:200]}
            if key not in targets and len(json.dumps(grown)) <= MAX_HEADER:
                targets = grown
    return json.dumps(targets)


def add_targets(response: flask.Response) -> flask.Response:
    """Add the header to the answer of a request that may have changed something."""
    request = flask.request
    if request.method in READING or (request.content_length or 0) > MAX_BODY:
        return response
    sources: list[object] = [dict(request.view_args or {}), request.args.to_dict()]
    if request.is_json:
        sources.append(request.get_json(silent=True))
    # What was created has its id in the answer only.
    if response.is_json and not response.is_streamed and (response.content_length or 0) <= MAX_BODY:
        sources.append(response.get_json(silent=True))
    response.headers[HEADER] = render(sources)
    return response


def register(app: flask.Flask) -> None:
    """Add the header to every answer of MLflow's Flask application."""
    app.after_request(add_targets)
