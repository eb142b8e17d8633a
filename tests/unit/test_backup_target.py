"""What the container `backup` does where the target is new, away, full or somebody else's."""

from __future__ import annotations

import errno
import json
import os
import runpy
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

import state as told_state
from admin import status
from admin.faults import FaultError
from backup import cli, database, making, passing, pgbackrest, programs, repository, serving, settings, shelf
from backup.settings import Settings

SHOWN = "/mnt/backups"
SET = "20261125T120000Z"
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


class PlainShelf:
    """Files as rclone writes them without a passphrase, without rclone, which the tests' image has not."""

    def __init__(self, folder: Path, _passphrase: str) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, name: str, chunks: list[bytes]) -> None:
        (self.folder / name).write_bytes(b"".join(chunks))

    def read_all(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


def be_called(monkeypatch: pytest.MonkeyPatch, stack: str) -> None:
    """Let the stack have a name."""
    store: Any = None
    monkeypatch.setattr(settings, "load", lambda: Settings(stack, SHOWN, store, "off"))
    monkeypatch.setenv("STACK_NAME", stack)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that backups go to; nobody has made it one of backups yet."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for module in (settings, passing, serving):
        monkeypatch.setattr(module, "TARGET", folder)
    for module in (cli, serving):
        monkeypatch.setattr(module, "ARCHIVING", tmp_path / "on")
    monkeypatch.setattr(serving, "STATE", tmp_path / "schedule.json")
    monkeypatch.setattr(serving, "NOTIFY", tmp_path / "notify")
    monkeypatch.setattr(pgbackrest, "CONFIG", tmp_path / "pgbackrest.conf")
    monkeypatch.setattr(pgbackrest, "find_system", lambda: None)
    monkeypatch.setattr(repository, "Shelf", PlainShelf)
    be_called(monkeypatch, "s")
    monkeypatch.setenv("STACK_BACKUP_TO", SHOWN)
    return folder


def lose(target: Path) -> None:
    """Let nothing below the folder be read, as where its disk is away."""
    target.rename(target.with_name("away"))
    target.touch()


def read_lines(target: Path, state: Path) -> status.Backups:
    """Return what ./stack status says."""
    found = status.read_backups(json.dumps({"Backups": told_state.describe(target, state)}), datetime.now(UTC))
    assert found
    return found


# ------------------------------------------------------------------------------------------------------ another folder
def test_a_folder_with_what_the_stack_itself_wrote_becomes_one_of_backups(target: Path) -> None:
    for name in ("schedule.json", "lock", "lock.objects", "repository.json.new"):
        (target / name).touch()
    repository.make(target, SHOWN, "s", "")
    assert repository.read_identity(target, SHOWN).stack == "s"
    with repository.opened(target, SHOWN, ""):
        pass


@pytest.mark.parametrize(
    ("name", "part"), [("thesis.odt", "is not empty, and holds no backups"), (f"files/sets/{SET}", "has sets, but no")]
)
def test_what_else_is_in_a_folder_is_left_alone(target: Path, name: str, part: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    (target / name).write_text("mine")
    with pytest.raises(FaultError, match=part):
        repository.make(target, SHOWN, "s", "")
    assert not (target / repository.IDENTITY).exists()


@pytest.mark.parametrize(
    ("former", "begins"),
    [
        (None, True),  # the first set of all
        ("backups", True),  # another place is named
        (SHOWN, False),  # its disk is not mounted
        ("", False),  # the same, of an earlier version
    ],
)
def test_the_schedule_begins_in_a_new_place_and_not_where_backups_are_gone(
    target: Path, monkeypatch: pytest.MonkeyPatch, former: str | None, begins: bool
) -> None:
    made: list[str] = []

    def make() -> None:
        repository.make(target, SHOWN, "s", "")
        made.append(SET)

    monkeypatch.setenv("STACK_BACKUP_KEEP", "7d")
    monkeypatch.setattr(cli, "make", make)
    monkeypatch.setattr(repository.Repository, "read_sets", lambda _: [])
    monkeypatch.setattr(repository.Repository, "find_damaged", lambda _: set())
    if former is not None:
        serving.ARCHIVING.write_text(former)
    if begins:
        cli.scheduled()
    else:
        with pytest.raises(FaultError, match="has no backups any more: see that its disk is there, or begin anew"):
            cli.scheduled()
        with pytest.raises(FaultError, match="has no backups any more"):
            cli.prepare()
    assert bool(made) is begins
    assert serving.ARCHIVING.exists() is (former is not None)


# ------------------------------------------------------------------------------------------------------------ archiving
def take_away(target: Path) -> None:
    (target / repository.IDENTITY).unlink()


def damage(target: Path) -> None:
    (target / repository.IDENTITY).write_bytes(b"{")


def make_unreadable(target: Path) -> None:
    (target / repository.IDENTITY).unlink()
    (target / repository.IDENTITY).mkdir()


@pytest.mark.parametrize("harm", [lose, take_away, damage, make_unreadable])
def test_wal_waits_for_a_target_that_is_in_trouble_and_that_is_said(
    target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: Any
) -> None:
    monkeypatch.setattr(database, "find_archive_fault", lambda: "32 MB wait")
    repository.make(target, SHOWN, "s", "")
    cli.prepare()
    assert serving.ARCHIVING.exists()
    harm(target)
    with pytest.raises(FaultError):
        cli.check_own(settings.load())
    assert serving.ARCHIVING.exists()
    with pytest.raises(FaultError):
        cli.prepare()
    assert serving.ARCHIVING.exists()
    cli.copy_between()
    said = json.loads(capsys.readouterr().out)
    assert (said["archive"], SHOWN in said["copies"]) == ("32 MB wait", True)


def test_wal_is_not_kept_for_a_target_of_somebody_else(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository.make(target, SHOWN, "s", "")
    cli.prepare()
    be_called(monkeypatch, "other")
    with pytest.raises(FaultError, match="has the backups of stack 's', this is 'other'"):
        cli.prepare()
    assert not serving.ARCHIVING.exists()
    be_called(monkeypatch, "s")
    cli.prepare()
    monkeypatch.setattr(repository, "PGDATA", tmp_path / "data")
    (tmp_path / "data/global").mkdir(parents=True)
    (tmp_path / "data/global/pg_control").write_bytes((17).to_bytes(8, "little"))
    monkeypatch.setattr(pgbackrest, "find_system", lambda: 16)
    with pytest.raises(FaultError, match="another database"):
        cli.check_own(settings.load())
    assert not serving.ARCHIVING.exists()


def test_the_last_round_of_all_is_certain(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    def run(*command: str, said: str = "") -> SimpleNamespace:
        if command[-1] == "tell":
            sent.append(json.loads(said)["body"])
        out = json.dumps({"copies": "it is another stack's"})
        return SimpleNamespace(returncode=0, stderr="", stdout=f"{out}\n")

    monkeypatch.setattr(programs, "run", run)
    serving.NOTIFY.write_text("json://x")
    serving.ARCHIVING.touch()
    watch = serving.Watch(serving.Schedule("off"))
    watch._go_round()
    watch._tell(NOON)
    assert sent == []  # the next one may find it well
    serving.ARCHIVING.unlink()
    watch._go_round()
    watch._tell(NOON)
    assert [body.splitlines()[0] for body in sent] == ["objects: it is another stack's"]
    assert "carried" not in serving.read_state()


# ----------------------------------------------------------------------------------------------- what is known and told
class Receiver:
    """Who gets messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bodies: list[str] = []
        monkeypatch.setattr(programs, "run", self._run)
        serving.NOTIFY.write_text("json://x")

    def _run(self, *_: str, said: str = "") -> SimpleNamespace:
        self.bodies.append(json.loads(said)["body"])
        return SimpleNamespace(returncode=0, stderr="", stdout="")


def test_that_the_target_is_dead_is_told_and_shown(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(monkeypatch)
    repository.make(target, SHOWN, "s", "")
    lose(target)
    serving.write_state({"fault": "it can't be read", "archive": "32 MB wait"})
    watch = serving.Watch(serving.Schedule("off"))
    for _ in range(3):
        watch._tell(NOON)
    assert len(receiver.bodies) == 1
    assert "backup: it can't be read\nWAL: 32 MB wait" in receiver.bodies[0]
    shown = read_lines(target, serving.STATE)
    assert not shown.is_well
    assert shown.line.startswith("no backup can be read; none by themselves")
    assert f"target: {SHOWN} can't be read (Not a directory): see that its disk is there" in shown.line
    assert "WAL: 32 MB wait" in shown.line


def test_a_target_that_is_dead_is_not_well_before_anything_else_is_known(target: Path) -> None:
    assert read_lines(target, serving.STATE).is_well  # no backup yet, and none wanted
    lose(target)
    assert not read_lines(target, serving.STATE).is_well


@pytest.mark.parametrize("full", ["target", "state"])
def test_a_message_goes_out_once_also_where_that_can_not_be_written_down(
    target: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    receiver = Receiver(monkeypatch)
    repository.make(target, SHOWN, "s", "")
    (target / "files/sets").mkdir()
    (target / "files/sets" / SET).touch()
    # (a disk that is full to the last byte)
    ((target if full == "target" else serving.STATE.parent) / "schedule.new").symlink_to("/dev/full")
    watch = serving.Watch(serving.Schedule("02:30"))
    for minute in range(3):
        watch._tell(NOON + 26 * 3600 + 60 * minute)
    assert [body.splitlines()[0] for body in receiver.bodies] == ["late: the newest backup is 26 h old"]


def test_a_backup_that_is_late_stays_so_while_the_target_is_away(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(monkeypatch)
    (target / "files/sets").mkdir(parents=True)
    (target / "files/sets" / SET).touch()
    watch = serving.Watch(serving.Schedule("02:30"))
    watch._measured = serving.find_newest()
    watch._tell(NOON + 26 * 3600)
    lose(target)
    watch._tell(NOON + 26 * 3600)
    assert len(receiver.bodies) == 1


def test_the_next_start_knows_what_was_told(target: Path) -> None:
    repository.make(target, SHOWN, "s", "")
    serving.write_state({"told": {"backup": "x"}})
    serving.STATE.unlink()
    assert serving.read_state() == {}
    serving.recall()
    assert serving.read_state() == {"told": {"backup": "x"}}


@pytest.mark.parametrize("whose", ["nobody", "other"])
def test_nothing_is_written_into_a_folder_that_is_not_the_stacks(target: Path, whose: str) -> None:
    if whose == "other":
        repository.make(target, SHOWN, "other", "")
        (target / "schedule.json").write_text('{"fault": "theirs"}')
    before = {path: path.is_file() and path.read_bytes() for path in target.rglob("*")}
    serving.recall()
    assert serving.read_state() == {}
    serving.write_state({"fault": "x"})
    assert serving.read_state() == {"fault": "x"}
    assert {path: path.is_file() and path.read_bytes() for path in target.rglob("*")} == before


# ----------------------------------------------------------------------------------------------------- errors of files
def test_a_target_that_can_not_be_locked_is_said_in_a_line(target: Path) -> None:
    lose(target)
    with (
        pytest.raises(FaultError, match=r"can't be written \(Not a directory\): see that its disk is there"),
        repository.alone(target, SHOWN),
    ):
        pass


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no", "/else"), BlockingIOError()])
def test_an_error_of_another_file_is_not_taken_for_one_of_the_lock(target: Path, error: OSError) -> None:
    with pytest.raises(type(error)) as raised, repository.alone(target, SHOWN):
        raise error
    assert raised.value is error


def test_an_error_of_any_file_ends_a_verb_with_a_line(
    target: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository.make(target, SHOWN, "s", "")
    monkeypatch.setattr(repository, "Shelf", shelf.Shelf)
    monkeypatch.setattr(shelf, "SCRATCH", tmp_path / "file")
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["backup", "verify"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("backup", run_name="__main__")
    said = str(ended.value.code)
    assert said.startswith(f"stack: a file can't be read or written: {tmp_path}/file/rclone-")
    assert said.endswith(": Not a directory: see that its disk is there, neither full nor read-only")


def test_an_error_of_a_file_is_one_of_the_round(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/backups/files")

    monkeypatch.setattr(passing, "hand_over", lambda: None)
    monkeypatch.setattr(passing, "copy_objects", fail)
    monkeypatch.setattr(database, "find_archive_fault", lambda: None)
    found: Any = None
    passed = passing.go(settings.load(), found)
    assert passed.copies == "new objects can't be copied: /backups/files: Read-only file system"


def test_a_file_that_can_not_be_read_to_its_end_is_named() -> None:
    path = Path("/proc/self/mem")  # (Input/output error)
    with pytest.raises(OSError, match="/proc/self/mem"):
        making.hash_file(path)
