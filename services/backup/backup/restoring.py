"""Objects back into a store, and the comparison of what is there with what a set says."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from boto3.s3.transfer import TransferConfig

from admin.faults import FaultError
from artifacts.objects import Bucket
from backup import capture, database
from backup.manifest import Figures, Item
from backup.repository import Repository

SMALL = 8 * 1024 * 1024
# A sequence that was read 32 values ahead goes on there after WAL was replayed: Postgres logs it so.
AHEAD = 33
BATCH = 1000


@dataclass(frozen=True)
class Put:
    """What was done to the store."""

    written: int
    kept: int
    removed: int
    size: int


class Stream(io.RawIOBase):
    """A file for boto3, of chunks."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer, as far as there is something; return by how much."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def put_objects(repository: Repository, bucket: Bucket, items: list[Item]) -> Put:
    """Make the bucket hold these objects and no others; older versions stay behind them. Raises FaultError."""
    there = {
        each["Key"]: each["Size"]
        for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        for each in page.get("Contents", [])
    }

    def put(item: Item) -> bool:
        if there.get(item.key) == item.size:
            _, sha256 = capture.measure(bucket.client, bucket.name, item.key, item.size)
            if sha256 == item.sha256:
                return False
        write(repository, bucket, item)
        return True

    with ThreadPoolExecutor(capture.WORKERS) as pool:
        written = list(pool.map(put, items))
    wanted = {item.key for item in items}
    extra = sorted(there.keys() - wanted)
    for some in itertools.batched(extra, BATCH, strict=False):
        answer = bucket.client.delete_objects(
            Bucket=bucket.name, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True}
        )
        if errors := answer.get("Errors"):
            raise FaultError(f"the object store keeps {errors[0].get('Key')!r}: {errors[0].get('Message')}: try again")
    return Put(sum(written), len(written) - sum(written), len(extra), sum(item.size for item in items))


def write(repository: Repository, bucket: Bucket, item: Item) -> None:
    """Write an object as it was."""
    extra = {**({"ContentType": item.kind} if item.kind else {}), "Metadata": item.metadata, **bucket.of_new}
    chunks = repository.shelf.read(str(item.name))
    if item.size <= SMALL:
        bucket.client.put_object(Bucket=bucket.name, Key=item.key, Body=b"".join(chunks), **extra)
    else:
        bucket.client.upload_fileobj(
            io.BufferedReader(Stream(chunks), SMALL),
            bucket.name,
            item.key,
            ExtraArgs=extra,
            Config=TransferConfig(max_concurrency=2),
        )


@dataclass(frozen=True)
class Line:
    """A line of the comparison."""

    what: str
    wanted: str
    found: str
    is_same: bool


def compare_objects(bucket: Bucket, items: list[Item]) -> list[Line]:
    """Compare what the store holds with what it should, every byte read."""
    keys = {
        each["Key"]
        for page in bucket.client.get_paginator("list_objects_v2").paginate(Bucket=bucket.name)
        for each in page.get("Contents", [])
    }

    def look(item: Item) -> tuple[int, bool]:
        if item.key not in keys:
            return 0, False
        size, sha256 = capture.measure(bucket.client, bucket.name, item.key, item.size)
        return size, sha256 == item.sha256

    with ThreadPoolExecutor(capture.WORKERS) as pool:
        found = list(pool.map(look, items))
    same = sum(is_same for _, is_same in found)
    size, wanted = sum(each for each, _ in found), sum(item.size for item in items)
    return [
        Line("objects", str(len(items)), str(len(keys)), {item.key for item in items} == keys),
        Line("bytes of objects", str(wanted), str(size), size == wanted),
        Line("objects with the same SHA-256", str(len(items)), str(same), same == len(items)),
    ]


def compare_figures(wanted: Figures, found: Figures) -> list[Line]:
    """Compare the databases with what a set says of them."""
    lines = []
    names = sorted(wanted.tables.keys() | found.tables.keys())
    empty = [
        name for name in names if wanted.tables.get(name) == found.tables.get(name) and not wanted.tables[name].rows
    ]
    for name in sorted(set(names) - set(empty)):
        before, after = wanted.tables.get(name), found.tables.get(name)
        if before is None or after is None:
            lines.append(
                Line(
                    name, "-" if before is None else str(before.rows), "-" if after is None else str(after.rows), False
                )
            )
            continue
        is_same = before.rows == after.rows and (before.checksum is None or before.checksum == after.checksum)
        lines.append(
            Line(
                name, show(before.rows, before.checksum), show(after.rows, before.checksum and after.checksum), is_same
            )
        )
    lines.append(Line("tables without rows", str(len(empty)), str(len(empty)), True))
    ahead = [
        name
        for name, value in found.sequences.items()
        if not (wanted.sequences.get(name) or 0) <= (value or 0) <= (wanted.sequences.get(name) or 0) + AHEAD
    ]
    count = len(wanted.sequences)
    is_same = not ahead and wanted.sequences.keys() == found.sequences.keys()
    lines.append(Line("sequences", str(count), str(len(found.sequences) - len(ahead)), is_same))
    return lines


def show(rows: int, checksum: str | None) -> str:
    """Return the cell of a table."""
    return f"{rows} ({checksum[:8]})" if checksum else str(rows)


def look_at_rows() -> Figures:
    """Return what the databases hold now."""
    return database.look()
