"""What a backup decides without containers: which sets are kept, which objects a moment had, what a manifest says."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from admin.faults import FaultError
from backup import (
    capture,
    carrying,
    copying,
    expiring,
    making,
    manifest,
    passing,
    pgbackrest,
    planning,
    programs,
    removal,
    repository,
    restoring,
    retention,
    serving,
    telling,
    trail,
)
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


def test_a_damaged_set_is_kept_in_nobodys_place() -> None:
    sets = {f"{day}": NOON - day * DAY for day in (0, 0.1, 1, 2, 3)}
    rules = retention.read_rules("2d")
    assert retention.choose_expired(sets, rules) == ["3", "2", "0.1"]
    assert retention.choose_expired(sets, rules, {"0"}) == ["3", "2"]
    assert retention.choose_expired(sets, rules, {"0", "0.1", "1"}) == ["0.1"]


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


def test_a_set_that_was_made_is_not_made_again_because_old_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(serving, "TARGET", tmp_path)
    (tmp_path / "files/sets").mkdir(parents=True)
    (tmp_path / "files/sets" / SET).touch()
    schedule = serving.Schedule("11:00")
    schedule.remember(False, "a damaged set is in the way", NOON)
    assert serving.read_state() == {"tried": NOON, "made": NOON, "fault": "a damaged set is in the way"}
    assert not schedule.is_due(NOON + serving.RETRY_SECONDS, NOON)


class Sets:
    """A folder of sets one of which can't be read at the second look."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.damaged: set[str] = set()
        self.looks = iter([[], ["old", "good"]])
        self.shelf = self

    def find_sets(self) -> list[str]:
        return ["gone", "good", "old"]

    def find_begun(self) -> list[str]:
        return []

    def find_damaged(self) -> set[str]:
        return self.damaged

    def sort_sets(self) -> tuple[list[Any], list[str]]:
        damaged = next(self.looks)
        whole = [name for name in self.find_sets() if name not in damaged]
        copies = {name: [SimpleNamespace(name=f"objects/{name}")] for name in whole}
        return [SimpleNamespace(name=name, copies=copies[name]) for name in whole], damaged

    def read_passes(self, _: str) -> list[Any]:
        return []

    def remove(self, path: str) -> None:
        self.removed.append(path)

    def list(self, folder: str) -> dict[str, int]:
        return {f"objects/{name}": 1 for name in self.find_sets()} if folder == "objects" else {}


def test_what_can_not_be_read_for_a_moment_keeps_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "remove_files", lambda _: None)
    sets: Any = Sets()
    assert removal.remove(sets, ["gone"]) == 1
    assert sets.removed == ["sets/gone", "begun/gone", "objects/gone"]


def test_a_damaged_set_is_in_the_way_before_anything_is_removed() -> None:
    sets: Any = Sets()
    sets.looks = iter([["old"]])
    with pytest.raises(FaultError, match="old can't be read"):
        removal.remove(sets, ["gone"])
    assert sets.removed == []


def test_the_last_set_that_is_whole_is_not_removed() -> None:
    sets: Any = Sets()
    sets.damaged = {"gone", "good"}
    with pytest.raises(FaultError, match="old is all there is that is whole"):
        removal.remove(sets, ["old"])
    assert sets.removed == []


def test_names_of_sets_go_up_also_when_the_clock_goes_back() -> None:
    assert making.name_set(NOON, []) == SET
    assert making.name_set(NOON, [SET]) == "20261125T120001Z"
    assert making.name_set(NOON - 5, [SET]) == "20261125T120001Z"


def test_a_clock_that_was_a_year_ahead_costs_no_time() -> None:
    ahead = datetime.fromtimestamp(NOON + 365 * DAY, UTC).strftime(making.NAMING)
    assert making.name_set(NOON, [ahead]) == "20271125T120001Z"


# --------------------------------------------------------------------------------------------------------- the clocks
@pytest.mark.parametrize(
    ("ahead", "skew", "part"),
    [
        (-40, 0, ""),
        (2, 1, ""),  # (what whole seconds don't tell)
        (600, 0, "this machine's clock went back by 600 s, the newest backup or moment is 20261125T120000Z"),
        (-40, 30, "the object store's clock is 30 s ahead of this machine's"),
        (-40, -30, "the object store's clock is 30 s behind this machine's"),
    ],
)
def test_clocks_that_disagree_are_said(ahead: float, skew: float, part: str) -> None:
    said = passing.find_clock_fault(SET, NOON - ahead, skew)
    assert part in said
    assert bool(said) is bool(part)


