"""What `./stack bench` asks for is done by a real stack; what it computes: tests/unit/test_bench.py."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from bench import clients, floors, metadata, usage

from stack.deployment import Deployment

Login = tuple[str, str]


def test_a_client_does_what_it_is_asked_and_says_what_it_took(
    stack: Deployment, admin: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "tests")
    user = clients.User(admin, stack.url, tmp_path / "user.log")
    try:
        for task in ("log_metrics", "log_batch"):
            (milliseconds, cpu), services = usage.measure(
                stack.name, clients.SERVICES["fast"], functools.partial(user.ask, task, 20)
            )
            done = clients.summarize(milliseconds, cpu, services)
            assert done.calls == 20
            assert 0 < done.client < done.p50 * 20  # (other tests may take turns with it)
            assert done.services["mlflow"] > 0
            assert done.services["postgres"] > 0
    finally:
        user.close()
    assert all(seen.memory > 1 for seen in usage.read_all(stack.name, clients.SERVICES["fast"]).values())


def test_floors_are_statements_that_find_and_write_something(stack: Deployment) -> None:
    statements = floors.write_statements(metadata.EXPERIMENT, metadata.RUN, metadata.FOUND)
    command = [
        "exec",
        "-T",
        "postgres",
        "psql",
        "-d",
        "mlflow",
        "-v",
        "ON_ERROR_STOP=1",
        "-c",
        f"BEGIN; {metadata.FILL}",
    ]
    for statement in statements.values():
        command += ["-c", statement]
    said = stack.compose(*command, "-c", "ROLLBACK").partition("\nANALYZE\n")[2]
    found = re.findall(r"^(INSERT 0 \d+|UPDATE \d+|\(\d+ rows?\))$", said, re.MULTILINE)
    assert dict(zip(statements, found, strict=True)) == {
        "experiments/get": "(1 row)",
        "runs/get": "(1 row)",
        "log-metric": "INSERT 0 1",
        "log-batch, 100 keys": "INSERT 0 100",
        "log-batch, 10 keys, 10 steps": "INSERT 0 10",
        "runs/create": "INSERT 0 1",
        "runs/update": "UPDATE 1",
        "search, 100 of 2,000": "(101 rows)",
    }
