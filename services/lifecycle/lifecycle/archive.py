"""The file that carries an experiment or a registered model from one stack to another: tar, gzip, a manifest last.

FORMAT first, then documents (JSON) and artifacts in the order in which they are made again, then the manifest with the
SHA-256 of each: a file without it is not whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from wine.errors import TrainerError

FORMAT = 1
FIRST, MANIFEST = "format.json", "manifest.json"
CHUNK = 1024 * 1024
FAST = 1  # gzip's least: what is large among artifacts is compressed already, most often
LARGEST_DOCUMENT = 512 * 1024 * 1024


class Hashing:
    """A stream of bytes of which size and digest are known in the end."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes."""
        chunk: bytes = self._body.read(size)
        self.digest.update(chunk)
        self.size += len(chunk)
        return chunk


class Sized:
    """A body for an upload: `requests` asks how long it is."""

    def __init__(self, body: Any, size: int) -> None:
        self._body = body
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, size: int = CHUNK) -> bytes:
        """Return the next bytes."""
        chunk: bytes = self._body.read(CHUNK if size < 0 else size)
        return chunk


@dataclass
class Writer:
    """Writes an archive as it comes."""

    tar: tarfile.TarFile
    entries: dict[str, list[Any]] = field(default_factory=dict)  # name: [size, SHA-256]

    def add(self, name: str, size: int, body: Any) -> None:
        """Add what is read. Raises TrainerError if it is not as long as was said."""
        hashing = Hashing(body)
        entry = tarfile.TarInfo(name)
        entry.size = size
        try:
            self.tar.addfile(entry, hashing)
        except OSError as error:
            raise TrainerError(f"{name} came only in part ({error}): try again") from None
        self.entries[name] = [size, hashing.digest.hexdigest()]

    def add_document(self, name: str, document: Any) -> None:
        """Add JSON."""
        content = json.dumps(document, ensure_ascii=False, sort_keys=True).encode()
        self.add(name, len(content), io.BytesIO(content))


@contextmanager
def writing(target: BinaryIO, head: dict[str, Any]) -> Iterator[Writer]:
    """Begin an archive; at the end it gets its manifest."""
    with tarfile.open(fileobj=target, mode="w|gz", format=tarfile.PAX_FORMAT, compresslevel=FAST) as tar:
        writer = Writer(tar)
        writer.add_document(FIRST, {"format": FORMAT, **head})
        yield writer
        content = json.dumps({"format": FORMAT, "entries": writer.entries}, ensure_ascii=False).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def read_entries(path: Path) -> Iterator[tuple[str, int, BinaryIO]]:
    """Yield name, size and bytes of each entry, in order. Raises TrainerError."""
    try:
        with tarfile.open(path, mode="r|gz") as tar:
            for entry in tar:
                body = tar.extractfile(entry)
                if not entry.isfile() or body is None:
                    raise TrainerError(
                        f"{path.name}: entry {entry.name!r} is no plain file: it is no archive of ./stack export"
                    )
                yield entry.name, entry.size, body  # type: ignore[misc] # what it reads by
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise TrainerError(
            f"{path.name} can't be read to its end ({str(error) or type(error).__name__}): it is damaged, cut off or "
            "no archive of ./stack export"
        ) from None


def read_document(name: str, size: int, body: BinaryIO) -> dict[str, Any]:
    """Return a document. Raises TrainerError."""
    if size > LARGEST_DOCUMENT:
        raise TrainerError(f"{name} has {size} bytes: a document has {LARGEST_DOCUMENT} at most")
    try:
        found: dict[str, Any] = json.loads(body.read())
    except ValueError as error:
        raise TrainerError(f"{name} is no JSON ({error}): it is no archive of ./stack export") from None
    return found


@dataclass
class Seen:
    """What was read of an archive so far."""

    shown: str
    head: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, list[Any]] = field(default_factory=dict)
    manifest: dict[str, Any] | None = None

    def look(self, name: str, size: int, body: BinaryIO) -> None:
        """Read an entry to its end. Raises TrainerError."""
        if self.manifest is not None:
            raise TrainerError(f"{self.shown} has {name!r} after its manifest: it is damaged")
        if name == MANIFEST:
            self.manifest = read_document(name, size, body)
            return
        if name in self.entries:
            raise TrainerError(f"{self.shown} has {name!r} twice: it is damaged")
        if not self.head and name != FIRST:
            raise TrainerError(f"{self.shown} begins with {name!r}: it is no archive of ./stack export")
        hashing = Hashing(body)
        if name == FIRST:
            self.head = read_document(name, size, io.BytesIO(hashing.read(LARGEST_DOCUMENT)))
            self.check_head()
        while hashing.read():
            pass
        self.entries[name] = [size, hashing.digest.hexdigest()]

    def check_head(self) -> None:
        """Raise TrainerError for an archive of another time or kind."""
        if not isinstance(self.head.get("format"), int) or self.head["format"] > FORMAT:
            raise TrainerError(
                f"{self.shown} has format {self.head.get('format')}, this stack reads up to {FORMAT}: upgrade it first"
            )
        if {"kind", "name", "mlflow", "made"} - self.head.keys():
            raise TrainerError(f"{self.shown} doesn't say what it holds: it is no archive of ./stack export")


def verify(path: Path) -> dict[str, Any]:
    """Read all of an archive and compare it with its manifest; return what it begins with. Raises TrainerError."""
    seen = Seen(path.name)
    for name, size, body in read_entries(path):
        seen.look(name, size, body)
    if seen.manifest is None:
        raise TrainerError(f"{path.name} has no manifest: it was cut off while it was made; export it again")
    wanted = seen.manifest.get("entries", {})
    names = wanted.keys() | seen.entries.keys()
    if wrong := sorted(name for name in names if wanted.get(name) != seen.entries.get(name)):
        raise TrainerError(f"{path.name} is damaged: {wrong[0]!r} is not what its manifest says: export it again")
    listed = "".join(f"{name}\0{sha256}\n" for name, (_, sha256) in seen.entries.items())
    return {**seen.head, "digest": hashlib.sha256(listed.encode()).hexdigest()}
