"""The words of Docker, read and judged."""

from __future__ import annotations

import json

import pytest

from admin import status

RUNNING = {"Name": "s-mlflow-1", "Service": "mlflow", "State": "running", "Health": "healthy", "Image": "i:1"}
DONE = {"Name": "s-migrate-1", "Service": "migrate", "State": "exited", "Health": "", "ExitCode": 0, "Image": "i:1"}
STATS = {"Name": "s-mlflow-1", "MemUsage": "230MiB / 1GiB"}


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(value) for value in (RUNNING, DONE, STATS)),
        json.dumps([RUNNING, DONE]) + "\n" + json.dumps(STATS),
    ],
)
def test_both_forms_of_docker_compose_ps_are_read(text: str) -> None:
    mlflow, migrate = status.read_services(text)
    assert (mlflow.name, mlflow.word, mlflow.memory, mlflow.is_well) == ("mlflow", "healthy", "230MiB", True)
    assert (migrate.name, migrate.word, migrate.memory, migrate.is_well) == ("migrate", "done", "", True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"Health": "unhealthy"}, "unhealthy"),
        ({"State": "exited", "Health": ""}, "exited"),
        ({"Health": "starting"}, "starting"),
    ],
)
def test_a_server_that_is_not_well_is_seen(change: dict[str, str], word: str) -> None:
    (service,) = status.read_services(json.dumps(RUNNING | change))
    assert not service.is_well
    assert service.word == word


def test_a_failed_job_is_seen() -> None:
    (service,) = status.read_services(json.dumps(DONE | {"ExitCode": 1}))
    assert not service.is_well
    assert service.word == "failed (1)"


def test_nothing_is_an_empty_list() -> None:
    assert status.read_services("") == []
