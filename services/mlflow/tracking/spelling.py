"""An experiment's id has one spelling.

MLflow compares the id of a permission as text and looks the experiment up as a number: "01", " 1" or "+1" would be
experiment 1 to the database and nobody's to the check, so that a DENY on it would not hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import flask
import graphql
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.server.handlers import catch_mlflow_exception
from starlette.types import Scope

PLAIN = re.compile(r"(?:0|[1-9][0-9]{0,18})", re.ASCII)
NAMES = {"experiment_id", "experimentId", "experiment_ids", "experimentIds"}
GRAPHQL = "/graphql"
MAX_TOKENS = 5000
HEADER = b"x-mlflow-experiment-id"  # of /v1/traces (OpenTelemetry)
HEADER_FAULT = "X-Mlflow-Experiment-Id is not plainly written: write it as MLflow does, such as 12"


def find_ids(value: object) -> Iterator[object]:
    """Yield every value below a key that names experiments."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in NAMES:
                yield from inner if isinstance(inner, list) else [inner]
            else:
                yield from find_ids(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_ids(inner)


def find_literals(query: str) -> list[str]:
    """Return the string literals of a GraphQL query, as its own parser reads them. Raises MlflowException."""
    try:
        document = graphql.parse(query, max_tokens=MAX_TOKENS)
    except graphql.GraphQLError as error:
        raise MlflowException(
            f"the GraphQL query can't be read: {error.message[:200]}", INVALID_PARAMETER_VALUE
        ) from None
    found: list[str] = []

    class Collector(graphql.Visitor):
        def enter_string_value(self, node: graphql.StringValueNode, *_: object) -> None:
            found.append(node.value)

    graphql.visit(document, Collector())
    return found


def find_texts(value: object) -> Iterator[str]:
    """Yield every string in a JSON value, keys included."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from find_texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from find_texts(inner)
    elif isinstance(value, str):
        yield value


def is_number(text: str) -> bool:
    """Return whether a database would read a number here."""
    try:
        int(text)
    except ValueError:
        return False
    return True


def check_plain(value: object) -> None:
    """Raise MlflowException if this is no experiment id as MLflow writes it. Empty and absent are MLflow's business."""
    if value not in (None, "") and not PLAIN.fullmatch(str(value)):
        raise MlflowException(
            f"experiment_id is {value!r}: write it as MLflow does, such as '12'", INVALID_PARAMETER_VALUE
        )


def check_graphql(body: Any) -> None:
    """Raise MlflowException if a literal or a variable is a number that is not plainly written."""
    if not (isinstance(body, dict) and isinstance(body.get("query"), str)):
        raise MlflowException("a GraphQL request is a JSON object with a query", INVALID_PARAMETER_VALUE)
    for text in (*find_literals(body["query"]), *find_texts(body.get("variables"))):
        if is_number(text):
            check_plain(text)


def may_name_experiments(data: bytes) -> bool:
    """Return whether a body is worth searching: most that are large (metrics) are not."""
    return b"xperiment" in data or b"\\u" in data


def check_texts(value: object) -> None:
    """Raise MlflowException for a text with a NUL, which Postgres can't hold: MLflow would answer 500."""
    if any("\0" in text for text in find_texts(value)):
        raise MlflowException("a text holds a NUL character (U+0000): leave it out", INVALID_PARAMETER_VALUE)


def check() -> None:
    """Check the query and the JSON body of a Flask request."""
    request = flask.request
    check_texts(request.args.to_dict(flat=False))
    check_texts(request.view_args)
    for name in NAMES & request.args.keys():
        for given in request.args.getlist(name):
            check_plain(given)
    if request.path == GRAPHQL:
        check_graphql(read_json(request))
    elif not request.path.endswith("/upload-artifact") and may_name_experiments(request.get_data()):
        body = read_json(request)
        check_texts(body)
        for value in find_ids(body):
            check_plain(value)


def read_json(request: flask.Request) -> Any:
    """Return the body as MLflow reads it: JSON that is a string is JSON once more (for old clients)."""
    value = request.get_json(force=True, silent=True)
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def is_header_plain(scope: Scope) -> bool:
    """Return whether the request's header names an experiment plainly, or none."""
    return all(PLAIN.fullmatch(value.decode("latin-1")) for name, value in scope["headers"] if name == HEADER)


def register(app: flask.Flask) -> None:
    """Check every request of MLflow's Flask application, before MLflow looks anything up for its own check."""
    app.before_request_funcs.setdefault(None, []).insert(0, catch_mlflow_exception(check))
