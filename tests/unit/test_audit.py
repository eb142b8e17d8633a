"""The audit log's files, read as a stream."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from admin import audit
from admin.faults import FaultError


def line(time: str, user: str = "ann", action: str = "experiments/create", **fields: Any) -> str:
    entry = {
        "time": time,
        "request_id": "r1",
        "user": user,
        "address": "10.0.0.7",
        "method": "POST",
        "path": "/api/2.0/mlflow/" + action,
        "action": action,
        "status": 200,
        "targets": json.dumps({"name": "m", "alias": "production"}),
        **fields,
    }
    return json.dumps(entry) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "audit-2026-11-24.jsonl").write_text(
        line("2026-11-24T23:59:59+00:00", "bob") + line("2026-11-24T08:00:00+00:00", action="runs/create", targets="-")
    )
    (tmp_path / "audit-2026-11-25.jsonl").write_text(
        line("2026-11-25T10:00:00+00:00") + line("2026-11-25T12:30:00+02:00", action="experiments/delete", targets="")
    )
    (tmp_path / "audit-yesterday.jsonl").write_text("not ours\n")
    return tmp_path


def search(folder: Path, **options: Any) -> list[tuple[str, str, str]]:
    found = audit.Search(**options).find(folder)
    return [(entry["user"], entry["action"], f"{entry['moment']:%d %H:%M}") for entry in found]


def test_entries_come_from_the_oldest_file_on(folder: Path) -> None:
    assert search(folder) == [
        ("bob", "experiments/create", "24 23:59"),
        ("ann", "runs/create", "24 08:00"),
        ("ann", "experiments/create", "25 10:00"),
        ("ann", "experiments/delete", "25 10:30"),
    ]


def test_entries_are_chosen(folder: Path) -> None:
    assert [user for user, _, _ in search(folder, user="bob")] == ["bob"]
    assert search(folder, user="bo") == []
    assert [action for _, action, _ in search(folder, action="experiments/d")] == ["experiments/delete"]
    since = datetime(2026, 11, 25, 10, 15, tzinfo=UTC)
    assert [action for _, action, _ in search(folder, since=since)] == ["experiments/delete"]
    assert search(folder, since=since, user="bob") == []


def test_files_that_are_too_old_are_not_opened(folder: Path) -> None:
    (folder / "audit-2026-11-01.jsonl").mkdir()  # opening it would be an error
    assert len(search(folder, since=datetime(2026, 11, 2, tzinfo=UTC))) == 4
    with pytest.raises(FaultError, match=r"audit-2026-11-01.jsonl: Is a directory"):
        search(folder, since=datetime(2026, 11, 1, 23, tzinfo=UTC))


def test_unreadable_lines_are_counted_and_the_others_are_shown(folder: Path) -> None:
    bad = [
        b"",
        b"not json",
        b"[]",
        b"7",
        b"null",
        b'"time"',
        b"{}",
        b'{"time": 3}',
        b'{"time": "yesterday"}',
        b'{"time": "0001-01-01T00:00:00+14:00"}',
        b"[" * 100000,
        b'{"time": "2026-11-25T10:00:00+00:00", "us',
    ]
    odd = b'{"time": "2026-11-25T10:00:00+00:00", "user": "\xff", "action": "a", "targets": "[[\\"x"}'
    (folder / "audit-2026-11-26.jsonl").write_bytes(b"\n".join([*bad, odd, b""]))
    wanted = audit.Search(since=datetime(2026, 11, 25, 10, 20, tzinfo=UTC))
    assert [entry["action"] for entry in wanted.find(folder)] == ["experiments/delete"]
    assert wanted.unreadable == len(bad)
    (entry,) = audit.Search(action="a").find(folder)
    assert entry["user"] == "\ufffd"
    assert entry["targets"] == {"text": '[["x'}


def test_no_log_yet_is_no_fault(tmp_path: Path) -> None:
    assert search(tmp_path / "nothing") == []


def test_an_entry_is_a_line_of_the_table_and_a_line_of_json(folder: Path) -> None:
    (entry,) = audit.Search(user="bob").find(folder)
    assert audit.format_entry(entry).split() == [
        "2026-11-24T23:59:59Z",
        "200",
        "bob",
        "10.0.0.7",
        "experiments/create",
        "name=m",
        "alias=production",
    ]
    shown = json.loads(audit.format_json(entry))
    assert shown["targets"] == {"name": "m", "alias": "production"}
    assert shown["time"] == "2026-11-24T23:59:59+00:00"
    assert "moment" not in shown


def test_what_a_stranger_sent_does_not_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "audit-2026-11-25.jsonl").write_text(
        line("2026-11-25T10:00:00+00:00", "\x1b[2Jevil", targets=json.dumps({"name": "a\nb"}))
    )
    (entry,) = audit.Search().find(tmp_path)
    shown = audit.format_entry(entry)
    assert shown.isprintable()
    assert r"\x1b[2Jevil" in shown


def test_a_long_log_takes_no_memory(tmp_path: Path) -> None:
    with (tmp_path / "audit-2026-11-25.jsonl").open("w") as file:
        for _ in range(50):
            file.write(line("2026-11-25T10:00:00+00:00") * 1000)
        file.write("x" * (16 << 20))  # a line without an end
    wanted = audit.Search()
    tracemalloc.start()
    count = sum(1 for _ in wanted.find(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 50_000
    assert wanted.unreadable == 16
    assert peak < 8 << 20, peak
