"""A set in another folder too: a disk that is carried away, or a share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from admin.faults import FaultError
from backup.pgbackrest import STANZA
from backup.repository import CHECK, IDENTITY, SETS, Repository, explain

# What pgBackRest changes with each backup; the folder's own, with a checksum in each.
CHANGING = [
    f"postgres/{kind}/{STANZA}/{kind}.info{end}" for kind in ("archive", "backup") for end in ("", ".copy")
]  # fmt: skip


def copy_set(repository: Repository, name: str, target: Path, shown: str) -> int:
    """Copy a set with all that it needs; return how many bytes came to the folder. Raises FaultError.

    The files are copied as they lie: an encrypted set stays so, and nothing here needs the passphrase.
    """
    manifest = repository.read(name)
    end = ".bin" if repository.identity.is_encrypted else ""
    check_target(repository, target, shown)
    named = [f"files/{item.name}{end}" for item in manifest.copies]
    size = 0
    try:
        for path in (*named, *(file.path for file in manifest.files), f"files/{CHECK}{end}"):
            size += copy_file(repository.folder / path, target / path, changes=False)
        # (the manifest last)
        for path in (*CHANGING, IDENTITY, f"files/{SETS}/{name}{end}"):
            size += copy_file(repository.folder / path, target / path, changes=True)
    except OSError as error:
        raise explain(shown, error) from None
    return size


def check_target(repository: Repository, target: Path, shown: str) -> None:
    """Let no other backups, and nothing else, be mixed with these. Raises FaultError."""
    try:
        if (target / IDENTITY).exists():
            if (target / IDENTITY).read_bytes() != (repository.folder / IDENTITY).read_bytes():
                raise FaultError(f"{shown} has other backups than {repository.shown}'s: choose another folder")
        elif any(each.name not in ("lost+found", "files", "postgres") for each in target.iterdir()):
            raise FaultError(f"{shown} is not empty, and holds no backups: choose an empty folder")
    except PermissionError:
        raise FaultError(f"{shown} can't be read by the user backup ({os.getuid()}): chown {os.getuid()} it") from None


def copy_file(source: Path, target: Path, *, changes: bool) -> int:
    """Copy a file, unless it is there; it has its name when it is whole. Return its size if it was copied."""
    size = source.stat().st_size
    if not changes and target.exists() and target.stat().st_size == size:
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    return size
