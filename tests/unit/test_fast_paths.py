"""When the fast path answers nothing, and how a request goes on to MLflow then."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.types import Message

from tracking.fast import paths
from tracking.fast.database import LostError, RefusedError
from tracking.identity import Account

ADMIN = Account("", is_admin=True, roles=frozenset(), edits=frozenset())
LOG = b'{"run_id": "r", "key": "m", "value": 1, "timestamp": 1}'
CREATE = b'{"experiment_id": "0"}'


class Database:
    """Answers what it is told to: a real one has the right schema and is there."""

    def __init__(self, schema: str = paths.SCHEMA, fault: type[Exception] | None = None) -> None:
        self.schema, self.fault = schema, fault

    async def fetch(self, statement: str, *_: Any) -> list[tuple[str]]:
        if statement == paths.SCHEMA_OF:
            return [(self.schema,)]
        if self.fault is not None:
            raise self.fault
        return [("r",)]

    async def fetch_row(self, statement: str, *values: Any) -> tuple[str]:
        return (await self.fetch(statement, *values))[0]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> paths.Fast:
    monkeypatch.setattr(paths, "Database", lambda *_: Database())
    return paths.Fast("", 1)


def ask(fast: paths.Fast, path: str, body: bytes, **headers: str) -> tuple[bytes | None, bytes]:
    """Return the answer, and what MLflow would read of the body."""
    messages = iter(
        [
            {"type": "http.request", "body": body[:5], "more_body": True},
            {"type": "http.request", "body": body[5:], "more_body": False},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    fields = {"content-type": "application/json", "content-length": str(len(body)), **headers}
    scope = {
        "method": "POST",
        "path": f"/api/2.0/mlflow/{path}",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
    }

    async def run() -> tuple[bytes | None, bytes]:
        route = paths.ROUTES["POST", path]
        answer, _, left = await fast.answer(route, scope, receive, ADMIN)
        read, more = b"", True
        while more:
            message = await left()
            read += message["body"]
            more = message["more_body"]
        return answer, read

    return asyncio.run(run())


def test_a_plain_request_is_answered(fast: paths.Fast) -> None:
    assert ask(fast, "runs/log-metric", LOG) == (b"{}", LOG)


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (LOG.replace(b"key", b"kee"), {}),
        (LOG, {"x-mlflow-workspace": "w"}),
        (LOG, {"content-type": "text/plain"}),
        (LOG, {"content-length": "1000001"}),
        (LOG, {"transfer-encoding": "chunked"}),
    ],
)
def test_what_is_not_plain_is_mlflows_with_its_whole_body(
    fast: paths.Fast, body: bytes, headers: dict[str, str]
) -> None:
    assert ask(fast, "runs/log-metric", body, **headers) == (None, body)


def test_what_the_database_refused_is_mlflows(fast: paths.Fast) -> None:
    fast.database = Database(fault=RefusedError)  # type: ignore[assignment]
    assert ask(fast, "runs/create", CREATE) == (None, CREATE)


def test_a_lost_connection_repeats_only_what_may_be_repeated(fast: paths.Fast) -> None:
    fast.database = Database(fault=LostError)  # type: ignore[assignment]
    assert ask(fast, "runs/log-metric", LOG) == (None, LOG)
    with pytest.raises(LostError):
        ask(fast, "runs/create", CREATE)


def test_another_schema_switches_it_off_with_one_line(fast: paths.Fast, caplog: pytest.LogCaptureFixture) -> None:
    fast.database = Database(schema="other")  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert ask(fast, "runs/log-metric", LOG) == (None, LOG)
    assert [record.getMessage() for record in caplog.records if "fast path off" in record.getMessage()] == [
        f"fast path off: schema ['other'], compared with {paths.SCHEMA}: MLflow answers all"
    ]
    assert not fast.routes


def test_another_mlflow_switches_it_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert len(paths.find_routes()) == len(paths.ROUTES) * len(paths.PREFIXES)
    monkeypatch.setattr(paths, "MLFLOW_VERSION", "3.0.0")
    with caplog.at_level(logging.WARNING):
        assert paths.find_routes() == {}
    assert "fast path off: MLflow" in caplog.text
