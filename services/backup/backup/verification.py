"""Every byte of a set read again, before anybody relies on it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backup import pgbackrest
from backup.making import hash_file
from backup.manifest import File, Item, Manifest
from backup.repository import OBJECTS, DamageError, Repository

SHOWN = 5


@dataclass(frozen=True)
class Verified:
    """What was read."""

    files: int
    objects: int
    size: int
    seconds: float


def verify(repository: Repository, manifest: Manifest, items: list[Item] | None = None) -> Verified:
    """Read all of a set, with `items` these objects instead of its own. Raises DamageError that names what is wrong."""
    start = time.monotonic()
    wanted = manifest.copies if items is None else [*items, *manifest.audit]
    faults = find_file_faults(repository.folder, manifest.files) + find_object_faults(repository, wanted)
    if not faults:
        faults = [f"pgBackRest: {line}" for line in pgbackrest.verify(manifest.label)]
    if faults:
        more = f" (and {len(faults) - SHOWN} more)" if len(faults) > SHOWN else ""
        lines = [f"set {manifest.name}: {fault}" for fault in faults[:SHOWN]]
        raise DamageError("\n".join(lines) + f"{more}: choose another set")
    size = sum(file.size for file in manifest.files) + sum(item.size for item in wanted)
    return Verified(len(manifest.files), len(wanted), size, time.monotonic() - start)


def find_file_faults(folder: Path, files: list[File]) -> list[str]:
    """Return what is wrong with pgBackRest's files."""

    def check(file: File) -> str | None:
        path = folder / file.path
        try:
            size = path.stat().st_size
            if size != file.size:
                return f"{file.path} has {size} bytes instead of {file.size}"
            return None if hash_file(path) == file.sha256 else f"{file.path} is damaged: its SHA-256 is another"
        except FileNotFoundError:
            return f"{file.path} is missing"
        except OSError as error:
            return f"{file.path} can't be read ({error.strerror})"

    with ThreadPoolExecutor(2) as pool:
        return [fault for fault in pool.map(check, files) if fault]


def find_object_faults(repository: Repository, items: list[Item]) -> list[str]:
    """Return what is wrong with copies of objects."""
    by_name = {item.name: item for item in items if item.name}
    sizes = repository.shelf.list(OBJECTS)
    hashes = repository.shelf.hash(name for name in by_name if name in sizes)
    faults = []
    for name, item in by_name.items():
        if name not in sizes:
            faults.append(f"files/{name} is missing: it is {item.key!r}")
        elif hashes.get(name) != item.sha256:
            said = f"has {sizes[name]} bytes instead of {item.size}" if sizes[name] != item.size else "is damaged"
            faults.append(f"files/{name} {said}: it is {item.key!r}")
    return faults
