"""Copies of objects: each version once, whatever the number of sets that have it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from admin.faults import FaultError
from artifacts.objects import Bucket, Version
from backup.manifest import Item, encode
from backup.repository import OBJECTS, PASSES, Repository
from tracking.reading import ChangedError, Reader
from tracking.store import Store

WORKERS = 8  # where nobody else is at work: in a restore
CHUNK = 1024 * 1024
GONE = {"404", "NoSuchKey", "NoSuchVersion", "MethodNotAllowed"}
LIMITS = {"connect_timeout": 3, "read_timeout": 60, "max_pool_connections": WORKERS + 2}

Known = dict[str, Item]  # by the name of the copy
Report = Callable[[int, int, int], None]  # how many objects of how many, and bytes


@dataclass(frozen=True)
class Source:
    """The bucket, and the folder that has copies of what is in it."""

    repository: Repository
    bucket: Bucket


def open_bucket(store: Store, credentials: str = "aws_credentials") -> Bucket:
    """Return the bucket, by an account in /run/secrets: the one that reads, or another."""
    retries = {"retries": {"mode": "standard", "total_max_attempts": 4}}
    client = store.connect(store.find_credentials(credentials), store.find_authorities(), **LIMITS, **retries)
    return Bucket(client, store.bucket, store.describe_upload())


def name_copy(version: Version) -> str:
    """Return where the copy of a version lies: no version ever changes."""
    parts = (version.key, version.identifier, str(version.time.timestamp()), str(version.size))
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def find_known(repository: Repository, history: list[Item]) -> Known:
    """Return what the newest set, and what came after it, has of copies that are still there."""
    sizes = repository.shelf.list(OBJECTS)
    return {item.name: item for item in history if item.name and sizes.get(item.name) == item.size}


def find_history(repository: Repository) -> tuple[list[Item], list[str]]:
    """Return all that the store had at the newest set's moment, and what was seen in it after that.

    And the names of the passes that are damaged: what they knew is new once more.
    """
    if not (sets := repository.read_sets()):
        return [], []
    passed, damaged = repository.sort_passes(sets[-1].name)
    return sets[-1].objects + passed, damaged


def copy_new(source: Source, since: datetime, name: str, *, is_moment: bool = False) -> list[str]:
    """Copy what came since the newest set, so that a moment between sets has its artifacts.

    That it was looked is written down where something came, and where WAL was handed over up to the moment of the name.
    Returns the names of former looks that are damaged.
    """
    history, damaged = find_history(source.repository)
    seen = {(item.key, item.version, item.time) for item in history}
    items, _ = capture(source, find_known(source.repository, history), since, report_nothing, may_vanish=True)
    new = [item for item in items if (item.key, item.version, item.time) not in seen]
    if new or is_moment:
        source.repository.write_out()
        source.repository.shelf.write(f"{PASSES}/{name}", [encode(new)])
        source.repository.write_out()
    return damaged


def capture(
    source: Source, known: Known, since: datetime, report: Report, *, may_vanish: bool
) -> tuple[list[Item], int]:
    """Copy the versions that are not known yet; return all that the store has, and how many bytes were copied.

    What was replaced or deleted before `since` is no set's, and is not copied. `known` grows by what was copied.
    """
    listed = [version for versions in source.bucket.walk() for version in versions]
    wanted = [
        version
        for version in listed
        if not version.is_marker
        and (version.is_latest or (version.ended is not None and version.ended >= since))
        and name_copy(version) not in known
    ]
    size = 0
    lost: set[Version] = set()
    # (one after the other: users are not to feel it)
    for done, version in enumerate(wanted, start=1):
        item = copy(source, version)
        if item is None:
            lost.add(version)
        else:
            known[name_copy(version)] = item
            size += item.size
        report(done, len(wanted), size)
    if wanted:
        stored = source.repository.shelf.list(OBJECTS)
        if cut := [each for each in wanted if each not in lost and stored.get(name_copy(each)) != each.size]:
            raise FaultError(
                f"{len(cut)} copies of objects are not as large as these, the first is of {cut[0].key!r}: try again"
            )
    if lost and not may_vanish:
        raise FaultError(
            f"{len(lost)} objects went while they were copied, the first is {next(iter(lost)).key!r}: try again"
        )
    return [describe(version, known) for version in listed if version not in lost], size


def describe(version: Version, known: Known) -> Item:
    """Return how a set has a version."""
    copied = None if version.is_marker else known.get(name_copy(version))
    return Item(
        key=version.key,
        version=version.identifier,
        time=version.time.timestamp(),
        size=version.size,
        is_live=version.is_latest and not version.is_marker,
        is_marker=version.is_marker,
        name=copied.name if copied else None,
        sha256=copied.sha256 if copied else None,
        kind=copied.kind if copied else None,
        metadata=copied.metadata if copied else {},
    )


def copy(source: Source, version: Version) -> Item | None:
    """Copy a version; return what the copy is, None if the version is gone. Raises FaultError."""
    place = {"Bucket": source.bucket.name, "Key": version.key, "VersionId": version.identifier}
    name = name_copy(version)
    try:
        with Reader(source.bucket.client, version.size, **place) as reader:
            counted = Counted(reader.iter_chunks(CHUNK))
            source.repository.shelf.write(name, counted)
    except ChangedError:  # (where the store keeps no versions)
        return None
    except ClientError as error:
        if error.response["Error"]["Code"] in GONE:
            return None
        raise
    if counted.size != version.size:
        raise FaultError(f"the store sent {counted.size} bytes of {version.key!r}, which has {version.size}: try again")
    return Item(
        key=version.key,
        version=version.identifier,
        time=version.time.timestamp(),
        size=version.size,
        is_live=False,
        name=name,
        sha256=counted.digest.hexdigest(),
        kind=reader.answer.get("ContentType"),
        metadata=reader.answer.get("Metadata", {}),
    )


class Counted:
    """Chunks that are counted and hashed as they go by."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.size = 0
        self.digest = hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.size += len(chunk)
            self.digest.update(chunk)
            yield chunk


