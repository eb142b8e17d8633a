"""The folder of all backups of a stack: whose it is, whether it is encrypted, which sets are in it."""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from admin import moments
from admin.faults import FaultError
from backup import manifest, pgbackrest, programs
from backup.settings import PGDATA
from backup.shelf import Shelf, ShelfError

IDENTITY = "repository.json"
# Held by who makes or removes a set; by who copies objects, for a set or between sets; by who has a set on trial.
LOCK, OBJECTS_LOCK, TRIAL_LOCK = "lock", "lock.objects", "lock.trial"
CHECK = "check"  # what only the right passphrase reads
SETS, BEGUN, PASSES, OBJECTS = "sets", "begun", "passes", "objects"
DAMAGED = "damaged"  # a file for each set that was found to be so, with the reason
NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z")
REMEDY = "choose a set, without --at; ./stack backup begins anew"
# What the stack itself puts into a folder before that is one of backups, also by a process that was killed.
OWN = {LOCK, OBJECTS_LOCK, TRIAL_LOCK, f"{IDENTITY}.new", "files", "postgres", "schedule.json", "schedule.new", "trial"}


class BusyError(FaultError):
    """Somebody else is at work."""


class MissingError(FaultError):
    """A folder holds no backups."""


class OwnerError(FaultError):
    """A folder has the backups of another stack, or of another database."""


class DamageError(FaultError):
    """A set is not what it says of itself."""


class Identity(msgspec.Struct):
    """What stands in IDENTITY, which is never encrypted.

    Attributes:
        format: as a manifest's.
        id: no other folder's.
        stack: whose backups they are.
        is_encrypted: whether a passphrase is needed.
        made: when the folder was first used.
    """

    format: int
    id: str
    stack: str
    is_encrypted: bool
    made: str


