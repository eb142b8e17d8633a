"""What a set is made of, in one file, which is written last: without it there is no set.

Its first line is the SHA-256 of what follows, which is JSON, compressed by gzip (docs/disaster-recovery.md).
"""

from __future__ import annotations

import gzip
import hashlib
from typing import Any

import msgspec

from admin.faults import FaultError

FORMAT = 1


class File(msgspec.Struct, frozen=True):
    """A file of pgBackRest's that never changes.

    Attributes:
        path: below the folder of backups.
        size: in bytes.
        sha256: of its bytes, as they lie there.
    """

    path: str
    size: int
    sha256: str


class Item(msgspec.Struct, frozen=True):
    """A version of an object, or the mark that says that it was deleted.

    Attributes:
        key: of the object.
        version: the store's name of it.
        time: when it was written, by the store's clock, in seconds.
        size: in bytes.
        is_live: whether a reader saw it at the set's moment.
        is_marker: whether it says that the object was deleted.
        name: of the copy, None for a mark, and for what was gone before there was a backup.
        sha256: of the object's bytes.
        kind: its content type.
        metadata: what its writer said of it.
    """

    key: str
    version: str
    time: float
    size: int
    is_live: bool
    is_marker: bool = False
    name: str | None = None
    sha256: str | None = None
    kind: str | None = None
    metadata: dict[str, str] = {}


class Table(msgspec.Struct, frozen=True):
    """What is counted of a table; the checksum is of all rows in any order, None where there are very many."""

    rows: int
    checksum: str | None = None


class Figures(msgspec.Struct, frozen=True):
    """What the databases held.

    Attributes:
        exact: whether nothing was written between the count and the set's moment.
        tables: by database and name.
        sequences: their last values.
    """

    exact: bool
    tables: dict[str, Table]
    sequences: dict[str, int | None]


class Manifest(msgspec.Struct, frozen=True):
    """A set.

    Attributes:
        format: version of this description.
        name: of the set.
        repository: which folder's it is.
        stack: whose.
        begun: when it was begun, in seconds; `moment` is what it holds, `ended` when it was whole.
        moment: see above.
        ended: see above.
        schemas: revision of each database's schema.
        label: of pgBackRest's backup.
        target: the restore point up to which WAL is replayed.
        files: pgBackRest's.
        objects: all versions that the store had.
        figures: of the rows.
        fingerprints: of the secrets that a restored stack needs.
        keys: those secrets, in an encrypted set.
        copied: bytes of rows and objects that this backup added.
        audit: the files of the audit log.
    """

    format: int
    name: str
    repository: str
    stack: str
    begun: float
    moment: float
    ended: float
    schemas: dict[str, str]
    label: str
    target: str
    files: list[File]
    objects: list[Item]
    figures: Figures
    fingerprints: dict[str, str]
    keys: dict[str, str] | None
    copied: int
    audit: list[Item] = []

    @property
    def copies(self) -> list[Item]:
        """All that has a copy of its own."""
        return [item for item in (*self.objects, *self.audit) if item.name]

    @property
    def live(self) -> list[Item]:
        """What a reader saw."""
        return [item for item in self.objects if item.is_live]

    @property
    def size(self) -> int:
        """Bytes of all that it needs, as they lie in the folder."""
        return sum(file.size for file in self.files) + sum(item.size for item in self.copies)


class _Head(msgspec.Struct):
    format: int


def encode(value: Manifest | list[Item]) -> bytes:
    """Return the file: a set's, or that of what came between two sets."""
    body = gzip.compress(msgspec.json.encode(value), mtime=0)
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode_items(content: bytes) -> list[Item]:
    """Return what came between two sets. Raises FaultError for a file that is damaged."""
    seal, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise FaultError("what was copied between two sets is damaged")
    items: list[Item] = msgspec.json.decode(gzip.decompress(body), type=list[Item])
    return items


def decode(name: str, content: bytes) -> Manifest:
    """Return what a file describes. Raises FaultError for one that is damaged, or newer than this program."""
    seal, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise FaultError(
            f"set {name}: its manifest is damaged ({len(content)} bytes that don't fit their checksum): choose another"
        )
    plain = gzip.decompress(body)
    found = msgspec.json.decode(plain, type=_Head).format
    if found > FORMAT:
        raise FaultError(
            f"set {name} has format {found}, this stack reads up to {FORMAT}: use the version that made it, or a newer"
        )
    decoded: Any = msgspec.json.decode(plain, type=Manifest)
    if decoded.name != name:
        raise FaultError(f"set {name}: the manifest is of set {decoded.name}: choose another set")
    manifest: Manifest = decoded
    return manifest
