"""What the container `backup` does where the target is new, away, full or somebody else's."""

from __future__ import annotations

import errno
import json
import os
import runpy
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from admin.faults import FaultError
from backup import cli, database, making, passing, pgbackrest, repository, serving, settings, shelf
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
