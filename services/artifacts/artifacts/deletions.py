"""Deleted artifacts: what the bucket's delete markers say, and how all of one deletion comes back.

Nothing is moved when an artifact is deleted: the store, whose bucket keeps versions, puts a marker over it. So a
deletion takes no longer than without this, and nothing is lost whenever somebody is killed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy

from admin import moments
from admin.faults import FaultError
from artifacts import catalog
from artifacts.catalog import EXPERIMENT, MODEL, Thing
from artifacts.objects import Bucket, Version
from artifacts.places import find_ancestors, find_folder
from artifacts.undoing import Undone

# What is deleted of one run within so short a time of each other is one deletion: MLflow removes a folder file by file,
# and stores note whole seconds.
GAP = timedelta(seconds=2)
IDENTIFIER = re.compile(r"(?P<owner>[0-9a-f]{32}|m-[0-9a-f]{32})@(?P<time>\S+)")
WORKERS = 4
KIND = "artifact"
SHOWN = 3


@dataclass(frozen=True)
class Gone:
    """An object that was deleted.

    Attributes:
        marker: that says so.
        version: what there was, None if it is gone for good.
        came_back: whether something was at its place again since.
    """

    marker: Version
    version: Version | None
    came_back: bool


@dataclass(frozen=True)
class Deletion:
    """What was deleted of a run's or a logged model's artifacts at one time.

    Attributes:
        owner: the run or logged model.
        folder: that its artifacts lie in.
        gone: the objects, the first that was deleted first.
    """

    owner: Thing
    folder: str
    gone: list[Gone]

    @property
    def time(self) -> datetime:
        """When it began."""
        return self.gone[0].marker.time

    @property
    def identifier(self) -> str:
        """By which an operator names it; it stays the same while files come back."""
        return f"{self.owner.identifier}@{moments.write(self.time)}"

    @property
    def paths(self) -> list[str]:
        """What was deleted, as a user of MLflow knows it."""
        return sorted(each.marker.key.removeprefix(self.folder) for each in self.gone)

    @property
    def what(self) -> str:
        """What it is, as an operator knows it."""
        shown = ", ".join(self.paths[:SHOWN]) + (
            f" and {len(self.gone) - SHOWN} more" if len(self.gone) > SHOWN else ""
        )
        return f"{shown} of {'logged model' if self.owner.kind == MODEL else 'run'} {self.owner.identifier}"

    @property
    def missing(self) -> list[Gone]:
        """What can come back."""
        return [each for each in self.gone if each.version is not None and not each.came_back]


def find_gone(versions: list[Version]) -> Iterator[Gone]:
    """Yield the deletions of one object, whose versions come the newest first."""
    came_back = False
    for index, version in enumerate(versions):
        if version.is_marker:
            yield Gone(version, next((older for older in versions[index:] if not older.is_marker), None), came_back)
        else:
            came_back = True


def split(owner: Thing, folder: str, gone: Iterable[Gone]) -> Iterator[Deletion]:
    """Yield the deletions that these objects went by."""
    some: list[Gone] = []
    for each in sorted(gone, key=lambda each: (each.marker.time, each.marker.key)):
        if some and each.marker.time - some[-1].marker.time > GAP:
            yield Deletion(owner, folder, some)
            some = []
        some.append(each)
    if some:
        yield Deletion(owner, folder, some)


def find_deletions(engine: sqlalchemy.Engine, bucket: Bucket, since: datetime) -> list[Deletion]:
    """Return what was deleted since a moment and could come back, of runs and logged models that are still known."""
    owners = {
        folder: thing
        for thing in catalog.read_catalog(engine).things
        if thing.kind != EXPERIMENT and (folder := find_folder(thing.location, bucket.name))
    }
    found: dict[str, list[Gone]] = defaultdict(list)
    for versions in bucket.walk():
        if all(not version.is_marker for version in versions):
            continue
        folder = next((above for above in find_ancestors(versions[0].key) if above in owners), None)
        if folder is not None:
            found[folder] += find_gone(versions)
    return [
        deletion
        for folder, gone in found.items()
        for deletion in split(owners[folder], folder, gone)
        if deletion.time >= since and deletion.missing
    ]


def find_deletion(engine: sqlalchemy.Engine, bucket: Bucket, identifier: str) -> Deletion:
    """Return one by its id. Raises FaultError if there is none."""
    fault = FaultError(f"there is no deletion {identifier!r}: ./stack trash lists what can be undone")
    named = IDENTIFIER.fullmatch(identifier)
    owner = catalog.find_thing(engine, named["owner"])[0] if named else None
    folder = find_folder(owner.location, bucket.name) if owner else None
    if not named or owner is None or folder is None:
        raise fault
    gone = [each for versions in bucket.walk(folder) for each in find_gone(versions)]
    for deletion in split(owner, folder, gone):
        if deletion.identifier == identifier:
            return deletion
    raise fault


def undo(engine: sqlalchemy.Engine, bucket: Bucket, identifier: str) -> Undone:
    """Bring back what one deletion took away, as it was before that. Raises FaultError.

    What is there again stays as it is. Whoever is killed here has brought back some of it, and the rest comes by the
    same command.
    """
    deletion = find_deletion(engine, bucket, identifier)
    if not deletion.missing:
        raise FaultError(
            f"{deletion.what}: all of it came back since, or is gone for good (./stack gc): there is nothing to undo"
        )
    notes = []
    if lost := [each for each in deletion.gone if each.version is None]:
        notes.append(f"{len(lost)} files are gone for good (./stack gc)")
    if there := sum(each.came_back for each in deletion.gone):
        notes.append(f"{there} files came back since: they were left as they are")
    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(partial(bring_back, bucket), deletion.missing):
            pass
    number = len(deletion.missing)
    what = f"{deletion.what}: {number} {'file' if number == 1 else 'files'}"
    return Undone(identifier, KIND, what, notes)


def bring_back(bucket: Bucket, gone: Gone) -> None:
    """Bring one object back."""
    if gone.version is not None:
        bucket.bring_back(gone.version)
