"""The audit log: who did what, up to a set's moment. The gateway writes a file each day."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backup.capture import CHUNK, Counted
from backup.manifest import Item
from backup.repository import OBJECTS, Repository

FOLDER = Path("/audit")  # as this container sees it, and as the one does that may write it
GIVEN = Path("/audit-to-write")
PATTERN = "audit-*.jsonl"


def copy(repository: Repository, known: dict[str, Item]) -> tuple[list[Item], int]:
    """Copy the files that are not known as they are now; return all of them, and how many bytes were copied."""
    items: list[Item] = []
    size = 0
    for path in sorted(FOLDER.glob(PATTERN)):
        state = path.stat()
        digest = hashlib.sha256(f"audit\0{path.name}\0{state.st_mtime}\0{state.st_size}".encode()).hexdigest()
        name = f"{OBJECTS}/{digest[:2]}/{digest}"
        if name in known:
            items.append(known[name])
            continue
        counted = Counted(read(path, state.st_size))
        repository.shelf.write(name, counted)
        sha256 = counted.digest.hexdigest()
        items.append(Item(path.name, "", state.st_mtime, counted.size, is_live=False, name=name, sha256=sha256))
        size += counted.size
    return items, size


def read(path: Path, size: int) -> Iterator[bytes]:
    """Yield the first bytes of a file that grows."""
    with path.open("rb") as file:
        while size > 0 and (chunk := file.read(min(size, CHUNK))):
            size -= len(chunk)
            yield chunk


def pack(repository: Repository, items: list[Item], target: IO[bytes]) -> None:
    """Write these files as a tar."""
    with tarfile.open(fileobj=target, mode="w|") as archive:
        for item in items:
            entry = tarfile.TarInfo(item.key)
            entry.size = item.size
            archive.addfile(entry, io.BytesIO(repository.shelf.read_all(str(item.name))))


def unpack(source: IO[bytes]) -> int:
    """Put the files of a tar beside those that are there; return how many. A day that both have gets both's lines."""
    count = 0
    with tarfile.open(fileobj=source, mode="r|") as archive:
        for entry in archive:
            name = Path(entry.name)
            file = archive.extractfile(entry)
            if file is None or name.name != entry.name or not name.match(PATTERN):
                continue
            merge(GIVEN / name.name, file.read())
            count += 1
    return count


def merge(path: Path, content: bytes) -> None:
    """Write a file; lines that are there stay, after those that come."""
    there = path.read_bytes() if path.exists() else b""
    brought = set(content.splitlines())
    rest = b"".join(line for line in there.splitlines(keepends=True) if line.rstrip(b"\n") not in brought)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content + rest)
    temporary.chmod(0o644)
    temporary.replace(path)