@dataclass(frozen=True)
class Repository:
    """A folder of backups that is open.

    Attributes:
        folder: where it is in this container.
        shown: how the operator calls it.
        identity: what it says of itself.
        shelf: its files.
    """

    folder: Path
    shown: str
    identity: Identity
    shelf: Shelf

    def find_sets(self) -> list[str]:
        """Return the names of the sets that are whole, the oldest first."""
        return sorted(name for path in self.shelf.list(SETS) if NAME.fullmatch(name := Path(path).name))

    def find_begun(self) -> list[str]:
        """Return the names of the sets that were begun and have not ended."""
        return sorted({Path(name).name for name in self.shelf.list(BEGUN)} - set(self.find_sets()))

    def find_damaged(self) -> set[str]:
        """Return the names of the sets of which somebody who read them found that they are not whole."""
        return {Path(path).name for path in self.shelf.list(DAMAGED)} & set(self.find_sets())

    def note(self, name: str, fault: str) -> None:
        """Write down what was found of a set by who read all of it: nothing, or what is wrong."""
        if fault:
            self.shelf.write(f"{DAMAGED}/{name}", [fault.encode()])
        else:
            self.shelf.remove(f"{DAMAGED}/{name}")

    def read(self, name: str) -> manifest.Manifest:
        """Return what a set is made of. Raises FaultError."""
        try:
            content = self.shelf.read_all(f"{SETS}/{name}")
        except FileNotFoundError:
            raise FaultError(self._explain_missing(name)) from None
        except ShelfError as error:
            raise FaultError(f"set {name}: its manifest can't be read ({error}): choose another set") from None
        found = manifest.decode(name, content)
        if found.repository != self.identity.id:
            raise FaultError(
                f"set {name} belongs to another folder of backups ({found.repository}, this one is "
                f"{self.identity.id}): bring it back from there"
            )
        return found

    def read_sets(self) -> list[manifest.Manifest]:
        """Return all sets that can be read, the oldest first: one that is damaged is in nobody's way."""
        return self.sort_sets()[0]

    def sort_sets(self) -> tuple[list[manifest.Manifest], list[str]]:
        """Return those, and the names of the others, by one look: what was not read is not to be taken for needless."""
        found: list[manifest.Manifest] = []
        damaged: list[str] = []
        for name in self.find_sets():
            try:
                found.append(self.read(name))
            except FaultError:
                damaged.append(name)
        there = self.find_sets() if damaged else []  # (one may have been removed meanwhile)
        return found, [name for name in damaged if name in there]

    def sort_passes(self, after: str = "") -> tuple[list[manifest.Item], list[str]]:
        """Return what the store had between sets, of later passes, and the names of those that are damaged."""
        # (of most there is nothing but the moment in the name: they need not be read)
        empty = len(manifest.encode([]))
        sizes = {Path(path).name: size for path, size in self.shelf.list(PASSES).items()}
        items: list[manifest.Item] = []
        damaged: list[str] = []
        for name in sorted(name for name, size in sizes.items() if NAME.fullmatch(name) and name > after):
            if sizes[name] == empty:
                continue
            # (What can't be read for a moment is not damaged. An encrypted one that is cut to nothing is not found.)
            for _ in range(3):
                try:
                    items += manifest.decode_items(self.shelf.read_all(f"{PASSES}/{name}"))
                    break
                except (FaultError, ShelfError, FileNotFoundError):
                    continue
            else:
                damaged.append(name)
        there = self.find_passes() if damaged else []  # (one may have been removed meanwhile)
        return items, [name for name in damaged if name in there]

    def read_passes(self, after: str = "") -> list[manifest.Item]:
        """Return what the store had between sets. Raises FaultError if that can't be told.

        A set lists all that the store has, so that a damaged pass before the newest one is not missed.
        """
        newest = max(self.find_sets(), default="")
        items, damaged = self.sort_passes(after)
        if late := [name for name in damaged if name > newest]:
            raise FaultError(f"what was copied at {late[0]} is damaged, and no set was made since: {REMEDY}")
        return items

    def find_passes(self) -> list[str]:
        """Return the names of the moments between sets, the oldest first."""
        return sorted(name for path in self.shelf.list(PASSES) if NAME.fullmatch(name := Path(path).name))

    def _explain_missing(self, name: str) -> str:
        if name in self.find_begun():
            return f"set {name} is incomplete: its backup did not end: choose another of ./stack backup list"
        return f"there is no set {name!r} in {self.shown}: ./stack backup list has them all"

    def choose(self, name: str | None) -> str:
        """Return the name of a set, the newest for None. Raises FaultError."""
        if name is not None:
            if not NAME.fullmatch(name):
                raise FaultError(f"{name!r} is no name of a set: ./stack backup list has them all")
            return name
        if not (found := self.find_sets()):
            raise FaultError(f"{self.shown} has no set that is whole: ./stack backup makes one")
        return found[-1]

    def write_out(self) -> None:
        """Return when all that was written is on the disk."""
        if (done := programs.run(programs.SYNC, "--file-system", str(self.folder))).returncode:
            raise FaultError(f"{self.shown} does not take what was written: {done.stderr.strip()}")


def read_identity(folder: Path, shown: str) -> Identity:
    """Return what a folder says of itself. Raises MissingError, or another FaultError if it can't be read."""
    try:
        return msgspec.json.decode((folder / IDENTITY).read_bytes(), type=Identity)
    except FileNotFoundError:
        raise MissingError(f"{shown} holds no backups: ./stack backup makes one, or name another folder") from None
    except PermissionError:
        raise FaultError(
            f"{shown} can't be read by the user backup ({os.getuid()}): chown -R {os.getuid()} it"
        ) from None
    except OSError as error:
        raise FaultError(f"{shown} can't be read ({error.strerror}): see that its disk is there, and well") from None
    except msgspec.DecodeError as error:
        raise FaultError(f"{shown}/{IDENTITY} is damaged ({error}): take it from a copy of the folder") from None


