"""What a backup decides without containers: which sets are kept, which objects a moment had, what a manifest says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from admin.faults import FaultError
from backup import capture, copying, making, manifest, pgbackrest, repository, restoring, retention, serving
from backup.manifest import Figures, Item, Manifest, Table

DAY = 24 * 3600
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()
SET = "20261125T120000Z"


def make_manifest(**changes: object) -> Manifest:
    made = Manifest(
        format=1,
        name=SET,
        repository="one",
        stack="s",
        begun=NOON,
        moment=NOON,
        ended=NOON,
        schemas={},
        label="20261125-120000F",
        target=f"{SET}-0",
        files=[],
        objects=[Item("a/b", "v1", NOON, 3, is_live=True, name="objects/aa/bb", sha256="00")],
        figures=Figures(True, {"mlflow.public.runs": Table(3, "abc")}, {"mlflow.public.x": 5}),
        fingerprints={},
        keys=None,
        copied=3,
    )
    return msgspec.structs.replace(made, **changes)


# --------------------------------------------------------------------------------------------------------- manifests
def test_a_manifest_is_read_as_it_was_written() -> None:
    assert manifest.decode(SET, manifest.encode(make_manifest())) == make_manifest()


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen() -> None:
    content = manifest.encode(make_manifest())
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 4
        with pytest.raises(FaultError, match="is damaged"):
            manifest.decode(SET, bytes(damaged))


@pytest.mark.parametrize("length", [0, 10, 64, 65, 200])
def test_a_truncated_manifest_is_seen(length: int) -> None:
    with pytest.raises(FaultError, match="is damaged"):
        manifest.decode(SET, manifest.encode(make_manifest())[:length])


def test_a_newer_manifest_and_another_sets_are_refused() -> None:
    with pytest.raises(FaultError, match="has format 2, this stack reads up to 1"):
        manifest.decode(SET, manifest.encode(make_manifest(format=2)))
    with pytest.raises(FaultError, match="the manifest is of set other"):
        manifest.decode(SET, manifest.encode(make_manifest(name="other")))


# ------------------------------------------------------------------------------------------------------- what is kept
def keep(days: list[float], rules: str) -> list[float]:
    """Return the ages of the sets that stay, in days before noon."""
    sets = {f"{day}": NOON - day * DAY for day in days}
    gone = retention.choose_expired(sets, retention.read_rules(rules))
    return [day for day in days if f"{day}" not in gone]


def test_the_newest_of_each_day_week_and_month_stays() -> None:
    assert keep([0, 0.1, 0.2, 1, 1.1, 2, 3], "2d") == [0, 1]
    # (noon of a Wednesday)
    assert keep([0, 1, 2, 3, 4, 9, 10, 17], "1d,3w") == [0, 3, 10]
    assert keep([0, 20, 30, 60, 90], "2m") == [0, 30]


@pytest.mark.parametrize("rules", ["1d", "7d,4w,6m", "1m"])
def test_the_last_set_stays_however_old(rules: str) -> None:
    assert keep([4000], rules) == [4000]


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "7d,", "7d 4w", "7y", "-1d"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(FaultError, match="STACK_BACKUP_KEEP is "):
        retention.read_rules(text)


# ------------------------------------------------------------------------------------------------------- the schedule
@pytest.mark.parametrize(
    ("at", "last", "due"),
    [
        ("off", 0, False),
        ("11:00", 0, True),  # never made
        ("11:00", NOON - 2 * 3600, True),
        ("11:00", NOON - 1800, False),  # made since eleven
        ("13:00", NOON - 22 * 3600, False),  # made since yesterday's one o'clock
        ("13:00", NOON - 24 * 3600, True),
        ("12:00", NOON - 60, True),
    ],
)
def test_a_set_is_due_once_a_day(at: str, last: float, due: bool) -> None:
    assert serving.Schedule(at).is_due(NOON, last) is due


def test_a_set_that_failed_is_tried_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "STATE", tmp_path / "state.json")
    schedule = serving.Schedule("11:00")
    schedule.remember(False, "the disk is full", NOON)
    assert serving.read_state() == {"tried": NOON, "made": 0, "fault": "the disk is full"}
    assert not schedule.is_due(NOON + 60, 0)
    assert schedule.is_due(NOON + serving.RETRY_SECONDS, 0)
    schedule.remember(True, "", NOON + 1000)
    assert not schedule.is_due(NOON + 1001, serving.read_state()["made"])


def test_names_of_sets_go_up_also_when_the_clock_goes_back() -> None:
    assert making.name_set(NOON, []) == SET
    assert making.name_set(NOON, [SET]) == "20261125T120001Z"
    assert making.name_set(NOON - 5, [SET]) == "20261125T120001Z"


# ----------------------------------------------------------------------------------------------- objects of a moment
def version(key: str, time: float, *, marker: bool = False, copied: bool = True) -> Item:
    name = None if marker or not copied else f"objects/{key}{time}"
    return Item(key, f"v{time}", time, 1, is_live=False, is_marker=marker, name=name)


def test_a_moment_has_what_a_reader_saw_then() -> None:
    history = [
        version("replaced", 10), version("replaced", 20),
        version("deleted", 10), version("deleted", 15, marker=True),
        version("deleted later", 10), version("deleted later", 30, marker=True),
        version("written later", 30),
        version("back again", 5), version("back again", 6, marker=True), version("back again", 12),
        version("lost", 10, copied=False),
    ]  # fmt: skip
    seen, missing = capture.choose_at(history, 25.5)
    assert {(item.key, item.time) for item in seen} == {("replaced", 20), ("deleted later", 10), ("back again", 12)}
    assert [item.key for item in missing] == ["lost"]


@pytest.mark.parametrize("time", [10.0, 10.9])  # (stores tell whole seconds)
def test_in_its_own_second_an_object_is_there_and_a_deletion_is_not(time: float) -> None:
    history = [version("a", time), version("b", 1), version("b", time, marker=True)]
    # (of the same second the first in the listing is the newer)
    history += [version("c", 5), version("c", 5, marker=True), version("d", 5, marker=True), version("d", 5)]
    seen, _ = capture.choose_at(history, 10.5)
    assert {item.key for item in seen} == {"a", "b", "c"}
    seen, _ = capture.choose_at(history, 11)
    assert {item.key for item in seen} == {"a", "c"}


def test_listings_are_one_history_with_what_there_is_of_copies() -> None:
    before = [version("a", 2, copied=False), version("a", 1)]
    after = [version("a", 3, marker=True), version("a", 2), version("a", 1, copied=False)]
    assert capture.merge([after, before]) == [after[0], after[1], before[1]]


# --------------------------------------------------------------------------------------------------------------- WAL
def test_segments_are_counted_over_the_end_of_a_log() -> None:
    assert pgbackrest.count_up("0000000100000002000000FE", "000000010000000300000001") == [
        "0000000100000002000000FE",
        "0000000100000002000000FF",
        "000000010000000300000000",
        "000000010000000300000001",
    ]
    with pytest.raises(FaultError, match="another timeline"):
        pgbackrest.count_up("000000010000000000000001", "000000020000000000000002")


def test_segments_are_found_and_other_files_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "postgres/archive/main/17-1/0000000100000000"
    folder.mkdir(parents=True)
    whole = f"000000010000000000000003-{'a' * 40}.zst"
    for name in (whole, "000000010000000000000003.00000028.backup", f"{whole}.pgbackrest.tmp"):
        (folder / name).touch()
    assert list(pgbackrest.find_segments(tmp_path)) == ["000000010000000000000003"]


# ----------------------------------------------------------------------------------------------------- the comparison
def compare(**tables: Table) -> dict[str, bool]:
    wanted = Figures(True, {"a": Table(3, "abc"), "big": Table(9, None), "empty": Table(0, "0")}, {"s": 5})
    found = Figures(True, {**wanted.tables, **tables}, {"s": 7})
    return {line.what: line.is_same for line in restoring.compare_figures(wanted, found)}


def test_what_is_the_same_is_the_same_and_a_sequence_may_be_ahead() -> None:
    assert compare() == {"a": True, "big": True, "tables without rows": True, "sequences": True}


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ({"a": Table(2, "abc")}, "a"),
        ({"a": Table(3, "abd")}, "a"),
        ({"big": Table(8, "x")}, "big"),
        ({"empty": Table(1, "1")}, "empty"),
        ({"new": Table(1, "1")}, "new"),
    ],
)
def test_what_differs_is_named(tables: dict[str, Table], what: str) -> None:
    assert [name for name, is_same in compare(**tables).items() if not is_same] == [what]


@pytest.mark.parametrize("value", [4, 100])
def test_a_sequence_that_went_back_or_far_ahead_differs(value: int) -> None:
    wanted, found = Figures(True, {}, {"s": 5}), Figures(True, {}, {"s": value})
    assert [line.is_same for line in restoring.compare_figures(wanted, found)] == [True, False]


# ------------------------------------------------------------------------------------------------------------- folders
def test_two_at_once_are_told_apart(tmp_path: Path) -> None:
    with repository.alone(tmp_path, "here"):
        with (
            pytest.raises(repository.BusyError, match="another backup to here is at work"),
            repository.alone(tmp_path, "here"),
        ):
            pass
        with repository.alone(tmp_path, "here", repository.OBJECTS_LOCK):
            pass
    with repository.alone(tmp_path, "here"):
        pass


def test_a_file_is_copied_once_and_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    source, target = tmp_path / "a", tmp_path / "to/b"
    source.write_bytes(b"1234")
    assert copying.copy_file(source, target, changes=False) == 4
    source.write_bytes(b"5678")
    assert copying.copy_file(source, target, changes=False) == 0
    assert copying.copy_file(source, target, changes=True) == 4
    assert target.read_bytes() == b"5678"
    assert [path.name for path in target.parent.iterdir()] == ["b"]