class Answering:
    """A store that says what time it is."""

    name = "b"

    def __init__(self, date: str) -> None:
        self.client, self.date = self, date

    def list_objects_v2(self, **_: object) -> dict[str, object]:
        return {"ResponseMetadata": {"HTTPHeaders": {"date": self.date}}}


@pytest.mark.parametrize(("off", "seconds"), [(0, 0), (90, 90), (-90, -90)])
def test_the_stores_clock_is_measured(off: int, seconds: int) -> None:
    date = format_datetime(datetime.fromtimestamp(time.time() + off, UTC), usegmt=True)
    assert abs(capture.measure_skew(Answering(date)) - seconds) < 3  # type: ignore[arg-type]
    assert (capture.measure_skew(Answering(date)) == 0) is (off == 0)  # type: ignore[arg-type]


def test_a_moment_that_the_clock_showed_twice_is_refused() -> None:
    first, ahead, back = (
        make_manifest(name=f"20261125T12000{number}Z", moment=NOON + seconds)
        for number, seconds in ((0, 0), (1, DAY), (2, 60))
    )
    with pytest.raises(FaultError, match="the clock went back after set 20261125T120000Z"):
        planning.check_order([first, ahead, back], first, "at")
    planning.check_order([first, ahead, back], back, "at")
    planning.check_order([first, back], first, "at")


# --------------------------------------------------------------------------------------------------------- messages
def test_what_is_wrong_is_told_once_and_its_end_too() -> None:
    state = {"fault": "the disk is full", "archive": "", "bucket": "away"}
    troubles = serving.find_troubles(state, "02:30", SET, NOON + 26 * 3600)
    assert troubles == {"backup": "the disk is full", "bucket": "away", "late": "the newest backup is 26 h old"}
    assert serving.find_troubles({}, "off", SET, NOON + 260 * 3600) == {}
    assert serving.find_troubles({}, "02:30", SET, NOON + 24 * 3600) == {}
    title, body = serving.describe_change("wine", {"WAL": "32 MB wait"}, {"backup": "the disk is full"})
    assert title == "wine: backups need you"
    assert body.splitlines()[:2] == ["backup: the disk is full", "over: WAL: 32 MB wait"]
    title, body = serving.describe_change("wine", {"WAL": "32 MB wait", "late": "26 h"}, {"late": "27 h"})
    assert title == "wine: backups, something is over"
    assert body.splitlines()[:2] == ["over: WAL: 32 MB wait", "still late: 27 h"]
    assert serving.describe_change("wine", {"WAL": "x"}, {})[0] == "wine: backups are well again"


def test_a_message_goes_out_for_a_change_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    code = 1

    def run(*command: str, said: str = "") -> SimpleNamespace:
        sent.append(json.loads(said)["title"])
        return SimpleNamespace(returncode=code, stderr="stack: nobody answers\n")

    monkeypatch.setattr(serving, "STATE", tmp_path / "state.json")
    monkeypatch.setattr(serving, "NOTIFY", tmp_path / "notify")
    monkeypatch.setattr(serving, "TARGET", tmp_path)
    monkeypatch.setattr(programs, "run", run)
    watch = serving.Watch(serving.Schedule("off"))
    serving.write_state({"fault": "the disk is full"})
    watch._tell(NOON)
    assert sent == []  # nobody is named
    (tmp_path / "notify").write_text("json://x")
    watch._tell(NOON)
    watch._tell(NOON)
    assert len(sent) == 1  # it did not go out, and is not tried again at once
    assert serving.read_state()["messages"] == "stack: nobody answers"
    watch._next_message, code = 0.0, 0
    watch._tell(NOON)
    watch._tell(NOON)
    assert len(sent) == 2
    assert serving.read_state()["messages"] == ""
    serving.write_state(serving.read_state() | {"fault": "the disk is still full"})
    watch._tell(NOON)
    assert len(sent) == 2
    serving.write_state(serving.read_state() | {"fault": ""})
    watch._tell(NOON)
    watch._tell(NOON)
    assert [title.rpartition(": ")[2] for title in sent] == ["backups need you"] * 2 + ["backups are well again"]


