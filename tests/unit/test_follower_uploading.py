"""What becomes of the log's files at the follower, by a gateway whose words the test chooses."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

import pytest

from follower.registry import AwayError
from follower.uploading import Uploader, UploadError

FIRST, SECOND = "M@1-20261124T235900000000Z-2.parquet", "M@1-20261125T000100000000Z-1.parquet"


@dataclass
class Answer:
    ok: bool
    status_code: int
    text: str = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@dataclass
class Registry:
    """Takes what is sent; the real one can't be made to fail at a chosen moment."""

    error: Exception | None = None
    status: int = 200
    stage: str = "active"
    runs: list[str] = field(default_factory=list)
    sent: dict[str, bytes] = field(default_factory=dict)

    def ask_json(self, path: str, /, **fields: str) -> tuple[bool, dict[str, Any]]:
        assert path.endswith("experiments/get-by-name")
        assert fields == {"experiment_name": "Predictions"}
        return True, {"experiment": {"experiment_id": "7", "lifecycle_stage": self.stage}}

    def post_json(self, path: str, content: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        if path.endswith("runs/search"):
            return True, {"runs": [self.describe(day) for day in self.runs if f"'{day}'" in content["filter"]]}
        if path.endswith("runs/create"):
            self.runs.append(next(tag["value"] for tag in content["tags"] if tag["key"] == "day"))
            return True, {"run": self.describe(self.runs[-1])}
        return True, {}

    @staticmethod
    def describe(day: str) -> dict[str, Any]:
        return {"info": {"run_id": f"run{day}", "artifact_uri": f"mlflow-artifacts:/7/run{day}/artifacts"}}

    def send(self, method: str, path: str, **options: Any) -> Answer:
        assert method == "PUT"
        if self.error:
            raise self.error
        self.sent[unquote(path.partition("/artifacts/")[2])] = options["data"].read()
        return Answer(self.status == 200, self.status)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def uploader(registry: Registry, tmp_path: Path) -> Uploader:
    (tmp_path / SECOND).write_bytes(b"second")
    (tmp_path / FIRST).write_bytes(b"first")
    return Uploader(registry, tmp_path)  # type: ignore[arg-type]


def test_files_go_to_the_run_of_their_day_and_are_removed(
    uploader: Uploader, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / ".7.part").write_bytes(b"not whole yet")
    uploader.step()
    assert registry.sent == {
        f"7/run2026-11-24/artifacts/{FIRST}": b"first",
        f"7/run2026-11-25/artifacts/{SECOND}": b"second",
    }
    assert [path.name for path in tmp_path.iterdir()] == [".7.part"]
    (tmp_path / SECOND).write_bytes(b"again")  # (it was sent, and the follower ended before it was removed)
    Uploader(registry, tmp_path).step()  # type: ignore[arg-type]
    assert registry.runs == ["2026-11-24", "2026-11-25"]
    assert registry.sent[f"7/run2026-11-25/artifacts/{SECOND}"] == b"again"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"error": AwayError("away")}, AwayError),
        ({"status": 403}, UploadError),
        ({"stage": "deleted"}, UploadError),
    ],
)
def test_what_can_not_be_sent_stays(
    uploader: Uploader, registry: Registry, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    for name, value in changes.items():
        setattr(registry, name, value)
    with pytest.raises(error):
        uploader.step()
    assert {path.name for path in tmp_path.iterdir()} == {FIRST, SECOND}
    registry.error, registry.status, registry.stage = None, 200, "active"
    uploader.step()
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_a_file_of_that_folder_is_sent(uploader: Uploader, registry: Registry, tmp_path: Path) -> None:
    secret = tmp_path / "credentials"
    secret.write_bytes(b"secret")
    for path in (tmp_path / FIRST, tmp_path / SECOND):
        path.unlink()
    (tmp_path / FIRST).symlink_to(secret)
    os.mkfifo(tmp_path / SECOND)
    uploader.step()
    assert registry.sent == {}
    assert [path.name for path in tmp_path.iterdir()] == ["credentials"]
