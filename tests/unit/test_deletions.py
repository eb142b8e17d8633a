"""What delete markers say was deleted together, and who the audit log says it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from artifacts import deleters, trash
from artifacts.catalog import RUN, Thing
from artifacts.deletions import Deletion, find_gone, split
from artifacts.objects import Version

RUN_ID = "a" * 32
FOLDER = f"1/{RUN_ID}/artifacts/"
OWNER = Thing(RUN, RUN_ID, 1, f"mlflow-artifacts:/{FOLDER}", None)
NOW = datetime(2026, 11, 26, 10, 0, 0, tzinfo=UTC)


def versions(path: str, *written: tuple[str, int]) -> list[Version]:
    """Return versions of an object, the newest first: what ("put" or "delete") and how many seconds before now."""
    return [
        Version(FOLDER + path, f"{path}{index}", NOW - timedelta(seconds=age), 1, what == "delete", index == 0)
        for index, (what, age) in enumerate(written)
    ]


def find(*objects: list[Version]) -> list[Deletion]:
    return list(split(OWNER, FOLDER, (gone for each in objects for gone in find_gone(each))))


def test_what_went_at_one_time_is_one_deletion() -> None:
    first, second = find(
        versions("a", ("delete", 100), ("put", 500)),
        versions("b/c", ("delete", 98), ("put", 400), ("put", 450)),
        versions("d", ("delete", 10), ("put", 20)),
        versions("e", ("put", 5)),
    )
    assert (first.paths, second.paths) == (["a", "b/c"], ["d"])
    assert first.identifier == f"{RUN_ID}@2026-11-26T09:58:20Z"
    assert [gone.version.identifier for gone in first.missing if gone.version] == ["a1", "b/c1"]
    assert first.what == f"a, b/c of run {RUN_ID}"


def test_what_came_back_since_is_not_missing_and_the_deletion_keeps_its_name() -> None:
    before = find(versions("a", ("delete", 100), ("put", 500)), versions("b", ("delete", 100), ("put", 500)))
    after = find(
        versions("a", ("put", 50), ("delete", 100), ("put", 500)), versions("b", ("delete", 100), ("put", 500))
    )
    assert [deletion.identifier for deletion in before] == [deletion.identifier for deletion in after]
    assert [gone.marker.key for gone in after[0].missing] == [f"{FOLDER}b"]
    # Deleted once more, it is the later deletion's.
    first, second = find(versions("a", ("delete", 10), ("put", 50), ("delete", 100), ("put", 500)))
    assert (first.missing, [gone.version.identifier for gone in second.missing if gone.version]) == ([], ["a1"])
    # Its versions are gone for good.
    (lost,) = find(versions("a", ("delete", 10)))
    assert lost.missing == []


def write_log(folder: Path, *lines: dict[str, Any] | str) -> deleters.Deleters:
    file = folder / "audit-2026-11-26.jsonl"
    file.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return deleters.Deleters(list(deleters.read_lines(NOW - timedelta(hours=1), folder)))


def line(
    user: str, action: str, seconds: int = 0, status: int = 200, method: str = "POST", **targets: str
) -> dict[str, Any]:
    moment = (NOW + timedelta(seconds=seconds)).isoformat()
    shown = {"time": moment, "user": user, "method": method, "action": action, "status": status}
    return {**shown, "targets": json.dumps(targets)}


def entry(relation: str, **row: Any) -> trash.Entry:
    return trash.Entry(1, NOW, relation, [row], {relation: 1}, "")


def test_the_log_says_who_deleted(tmp_path: Path) -> None:
    log = write_log(
        tmp_path,
        line("eve", "runs/delete", -60, run_id="r"),
        line("eve", "runs/delete", 0, status=403, run_id="r"),
        line("eve", "runs/delete", 0, run_id="other"),
        '{"time": "no line with /delete',
        line("ann", "runs/delete", 1, run_id="r"),
        line("bob", "runs/delete", 2, run_id="r"),
        line("eve", "registered-models/alias", 0, method="DELETE", name="m", alias="green"),
        line("ann", "registered-models/alias", 1, method="DELETE", name="m", alias="blue"),
        line("bob", f"mlflow-artifacts/artifacts/1/{RUN_ID}/artifacts/b", 1, status=204, method="DELETE"),
        line("ann", "model-versions/delete", 200, name="m", version="2"),
    )
    assert log.find_of_rows(entry(trash.RUNS, run_uuid="r")) == "ann"
    assert log.find_of_rows(entry(trash.RUNS, run_uuid="unheard of")) is None
    assert log.find_of_rows(entry(trash.ALIASES, name="m", alias="blue", version=1)) == "ann"
    assert log.find_of_rows(entry(trash.VERSIONS, name="m", version=2)) == "ann"
    assert log.find_of_rows(entry(trash.VERSIONS, name="m", version=3)) is None
    of = find(versions("b/c", ("delete", 0), ("put", 9)))[0], find(versions("bc", ("delete", 0), ("put", 9)))[0]
    assert [log.find_of_artifacts(each) for each in of] == ["bob", None]