@contextmanager
def opened(folder: Path, shown: str, passphrase: str) -> Iterator[Repository]:
    """Open a folder of backups. Raises FaultError that says why it can't be read."""
    identity = read_identity(folder, shown)
    if identity.format > manifest.FORMAT:
        raise FaultError(
            f"{shown} has format {identity.format}, this stack reads up to {manifest.FORMAT}: use a newer version"
        )
    if identity.is_encrypted and not passphrase:
        raise FaultError(
            f"{shown} is encrypted, and there is no passphrase: set STACK_BACKUP_PASSPHRASE, or --passphrase-file"
        )
    if passphrase and not identity.is_encrypted:
        raise FaultError(
            f"{shown} is not encrypted, but there is a passphrase: leave that out, or choose an empty folder"
        )
    with Shelf(folder / "files", passphrase) as shelf:
        try:
            is_right = shelf.read_all(CHECK) == identity.id.encode()
        except (FileNotFoundError, ShelfError):
            is_right = False
        if not is_right:
            raise FaultError(
                f"the passphrase does not open {shown}: it was encrypted with another, or files/{CHECK} is damaged"
                if identity.is_encrypted
                else f"{shown}/files/{CHECK} is damaged or not this folder's: take it from a copy of the folder"
            )
        yield Repository(folder, shown, identity, shelf)


def make(folder: Path, shown: str, stack: str, passphrase: str) -> None:
    """Make an empty folder one of backups; one that is such already stays as it is. Raises FaultError."""
    try:
        read_identity(folder, shown)
    except MissingError:
        _make(folder, shown, stack, passphrase)


def _make(folder: Path, shown: str, stack: str, passphrase: str) -> None:
    identity = Identity(manifest.FORMAT, str(uuid.uuid4()), stack, bool(passphrase), moments.write(datetime.now(UTC)))
    try:
        if any(each.name not in {"lost+found", *OWN} for each in folder.iterdir()):
            raise FaultError(f"{shown} is not empty, and holds no backups: choose an empty folder")
        if (folder / "files" / SETS).exists():
            raise FaultError(f"{shown} has sets, but no {IDENTITY}: take it from a copy, or choose an empty folder")
        (folder / "files").mkdir(exist_ok=True)
        with Shelf(folder / "files", passphrase) as shelf:
            shelf.write(CHECK, [identity.id.encode()])
        temporary = folder / f"{IDENTITY}.new"
        temporary.write_bytes(msgspec.json.encode(identity))
        temporary.replace(folder / IDENTITY)
    except OSError as error:
        raise explain(shown, error) from None


def explain(shown: str, error: OSError) -> FaultError:
    """Return the fault of a folder that can't be written."""
    remedy = "see that its disk is there, neither full nor read-only"
    if isinstance(error, PermissionError):
        remedy = f"it must be the user backup's ({os.getuid()})"
    return FaultError(f"{shown} can't be written ({error.strerror}): {remedy}")


def check_owner(folder: Path, shown: str, stack: str) -> None:
    """Let no two stacks write into one folder, nor a new database beside the former one's.

    Raises OwnerError, or another FaultError if that can't be told.
    """
    owner = read_identity(folder, shown).stack
    if owner != stack:
        raise OwnerError(
            f"{shown} has the backups of stack {owner!r}, this is {stack!r}: set STACK_BACKUP_TO to another folder"
        )
    if (known := pgbackrest.find_system()) and (own := read_system()) and own != known:
        raise OwnerError(
            f"{shown} has the backups of another database ({known}, this one is {own}): ./stack restore brings it "
            "back, or set STACK_BACKUP_TO to another folder"
        )


def read_system() -> int | None:
    """Return what Postgres calls this cluster and its copies, None if there is none."""
    try:
        return int.from_bytes((PGDATA / "global/pg_control").read_bytes()[:8], "little")
    except OSError:
        return None


@contextmanager
def alone(folder: Path, shown: str, what: str = LOCK, *, waits: bool = False) -> Iterator[None]:
    """Be the only one who changes the sets, or copies objects. Raises BusyError if somebody else does, FaultError."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context((folder / what).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(f"another backup to {shown} is at work: wait for its end") from None
        except OSError as error:
            raise explain(shown, error) from None
        yield
