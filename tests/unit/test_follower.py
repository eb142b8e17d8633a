"""What the follower makes of the registry's words, by a registry whose words the test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from follower import following
from follower.following import Follower
from follower.registry import AwayError, FetchError, MissingError, Version
from serving import copies
from serving.copies import Choice, Desired


@dataclass
class Registry:
    """Says what the test wants; the real one can't be made to fail at a chosen moment."""

    version: str = "1"
    error: Exception | None = None
    fetch_error: Exception | None = None
    fetched: list[str] = field(default_factory=list)

    def find(self, choice: Choice) -> Version:
        if self.error:
            raise self.error
        return Version(choice.name, self.version, 1000)

    def fetch(self, version: Version, target: Path) -> None:
        self.fetched.append(version.version)
        (target / "MLmodel").write_text("x")
        if self.fetch_error:
            raise self.fetch_error


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


@pytest.fixture
def follower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]) -> Follower:
    monkeypatch.setattr(copies, "COPIES", tmp_path / "copies")
    monkeypatch.setattr(copies, "DESIRED", tmp_path / "desired.json")
    monkeypatch.setattr(copies, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(following, "PARTS", tmp_path / "parts")
    (tmp_path / "copies").mkdir()
    return Follower(Registry(), (Choice("M", ""),), Desired({}))  # type: ignore[arg-type]


def step(follower: Follower) -> Any:
    follower.step()
    return follower.desired.models["M"]


def test_a_version_is_fetched_once_and_whole(follower: Follower, tmp_path: Path) -> None:
    for _ in range(3):
        wanted = step(follower)
    assert (wanted.version, wanted.copy, wanted.reason) == ("1", "M@1-1000", "")
    assert follower.registry.fetched == ["1"]  # type: ignore[attr-defined]
    assert copies.find_fault(tmp_path / "copies/M@1-1000") is None
    assert copies.read_desired(tmp_path / "desired.json") == follower.desired
    assert not (tmp_path / "parts").exists()


def test_what_can_not_be_fetched_leaves_nothing_and_is_tried_again(
    follower: Follower, clock: list[float], tmp_path: Path
) -> None:
    registry: Any = follower.registry
    registry.fetch_error = FetchError("x has 3 bytes, not 4")
    for _ in range(3):
        wanted = step(follower)
    assert (wanted.version, wanted.copy) == ("1", "")
    assert "x has 3 bytes, not 4" in wanted.reason
    assert registry.fetched == ["1"]
    assert list((tmp_path / "copies").iterdir()) == []
    registry.fetch_error = None
    clock[0] += following.RETRY_SECONDS
    assert step(follower).copy == "M@1-1000"


@pytest.mark.parametrize("error", [AwayError("the gateway does not answer"), None])
def test_what_is_wanted_stays_while_nobody_answers(follower: Follower, error: Exception | None) -> None:
    before = step(follower)
    registry: Any = follower.registry
    registry.error = error
    if error is None:
        registry.version, registry.fetch_error = "2", AwayError("not fetched to its end")
    assert step(follower) == before
    assert follower.desired.trouble
    registry.error = registry.fetch_error = None
    step(follower)
    assert follower.desired.trouble == ""


def test_a_missing_alias_counts_after_a_while(follower: Follower, clock: list[float]) -> None:
    before = step(follower)
    registry: Any = follower.registry
    registry.error = MissingError("no alias")
    assert step(follower) == before
    registry.error = None
    step(follower)
    clock[0] += following.GRACE_SECONDS  # (it was there in between: the time begins anew)
    registry.error = MissingError("no alias")
    assert step(follower) == before
    clock[0] += following.GRACE_SECONDS
    gone = step(follower)
    assert (gone.version, gone.copy, gone.reason) == ("", "", "no alias")


def test_copies_in_use_and_the_newest_stay(follower: Follower, tmp_path: Path) -> None:
    for number in range(1, 7):
        follower.registry.version = str(number)  # type: ignore[attr-defined]
        step(follower)
    names = {path.name for path in (tmp_path / "copies").iterdir()}
    assert len(names) == 6, "without a state nobody knows what is in use"
    copies.write_file(tmp_path / "state.json", '{"models": [{"served_copy": "M@1-1000", "copy": "M@6-1000"}]}')
    step(follower)
    names = {path.name for path in (tmp_path / "copies").iterdir()}
    assert names == {"M@1-1000", "M@6-1000", "M@5-1000", "M@4-1000"}


def test_a_broken_copy_is_fetched_again(follower: Follower, tmp_path: Path) -> None:
    wanted = step(follower)
    (tmp_path / "copies" / wanted.copy / copies.FILES / "MLmodel").write_text("y")
    follower.drop_broken()
    assert step(follower) == wanted
    assert follower.registry.fetched == ["1", "1"]  # type: ignore[attr-defined]
    assert copies.find_fault(tmp_path / "copies" / wanted.copy) is None
