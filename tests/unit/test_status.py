"""The words of Docker, read and judged."""

from __future__ import annotations

import json
from datetime import UTC, datetime

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


MODEL = {"name": "M", "wanted": "2", "served": "1", "state": "kept", "reason": "it can't be loaded: [x]", "copy": "c"}


def test_served_models_are_read_from_the_same_stream() -> None:
    text = json.dumps([RUNNING]) + json.dumps(STATS) + json.dumps({"models": [MODEL], "trouble": "away"})
    models, trouble = status.read_models(text)
    assert trouble == "away"
    assert [(model.name, model.served, model.wanted, model.is_well) for model in models] == [("M", "1", "2", False)]
    assert [service.name for service in status.read_services(text)] == ["mlflow"]
    assert status.read_models("") == ([], "")


@pytest.mark.parametrize(
    ("change", "is_well"),
    [
        ({"state": "served", "served": "2"}, True),
        ({"state": "loading"}, True),
        ({"state": "not served", "wanted": "", "served": ""}, True),
        ({"state": "not served", "served": ""}, False),
    ],
)
def test_a_wanted_version_that_is_not_served_is_seen(change: dict[str, str], is_well: bool) -> None:
    models, _ = status.read_models(json.dumps({"models": [MODEL | change], "trouble": ""}))
    assert models[0].is_well is is_well


def test_a_reason_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    models, _ = status.read_models(json.dumps({"models": [MODEL], "trouble": ""}))
    status.print_table([], "3.17.2", "http://x", models, "away")
    shown = capsys.readouterr().out
    assert "it can't be loaded: [x]" in shown
    assert "can't be looked for: away" in shown


NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
STATE = {
    "sets": ["20261125T113000Z", "20261126T023000Z"],
    "at": "02:30",
    "fault": "",
    "archive": "",
    "untrue": "",
    "trial": "",
}


@pytest.mark.parametrize(
    ("change", "is_well", "part"),
    [
        ({}, True, "2 backups, the newest 20261126T023000Z (9.5 h old); each day at 02:30 UTC"),
        ({"sets": ["20261125T103000Z"]}, False, "LATE"),
        ({"sets": ["20261125T103000Z"], "at": "off"}, True, "none by themselves"),
        ({"sets": []}, False, "no backup: ./stack backup makes one"),
        ({"sets": [], "at": "off"}, True, "no backup: ./stack backup makes one"),
        ({"fault": "the disk is full"}, False, "the last one failed: the disk is full"),
        ({"archive": "32 MB wait"}, False, "WAL: 32 MB wait"),
        ({"untrue": "runs differ"}, False, "brought back on trial: runs differ"),
        ({"trial": NOW.timestamp() - 86400}, True, "brought back on trial 1.0 days ago"),
        (
            {"sizes": {"sets": {"20261126T023000Z": 1234567}, "all": 5e9}},
            True,
            "the newest 20261126T023000Z (9.5 h old, 1.2 MB), 5.0 GB in all; each day",
        ),
        ({"place": "s3://b/f", "carried": 31.4}, True, "in s3://b/f too, as of 31 s ago"),
        ({"place": "s3://b/f", "carried": None}, True, "in s3://b/f too, not yet"),
        ({"bucket": "s3://b/f can't be used"}, False, "bucket: s3://b/f can't be used"),
        ({"messages": "nobody answers"}, False, "messages: nobody answers"),
        ({"clock": "30 s ahead"}, False, "clock: 30 s ahead"),
        (
            {"sets": [], "at": "off", "archive": "32 MB wait"},
            False,
            "no backup; none by themselves (./stack backup schedule); WAL: 32",
        ),
        ({"sets": [], "at": "off", "target": "/b can't be read"}, False, "no backup can be read; none by themselves"),
    ],
)
def test_backups_that_are_late_or_fail_are_seen(change: dict[str, object], is_well: bool, part: str) -> None:
    backups = status.read_backups(json.dumps([RUNNING]) + json.dumps({"Backups": STATE | change}), NOW)
    assert backups is not None
    assert backups.is_well is is_well
    assert part in backups.line


def test_nothing_is_said_of_backups_where_nobody_tells() -> None:
    assert status.read_backups(json.dumps([RUNNING]), NOW) is None


def test_a_server_that_is_ready_before_docker_asks_it_is_healthy() -> None:
    (service,) = status.read_services(
        json.dumps(RUNNING | {"Health": "starting"}) + json.dumps({"Ready": "s-mlflow-1"})
    )
    assert (service.word, service.is_well) == ("healthy", True)


@pytest.mark.parametrize(
    ("used", "is_well", "part"),
    [
        (84, True, "Disks: database 84 %, audit log 50 %\n"),
        (85, True, "database 85 %, audit log 50 %; database: 85 % full, 15 bytes left: make room"),
        (95, False, "database: 95 % full"),
    ],
)
def test_a_disk_that_is_nearly_full_is_seen(
    capsys: pytest.CaptureFixture[str], used: int, is_well: bool, part: str
) -> None:
    told = json.dumps([RUNNING]) + json.dumps({"Disk": "database", "used": used, "free": 100 - used})
    (disk,) = status.read_disks(told)
    assert disk.is_well is is_well
    status.print_disks([disk, status.Disk("audit log", 50, 50)])
    assert part in capsys.readouterr().out
    assert [service.name for service in status.read_services(told)] == ["mlflow"]