def test_of_urls_only_the_scheme_is_shown() -> None:
    assert telling.show(2, "mailto://me:secret@example.org") == "2 (mailto://)"


# --------------------------------------------------------------------------------------------------------- the bucket
def test_places_in_a_bucket_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "SCRATCH", tmp_path)
    account = "[default]\naws_access_key_id = A\naws_secret_access_key = B\n"
    assert carrying.open_place("s3://bucket/a/b/", {}, account).remote == "there:bucket/a/b/"
    assert carrying.open_place("s3://bucket", {}, account).remote == "there:bucket/"
    with pytest.raises(FaultError, match="is no place in a bucket"):
        carrying.open_place("s3://b!", {}, account)
    with pytest.raises(FaultError, match="--credentials is no AWS credentials file"):
        carrying.open_place("s3://bucket", {}, "[other]", "--credentials")


KEPT = expiring.Needs(
    copies=frozenset({"objects/aa/kept"}),
    files=frozenset({"postgres/backup/main/20261124-020000F/bundle/1", "postgres/archive/main/17-1/x/needed"}),
    oldest="20261124T020000Z",
    segment="000000010000000000000005",
    labels=frozenset({"20261124-020000F"}),
)


@pytest.mark.parametrize(
    ("key", "goes"),
    [
        ("files/sets/20261123T020000Z", True),
        ("files/sets/20261124T020000Z", False),
        ("files/passes/20261124T010000Z.bin", True),
        ("files/passes/20261124T030000Z.bin", False),
        ("files/objects/aa/kept.bin", False),
        ("files/objects/aa/gone.bin", True),
        ("postgres/archive/main/17-1/0000000100000000/000000010000000000000004-" + "a" * 40 + ".zst", True),
        ("postgres/archive/main/17-1/0000000100000000/000000010000000000000005-" + "a" * 40 + ".zst", False),
        ("postgres/archive/main/17-1/00000002.history", False),
        ("postgres/archive/main/archive.info", False),
        ("postgres/backup/main/20261124-020000F/bundle/1", False),
        ("postgres/backup/main/20261123-020000F/bundle/1", True),
        ("postgres/backup/main/20261123-020000F_20261123-030000I/backup.manifest", True),
        ("postgres/backup/main/20261125-020000F/bundle/1", False),  # on its way
        ("postgres/backup/main/backup.info", False),
        ("repository.json", False),
        ("something else", False),
    ],
)
def test_what_nobody_needs_goes_and_what_is_not_known_stays(key: str, goes: bool) -> None:
    assert expiring.is_expired(key, ["20261123T020000Z"], KEPT) is goes


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


def test_a_round_reads_what_former_rounds_wrote_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    item = Item("a", "v1", NOON, 1, is_live=True, name="objects/aa/a")

    def read_passes(name: str) -> tuple[list[Item], list[str]]:
        reads.append(name)
        return [], []

    newest = SimpleNamespace(name=SET, objects=[item])
    listing = SimpleNamespace(list=lambda _: {"objects/aa/a": 1})
    found = SimpleNamespace(read_sets=lambda: [newest], sort_passes=read_passes, shelf=listing)
    known: list[capture.Known] = []

    def look(_source: object, there: capture.Known, *_: object, may_vanish: bool) -> tuple[list[Item], int]:
        known.append(there)
        return [item], 0

    monkeypatch.setattr(capture, "capture", look)
    source: Any = SimpleNamespace(repository=found)
    assert capture.copy_new(source, datetime.now(UTC), SET) == []
    assert reads == [SET]
    assert known == [{"objects/aa/a": item}]


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


def test_of_a_day_that_both_have_the_audit_log_has_the_lines_of_both(tmp_path: Path) -> None:
    path = tmp_path / "audit-2026-11-25.jsonl"
    trail.merge(path, b"a\nb\n")
    assert path.read_bytes() == b"a\nb\n"
    path.write_bytes(b"b\nc\n")
    trail.merge(path, b"a\nb\n")
    assert path.read_bytes() == b"a\nb\nc\n"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


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