def merge(listings: Iterable[list[Item]]) -> list[Item]:
    """Return the versions in listings of the store, the newest listing first; a copy that one of them has counts."""
    known: dict[tuple[str, str, float], Item] = {}
    for listing in listings:
        for item in listing:
            name = (item.key, item.version, item.time)
            if name not in known or (known[name].name is None and item.name):
                known[name] = item  # (in its place, if it has one)
    return list(known.values())


def choose_at(objects: Iterable[Item], moment: float) -> tuple[list[Item], list[Item]]:
    """Return what a reader saw at a moment, and what of it there is no copy of.

    Stores tell whole seconds: what was written in the moment's second counts as there, and a deletion in it as to come.
    Of two versions of the same second the first one in the listing is the newer.
    """
    by_key: dict[str, list[Item]] = {}
    for item in objects:
        by_key.setdefault(item.key, []).append(item)
    seen: list[Item] = []
    missing: list[Item] = []
    for items in by_key.values():
        before = [item for item in items if int(item.time) + item.is_marker <= moment]
        if before and not (newest := max(before, key=lambda item: item.time)).is_marker:
            (seen if newest.name else missing).append(newest)
    return seen, missing


def measure_skew(bucket: Bucket) -> float:
    """Return by how many seconds the store's clock is ahead of this one's, as far as whole seconds tell."""
    asked = time.time()
    answer = bucket.client.list_objects_v2(Bucket=bucket.name, MaxKeys=1)
    answered = time.time()
    said = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    there = parsedate_to_datetime(said).timestamp() if said else asked
    return min(0.0, there + 1 - asked) or max(0.0, there - answered)


def report_nothing(_done: int, _all: int, _size: int) -> None:
    """Report nothing."""


def measure(client: BaseClient, bucket: str, key: str, size: int) -> tuple[int, str]:
    """Return size and SHA-256 of an object, every byte read; `size` is what it should have. Raises FaultError."""
    try:
        with Reader(client, size, Bucket=bucket, Key=key) as reader:
            counted = Counted(reader.iter_chunks(CHUNK))
            for _ in counted:
                pass
    except ChangedError as error:
        raise FaultError(f"{key!r} can't be read: {error}: try again") from None
    return counted.size, counted.digest.hexdigest()
