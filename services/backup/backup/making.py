"""A set: the rows and the objects of one moment, while all go on with their work.

First what takes long, without anybody waiting: the objects that are there, the database's files. Then nobody removes
objects, for as long as it takes to set a restore point and to copy the objects that have come since: whatever a row
names at that moment is there. Objects that come later than the row are more than is needed, and harmless.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from admin.faults import FaultError
from backup import capture, database, manifest, pgbackrest, trail
from backup.capture import Known
from backup.manifest import File, Manifest
from backup.repository import BEGUN, SETS, Repository
from backup.settings import ARCHIVING, SECRETS, Settings

CHUNK = 1024 * 1024
REPORT_SECONDS = 5
NAMING = "%Y%m%dT%H%M%SZ"


class Progress:
    """What a backup says of itself on standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._said = self._start

    def say(self, what: str) -> None:
        """Say what is done now."""
        print(f"[{time.monotonic() - self._start:5.1f} s] {what}", file=sys.stderr, flush=True)

    def report(self, done: int, of: int, size: int) -> None:
        """Say how far the objects are, now and then."""
        if time.monotonic() - self._said >= REPORT_SECONDS or (done == of and of):
            self._said = time.monotonic()
            self.say(f"copied {done} of {of} new objects, {show_size(size)}")


def show_size(size: float) -> str:
    """Return a size for people."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:  # noqa: PLR2004
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@dataclass(frozen=True)
class Made:
    """A set that was made: what it is, and for how long nobody could remove artifacts."""

    manifest: Manifest
    held: float


def make_set(chosen: Settings, repository: Repository, is_full: bool) -> Made:
    """Make a set. Raises FaultError; then there is none, and what was copied serves the next one."""
    try:
        return _make(chosen, repository, is_full)
    except FaultError as fault:
        # (pgBackRest and Postgres may say no more than that they waited in vain)
        free = shutil.disk_usage(repository.folder).free
        if free >= pgbackrest.SEGMENT_BYTES:
            raise
        said = f"{show_size(free)} are free where the backups are: free space there, then ./stack backup begins anew"
        raise FaultError(f"{said} ({fault})") from fault


def _make(chosen: Settings, repository: Repository, is_full: bool) -> Made:
    progress = Progress()
    begun = time.time()
    sets = repository.find_sets()
    name = name_set(begun, sets)
    repository.shelf.write(f"{BEGUN}/{name}", [chosen.stack.encode()])
    ARCHIVING.write_text(chosen.shown)
    source = capture.Source(repository, capture.open_bucket(chosen.store))
    since = datetime.fromtimestamp(find_beginning(repository, begun), UTC)
    known: Known = {} if is_full else capture.find_known(repository, capture.find_history(repository)[0])
    progress.say(f"set {name}: copying objects that are new")
    _, copied = capture.capture(source, known, since, progress.report, may_vanish=True)
    progress.say("copying the database's files")
    backup = pgbackrest.make_backup(is_full)
    copied += backup["info"]["repository"]["delta"]
    # (a large database takes a while: what came meanwhile is not to be copied while nobody can remove artifacts)
    progress.say("copying objects that came meanwhile")
    _, later = capture.capture(source, known, since, progress.report, may_vanish=True)
    copied += later
    progress.say("taking down one moment of rows and objects; nobody removes artifacts meanwhile")
    start = time.monotonic()
    with database.held():
        moment = database.take_moment(name)
        objects, more = capture.capture(source, known, since, progress.report, may_vanish=False)
    held = time.monotonic() - start
    progress.say("counting rows")
    figures, schemas = moment.count()
    before = repository.read_sets()
    logs = [] if is_full else [item for each in before[-1:] for item in each.audit]
    audit, logged = trail.copy(repository, {str(item.name): item for item in logs})
    database.wait_for_archive(moment.segment)
    progress.say("computing checksums of the database's files")
    files = list_files(repository, backup["label"], backup["archive"]["start"], moment.segment)
    made = Manifest(
        format=manifest.FORMAT,
        name=name,
        repository=repository.identity.id,
        stack=chosen.stack,
        begun=begun,
        moment=moment.time,
        ended=time.time(),
        schemas=schemas,
        label=backup["label"],
        target=moment.target,
        files=files,
        objects=objects,
        figures=figures,
        fingerprints=read_fingerprints(),
        keys=read_keys() if repository.identity.is_encrypted else None,
        copied=copied + more + logged,
        audit=audit,
    )
    repository.write_out()
    repository.shelf.write(f"{SETS}/{name}", [manifest.encode(made)])
    repository.shelf.remove(f"{BEGUN}/{name}")
    repository.write_out()
    progress.say("the set is whole")
    return Made(made, held)


def find_beginning(repository: Repository, otherwise: float) -> float:
    """Return the moment of the first set: what was gone by then nobody brings back."""
    return next((each.moment for each in repository.read_sets()), otherwise)


def name_set(begun: float, sets: list[str]) -> str:
    """Return the name of a set that begins now: no other's, and after all of them."""
    name = datetime.fromtimestamp(begun, UTC).strftime(NAMING)
    if not sets or name > sets[-1]:
        return name
    return datetime.fromtimestamp(read_name(sets[-1]) + 1, UTC).strftime(NAMING)


def read_name(name: str) -> float:
    """Return the moment that a name says, in seconds."""
    return datetime.strptime(name, NAMING).replace(tzinfo=UTC).timestamp()


def list_files(repository: Repository, label: str, first: str, last: str) -> list[File]:
    """Return pgBackRest's files of a set with their checksums, every byte read."""
    paths = pgbackrest.find_files(repository.folder, label, first, last)
    return [File(str(path.relative_to(repository.folder)), path.stat().st_size, hash_file(path)) for path in paths]


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        error.filename = str(path)  # (one that comes on the way does not name it)
        raise


def read_fingerprints() -> dict[str, str]:
    """Return what tells the stack's secrets from others."""
    lines = (SECRETS / "keys.sha256").read_text().splitlines()
    return {name: value for name, _, value in (line.partition(" ") for line in lines)}


def read_keys() -> dict[str, str]:
    """Return the secrets that a restored stack needs."""
    keys: dict[str, str] = json.loads((SECRETS / "keys.json").read_text())
    return keys
